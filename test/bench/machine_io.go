package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// ioTools are what the measures of disks and networks run: the host's own programs, everywhere.
var ioTools = []string{"fio", "iperf3"}

// diskJobs are fio's, on a file of its own past the page cache.
var diskJobs = []struct{ name, mode, block, unit string }{
	{"4k random reads at depth 16", "randread", "4k", "IOPS"},
	{"4k random writes at depth 16", "randwrite", "4k", "IOPS"},
	{"1 MiB sequential reads at depth 16", "read", "1M", "MiB/s"},
	{"1 MiB sequential writes at depth 16", "write", "1M", "MiB/s"},
}

// runner runs a program somewhere: on the host, in a container, in a virtual machine.
type runner func(argv ...string) ([]byte, error)

func onHost(argv ...string) ([]byte, error) { return exec.Command(argv[0], argv[1:]...).Output() }

func (c *testCloud) within(name string) runner {
	return func(argv ...string) ([]byte, error) {
		return c.nacre(append([]string{"ssh", "-l", "root", name}, argv...)...)
	}
}

// machineIO measures disk and network of a virtual machine beside a container of the same image and the bare host, with the same
// programs, in turn.
func machineIO(c *testCloud) (rows []row, err error) {
	if err := c.toolImage(); err != nil {
		return nil, err
	}
	group, err := c.ec2.CreateSecurityGroup(context.Background(), &ec2.CreateSecurityGroupInput{GroupName: aws.String("bench-io"), Description: aws.String("all")})
	if err != nil {
		return nil, err
	}
	_, err = c.ec2.AuthorizeSecurityGroupIngress(context.Background(), &ec2.AuthorizeSecurityGroupIngressInput{GroupId: group.GroupId,
		IpPermissions: []types.IpPermission{{IpProtocol: aws.String("-1"), IpRanges: []types.IpRange{{CidrIp: aws.String("0.0.0.0/0")}}}}})
	if err != nil {
		return nil, err
	}
	names := []string{"io-server", "io-container", "io-vm"}
	defer func() {
		_, removed := c.nacre(append([]string{"rm"}, names...)...)
		err = errors.Join(err, removed)
	}()
	for _, name := range names {
		args := []string{"run", "tools", "--type", "t3.small", "--group", "bench-io", "--name", name}
		if name == "io-vm" {
			args = append(args, "--vm")
		}
		if _, err := c.nacre(args...); err != nil {
			return nil, err
		}
		if err := c.awaitLogin(name); err != nil {
			return nil, err
		}
	}
	if err := c.hurry("io-vm"); err != nil {
		return nil, err
	}
	disk, err := c.disks()
	if err != nil {
		return nil, err
	}
	network, err := c.networks()
	return append(disk, network...), err
}

// hurry gives the root of a virtual machine the highest rates that a volume can have: what is measured is the way to the disk, not the limits of gp3.
func (c *testCloud) hurry(name string) error {
	ctx := context.Background()
	found, err := c.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{Filters: []types.Filter{{Name: aws.String("tag:Name"), Values: []string{name}},
		{Name: aws.String("instance-state-name"), Values: []string{"running"}}}})
	if err != nil {
		return err
	}
	root := found.Reservations[0].Instances[0].BlockDeviceMappings[0].Ebs.VolumeId
	_, err = c.ec2.ModifyVolume(ctx, &ec2.ModifyVolumeInput{VolumeId: root, VolumeType: types.VolumeTypeIo2, Size: aws.Int32(64), Iops: aws.Int32(64000)})
	for err == nil {
		var out *ec2.DescribeVolumesModificationsOutput
		out, err = c.ec2.DescribeVolumesModifications(ctx, &ec2.DescribeVolumesModificationsInput{VolumeIds: []string{*root}})
		if err != nil || out.VolumesModifications[0].ModificationState == types.VolumeModificationStateCompleted {
			break
		}
		if m := out.VolumesModifications[0]; m.ModificationState == types.VolumeModificationStateFailed {
			return errors.New(aws.ToString(m.StatusMessage))
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

func (c *testCloud) awaitLogin(name string) (err error) {
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if _, err = c.within(name)("true"); err == nil {
			return nil
		}
	}
	return err
}

// disks measures each job on the host's file system that the cloud is on, in a container there, and in a virtual machine.
func (c *testCloud) disks() (rows []row, err error) {
	for _, job := range diskJobs {
		var got [3]float64
		for n, where := range []struct {
			run  runner
			file string
		}{{c.within("io-vm"), "/fio"}, {c.within("io-container"), "/fio"}, {onHost, filepath.Join(c.dir, "fio")}} {
			out, err := where.run("fio", "--name=bench", "--filename="+where.file, "--size=128M", "--rw="+job.mode, "--bs="+job.block, "--iodepth=16", "--ioengine=libaio",
				"--direct=1", "--time_based", "--runtime=5", "--output-format=json")
			if err != nil {
				return nil, fmt.Errorf("fio: %w", err)
			}
			if got[n], err = fioFigure(out, job.unit); err != nil {
				return nil, err
			}
		}
		r := row{Name: "disk of a virtual machine: " + job.name, Unit: job.unit, Ours: got[0], Runs: 1}
		rows = append(rows, r.beside("container", got[1], 0), r.beside("the host's file system", got[2], 0))
	}
	return rows, nil
}

// fioFigure reads a job's operations or MiB a second.
func fioFigure(out []byte, unit string) (float64, error) {
	type side struct{ IOPS, BW float64 }
	var report struct {
		Jobs []struct{ Read, Write side }
	}
	if at := bytes.IndexByte(out, '{'); at > 0 {
		out = out[at:] // a note may come before it
	}
	if err := json.Unmarshal(out, &report); err != nil || len(report.Jobs) != 1 {
		return 0, fmt.Errorf("fio says %q: %w", out, err)
	}
	sum := side{report.Jobs[0].Read.IOPS + report.Jobs[0].Write.IOPS, report.Jobs[0].Read.BW + report.Jobs[0].Write.BW}
	if unit == "IOPS" {
		return sum.IOPS, nil
	}
	return sum.BW / 1024, nil
}

// networks measures a stream to a container from a virtual machine, from another container, and over a bare pair of links.
func (c *testCloud) networks() (rows []row, err error) {
	bare, remove, err := barePair()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	d, err := c.ec2.DescribeInstances(context.Background(), &ec2.DescribeInstancesInput{Filters: []types.Filter{{Name: aws.String("tag:Name"), Values: []string{"io-server"}},
		{Name: aws.String("instance-state-name"), Values: []string{"running"}}}})
	if err != nil {
		return nil, err
	}
	server := *d.Reservations[0].Instances[0].PrivateIpAddress
	if _, err := c.within("io-server")("iperf3", "-s", "-D"); err != nil {
		return nil, err
	}
	listener := exec.Command("nsenter", "--net="+bare.server, "iperf3", "-s")
	if err := startForGood(listener); err != nil {
		return nil, err
	}
	defer listener.Wait()
	defer listener.Process.Kill()
	time.Sleep(time.Second)
	inBare := func(argv ...string) ([]byte, error) {
		return onHost(append([]string{"nsenter", "--net=" + bare.client}, argv...)...)
	}
	for _, way := range []struct {
		name    string
		reverse []string
	}{{"from a virtual machine to a container", nil}, {"from a container to a virtual machine", []string{"-R"}}} {
		var got [3]float64
		for n, from := range []struct {
			run runner
			to  string
		}{{c.within("io-vm"), server}, {c.within("io-container"), server}, {inBare, bare.address.String()}} {
			out, err := from.run(append([]string{"iperf3", "-c", from.to, "-t", "5", "-J"}, way.reverse...)...)
			if err != nil {
				return nil, fmt.Errorf("iperf3: %w: %s", err, out)
			}
			var report struct {
				End struct {
					Received struct {
						Rate float64 `json:"bits_per_second"`
					} `json:"sum_received"`
				}
			}
			if err := json.Unmarshal(out, &report); err != nil {
				return nil, fmt.Errorf("iperf3 says %q: %w", out, err)
			}
			got[n] = report.End.Received.Rate / 1e9
		}
		r := row{Name: "network " + way.name + ", one stream", Unit: "Gbit/s", Ours: got[0], Runs: 1}
		rows = append(rows, r.beside("between two containers", got[1], 0), r.beside("a bare pair of links", got[2], 0))
	}
	return rows, nil
}
