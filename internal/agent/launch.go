package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/network"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// pidsPerVCPU bounds an instance's processes and threads: generous for servers, fatal for fork bombs.
const pidsPerVCPU = 4096

// rootFS is where a machine's root file system is mounted.
func (a *Agent) rootFS(id cloud.InstanceID) string { return filepath.Join(a.machineDir(id), "rootfs") }

// start brings a machine up: root file system and network side by side, then the machine. Each
// step may be repeated; a crash in between is resumed by the next step of the worker.
func (w *worker) start(ctx context.Context, d *agentrpc.Machine) (machine.Status, error) {
	if err := w.a.launches.Acquire(ctx, 1); err != nil {
		return machine.Status{}, err
	}
	defer w.a.launches.Release(1)

	rec, err := w.a.ensureRecord(d)
	if err != nil {
		return machine.Status{}, err
	}
	img, err := w.imageOf(ctx, d)
	if err != nil {
		return machine.Status{}, err
	}
	vm := isVM(d)
	rootFS := w.a.rootFS(w.id)
	var ns network.Namespaces
	greeting := ""
	haveNS := make(chan struct{})
	steps, stepCtx := errgroup.WithContext(ctx)
	userNS := func() (*os.File, error) {
		select {
		case <-haveNS:
			return os.Open(ns.User)
		case <-stepCtx.Done():
			return nil, stepCtx.Err()
		}
	}
	steps.Go(func() error {
		if vm {
			if ofSnapshot(d) {
				return nil
			}
			// Building the image's base may take seconds, and goes on beside the network.
			return w.a.cfg.Images.PrepareBase(stepCtx, img.Digest)
		}
		if err := os.MkdirAll(rootFS, 0o711); err != nil {
			return fmt.Errorf("machine %s: make the root's mount point: %w", w.id, err)
		}
		if err := w.a.cfg.Images.PrepareRoot(stepCtx, string(w.id), d.Instance.ImageDigest, rec.IDBase, rootFS, userNS); err != nil {
			return fmt.Errorf("machine %s: root file system: %w", w.id, err)
		}
		return nil
	})
	steps.Go(func() (err error) {
		greeting, err = w.a.greeting(d, img.Config)
		return err
	})
	steps.Go(func() (err error) {
		if ns, err = w.a.cfg.Network.MachineNamespaces(w.id, rec.IDBase); err != nil {
			return err
		}
		close(haveNS)
		return w.plugAll(stepCtx, d, rec.IDBase)
	})
	if err := steps.Wait(); err != nil {
		return machine.Status{}, err
	}
	spec, err := w.a.spec(d, img.Config)
	if err != nil {
		return machine.Status{}, err
	}
	spec.Greeting = greeting
	spec.IDBase = rec.IDBase
	if vm {
		if err := w.vmSpec(ctx, d, img, &spec); err != nil {
			return machine.Status{}, err
		}
	} else {
		spec.RootFS, spec.UserNS, spec.NetNS = rootFS, ns.User, ns.Net
	}
	opened, err := w.openAll(ctx, d, &rec, &spec, ns.User)
	defer opened()
	if err == nil {
		err = w.mountHost(d, &rec, &spec)
	}
	if err != nil {
		return machine.Status{}, err
	}
	// The packet filter takes the interfaces in while the runtime starts: until then it drops all they send.
	var st machine.Status
	last, lastCtx := errgroup.WithContext(ctx)
	last.Go(func() (err error) {
		if vm {
			st, err = w.startVM(lastCtx, d, img, spec)
		} else {
			st, err = w.a.cfg.Driver.Start(lastCtx, spec)
		}
		return err
	})
	last.Go(func() error { return w.admitAll(lastCtx, d, rec.IDBase) })
	err = last.Wait()
	return st, errors.Join(err, w.leaveMounts())
}

// imageOf is what a machine's image tells of it. Of a disk of which nothing is known, that is that it is one.
func (w *worker) imageOf(ctx context.Context, d *agentrpc.Machine) (image.Image, error) {
	if d.Instance.ImageDigest == "" && isVM(d) {
		return image.Image{Kind: image.KindDisk, Architecture: d.Instance.Architecture, Config: image.Config{System: true}}, nil
	}
	img, err := w.a.cfg.Images.Get(ctx, d.Instance.ImageDigest)
	if err != nil {
		return img, fmt.Errorf("image %s: %w", d.Instance.Image, err)
	}
	return img, nil
}

// isVM tells whether a machine has a kernel of its own.
func isVM(d *agentrpc.Machine) bool { return d.Instance.Isolation == cloud.IsolationVM }

// plugAll makes all interfaces of a machine.
func (w *worker) plugAll(ctx context.Context, d *agentrpc.Machine, idBase uint32) error {
	if len(d.Interfaces) == 0 {
		return fmt.Errorf("machine %s: it has no network interface", w.id)
	}
	for _, i := range d.Interfaces {
		if err := w.a.vpcs.settled(ctx, i.VPC); err != nil {
			return err
		}
		if w.a.vpcs.get(i.VPC) == nil {
			return fmt.Errorf("attach %s to %s: %w: %s", i.ID, w.id, errUnknownVPC, i.VPC)
		}
		if _, err := w.a.cfg.Network.Plug(ctx, networkInterface(w.id, i, idBase, isVM(d))); err != nil {
			return fmt.Errorf("attach %s to %s: %w", i.ID, w.id, err)
		}
		w.attached[i.ID] = i
	}
	return nil
}

// admitAll lets the packets of all interfaces of a machine through.
func (w *worker) admitAll(ctx context.Context, d *agentrpc.Machine, idBase uint32) error {
	for _, i := range d.Interfaces {
		if err := w.a.cfg.Network.Admit(ctx, networkInterface(w.id, i, idBase, isVM(d))); err != nil {
			return fmt.Errorf("attach %s to %s: %w", i.ID, w.id, err)
		}
	}
	return nil
}

// stop ends the machine and what only a running one has: network and mount. The root file system's
// bytes stay.
func (w *worker) stop(ctx context.Context, grace time.Duration) error {
	w.closeSSH()
	if err := w.a.cfg.Driver.Stop(ctx, w.id, grace); err != nil && !errors.Is(err, machine.ErrNotFound) {
		return err
	}
	if err := w.detachAll(ctx); err != nil {
		return err
	}
	if err := w.a.cfg.Images.UnmountRoot(ctx, string(w.id)); err != nil {
		return fmt.Errorf("machine %s: unmount its root: %w", w.id, err)
	}
	return w.releaseVolumes(ctx, nil)
}

// remove ends the machine and deletes everything it had on this server.
func (w *worker) remove(ctx context.Context) error {
	w.closeSSH()
	if err := w.a.cfg.Driver.Stop(ctx, w.id, terminateGrace); err != nil && !errors.Is(err, machine.ErrNotFound) {
		return err
	}
	if err := w.a.cfg.Driver.Remove(ctx, w.id); err != nil {
		return err
	}
	rec, known, err := w.a.readRecord(w.id)
	if err != nil {
		w.log.Warn("the record is unreadable; removing what is found by the instance's id", "error", err)
	}
	for _, i := range rec.Interfaces {
		w.attached[i] = cloud.Interface{ID: i}
	}
	if err := w.detachAll(ctx); err != nil {
		return err
	}
	if err := w.releaseVolumes(ctx, nil); err != nil {
		return err
	}
	if err := w.a.cfg.Images.RemoveRoot(ctx, string(w.id)); err != nil {
		return fmt.Errorf("machine %s: remove its root: %w", w.id, err)
	}
	if err := w.a.cfg.Images.RemoveDisk(ctx, string(w.id)); err != nil {
		return fmt.Errorf("machine %s: remove its disk: %w", w.id, err)
	}
	if err := os.RemoveAll(w.a.machineDir(w.id)); err != nil {
		return fmt.Errorf("machine %s: remove its directory: %w", w.id, err)
	}
	if known {
		w.a.ids.release(w.id, rec.IDBase)
	}
	return nil
}

func (w *worker) detachAll(ctx context.Context) error {
	if err := w.a.vpcs.allSettled(ctx); err != nil {
		return err
	}
	for id := range w.attached {
		if err := w.a.cfg.Network.Detach(ctx, w.id, id); err != nil {
			return fmt.Errorf("machine %s: detach %s: %w", w.id, id, err)
		}
		delete(w.attached, id)
	}
	if err := w.a.cfg.Network.RemoveInstance(ctx, w.id); err != nil {
		return fmt.Errorf("machine %s: remove its network namespace: %w", w.id, err)
	}
	return nil
}
