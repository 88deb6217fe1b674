package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/volume/daemon"
	"github.com/nacre-cloud/nacre/internal/agent/volume/inside"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// A machine's volumes. The backend keeps which machine holds which volume, and the record what each is called inside; a step is repeated
// until both agree with the wish.

// refusal is why a volume was not attached, and by which wish.
type refusal struct {
	wiring int
	why    string
}

// nodeFile is a volume's device node of a container, on the host.
func (w *worker) nodeFile(id cloud.VolumeID) string {
	return filepath.Join(w.a.machineDir(w.id), "devices", string(id))
}

// mountDir is where a volume's file system is mounted while its container starts.
func (w *worker) mountDir(id cloud.VolumeID) string {
	return filepath.Join(w.a.machineDir(w.id), "mounts", string(id))
}

// noteAttachment keeps in the record what a volume is called inside, before it is there.
func (w *worker) noteAttachment(rec *record, v agentrpc.Attachment) error {
	if slices.Contains(rec.Volumes, v) {
		return nil
	}
	rec.Volumes = append(slices.DeleteFunc(slices.Clone(rec.Volumes), func(x agentrpc.Attachment) bool { return x.Volume == v.Volume }), v)
	return w.a.writeRecord(*rec)
}

// has tells whether a machine should have a volume, as its root or beside it.
func has(d *agentrpc.Machine, id cloud.VolumeID) bool {
	return d.Root != nil && d.Root.ID == id || slices.ContainsFunc(d.Volumes, func(v agentrpc.Attachment) bool { return v.Volume == id })
}

// openAll opens a machine's volumes for its start: as devices of a container, or for its hypervisor to open. Until opened is called, after the start, nothing
// changes their files behind the hypervisor's back.
func (w *worker) openAll(ctx context.Context, d *agentrpc.Machine, rec *record, spec *machine.Spec, userNS string) (opened func(), err error) {
	var locks []func()
	opened = func() {
		for _, unlock := range locks {
			unlock()
		}
	}
	if err := w.releaseVolumes(ctx, d); err != nil {
		return opened, err
	}
	for _, v := range d.Volumes {
		locks = append(locks, w.a.volumes.lock(v.Volume))
		if err := w.open(ctx, d, rec, v, spec, userNS); err != nil {
			return opened, fmt.Errorf("machine %s: volume %s: %w", w.id, v.Volume, err)
		}
	}
	return opened, nil
}

func (w *worker) open(ctx context.Context, d *agentrpc.Machine, rec *record, v agentrpc.Attachment, spec *machine.Spec, userNS string) error {
	parts := w.a.cfg.Volumes
	if parts == nil {
		return errNoVolumes
	}
	if err := w.a.volumes.ensure(ctx, v.Volume); err != nil {
		return err
	}
	if err := w.noteAttachment(rec, v); err != nil {
		return err
	}
	if err := parts.Backend.Hold(ctx, v.Volume, w.id); err != nil {
		return err
	}
	g, err := parts.Backend.Graph(v.Volume)
	if err != nil {
		return err
	}
	if isVM(d) {
		spec.VM.Volumes = append(spec.VM.Volumes, machine.Volume{Graph: g})
		return nil
	}
	dev, err := parts.Devices.Serve(ctx, g)
	if err != nil {
		return err
	}
	node := w.nodeFile(v.Volume)
	if err := inside.MakeNode(node, dev.Major, dev.Minor, rec.IDBase); err != nil {
		return err
	}
	spec.Devices = append(spec.Devices, machine.Device{Node: node, Target: insideName(v.Device), Major: dev.Major, Minor: dev.Minor})
	if v.Mount == "" {
		return nil
	}
	dir := w.mountDir(v.Volume)
	if err := inside.Leave(dir); err != nil {
		return err
	}
	if err := inside.Prepare(ctx, dev.Path); err != nil {
		return err
	}
	fs, err := inside.OpenFS(dev.Path, userNS)
	if err != nil {
		return err
	}
	defer fs.Close()
	if err := inside.Put(fs, dir); err != nil {
		return err
	}
	spec.Mounts = append(spec.Mounts, machine.Bind{Source: dir, Target: v.Mount})
	return nil
}

// leaveMounts takes the host's own mounts of volumes away: a container has its own.
func (w *worker) leaveMounts() error {
	dir := filepath.Join(w.a.machineDir(w.id), "mounts")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	problems := []error{err}
	for _, e := range entries {
		problems = append(problems, inside.Leave(filepath.Join(dir, e.Name())))
	}
	return errors.Join(problems...)
}

// releaseVolumes gives up the volumes of a machine that doesn't run, save for those that d wants.
func (w *worker) releaseVolumes(ctx context.Context, d *agentrpc.Machine) error {
	if err := w.leaveMounts(); err != nil {
		return fmt.Errorf("machine %s: take its volumes' mounts away: %w", w.id, err)
	}
	held, err := w.a.volumes.holds(ctx, w.id)
	if err != nil {
		return err
	}
	for _, id := range held {
		if d != nil && has(d, id) {
			continue
		}
		if err := w.shut(ctx, id); err != nil {
			return fmt.Errorf("machine %s: give volume %s up: %w", w.id, id, err)
		}
	}
	return nil
}

// shut closes a volume that nothing uses any more, and gives it up.
func (w *worker) shut(ctx context.Context, id cloud.VolumeID) error {
	defer w.a.volumes.lock(id)()
	parts := w.a.cfg.Volumes
	if err := parts.Devices.Stop(ctx, id); err != nil {
		return err
	}
	if err := os.Remove(w.nodeFile(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return parts.Backend.Release(ctx, id, w.id)
}

// updateVolumes gives a running machine the volumes of its wish and takes others away. What keeps one from coming or going is told, and keeps no other: it
// is told what the machine has then, and why it hasn't the rest.
func (w *worker) updateVolumes(ctx context.Context, d *agentrpc.Machine, st machine.Status) (have []cloud.VolumeID, problems map[cloud.VolumeID]string, err error) {
	held, err := w.a.volumes.holds(ctx, w.id)
	if err != nil {
		return nil, nil, err
	}
	if len(held)+len(d.Volumes) == 0 {
		return nil, nil, nil
	}
	rec, ok, err := w.a.readRecord(w.id)
	if err != nil || !ok {
		return nil, nil, fmt.Errorf("machine %s runs and has no record: %w", w.id, err)
	}
	problems = map[cloud.VolumeID]string{}
	for _, id := range held {
		if d.Root != nil && d.Root.ID == id {
			have = append(have, id)
		}
		if has(d, id) {
			continue
		}
		if err := w.detach(ctx, d, &rec, id, st); err != nil {
			w.log.Warn("a volume was not detached, trying again", "volume", id, "error", err)
			have, problems[id] = append(have, id), err.Error()
		}
	}
	for _, v := range d.Volumes {
		if no, ok := w.noVolumes[v.Volume]; ok && no.wiring == d.Instance.Wiring {
			problems[v.Volume] = no.why
			continue
		}
		if err := w.attach(ctx, d, &rec, v, st); err != nil {
			w.log.Warn("a volume was not attached", "volume", v.Volume, "error", err)
			problems[v.Volume] = err.Error()
			if ctx.Err() != nil {
				return nil, nil, ctx.Err()
			}
			if !slices.Contains(held, v.Volume) {
				// Told once, it is free for others: trying again could take it from them.
				w.noVolumes[v.Volume] = refusal{wiring: d.Instance.Wiring, why: err.Error()}
			}
			// It never was the machine's, or works no more: nothing half done stays.
			if err := w.detach(ctx, d, &rec, v.Volume, st); err != nil {
				return nil, nil, err
			}
			continue
		}
		have = append(have, v.Volume)
	}
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	return have, problems, nil
}

// attach gives a running machine a volume that it should have. One that it has already stays as it is.
func (w *worker) attach(ctx context.Context, d *agentrpc.Machine, rec *record, v agentrpc.Attachment, st machine.Status) error {
	parts := w.a.cfg.Volumes
	if parts == nil {
		return errNoVolumes
	}
	defer w.a.volumes.lock(v.Volume)()
	again := slices.IndexFunc(rec.Volumes, func(x agentrpc.Attachment) bool { return x.Volume == v.Volume })
	if again >= 0 {
		v.Mount = rec.Volumes[again].Mount // another tag is for the next start
	}
	if err := w.noteAttachment(rec, v); err != nil {
		return err
	}
	if err := parts.Backend.Hold(ctx, v.Volume, w.id); err != nil {
		return err
	}
	if isVM(d) {
		if open, err := w.a.cfg.VMs.OpensVolume(ctx, w.id, v.Volume); err != nil || open {
			return err
		}
		g, err := parts.Backend.Graph(v.Volume)
		if err != nil {
			return err
		}
		return w.a.cfg.VMs.AttachVolume(ctx, w.id, g)
	}
	c := inside.Container{PID: st.PID, Root: rec.IDBase}
	dev, err := w.serve(ctx, v.Volume)
	if err != nil {
		return err
	}
	target := insideName(v.Device)
	if !c.Shows(target, dev.Major, dev.Minor) {
		node := w.nodeFile(v.Volume)
		if err := inside.MakeNode(node, dev.Major, dev.Minor, rec.IDBase); err != nil {
			return err
		}
		if err := c.Allow(dev.Major, dev.Minor, true); err != nil {
			return err
		}
		if err := c.Show(node, target); err != nil {
			return err
		}
	}
	if v.Mount == "" || c.Mounted(dev.Major, dev.Minor) {
		return nil
	}
	if again >= 0 { // on a device whose daemon is gone
		if err := c.UnmountAt(v.Mount); err != nil {
			return err
		}
	}
	if err := inside.Prepare(ctx, dev.Path); err != nil {
		return err
	}
	fs, err := inside.OpenFS(dev.Path, fmt.Sprintf("/proc/%d/ns/user", st.PID))
	if err != nil {
		return err
	}
	defer fs.Close()
	return c.Mount(fs, v.Mount)
}

// serve makes a device of a volume, or tells the one that it has.
func (w *worker) serve(ctx context.Context, id cloud.VolumeID) (daemon.Device, error) {
	parts := w.a.cfg.Volumes
	if dev, err := parts.Devices.Device(ctx, id); err == nil {
		return dev, nil
	}
	if err := parts.Devices.Stop(ctx, id); err != nil {
		return daemon.Device{}, err
	}
	g, err := parts.Backend.Graph(id)
	if err != nil {
		return daemon.Device{}, err
	}
	return parts.Devices.Serve(ctx, g)
}

// detach takes a volume from a running machine and gives it up.
func (w *worker) detach(ctx context.Context, d *agentrpc.Machine, rec *record, id cloud.VolumeID, st machine.Status) error {
	force := slices.Contains(d.Forced, id)
	if isVM(d) {
		if err := w.detachVM(ctx, id, force); err != nil {
			return err
		}
	} else if err := w.hide(ctx, rec, id, st, force); err != nil {
		return err
	}
	if err := w.shut(ctx, id); err != nil {
		return err
	}
	rec.Volumes = slices.DeleteFunc(slices.Clone(rec.Volumes), func(v agentrpc.Attachment) bool { return v.Volume == id })
	return w.a.writeRecord(*rec)
}

func (w *worker) detachVM(ctx context.Context, id cloud.VolumeID, force bool) error {
	defer w.a.volumes.lock(id)()
	return w.a.cfg.VMs.DetachVolume(ctx, w.id, id, force)
}

// hide takes a volume out of a container's sight. Its file system must not be in use, unless the detachment is forced; a program that has the
// bare device open gets errors once its daemon has ended.
func (w *worker) hide(ctx context.Context, rec *record, id cloud.VolumeID, st machine.Status, force bool) error {
	defer w.a.volumes.lock(id)()
	c := inside.Container{PID: st.PID, Root: rec.IDBase}
	dev, err := w.a.cfg.Volumes.Devices.Device(ctx, id)
	if err == nil {
		if err := c.Unmount(dev.Major, dev.Minor, force); err != nil {
			return err
		}
		if err := c.Allow(dev.Major, dev.Minor, false); err != nil {
			return err
		}
	}
	for _, v := range rec.Volumes {
		if v.Volume != id {
			continue
		}
		if err != nil && v.Mount != "" { // its daemon is gone: nothing is left to lose
			if err := c.UnmountAt(v.Mount); err != nil {
				return err
			}
		}
		return c.Hide(insideName(v.Device))
	}
	return nil
}
