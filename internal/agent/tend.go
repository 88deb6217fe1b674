package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/reclaim"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// tendEvery is the time between looks at the virtual machines, and tendShort that while memory is on its way.
	tendEvery = 10 * time.Second
	tendShort = 3 * time.Second
	// tendLimit is how long a look at one may take, and tendMany how many are looked at at once.
	tendLimit = 10 * time.Second
	tendMany  = 8
)

// tend looks after the running virtual machines until ctx ends: those that stalled go on when they can, and idle ones lend memory while the
// server has little. What is lent is read from the hypervisors each time, so that nothing is forgotten with an agent.
func (a *Agent) tend(ctx context.Context) {
	for wait := time.Duration(0); ; {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		wait = tendEvery
		if a.tendAll(ctx) {
			wait = tendShort
		}
	}
}

// tendAll looks once; it tells whether memory was moved.
func (a *Agent) tendAll(ctx context.Context) (moved bool) {
	var mu sync.Mutex
	var machines []reclaim.Machine
	var all errgroup.Group
	all.SetLimit(tendMany)
	for _, w := range a.virtual() {
		all.Go(func() error {
			limited, cancel := context.WithTimeout(ctx, tendLimit)
			defer cancel()
			c, err := a.cfg.VMs.Tend(limited, w.id)
			if err != nil {
				if ctx.Err() == nil && !errors.Is(err, machine.ErrNotFound) {
					w.log.Debug("the machine can't be looked at", "error", err)
				}
				return nil
			}
			w.stall(c.Stalled)
			if c.First > 0 && c.Stalled == "" {
				mu.Lock()
				machines = append(machines, reclaim.Machine{ID: w.id, First: c.First, Held: c.Held, Available: c.Available})
				mu.Unlock()
			}
			return nil
		})
	}
	all.Wait()
	if a.cfg.Memory == nil {
		return false
	}
	server, err := a.cfg.Memory()
	if err != nil {
		a.log.Error("the server's memory is not known, so that no machine lends any", "error", err)
		return false
	}
	for _, step := range reclaim.Plan(server, machines) {
		limited, cancel := context.WithTimeout(ctx, tendLimit)
		err := a.cfg.VMs.LeaveMemory(limited, step.ID, step.To)
		cancel()
		what := "a machine gets memory back that it lent"
		if step.To < step.From {
			what = "the server has little memory, and a machine lends some"
		}
		log := a.log.With("instance", step.ID, "from_mib", step.From>>20, "to_mib", step.To>>20, "available_mib", server.Available>>20, "reserve_mib", server.Reserve>>20)
		if err != nil {
			log.Warn(what+", but can't be told so", "error", err)
			continue
		}
		log.Info(what)
		moved = true
	}
	return moved
}

// virtual are the workers of the virtual machines that run.
func (a *Agent) virtual() []*worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []*worker
	for id, w := range a.workers {
		w.mu.Lock()
		if w.desired != nil && isVM(w.desired) && a.statuses[id].Phase == agentrpc.PhaseRunning && w.desired.Instance.Desired == cloud.DesiredRunning {
			found = append(found, w)
		}
		w.mu.Unlock()
	}
	return found
}

// stall notes why a running machine does not go on, "" when it does.
func (w *worker) stall(why string) {
	w.mu.Lock()
	changed := (w.stalled == "") != (why == "") // not each time that the reason's figures change
	if changed {
		w.stalled = why
	}
	w.mu.Unlock()
	if changed {
		if why != "" {
			w.log.Error("the machine stands still", "why", why)
		}
		w.kick()
	}
}

// ServerMemory looks at this server's memory, of which reserve bytes are to stay available.
func ServerMemory(reserve int64) (s reclaim.Server, err error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return s, fmt.Errorf("look at the server's memory: %w", err)
	}
	s.Reserve, s.Available = reserve, -1
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemAvailable:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return s, fmt.Errorf("look at the server's memory: %w", err)
			}
			s.Available = kib << 10
		}
	}
	if s.Available < 0 {
		return s, errors.New("look at the server's memory: the kernel does not tell what is available")
	}
	// Kernels without it are believed by what is available alone.
	if b, err := os.ReadFile("/proc/pressure/memory"); err == nil {
		fmt.Sscanf(string(b), "some avg10=%f", &s.Stalled)
	}
	return s, nil
}
