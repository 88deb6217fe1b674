package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/agent/volume/daemon"
	"github.com/nacre-cloud/nacre/internal/agent/volume/keyring"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Volumes is what an agent keeps volumes with.
type Volumes struct {
	Backend volume.Backend
	Devices *daemon.Server // of containers
}

// volumes brings this node's volumes and snapshots to their desired state. Like the machines' workers it acts on the newest wish only, and does what failed
// again. Which machine has which volume is the machines' workers' to do; a volume's lock keeps the two apart.
type volumes struct {
	a *Agent

	mu      sync.Mutex
	wishes  map[string]any // *agentrpc.Volume or *agentrpc.Snapshot by id
	working map[string]bool
	locks   map[cloud.VolumeID]*sync.Mutex

	atOnce *semaphore.Weighted // blocks that are carried
}

var errNoVolumes = errors.New("this server keeps no volumes; `nacre doctor` tells what is missing")

func newVolumes(a *Agent) *volumes {
	return &volumes{a: a, wishes: map[string]any{}, working: map[string]bool{}, locks: map[cloud.VolumeID]*sync.Mutex{}, atOnce: semaphore.NewWeighted(blocksAtOnce)}
}

// lock keeps a volume from being opened, closed and changed at the same time.
func (v *volumes) lock(id cloud.VolumeID) (unlock func()) {
	v.mu.Lock()
	l := v.locks[id]
	if l == nil {
		l = &sync.Mutex{}
		v.locks[id] = l
	}
	v.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// want notes the newest wish for a volume or a snapshot, nil for none, and sees to it that somebody works on it.
func (v *volumes) want(life context.Context, id string, wish any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if wish == nil {
		delete(v.wishes, id)
		return
	}
	v.wishes[id] = wish
	if !v.working[id] {
		v.working[id] = true
		v.a.wg.Go(func() { v.work(life, id) })
	}
}

// work does what is wished for until the newest wish is done.
func (v *volumes) work(ctx context.Context, id string) {
	wait := retryFirst
	for {
		v.mu.Lock()
		wish := v.wishes[id]
		v.mu.Unlock()
		var err error
		switch w := wish.(type) {
		case *agentrpc.Volume:
			err = v.converge(ctx, w)
		case *agentrpc.Snapshot:
			err = v.snapshot(ctx, w)
		}
		v.mu.Lock()
		if err == nil && v.wishes[id] == wish {
			v.working[id] = false
			v.mu.Unlock()
			return
		}
		v.mu.Unlock()
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		v.a.log.Error("a volume did not reach its desired state, trying again", "volume", id, "error", err, "in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		wait = min(2*wait, retryLast)
	}
}

// converge makes, changes or deletes a volume. What can never succeed is told; what may, another time, is an error.
func (v *volumes) converge(ctx context.Context, w *agentrpc.Volume) error {
	defer v.lock(w.ID)()
	st := agentrpc.VolumeStatus{Volume: w.ID, Wished: w.Wished, Phase: agentrpc.VolumeReady}
	defer func() {
		if st.Phase != "" {
			v.a.out.put("volume/"+string(w.ID), &agentrpc.FromAgent{Volume: &st})
		}
	}()
	err := errNoVolumes
	if parts := v.a.cfg.Volumes; parts != nil {
		if w.Delete {
			st.Phase = agentrpc.VolumeGone
			err = parts.Backend.Delete(ctx, w.ID)
		} else {
			err = v.shape(ctx, parts, w)
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, volume.ErrTooLarge) || errors.Is(err, errNoVolumes) || errors.Is(err, keyring.ErrNoKey):
		st.Phase, st.Error = agentrpc.VolumeFailed, err.Error()
		return nil
	}
	st.Phase = ""
	return err
}

func specOf(w *agentrpc.Volume) volume.Spec {
	return volume.Spec{ID: w.ID, Size: w.Size, Snapshot: w.Snapshot, Limits: w.Limits, Encrypted: w.Encrypted}
}

// shape makes a volume be there with the size and the limits that it should have.
func (v *volumes) shape(ctx context.Context, parts *Volumes, w *agentrpc.Volume) error {
	in, err := parts.Backend.Info(w.ID)
	if errors.Is(err, volume.ErrNotFound) && w.Make {
		in, err = parts.Backend.Create(ctx, specOf(w))
	}
	if err != nil {
		return err
	}
	open := v.door(in)
	if in.Size < w.Size {
		if err := parts.Backend.Grow(ctx, w.ID, w.Size, open); err != nil {
			return err
		}
	}
	if v.served(ctx, in) { // also when a crash came between the two
		if err := parts.Devices.Grown(ctx, w.ID); err != nil {
			return err
		}
	}
	return parts.Backend.Limit(ctx, w.ID, w.Limits, open)
}

// ensure makes a volume that is wished for and not there yet, for a machine that is started with it.
func (v *volumes) ensure(ctx context.Context, id cloud.VolumeID) error {
	v.mu.Lock()
	w, ok := v.wishes[string(id)].(*agentrpc.Volume)
	v.mu.Unlock()
	parts := v.a.cfg.Volumes
	if !ok || w.Delete || !w.Make || parts == nil {
		return nil
	}
	if _, err := parts.Backend.Info(id); !errors.Is(err, volume.ErrNotFound) {
		return err
	}
	_, err := parts.Backend.Create(ctx, specOf(w))
	return err
}

// snapshot makes or deletes a snapshot. One whose volume or source is gone can't be made any more.
func (v *volumes) snapshot(ctx context.Context, w *agentrpc.Snapshot) error {
	st := &agentrpc.SnapshotStatus{Snapshot: w.ID, Gone: w.Delete}
	err := errNoVolumes
	if parts := v.a.cfg.Volumes; parts != nil {
		switch {
		case w.Delete:
			err = parts.Backend.DeleteSnapshot(ctx, w.ID)
		case w.Complete:
			err = v.complete(ctx, w.ID)
		case w.Source != "":
			err = parts.Backend.CopySnapshot(ctx, w.Source, w.ID, w.Encrypted)
		default:
			err = v.snapshotOf(ctx, parts, w)
		}
	}
	if hopeless(err) {
		st.Error, err = err.Error(), nil
	}
	if err == nil {
		v.a.out.put("snapshot/"+string(w.ID), &agentrpc.FromAgent{Snapshot: st})
	}
	return err
}

// hopeless tells whether a snapshot that failed so can never be made.
func hopeless(err error) bool {
	return slices.ContainsFunc([]error{volume.ErrNotFound, volume.ErrTooManyLayers, volume.ErrSealed, volume.ErrRotten, errNoVolumes, keyring.ErrNoKey}, func(is error) bool { return errors.Is(err, is) })
}

func (v *volumes) snapshotOf(ctx context.Context, parts *Volumes, w *agentrpc.Snapshot) error {
	defer v.lock(w.Volume)()
	in, err := parts.Backend.Info(w.Volume)
	if err != nil {
		return err
	}
	return parts.Backend.Snapshot(ctx, w.Volume, w.ID, v.door(in))
}

// served tells whether a volume is open in a daemon of its own.
func (v *volumes) served(ctx context.Context, in volume.Info) bool {
	return v.a.cfg.Volumes.Devices.Serves(ctx, in.ID)
}

// door leads to the process that has a volume open, nil when none has.
func (v *volumes) door(in volume.Info) volume.Door {
	ctx := context.Background()
	if v.served(ctx, in) {
		return v.a.cfg.Volumes.Devices.Door(in.ID)
	}
	if in.Holder == "" || v.a.cfg.VMs == nil {
		return nil
	}
	if open, err := v.a.cfg.VMs.OpensVolume(ctx, in.Holder, in.ID); err == nil && !open {
		return nil
	}
	return v.a.cfg.VMs.VolumeDoor(in.Holder)
}

// watchDaemons wakes the worker of a machine whose volume's daemon has ended.
func (v *volumes) watchDaemons(ctx context.Context) {
	if v.a.cfg.Volumes == nil {
		return
	}
	for {
		select {
		case st, ok := <-v.a.cfg.Volumes.Devices.Events():
			if !ok {
				return
			}
			id := daemon.VolumeOf(st.ID)
			v.a.log.Warn("a volume's daemon has ended; it is started again if a machine has the volume", "volume", id, "code", st.Exit.Code)
			in, err := v.a.cfg.Volumes.Backend.Info(id)
			if err != nil || in.Holder == "" {
				continue
			}
			v.a.mu.Lock()
			w := v.a.workers[in.Holder]
			v.a.mu.Unlock()
			if w != nil {
				w.kick()
			}
		case <-ctx.Done():
			return
		}
	}
}

// recover finds what a crash left of volumes and their daemons, and tells how large a volume can be, in GiB; 0 where there are none.
func (v *volumes) recover(ctx context.Context) (int, error) {
	parts := v.a.cfg.Volumes
	if parts == nil {
		return 0, nil
	}
	kept, snapshots, err := parts.Backend.Recover(ctx)
	if err != nil {
		return 0, err
	}
	serving, err := parts.Devices.Recover(ctx)
	if err != nil {
		return 0, err
	}
	if len(kept)+len(snapshots) > 0 {
		v.a.log.Info("volumes found", "volumes", len(kept), "snapshots", len(snapshots), "served", len(serving))
	}
	size, err := parts.Backend.Capacity()
	return int(size >> 30), err
}

// insideName is the device node of a volume inside a container: as on EC2's virtual machines, /dev/sdf is seen as /dev/xvdf.
func insideName(device string) string {
	if rest, ok := strings.CutPrefix(device, "/dev/sd"); ok {
		return "/dev/xvd" + rest
	}
	return device
}

// holds are the volumes that a machine has on this node, or had when a crash came.
func (v *volumes) holds(ctx context.Context, id cloud.InstanceID) ([]cloud.VolumeID, error) {
	if v.a.cfg.Volumes == nil {
		return nil, nil
	}
	held, err := v.a.cfg.Volumes.Backend.Held(id)
	if err != nil {
		return nil, fmt.Errorf("machine %s: look for its volumes: %w", id, err)
	}
	return held, nil
}
