package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Captures of a machine's disks are made by its worker, which is the one that knows what runs. What came of one is kept in the machine's directory before it is
// told and before the machine goes on, until the control plane has heard: after a crash in the middle it is made again, of a machine that has not
// been started again, and after one at the end it is told again.

const (
	capturesDir = "captures"
	// frozenFile says that the machine may be standing still.
	frozenFile = "frozen"
)

func (w *worker) captureFile(id string) string {
	return filepath.Join(w.a.machineDir(w.id), capturesDir, filepath.Base(id)+".json")
}

// capture makes what is to be kept of a machine's disks. running is the machine as it runs, nil when nothing of it does.
func (w *worker) capture(ctx context.Context, d *agentrpc.Machine, running *machine.Status) error {
	if err := w.forgetCaptures(d); err != nil || len(d.Instance.Captures) == 0 {
		return err
	}
	for _, c := range d.Instance.Captures {
		st, done, err := w.captured(c)
		if err != nil {
			return err
		}
		if !done {
			if st, err = w.keep(ctx, d, c, running); err != nil {
				return err
			}
		}
		w.a.imports.brought(st.Image)
		w.a.out.put("capture/"+c.ID, &agentrpc.FromAgent{Capture: &st})
	}
	return nil
}

// captured reads what came of a capture.
func (w *worker) captured(c cloud.Capture) (st agentrpc.CaptureStatus, done bool, err error) {
	b, err := os.ReadFile(w.captureFile(c.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return st, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	if err != nil {
		return st, false, fmt.Errorf("machine %s: read what came of %s: %w", w.id, c.ID, err)
	}
	return st, true, nil
}

// keep makes one capture and notes what came of it.
func (w *worker) keep(ctx context.Context, d *agentrpc.Machine, c cloud.Capture, running *machine.Status) (agentrpc.CaptureStatus, error) {
	st := agentrpc.CaptureStatus{Instance: w.id, Capture: c.ID}
	var err error
	if running != nil && c.Rest > 0 {
		err = errors.New("the instance was started again before its disks were read")
	} else {
		st.Image, err = w.take(ctx, d, c, running)
	}
	if ctx.Err() != nil {
		return st, ctx.Err()
	}
	if err != nil {
		w.log.Error("the machine's disks were not kept", "capture", c.ID, "error", err)
		st.Image, st.Error = nil, err.Error()
	}
	b, err := json.Marshal(st)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(w.captureFile(c.ID)), 0o700)
	}
	if err == nil {
		err = renameio.WriteFile(w.captureFile(c.ID), b, 0o600)
	}
	if err != nil {
		return st, fmt.Errorf("machine %s: note what came of %s: %w", w.id, c.ID, err)
	}
	return st, nil
}

// take reads a machine's disks.
func (w *worker) take(ctx context.Context, d *agentrpc.Machine, c cloud.Capture, running *machine.Status) (made *agentrpc.Imported, err error) {
	var below image.Image
	if c.Image != "" && d.Instance.ImageDigest != "" {
		if below, err = w.a.cfg.Images.Get(ctx, d.Instance.ImageDigest); err != nil {
			return nil, err
		}
	}
	if running != nil && !isVM(d) && (c.Layer != "" || len(c.Volumes) > 1) {
		if err := w.freeze(ctx); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, w.thaw(context.WithoutCancel(ctx))) }()
	}
	if err := w.takeVolumes(ctx, d, c, running); err != nil {
		return nil, err
	}
	switch {
	case c.Layer != "":
		img, err := w.a.cfg.Images.Capture(ctx, string(w.id), d.Instance.ImageDigest, image.CaptureOptions{Name: c.Layer, Created: c.Asked, By: "CreateImage of " + string(w.id)})
		if err != nil {
			return nil, err
		}
		return new(imported(img, "")), nil
	case c.Image == "":
		return nil, nil
	case below.Digest == "":
		return &agentrpc.Imported{}, nil // a disk of which nothing is known
	}
	return new(imported(below, "")), nil
}

// takeVolumes makes the snapshots of a capture. A hypervisor goes over to fresh layers for all of its volumes at once; for a container, they are made one after the
// other while it stands still: what its processes wrote after they had heard of another write is in no snapshot that lacks the other.
func (w *worker) takeVolumes(ctx context.Context, d *agentrpc.Machine, c cloud.Capture, running *machine.Status) error {
	if len(c.Volumes) == 0 {
		return nil
	}
	parts := w.a.cfg.Volumes
	if parts == nil {
		return errNoVolumes
	}
	list := slices.SortedFunc(slices.Values(c.Volumes), func(a, b cloud.CapturedVolume) int { return strings.Compare(string(a.Volume), string(b.Volume)) })
	open := map[cloud.VolumeID]cloud.SnapshotID{}
	for _, v := range list {
		defer w.a.volumes.lock(v.Volume)()
		in, err := parts.Backend.Info(v.Volume)
		if err != nil {
			return err
		}
		door := w.a.volumes.door(in)
		if isVM(d) && running != nil && door != nil && in.Holder == w.id {
			open[v.Volume] = v.Snapshot
			continue
		}
		if err := parts.Backend.Snapshot(ctx, v.Volume, v.Snapshot, door); err != nil {
			return err
		}
	}
	if len(open) == 0 {
		return nil
	}
	return parts.Backend.SnapshotAll(ctx, open, w.a.cfg.VMs.VolumeDoor(w.id))
}

// freeze has a running container stand still, until thaw.
func (w *worker) freeze(ctx context.Context) error {
	f, ok := w.a.cfg.Driver.(machine.Freezer)
	if !ok {
		return errors.New("this server can't make containers stand still")
	}
	if err := os.WriteFile(filepath.Join(w.a.machineDir(w.id), frozenFile), nil, 0o600); err != nil {
		return err
	}
	return f.Freeze(ctx, w.id)
}

// thaw lets a machine go on that was made to stand still, also before a crash.
func (w *worker) thaw(ctx context.Context) error {
	mark := filepath.Join(w.a.machineDir(w.id), frozenFile)
	if _, err := os.Stat(mark); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if f, ok := w.a.cfg.Driver.(machine.Freezer); ok {
		if err := f.Thaw(ctx, w.id); err != nil {
			return err
		}
	}
	return os.Remove(mark)
}

// forgetCaptures removes what is kept of captures that the control plane has heard of.
func (w *worker) forgetCaptures(d *agentrpc.Machine) error {
	dir := filepath.Join(w.a.machineDir(w.id), capturesDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if slices.ContainsFunc(d.Instance.Captures, func(c cloud.Capture) bool { return w.captureFile(c.ID) == filepath.Join(dir, e.Name()) }) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// keptImages are the digests that captures of machines brought and that the control plane may not have heard of.
func (a *Agent) keptImages() (digests []string) {
	files, _ := filepath.Glob(filepath.Join(a.cfg.MachinesDir, "i-*", capturesDir, "*.json")) // the pattern is sound
	for _, f := range files {
		var st agentrpc.CaptureStatus
		if b, err := os.ReadFile(f); err == nil && json.Unmarshal(b, &st) == nil && st.Image != nil {
			digests = append(digests, st.Image.Digest)
		}
	}
	return digests
}
