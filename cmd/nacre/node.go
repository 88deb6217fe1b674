package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/nacre-cloud/nacre/internal/accel"
	"github.com/nacre-cloud/nacre/internal/agent"
	sshaccess "github.com/nacre-cloud/nacre/internal/agent/access"
	"github.com/nacre-cloud/nacre/internal/agent/access/sftpserver"
	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/confined"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/program"
	"github.com/nacre-cloud/nacre/internal/agent/machine/oci"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu"
	"github.com/nacre-cloud/nacre/internal/agent/network"
	"github.com/nacre-cloud/nacre/internal/agent/reclaim"
	"github.com/nacre-cloud/nacre/internal/agent/volume/daemon"
	"github.com/nacre-cloud/nacre/internal/agent/volume/keyring"
	"github.com/nacre-cloud/nacre/internal/agent/volume/local"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/control"
	"github.com/nacre-cloud/nacre/internal/store"
	"github.com/nacre-cloud/nacre/internal/upload"
)

// node is this server's parts: what an agent works with.
type node struct {
	agent  *agent.Agent
	judge  *accel.Judge // nil where there are no virtual machines
	closes []func() error
}

func (n *node) close() error {
	var problems []error
	for i := len(n.closes) - 1; i >= 0; i-- {
		problems = append(problems, n.closes[i]())
	}
	return errors.Join(problems...)
}

// guestFiles are what the disks of an architecture's virtual machines get.
func guestFiles(architecture string) ([]image.File, error) {
	files, err := program.Files(architecture)
	if err != nil {
		return nil, err
	}
	out := make([]image.File, len(files))
	for i, f := range files {
		out[i] = image.File(f)
	}
	return out, nil
}

// bootable finds a kernel of this server's architecture and the RAM disk that was baked with it; "" where there are none.
func bootable(ctx context.Context, images *image.Store) (kernel, ramdisk string) {
	list, err := images.List(ctx)
	if err != nil {
		return "", ""
	}
	for _, k := range list {
		if k.Kind != image.KindKernel || k.Architecture != agent.Architecture {
			continue
		}
		for _, r := range list {
			if r.Kind != image.KindRamdisk || r.Name != k.Name || r.Architecture != k.Architecture {
				continue
			}
			k, errKernel := images.File(k.Digest)
			r, errRamdisk := images.File(r.Digest)
			if errKernel == nil && errRamdisk == nil {
				return k, r
			}
		}
	}
	return "", ""
}

// openImages opens this server's image store, which the registry shares.
func openImages(ctx context.Context, dir dataDir, log *slog.Logger) (*image.Store, error) {
	return image.Open(ctx, image.StoreConfig{Root: dir.images(), Guest: guestFiles, Logger: log.With("component", "image")})
}

// openNode opens the other parts and adopts what runs.
func openNode(ctx context.Context, o upOptions, region cloud.Region, images *image.Store, uploads *upload.Dir, secrets *upload.Secrets, conn grpc.ClientConnInterface, log *slog.Logger) (n *node, err error) {
	n = &node{}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	id, err := o.dir.identity()
	if err != nil {
		return n, err
	}
	pool, err := netip.ParsePrefix(region.PublicPool)
	if err != nil {
		return n, fmt.Errorf("the region's public pool %q: %w", region.PublicPool, err)
	}
	run := runDir(region.CloudID)
	for _, dir := range []string{o.dir.engine(), o.dir.network(), o.dir.machines(), run} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return n, fmt.Errorf("make a directory: %w", err)
		}
	}
	net, err := network.Open(ctx, network.Config{CloudID: region.CloudID, PublicPool: pool, IPv6Pool: region.IPv6Pool, RunDir: run, StateDir: o.dir.network(), Logger: log.With("component", "network")})
	if err != nil {
		return n, err
	}
	n.closes = append(n.closes, net.Close)
	groups := confined.NewGroups(region.CloudID)
	volumes, err := openVolumes(ctx, o.dir, region, run, groups, log)
	if err != nil {
		log.Info("this server keeps no volumes", "reason", err)
	} else {
		n.closes = append(n.closes, volumes.Devices.Close)
	}
	containers, err := oci.New(ctx, oci.Config{CloudID: region.CloudID, MachinesDir: o.dir.machines(), StateDir: filepath.Join(run, "runc"), Dir: o.dir.engine(),
		Groups: groups, Logger: log.With("component", "oci")})
	if err != nil {
		return n, err
	}
	driver := &machine.Choice{Containers: containers}
	n.closes = append(n.closes, driver.Close)
	var guests []string
	engines := map[cloud.Isolation]string{cloud.IsolationContainer: containers.Engine()}
	var hypervisor agent.Hypervisor
	var accelerator func(context.Context, string) (string, error)
	vms, err := qemu.New(ctx, qemu.Config{CloudID: region.CloudID, MachinesDir: o.dir.machines(), StateDir: filepath.Join(run, "qemu"), Dir: o.dir.hypervisor(),
		Groups: groups, Logger: log.With("component", "qemu")})
	if err != nil {
		log.Info("this server runs no virtual machines", "reason", err)
	} else {
		driver.VMs, hypervisor = vms, vms
		engines[cloud.IsolationVM], guests = vms.Engine(), qemu.Architectures()
	}
	if hypervisor != nil && o.accelerator != "" { // whoever only removes starts nothing
		version, _ := strings.CutPrefix(vms.Engine(), "QEMU ")
		engineOf := func(v accel.Verdict) string { return fmt.Sprintf("%s (%s)", vms.Engine(), v) }
		n.judge, err = accel.NewJudge(ctx, accel.Config{Demand: o.accelerator, StateFile: o.dir.verdict(), QEMU: version},
			func() (string, string) { return bootable(ctx, images) },
			func(v accel.Verdict) { n.agent.SetEngine(cloud.IsolationVM, engineOf(v)) }, log.With("component", "accel"))
		if err != nil {
			return n, err
		}
		accelerator = n.judge.Require
		engines[cloud.IsolationVM] = engineOf(n.judge.First())
	}
	sftp, err := sftpserver.Install(o.dir.engine())
	if err != nil {
		return n, err
	}
	var open func(context.Context, string) (io.ReadCloser, error)
	if uploads != nil {
		open = uploads.Open
	}
	builds := &agent.Builds{Dir: o.dir.builds(), Run: containers.RunStep, Sweep: containers.SweepOnce,
		Secrets: func(cloud.ImportTaskID) (map[string][]byte, bool) { return nil, false }}
	if secrets != nil {
		builds.Secrets = secrets.Get
	}
	reserve, err := o.memoryReserve()
	if err != nil {
		return n, err
	}
	allowed, err := o.allowedPaths()
	if err != nil {
		return n, err
	}
	n.agent, err = agent.New(ctx, agent.Config{
		Node: cloud.Node{ID: id.ID, Zone: region.Zones[0].Name, Engines: engines, Guests: guests,
			HostPaths: allowed, CPUFactor: o.cpuFactor, MemoryFactor: o.memoryFactor},
		TemplateMiB: o.templateMiB,
		MachinesDir: o.dir.machines(), FlowLogsDir: o.dir.flowLogs(), VolumesDir: o.dir.volumes(), Driver: driver, VMs: hypervisor, Accelerator: accelerator,
		Memory: func() (reclaim.Server, error) { return agent.ServerMemory(reserve) }, Network: net, Images: images, Volumes: volumes, Access: sshaccess.New(sshaccess.Config{Logger: log.With("component", "ssh")}),
		SFTPServer: sftp, MetadataSecret: id.MetadataSecret, OpenUpload: open, Builds: builds, Control: conn, Now: time.Now, Logger: log,
	})
	return n, err
}

// openVolumes finds what volumes are kept with.
func openVolumes(ctx context.Context, dir dataDir, region cloud.Region, run string, groups *confined.Groups, log *slog.Logger) (*agent.Volumes, error) {
	keys := keyring.Open(dir.masterKey(), region.VolumeKey)
	if err := keys.Err(); err != nil && region.VolumeKey != "" {
		log.Error("encrypted volumes can't be opened or made; the others go on", "error", err)
	}
	backend, err := local.Open(local.Config{Dir: dir.volumes(), User: daemon.User, Keys: keys})
	if err != nil {
		return nil, err
	}
	devices, err := daemon.New(ctx, daemon.Config{CloudID: region.CloudID, Dir: filepath.Join(dir.volumes(), "daemons"), StateDir: filepath.Join(run, "volumes"), Groups: groups,
		Logger: log.With("component", "volume")})
	if err != nil {
		return nil, err
	}
	return &agent.Volumes{Backend: backend, Devices: devices}, nil
}

// runAgent is this server as a node of the cloud, until ctx ends.
func runAgent(ctx context.Context, o upOptions, region cloud.Region, images *image.Store, uploads *upload.Dir, secrets *upload.Secrets, log *slog.Logger) (err error) {
	conn, err := dialControl(o.dir)
	if err != nil {
		return err
	}
	defer conn.Close()
	n, err := openNode(ctx, o, region, images, uploads, secrets, conn, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if n.judge != nil {
		wg.Go(func() { n.judge.Run(ctx) })
	}
	return n.agent.Run(ctx)
}

// removeAll terminates every instance of a data directory whose manager does not run, and removes all that it has on this
// host. Images, accounts and keys stay.
func removeAll(ctx context.Context, dir dataDir, logs io.Writer) (err error) {
	if _, err := os.Stat(dir.etcd()); errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(logs, "there is no cloud in %s\n", dir)
		return nil
	}
	lock, err := dir.takeLock()
	if err != nil {
		return err
	}
	defer lock.release()
	log := slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := store.OpenEtcd(ctx, store.EtcdConfig{DataDir: dir.etcd(), Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	region, ok := store.Region(s.View())
	if !ok {
		return nil
	}
	images, err := openImages(ctx, dir, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, images.Close()) }()
	n, err := openNode(ctx, upOptions{dir: dir, cpuFactor: 1, memoryFactor: 1}, *region, images, nil, nil, nil, log)
	if err != nil {
		return err
	}
	err = n.agent.RemoveAll(ctx)
	err = errors.Join(err, n.close())
	if err != nil {
		return fmt.Errorf("some of the cloud is left on this host; `nacre down --all` may be repeated: %w", err)
	}
	if err := control.TerminateAll(ctx, s, time.Now()); err != nil {
		return err
	}
	return os.RemoveAll(runDir(region.CloudID))
}
