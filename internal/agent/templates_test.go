package agent

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

func TestATemplateNeedsMemoryAndDisk(t *testing.T) {
	full := errors.New("the image store is full")
	for name, c := range map[string]struct {
		memory, budget, available int64
		disk                      error
		want                      string // of the error
	}{
		"room for all":      {memory: 512 << 20, budget: 1 << 30, available: 2 << 30},
		"none wanted":       {memory: 512 << 20, available: 2 << 30, want: "--template-memory 0"},
		"too little memory": {memory: 512 << 20, budget: 1 << 30, available: 256 << 20, want: "256 MiB of memory are free and it may need 512"},
		"a full disk":       {memory: 512 << 20, budget: 1 << 30, available: 2 << 30, disk: full, want: "the image store is full"},
	} {
		t.Run(name, func(t *testing.T) {
			err := roomFor(c.memory, c.budget, c.available, c.disk)
			if (err != nil) != (c.want != "") || err != nil && (!strings.Contains(err.Error(), c.want) || !errors.Is(err, errNoRoom)) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestATemplateThatCouldNotBeMadeIsTriedAgainAfterAPauseAndToldOnce(t *testing.T) {
	images, err := image.Open(t.Context(), image.StoreConfig{Root: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var told bytes.Buffer
	a := &Agent{cfg: Config{Images: images, Now: func() time.Time { return now }}, log: slog.New(slog.NewTextHandler(&told, nil))}
	ts := newTemplates(a, 0)
	m := mold{Image: "sha256:1", Product: "t3.micro"}
	if x, why := ts.take(m); x != nil || why != "there is no template of its image and type yet" {
		t.Errorf("at first: %v, %q", x, why)
	}
	// want returns when the next try is due.
	want := func() time.Duration {
		ts.want(t.Context(), m, machine.Spec{Resources: machine.Resources{Memory: 512 << 20}}, image.Image{})
		ts.wg.Wait()
		return ts.trials[m].next.Sub(now)
	}
	for _, pause := range []time.Duration{retryTemplate, 2 * retryTemplate, 4 * retryTemplate} {
		if got := want(); got != pause {
			t.Errorf("after a failure the next try is in %v, not in %v", got, pause)
		}
		now = now.Add(pause / 2)
		if got := want(); got != pause/2 {
			t.Errorf("it was tried within the pause: %v", got)
		}
		now = now.Add(pause)
	}
	for range 10 {
		now = now.Add(want())
	}
	if got := want(); got != templateIdle {
		t.Errorf("the longest pause is %v", got)
	}
	if _, why := ts.take(m); !strings.HasPrefix(why, "it has no template: there is no room for a template: ") {
		t.Errorf("a launch is told %q", why)
	}
	if n := strings.Count(told.String(), "no template was made"); n != 1 {
		t.Errorf("it is logged %d times:\n%s", n, &told)
	}
}

// builds is a hypervisor of which only its program's build is asked for.
type builds struct {
	Hypervisor
	build string
}

func (b *builds) Build(string) (string, error) { return b.build, nil }

// memory is a template of so many bytes.
type memory int64

func (m memory) Memory() int64 { return int64(m) }
func (memory) Close()          {}

func TestTemplatesAreDroppedWhenTheHypervisorIsAnotherOrNobodyUsesThemOrTheyAreTooMany(t *testing.T) {
	images, err := image.Open(t.Context(), image.StoreConfig{Root: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	vms := &builds{build: "1"}
	a := &Agent{cfg: Config{VMs: vms, Images: images, MachinesDir: t.TempDir(), Now: func() time.Time { return now }}, log: slog.New(slog.DiscardHandler)}
	ts := newTemplates(a, 300)
	named := func(name string) mold { return mold{Image: name, Build: "1"} }
	add := func(name string, size int64) *template {
		x := &template{frozen: memory(size), id: cloud.InstanceID("i-" + name), used: now}
		ts.ready[named(name)] = x
		return x
	}
	kept := func(want ...string) {
		t.Helper()
		ts.mu.Lock()
		ts.trim()
		ts.mu.Unlock()
		ts.wg.Wait()
		for _, name := range want {
			if ts.ready[named(name)] == nil {
				t.Errorf("%s was dropped", name)
			}
		}
		if len(ts.ready) != len(want) {
			t.Errorf("%d are kept, not %q", len(ts.ready), want)
		}
	}
	add("a", 100)
	now = now.Add(time.Minute)
	add("b", 100)
	now = now.Add(time.Minute)
	kept("a", "b")
	if x, why := ts.take(named("a")); x == nil || why != "" {
		t.Fatal(why)
	} else {
		ts.giveBack(x)
	}
	add("c", 150)
	kept("a", "c") // b was used least recently
	busy, _ := ts.take(named("a"))
	now = now.Add(templateIdle)
	kept("a") // a machine is being made from it
	ts.giveBack(busy)
	busy.used = now
	kept("a")
	ts.spoilt(named("a"), busy, errors.New("it does not start"))
	kept()
	if x, why := ts.take(named("a")); x != nil || why != "it has no template: it does not start" {
		t.Errorf("after one that does not start a launch is told %q", why)
	}
	add("d", 100)
	kept("d")
	vms.build = "2"
	kept()
}
