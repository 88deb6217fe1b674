package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// inspectLimit is how long a look inside may take, inspectAtOnce how many may be under way: the others wait.
	inspectLimit  = 30 * time.Second
	inspectAtOnce = 2
)

// inspect looks inside a machine: what its driver tells of it, and what its root is made of.
func (a *Agent) inspect(ctx context.Context, q agentrpc.InspectQuery) (*agentrpc.InspectAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, inspectLimit)
	defer cancel()
	if err := a.looks.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("machine %s: others are being looked at: %w", q.Instance, err)
	}
	defer a.looks.Release(1)
	driver, ok := a.cfg.Driver.(machine.Inspector)
	if !ok {
		return nil, errors.New("the drivers of this server don't look inside")
	}
	out, err := driver.Inspect(ctx, q.Instance, q.Look)
	if errors.Is(err, machine.ErrLook) {
		_, why, _ := strings.Cut(err.Error(), machine.ErrLook.Error()+": ")
		return &agentrpc.InspectAnswer{Refused: why}, nil
	}
	if err != nil {
		return nil, err
	}
	if out.VM != nil {
		out.VM.Reason = a.reason(out.VM.Architecture, out.VM.Accelerator)
	}
	if out.Root, err = a.makeup(ctx, q.Instance); err != nil {
		return nil, err
	}
	return &agentrpc.InspectAnswer{Inspection: &out}, nil
}

// inspectImages looks at an image's layers, or weighs everything.
func (a *Agent) inspectImages(ctx context.Context, q agentrpc.ImagesQuery) (*agentrpc.ImagesAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, inspectLimit)
	defer cancel()
	if err := a.looks.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("others are being looked at: %w", err)
	}
	defer a.looks.Release(1)
	if q.Digest == "" {
		use, err := a.cfg.Images.Weigh(ctx, a.cfg.VolumesDir)
		return &agentrpc.ImagesAnswer{Use: &use}, err
	}
	made, err := a.cfg.Images.Layers(ctx, q.Digest)
	if err != nil {
		return nil, err
	}
	known, err := a.knownMachines()
	if err != nil {
		return nil, err
	}
	for _, id := range known {
		its, ok, err := a.readRecord(id)
		if err != nil || !ok || a.templates.holds(id) {
			continue
		}
		for n := range made.Layers {
			if l := &made.Layers[n]; slices.Contains(l.Images, its.Digest) {
				l.Instances = append(l.Instances, id)
			}
		}
	}
	return &agentrpc.ImagesAnswer{Makeup: &made}, nil
}

// reason is why a machine is executed as it is.
func (a *Agent) reason(architecture, accelerator string) string {
	if architecture != Architecture {
		return fmt.Sprintf("it is for %s, and this server is %s", architecture, Architecture)
	}
	a.mu.Lock()
	engine := a.node.Engines[cloud.IsolationVM] // such as "QEMU 7.2.22 (tcg: demanded)"
	a.mu.Unlock()
	_, verdict, _ := strings.Cut(engine, "(")
	now, why, _ := strings.Cut(strings.TrimSuffix(verdict, ")"), ": ")
	if now != accelerator {
		return fmt.Sprintf("that was this server's verdict when it was started; now it is %s: %s", now, why)
	}
	return why
}

// makeup tells what a machine's root is made of, and which machines of this server stand on the same layers.
func (a *Agent) makeup(ctx context.Context, id cloud.InstanceID) (*cloud.RootMakeup, error) {
	rec, ok, err := a.readRecord(id)
	if err != nil || !ok {
		return nil, errors.Join(err, errors.New("there is no record of the machine"))
	}
	out, err := a.cfg.Images.Makeup(ctx, string(id), rec.Digest)
	if err != nil {
		return nil, err
	}
	if err := a.rootMakeup(id, &out); err != nil {
		return nil, err
	}
	known, err := a.knownMachines()
	if err != nil {
		return nil, err
	}
	for _, other := range known {
		its, ok, err := a.readRecord(other)
		if other == id || err != nil || !ok || a.templates.holds(other) {
			continue
		}
		for n := range out.Layers {
			if l := &out.Layers[n]; slices.Contains(l.Images, its.Digest) || its.Digest == rec.Digest {
				l.SharedWith = append(l.SharedWith, other)
			}
		}
	}
	return &out, nil
}

// rootMakeup tells of the volume that a virtual machine has as its root.
func (a *Agent) rootMakeup(id cloud.InstanceID, out *cloud.RootMakeup) (err error) {
	a.mu.Lock()
	w := a.workers[id]
	a.mu.Unlock()
	if w == nil || a.cfg.Volumes == nil {
		return nil
	}
	w.mu.Lock()
	d := w.desired
	w.mu.Unlock()
	if d == nil || d.Root == nil {
		return nil
	}
	image.OfDisk(out)
	out.Written, out.DiskSize, err = a.cfg.Volumes.Backend.Usage(d.Root.ID)
	return err
}
