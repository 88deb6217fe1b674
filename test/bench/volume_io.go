package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// volumeJobs are fio's, on volumes and on what they are compared with.
var volumeJobs = []struct {
	name, mode, block string
	depth             int
	unit              string
}{
	{"4k random reads at depth 1", "randread", "4k", 1, "IOPS"},
	{"4k random reads at depth 16", "randread", "4k", 16, "IOPS"},
	{"4k random writes at depth 1", "randwrite", "4k", 1, "IOPS"},
	{"4k random writes at depth 16", "randwrite", "4k", 16, "IOPS"},
	{"1 MiB sequential reads", "read", "1M", 16, "MiB/s"},
	{"1 MiB sequential writes", "write", "1M", 16, "MiB/s"},
}

// extent is how much of each device is measured, in MiB; it is written once before.
const extent = "256M"

func fio(run runner, file, mode, block string, depth int, more ...string) ([]byte, error) {
	out, err := run(append([]string{"fio", "--name=bench", "--filename=" + file, "--size=" + extent, "--rw=" + mode, "--bs=" + block, fmt.Sprintf("--iodepth=%d", depth),
		"--ioengine=libaio", "--direct=1", "--output-format=json"}, more...)...)
	if err != nil {
		return nil, fmt.Errorf("fio on %s: %w", file, err)
	}
	return out, nil
}

// volumeIO measures volumes in a container and in a virtual machine beside a raw file and a loop device of the host, with the highest
// rates that a volume can have; then what four volumes of the default type deliver at once.
func volumeIO(c *testCloud) (rows []row, err error) {
	if err := c.toolImage(); err != nil {
		return nil, err
	}
	loop, remove, err := loopDevice(c.dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	places := []struct {
		name string
		run  runner
		file string
	}{{"volume of a container", nil, "/dev/xvdf"}, {"volume of a virtual machine", nil, "/dev/vdb"}, {"", onHost, filepath.Join(c.dir, "raw")}, {"", onHost, loop}}
	names := []string{"volumes-container", "volumes-vm"}
	defer func() {
		_, removed := c.nacre(append([]string{"rm"}, names...)...)
		err = errors.Join(err, removed)
	}()
	for n, name := range names {
		args := []string{"run", "tools", "--type", "t3.small", "--name", name}
		if n == 1 {
			args = append(args, "--vm")
		}
		if _, err := c.nacre(args...); err != nil {
			return nil, err
		}
		if err := c.awaitLogin(name); err != nil {
			return nil, err
		}
		places[n].run = c.within(name)
		v := &ec2.CreateVolumeInput{VolumeType: types.VolumeTypeIo2, Size: aws.Int32(64), Iops: aws.Int32(64000)}
		if _, err := c.newVolume(v, name, "/dev/sdf"); err != nil {
			return nil, err
		}
	}
	for _, p := range places {
		if _, err := fio(p.run, p.file, "write", "1M", 16); err != nil {
			return nil, err
		}
	}
	for _, job := range volumeJobs {
		figures := make([]float64, len(places))
		for n, p := range places {
			out, err := fio(p.run, p.file, job.mode, job.block, job.depth, "--time_based", "--runtime=4")
			if err != nil {
				return nil, err
			}
			if figures[n], err = fioFigure(out, job.unit); err != nil {
				return nil, err
			}
		}
		for n, p := range places[:2] {
			r := row{Name: p.name + ": " + job.name, Unit: job.unit, Ours: figures[n], Runs: 1}
			rows = append(rows, r.beside("raw file of the host", figures[2], 0), r.beside("loop device of the host", figures[3], 0))
		}
	}
	promised, err := c.fourVolumes(names[0])
	return append(rows, promised...), err
}

// newVolume makes a volume and attaches it.
func (c *testCloud) newVolume(in *ec2.CreateVolumeInput, instance, device string) (id string, err error) {
	ctx := context.Background()
	zones, err := c.ec2.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{})
	if err != nil {
		return "", err
	}
	in.AvailabilityZone = zones.AvailabilityZones[0].ZoneName
	v, err := c.ec2.CreateVolume(ctx, in)
	if err != nil {
		return "", err
	}
	if err := c.volumeAvailable(*v.VolumeId); err != nil {
		return "", err
	}
	_, err = c.nacre("volume", "attach", *v.VolumeId, instance, "--device", device)
	return *v.VolumeId, err
}

// loopDevice makes a loop device over a file in the directory.
func loopDevice(dir string) (device string, remove func() error, err error) {
	file := filepath.Join(dir, "loop")
	f, err := os.Create(file)
	if err != nil {
		return "", nil, err
	}
	err = errors.Join(f.Truncate(512<<20), f.Close())
	if err != nil {
		return "", nil, err
	}
	out, err := exec.Command("losetup", "--find", "--show", "--direct-io=on", file).Output()
	if err != nil {
		return "", nil, fmt.Errorf("losetup: %w", err)
	}
	device = strings.TrimSpace(string(out))
	return device, func() error { return exec.Command("losetup", "--detach", device).Run() }, nil
}

// fourVolumes measures what EC2 promises of gp3, 3,000 operations and 125 MiB a second, on four volumes at once.
func (c *testCloud) fourVolumes(instance string) (rows []row, err error) {
	files := []string{}
	for _, letter := range "ghij" {
		if _, err := c.newVolume(&ec2.CreateVolumeInput{VolumeType: types.VolumeTypeGp3, Size: aws.Int32(1)}, instance, "/dev/sd"+string(letter)); err != nil {
			return nil, err
		}
		files = append(files, "/dev/xvd"+string(letter))
	}
	run := c.within(instance)
	for _, job := range []struct {
		name, mode, block, unit string
		promised                float64
	}{{"4k random reads", "randread", "4k", "IOPS", 3000}, {"4k random writes", "randwrite", "4k", "IOPS", 3000}, {"1 MiB sequential writes", "write", "1M", "MiB/s", 125}} {
		type result struct {
			figure float64
			err    error
		}
		results := make(chan result)
		for _, f := range files {
			go func() {
				out, err := fio(run, f, job.mode, job.block, 16, "--time_based", "--runtime=8", "--ramp_time=2")
				r := result{err: err}
				if err == nil {
					r.figure, r.err = fioFigure(out, job.unit)
				}
				results <- r
			}()
		}
		least := 0.0
		for n := range files {
			r := <-results
			if err = errors.Join(err, r.err); n == 0 || r.figure < least {
				least = r.figure
			}
		}
		if err != nil {
			return nil, err
		}
		r := row{Name: "the slowest of four gp3 volumes at once: " + job.name, Unit: job.unit, Ours: least, Runs: 1}
		rows = append(rows, r.atLeast("what gp3 promises", job.promised, 0.98))
	}
	return rows, nil
}

// snapshots measures the snapshot of a volume of 10 GiB of which a hundredth has changed, and the volume that is made of it.
func snapshots(c *testCloud) (rows []row, err error) {
	const runs = 5
	if err := c.toolImage(); err != nil {
		return nil, err
	}
	defer func() {
		_, removed := c.nacre("rm", "snapshots")
		err = errors.Join(err, removed)
	}()
	if _, err := c.nacre("run", "tools", "--type", "t3.small", "--name", "snapshots"); err != nil {
		return nil, err
	}
	if err := c.awaitLogin("snapshots"); err != nil {
		return nil, err
	}
	ctx := context.Background()
	volume, err := c.newVolume(&ec2.CreateVolumeInput{VolumeType: types.VolumeTypeIo2, Size: aws.Int32(10), Iops: aws.Int32(10000)}, "snapshots", "/dev/sdf")
	if err != nil {
		return nil, err
	}
	run := c.within("snapshots")
	if _, err := fio(run, "/dev/xvdf", "write", "1M", 16, "--size=10G"); err != nil {
		return nil, err
	}
	var calls, made []time.Duration
	var stored []float64
	for range runs {
		s, err := c.ec2.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: &volume})
		if err == nil {
			err = c.snapshotDone(*s.SnapshotId)
		}
		if err != nil {
			return nil, err
		}
		before, err := bytesIn(filepath.Join(c.dir, "volumes"))
		if err != nil {
			return nil, err
		}
		// 1,600 pieces of 64 KiB, here and there: 100 MiB.
		if _, err := fio(run, "/dev/xvdf", "randwrite", "64k", 16, "--size=10G", "--io_size=100M", "--fsync_on_close=1"); err != nil {
			return nil, err
		}
		begin := time.Now()
		if s, err = c.ec2.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: &volume}); err != nil {
			return nil, err
		}
		calls = append(calls, time.Since(begin))
		if err := c.snapshotDone(*s.SnapshotId); err != nil {
			return nil, err
		}
		after, err := bytesIn(filepath.Join(c.dir, "volumes"))
		if err != nil {
			return nil, err
		}
		stored = append(stored, float64(after-before)/(1<<20))
		begin = time.Now()
		if err := c.volumeOf(*s.SnapshotId); err != nil {
			return nil, err
		}
		made = append(made, time.Since(begin))
	}
	return []row{
		row{Name: "snapshot of 10 GiB with 100 MiB changed, in use: the call", Unit: "ms", Ours: median(calls), Runs: runs}.atMost(100),
		row{Name: "the same: bytes stored", Unit: "MiB", Ours: stored[0], Runs: 1}.beside("the change", 100, 1.1),
		row{Name: "volume from it, available", Unit: "ms", Ours: median(made), Runs: runs}.atMost(100),
	}, nil
}

func (c *testCloud) snapshotDone(id string) error {
	return ec2.NewSnapshotCompletedWaiter(c.ec2, func(o *ec2.SnapshotCompletedWaiterOptions) {
		o.MinDelay, o.MaxDelay = 20*time.Millisecond, 100*time.Millisecond
	}).
		Wait(context.Background(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{id}}, time.Minute)
}

// volumeOf makes a volume of a snapshot and waits until it is available.
func (c *testCloud) volumeOf(snapshot string) error {
	ctx := context.Background()
	zones, err := c.ec2.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{})
	if err != nil {
		return err
	}
	v, err := c.ec2.CreateVolume(ctx, &ec2.CreateVolumeInput{SnapshotId: &snapshot, AvailabilityZone: zones.AvailabilityZones[0].ZoneName})
	if err != nil {
		return err
	}
	return c.volumeAvailable(*v.VolumeId)
}

func (c *testCloud) volumeAvailable(id string) error {
	return ec2.NewVolumeAvailableWaiter(c.ec2, func(o *ec2.VolumeAvailableWaiterOptions) {
		o.MinDelay, o.MaxDelay = 5*time.Millisecond, 50*time.Millisecond
	}).
		Wait(context.Background(), &ec2.DescribeVolumesInput{VolumeIds: []string{id}}, time.Minute)
}

// bytesIn is what a directory takes of the disk; a file with several names counts once.
func bytesIn(dir string) (int64, error) {
	out, err := exec.Command("du", "--summarize", "--block-size=1", dir).Output()
	if err != nil {
		return 0, fmt.Errorf("du: %w", err)
	}
	var n int64
	_, err = fmt.Sscan(string(out), &n)
	return n, err
}
