package agent

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/network"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// templateShare is the part of the server's memory that templates may take together: one of so many.
	templateShare = 8
	// templateIdle is how long an unused template is kept.
	templateIdle = time.Hour
	// templateLimit is how long a machine may boot that is to become a template.
	templateLimit = 10 * time.Minute
)

// mold is what machines have in common that can be started from one template.
type mold struct {
	Image, Kernel, Ramdisk, Cmdline, Accelerator, Product string
	Resources                                             machine.Resources
}

// template is a frozen machine: its memory with the driver, its disk in the image store under an id of its own.
type template struct {
	frozen machine.Template
	id     cloud.InstanceID
	used   time.Time
	users  int // launches that are copying the disk
}

// templates are the frozen machines of this server. They are made in the background after a first launch, and end with this
// process: what a crash leaves of them is a directory and a disk of machines that nobody wants, which are swept as all such.
type templates struct {
	a      *Agent
	wg     sync.WaitGroup
	one    sync.Mutex // held while a template is made: one at a time
	mu     sync.Mutex
	ready  map[mold]*template
	asked  map[mold]bool // being made, or given up
	ids    map[cloud.InstanceID]bool
	closed bool
}

func newTemplates(a *Agent) *templates {
	return &templates{a: a, ready: map[mold]*template{}, asked: map[mold]bool{}, ids: map[cloud.InstanceID]bool{}}
}

// holds tells whether an id is a template's: no machine's that was left over.
func (t *templates) holds(id cloud.InstanceID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ids[id]
}

// moldOf is what a machine's template must be like; ok is false for those that can't be forked.
func moldOf(d *agentrpc.Machine, s *machine.Spec) (mold, bool) {
	h := d.Instance.Hardware
	return mold{Image: d.Instance.ImageDigest, Kernel: h.KernelDigest, Ramdisk: h.RamdiskDigest, Cmdline: s.VM.Cmdline, Accelerator: s.VM.Accelerator,
		Product: s.VM.Product, Resources: s.Resources}, s.VM.GuestAgent && d.Instance.Boot == 1
}

// take returns a template with a copy of its disk for a machine that has none yet, or nil.
func (t *templates) take(ctx context.Context, m mold, id cloud.InstanceID) (machine.Template, error) {
	t.mu.Lock()
	found := t.ready[m]
	if found != nil {
		found.used = t.a.cfg.Now()
		found.users++
	}
	t.mu.Unlock()
	if found == nil {
		return nil, nil
	}
	defer func() {
		t.mu.Lock()
		found.users--
		t.mu.Unlock()
	}()
	return found.frozen, t.a.cfg.Images.CopyDisk(ctx, string(id), string(found.id))
}

// want has a template made for machines like this one, unless there is one or one was tried.
func (t *templates) want(ctx context.Context, m mold, s machine.Spec, img image.Image) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.asked[m] || t.ready[m] != nil {
		return
	}
	t.asked[m] = true
	t.wg.Go(func() {
		t.one.Lock()
		defer t.one.Unlock()
		if ctx.Err() != nil {
			return
		}
		began := time.Now()
		made, err := t.make(ctx, s, img)
		if err != nil {
			if ctx.Err() == nil {
				t.a.log.Warn("no template was made; machines of this image boot each", "image", m.Image, "type", m.Product, "error", err)
			}
			return
		}
		t.a.log.Info("a template was made: further machines of this image and type are forked", "image", m.Image, "type", m.Product,
			"took", time.Since(began), "memory_mib", made.frozen.Memory()>>20)
		t.mu.Lock()
		t.ready[m] = made
		t.mu.Unlock()
		t.trim(ctx)
	})
}

// make boots and freezes a machine.
func (t *templates) make(ctx context.Context, s machine.Spec, img image.Image) (*template, error) {
	ctx, cancel := context.WithTimeout(ctx, templateLimit)
	defer cancel()
	id := cloud.NewID[cloud.InstanceID](rand.Reader)
	t.mu.Lock()
	t.ids[id] = true
	t.mu.Unlock()
	made := &template{id: id, used: t.a.cfg.Now()}
	base, err := t.a.ids.allocate(id)
	if err != nil {
		return nil, err
	}
	defer t.a.ids.release(id, base)
	if err := os.MkdirAll(t.a.machineDir(id), 0o711); err != nil {
		return nil, fmt.Errorf("make a template's directory: %w", err)
	}
	disk, err := t.a.cfg.Images.PrepareDisk(ctx, string(id), img.Digest, rootSize(img))
	if err == nil {
		vm := *s.VM
		vm.Disks = []machine.Disk{{Path: disk.Path, Format: "qcow2", Base: disk.Base, BaseFormat: disk.BaseFormat, Serial: s.VM.Disks[0].Serial}}
		vm.SSHKeys = nil
		vm.NICs = []machine.NIC{{MTU: t.a.cfg.Network.MTU(), Tap: network.OpenSpareTap}}
		s.ID, s.Dir, s.IDBase, s.VM, s.UserData, s.Greeting = id, t.a.machineDir(id), base, &vm, nil, ""
		made.frozen, err = t.a.cfg.VMs.Freeze(ctx, s, settled(img))
	}
	if err != nil {
		t.discard(made)
		return nil, err
	}
	return made, nil
}

// settled waits until an operating system has started all that it starts.
func settled(img image.Image) func(ctx context.Context, exec machine.Exec) error {
	if !img.Config.Systemd {
		return nil
	}
	return func(ctx context.Context, exec machine.Exec) error {
		p, err := exec(ctx, machine.ExecSpec{Args: []string{"systemctl", "is-system-running", "--wait"}})
		if err != nil {
			return fmt.Errorf("wait until the system has started: %w", err)
		}
		_, err = p.Wait() // its code tells whether all units came up, which is the image's affair
		return err
	}
}

// trim drops what was not used for long, and the least recently used beyond the budget.
func (t *templates) trim(context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	budget := t.a.node.MemoryMiB << 20 / templateShare
	for {
		var total int64
		var oldest mold
		var when time.Time
		for m, x := range t.ready {
			total += x.frozen.Memory()
			if x.users == 0 && (when.IsZero() || x.used.Before(when)) {
				oldest, when = m, x.used
			}
		}
		if when.IsZero() || total <= budget && t.a.cfg.Now().Sub(when) < templateIdle {
			return
		}
		x := t.ready[oldest]
		delete(t.ready, oldest)
		delete(t.asked, oldest)
		t.a.log.Info("a template is dropped", "image", oldest.Image, "type", oldest.Product)
		go t.discard(x)
	}
}

// discard deletes what there is of a template.
func (t *templates) discard(x *template) {
	if x.frozen != nil {
		x.frozen.Close()
	}
	if err := t.a.cfg.Images.RemoveDisk(context.Background(), string(x.id)); err != nil {
		t.a.log.Error("remove a template's disk", "error", err)
	}
	if err := os.RemoveAll(t.a.machineDir(x.id)); err != nil {
		t.a.log.Error("remove a template's directory", "error", err)
	}
	t.mu.Lock()
	delete(t.ids, x.id)
	t.mu.Unlock()
}

// tend drops unused templates from time to time until ctx ends, and then all.
func (t *templates) tend(ctx context.Context) {
	tick := time.NewTicker(templateIdle / 12)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.trim(ctx)
		case <-ctx.Done():
			t.mu.Lock()
			t.closed = true
			t.mu.Unlock()
			t.wg.Wait()
			for _, x := range t.ready {
				t.discard(x)
			}
			return
		}
	}
}
