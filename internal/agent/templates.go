package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
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
	// templateShare is the part of the server's memory that templates may take together unless told otherwise: one of so many.
	templateShare = 8
	// templateIdle is how long an unused template is kept.
	templateIdle = time.Hour
	// templateLimit is how long a machine may boot that is to become a template.
	templateLimit = 10 * time.Minute
	// templateDisk is the room for images that must be left for a template's disk, in bytes.
	templateDisk = 256 << 20
	// templateWeight is the share of the processors of a machine that is to become a template, under contention: machines that somebody
	// waits for go first.
	templateWeight = 20
	// retryTemplate is how long no template is made after a failure; after each further one twice as long, up to templateIdle.
	retryTemplate = time.Minute
)

// mold is what machines have in common that can be started from one template. Another hypervisor or kernel is another mold.
type mold struct {
	Image, Kernel, Ramdisk, Cmdline, Architecture, Accelerator, Product, Build string
	Resources                                                                  machine.Resources
	Disk                                                                       int64 // bytes
}

// template is a frozen machine: its memory with the driver, its disk in the image store under an id of its own.
type template struct {
	frozen machine.Template
	id     cloud.InstanceID
	used   time.Time
	users  int // launches that are made from it
}

// trial is what came of making a template.
type trial struct {
	making bool
	failed int       // times in a row
	next   time.Time // not before then
	why    string    // it failed
}

// after is a trial that failed once more.
func (y trial) after(why error, now time.Time) trial {
	pause := min(retryTemplate<<min(y.failed, 10), templateIdle)
	return trial{failed: y.failed + 1, next: now.Add(pause), why: why.Error()}
}

// errNoRoom is why no template is made on a server that has no room for it.
var errNoRoom = errors.New("there is no room for a template")

// roomFor tells whether a machine of so many bytes of memory can be made a template: its guest may use all of them until it is
// frozen. Of a budget of 0 there is no template.
func roomFor(memory, budget, available int64, disk error) error {
	switch {
	case budget <= 0:
		return fmt.Errorf("%w: this server makes none (--template-memory 0)", errNoRoom)
	case available < memory:
		return fmt.Errorf("%w: %d MiB of memory are free and it may need %d", errNoRoom, available>>20, memory>>20)
	case disk != nil:
		return fmt.Errorf("%w: %w", errNoRoom, disk)
	}
	return nil
}

// templates are the frozen machines of this server. They are made in the background after a first launch, and end with this
// process: what a crash leaves of them is a directory and a disk of machines that nobody wants, which are swept as all such.
type templates struct {
	a      *Agent
	budget int64 // bytes of memory for all of them
	wg     sync.WaitGroup
	one    sync.Mutex // held while a template is made: one at a time
	mu     sync.Mutex
	ready  map[mold]*template
	trials map[mold]trial // of those that none is ready of
	ids    map[cloud.InstanceID]bool
	closed bool
}

func newTemplates(a *Agent, budget int64) *templates {
	return &templates{a: a, budget: budget, ready: map[mold]*template{}, trials: map[mold]trial{}, ids: map[cloud.InstanceID]bool{}}
}

// holds tells whether an id is a template's: no machine's that was left over.
func (t *templates) holds(id cloud.InstanceID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ids[id]
}

// moldOf is what a machine's template must be like; ok is false for those that can't be forked.
func (t *templates) moldOf(d *agentrpc.Machine, s *machine.Spec, img image.Image) (m mold, ok bool) {
	if t.a.cfg.VMs == nil || !s.VM.GuestAgent || d.Instance.Boot != 1 || d.Root == nil {
		return m, false
	}
	if ofSnapshot(d) {
		s.VM.WhyBooted = "its root is of a snapshot, which has no template"
		return m, false
	}
	h := d.Instance.Hardware
	m = mold{Image: d.Instance.ImageDigest, Kernel: h.KernelDigest, Ramdisk: h.RamdiskDigest, Cmdline: s.VM.Cmdline, Architecture: s.VM.Architecture,
		Accelerator: s.VM.Accelerator, Product: s.VM.Product, Resources: s.Resources, Disk: rootSize(d, img)}
	var err error
	m.Build, err = t.a.cfg.VMs.Build(s.VM.Architecture)
	return m, err == nil
}

// take returns a template, which is to be given back, or why there is none.
func (t *templates) take(m mold) (*template, string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	found := t.ready[m]
	if found == nil {
		y := t.trials[m]
		switch {
		case y.making:
			return nil, "its template is being made"
		case y.why != "":
			return nil, "it has no template: " + y.why
		}
		return nil, "there is no template of its image and type yet"
	}
	found.used = t.a.cfg.Now()
	found.users++
	return found, ""
}

func (t *templates) giveBack(x *template) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x.users--
}

// spoilt drops a template that a machine could not be started from.
func (t *templates) spoilt(m mold, x *template, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.ready[m] != x {
		return
	}
	t.trials[m] = t.trials[m].after(why, t.a.cfg.Now())
	t.drop(m, "a machine could not be started from it")
}

// want has a template made for machines like this one, unless there is one, one is being made, or one could not be made just now.
func (t *templates) want(ctx context.Context, m mold, s machine.Spec, img image.Image) {
	t.mu.Lock()
	defer t.mu.Unlock()
	y := t.trials[m]
	if t.closed || y.making || t.ready[m] != nil || t.a.cfg.Now().Before(y.next) {
		return
	}
	before := y.why
	y.making = true
	t.trials[m] = y
	t.wg.Go(func() {
		t.one.Lock()
		defer t.one.Unlock()
		if ctx.Err() != nil {
			return
		}
		began := time.Now()
		made, err := t.make(ctx, m, s, img)
		log := t.a.log.With("image", m.Image, "type", m.Product)
		t.mu.Lock()
		defer t.mu.Unlock()
		switch {
		case err == nil && t.closed:
			t.wg.Go(func() { t.discard(made) })
			return
		case err == nil:
			log.Info("a template was made: further machines of this image and type are forked", "took", time.Since(began), "memory_mib", made.frozen.Memory()>>20)
			t.ready[m] = made
			t.trials[m] = trial{failed: y.failed} // of its use, for one that nothing can be started from
		case ctx.Err() == nil:
			y.making = false
			t.trials[m] = y.after(err, t.a.cfg.Now())
			level := slog.LevelWarn
			if err.Error() == before {
				level = slog.LevelDebug
			}
			log.Log(ctx, level, "no template was made; machines of this image and type boot each", "error", err, "again_after", t.trials[m].next)
		}
		if !t.closed {
			t.trim()
		}
	})
}

// make boots and freezes a machine.
func (t *templates) make(ctx context.Context, m mold, s machine.Spec, img image.Image) (*template, error) {
	available, err := memoryMiB("/proc/meminfo", "MemAvailable")
	if err != nil {
		return nil, err
	}
	if err := roomFor(s.Resources.Memory, t.budget, available<<20, t.a.cfg.Images.Room(templateDisk)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, templateLimit)
	defer cancel()
	id := cloud.NewID[cloud.InstanceID](rand.Reader)
	t.mu.Lock()
	t.ids[id] = true
	t.mu.Unlock()
	made := &template{id: id, used: t.a.cfg.Now()}
	base, err := t.a.ids.allocate(id)
	if err != nil {
		t.forget(id)
		return nil, err
	}
	defer t.a.ids.release(id, base)
	if err := os.MkdirAll(t.a.machineDir(id), 0o711); err != nil {
		t.forget(id)
		return nil, fmt.Errorf("make a template's directory: %w", err)
	}
	disk, err := t.a.cfg.Images.PrepareDisk(ctx, string(id), img.Digest, m.Disk)
	if err == nil {
		vm := *s.VM
		vm.Root, vm.Disks = nil, []machine.Disk{{Path: disk.Path, Format: "qcow2", Base: disk.Base, BaseFormat: disk.BaseFormat, Serial: "vol0"}}
		vm.SSHKeys = nil
		vm.NICs = []machine.NIC{{MTU: t.a.cfg.Network.MTU(), Tap: network.OpenSpareTap}}
		s.Resources.Weight = templateWeight
		s.ID, s.Dir, s.IDBase, s.VM, s.UserData, s.Greeting = id, t.a.machineDir(id), base, &vm, nil, ""
		made.frozen, err = t.a.cfg.VMs.Freeze(ctx, s, settled(img))
	}
	if err == nil && made.frozen.Memory() > t.budget {
		err = fmt.Errorf("%w: it has %d MiB of memory and all of them may have %d together (--template-memory)", errNoRoom, made.frozen.Memory()>>20, t.budget>>20)
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

// trim drops what another hypervisor has frozen, what was not used for long, and the least recently used beyond the budget. t.mu is held.
func (t *templates) trim() {
	for m, x := range t.ready {
		if b, err := t.a.cfg.VMs.Build(m.Architecture); x.users == 0 && err == nil && b != m.Build {
			t.drop(m, "the hypervisor is another one")
		}
	}
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
		switch {
		case when.IsZero():
			return
		case total > t.budget:
			t.drop(oldest, "templates have more memory than they may together")
		case t.a.cfg.Now().Sub(when) >= templateIdle:
			t.drop(oldest, "nothing was launched from it for long")
		default:
			return
		}
	}
}

// drop takes a template away, of which the next launch has another one made. t.mu is held.
func (t *templates) drop(m mold, why string) {
	x := t.ready[m]
	delete(t.ready, m)
	t.a.log.Info("a template is dropped", "image", m.Image, "type", m.Product, "reason", why)
	t.wg.Go(func() { t.discard(x) })
}

// discard deletes what there is of a template. Machines that are being started from its memory go on; nobody is copying its disk, or
// boots instead.
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
	t.forget(x.id)
}

func (t *templates) forget(id cloud.InstanceID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.ids, id)
}

// tend drops unused templates from time to time until ctx ends, and then all.
func (t *templates) tend(ctx context.Context) {
	tick := time.NewTicker(templateIdle / 12)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.mu.Lock() // closed only below
			t.trim()
			t.mu.Unlock()
		case <-ctx.Done():
			t.mu.Lock()
			t.closed = true // nothing is added to ready or dropped from it any more
			t.mu.Unlock()
			t.wg.Wait()
			for _, x := range t.ready {
				t.discard(x)
			}
			return
		}
	}
}
