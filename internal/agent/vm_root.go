package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
)

// A virtual machine's root is a volume, laid over its image's disk. It is made with the machine, as only its worker knows whether there is a template to
// begin with a copy of, and is an ordinary volume from then on. Machines of before have a disk of their own beside the images.

// errRootThere is returned for a root that is to begin as a template's and has begun already.
var errRootThere = errors.New("the root is there already")

// ofSnapshot tells whether a machine's root begins with a snapshot, and not with its image's disk.
func ofSnapshot(d *agentrpc.Machine) bool { return d.Root != nil && d.Root.Snapshot != "" }

// forkRoot makes a machine's root begin as a template's. What the template wrote is copied, not laid under: it is little, and what the machine writes
// there would be copied piece by piece, in its way to be up.
func (w *worker) forkRoot(ctx context.Context, d *agentrpc.Machine, img image.Image, from *template) error {
	disk, err := w.a.cfg.Images.PrepareDisk(ctx, string(from.id), img.Digest, rootSize(d, img)) // which is there
	if err != nil {
		return err
	}
	return w.makeRoot(ctx, d, img, volume.Base{Path: disk.Base, Format: disk.BaseFormat, Written: disk.Path})
}

// makeRoot makes a machine's root of a base, or of its snapshot.
func (w *worker) makeRoot(ctx context.Context, d *agentrpc.Machine, img image.Image, base volume.Base) error {
	parts := w.a.cfg.Volumes
	if parts == nil {
		return errNoVolumes
	}
	switch _, err := parts.Backend.Info(d.Root.ID); {
	case err == nil:
		return errRootThere
	case !errors.Is(err, volume.ErrNotFound):
		return err
	case !d.Root.Make:
		return fmt.Errorf("the volume %s is lost: %w", d.Root.ID, err)
	}
	_, err := parts.Backend.Create(ctx, volume.Spec{ID: d.Root.ID, Size: rootSize(d, img), Snapshot: d.Root.Snapshot, Base: base, Limits: d.Root.Limits, Encrypted: d.Root.Encrypted})
	return err
}

// openRoot gives a virtual machine its root, which is made when this is its first start.
func (w *worker) openRoot(ctx context.Context, d *agentrpc.Machine, img image.Image, vm *machine.VM) error {
	if d.Root == nil {
		disk, err := w.a.cfg.Images.PrepareDisk(ctx, string(w.id), img.Digest, rootSize(d, img))
		if err != nil {
			return err
		}
		vm.Disks = []machine.Disk{{Path: disk.Path, Format: "qcow2", Base: disk.Base, BaseFormat: disk.BaseFormat, Serial: "vol0"}}
		return nil
	}
	if d.Root.Make && ofSnapshot(d) {
		if err := w.makeRoot(ctx, d, img, volume.Base{}); err != nil && !errors.Is(err, errRootThere) {
			return err
		}
	} else if d.Root.Make {
		disk, err := w.a.cfg.Images.BaseDisk(ctx, img.Digest, rootSize(d, img))
		if err == nil {
			err = w.makeRoot(ctx, d, img, volume.Base{Path: disk.Base, Format: disk.BaseFormat})
		}
		if err != nil && !errors.Is(err, errRootThere) {
			return err
		}
	}
	parts := w.a.cfg.Volumes
	if parts == nil {
		return errNoVolumes
	}
	if err := parts.Backend.Hold(ctx, d.Root.ID, w.id); err != nil {
		return err
	}
	g, err := parts.Backend.Graph(d.Root.ID)
	vm.Root = &g
	return err
}
