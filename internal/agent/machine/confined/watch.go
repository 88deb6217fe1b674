package confined

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// exitWait is how long the monitor may take to write an end down, after the process ended.
const exitWait = 3 * time.Second

// UnknownCode stands for the exit code of a machine whose monitor was killed before it.
const UnknownCode = 255

// running is a machine whose first process is watched.
type running struct {
	rec   saved
	pidfd *os.File      // nil for one that had ended before it could be watched
	done  chan struct{} // closed when rec.Status is the end
	gone  sync.Once     // the driver was told that it is not watched any more
}

// track takes a machine's first process under watch. It fails when the process has ended, or is another than the one recorded.
func (k *Keeper) track(rec saved) (*running, error) {
	fd, err := unix.PidfdOpen(rec.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("machine %s: watch its first process %d: %w", rec.Spec.ID, rec.PID, err)
	}
	// Only now does the number stand for that very process.
	if ticks, err := startTicks(rec.PID); err != nil || ticks != rec.Ticks {
		unix.Close(fd)
		return nil, fmt.Errorf("machine %s: process %d is not its first process any more", rec.Spec.ID, rec.PID)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	if gone(fd, 0) { // though nobody has collected it yet
		pidfd.Close()
		return nil, fmt.Errorf("machine %s: its first process %d has ended", rec.Spec.ID, rec.PID)
	}
	return k.know(rec, pidfd), nil
}

// know puts a machine into the driver's map.
func (k *Keeper) know(rec saved, pidfd *os.File) *running {
	r := &running{rec: rec, pidfd: pidfd, done: make(chan struct{})}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.machines[rec.Spec.ID] == nil {
		k.cfg.Groups.need()
	}
	k.machines[rec.Spec.ID] = r
	return r
}

// watch waits in the background for the machine's end, notes it and tells it.
func (k *Keeper) watch(r *running) {
	if r.pidfd != nil && k.hooks.Watched != nil {
		k.hooks.Watched(r.process())
	}
	k.wg.Go(func() {
		if r.pidfd == nil || awaitExit(r.pidfd) && k.ctx.Err() == nil {
			k.ended(r)
		}
	})
}

// letGo tells the driver, once, that a machine is not watched any more.
func (k *Keeper) letGo(r *running) {
	r.gone.Do(func() {
		if r.pidfd != nil && k.hooks.Ended != nil {
			k.hooks.Ended(r.rec.Spec.ID)
		}
	})
}

// awaitExit parks until a process has ended; it returns false when the descriptor was closed.
func awaitExit(pidfd *os.File) bool {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		gone = err == nil && n > 0
		return gone
	})
	return err == nil && gone
}

// ended works out how a machine ended and tells it, unless Stop is waiting for just that.
func (k *Keeper) ended(r *running) {
	exit, err := k.exitOf(k.ctx, r.rec.Spec.ID)
	if err != nil {
		return // closed: the next driver finds the end
	}
	k.mu.Lock()
	exit.Requested = r.rec.Stopped
	k.mu.Unlock()
	exit = k.complete(r.rec.Spec.ID, exit)
	k.mu.Lock()
	r.rec.end(exit)
	rec := r.rec
	k.mu.Unlock()
	k.letGo(r)
	if err := k.save(rec); err != nil {
		k.log.Error("an end can't be kept", "instance", rec.Spec.ID, "error", err)
	}
	close(r.done)
	if !rec.Status.Exit.Requested {
		k.events.put(rec.Status)
	}
}

// complete has the driver add what it knows of an end.
func (k *Keeper) complete(id cloud.InstanceID, exit machine.Exit) machine.Exit {
	if k.hooks.End == nil {
		return exit
	}
	return k.hooks.End(id, exit)
}

// end notes how the machine ended.
func (s *saved) end(exit machine.Exit) {
	s.Status.State, s.Status.PID, s.Status.Exit = machine.Exited, 0, exit
}

// exitOf reads the end that the monitor wrote down. A monitor that died can't: then the end is only known to have come.
func (k *Keeper) exitOf(ctx context.Context, id cloud.InstanceID) (machine.Exit, error) {
	m := k.monitor(id)
	if m != nil {
		defer m.Close()
	}
	deadline := time.Now().Add(exitWait)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		// In this order: what a monitor writes, it writes before it ends.
		last := m == nil || gone(int(m.Fd()), 0) || time.Now().After(deadline)
		if exit, ok := k.readExit(id); ok {
			exit.OOMKilled = exit.Code == 128+int(unix.SIGKILL) && k.outOfMemory(id)
			return exit, nil
		}
		if last {
			k.log.Warn("the monitor wrote no end down; was it killed?", "instance", id)
			return machine.Exit{Code: UnknownCode, OOMKilled: k.outOfMemory(id), At: time.Now().UTC()}, nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return machine.Exit{}, ctx.Err()
		}
	}
}

// drop forgets a machine that is not watched any more.
func (k *Keeper) drop(id cloud.InstanceID) {
	k.mu.Lock()
	r := k.machines[id]
	delete(k.machines, id)
	k.mu.Unlock()
	if r == nil {
		return
	}
	k.letGo(r)
	k.cfg.Groups.release()
	if r.pidfd != nil {
		r.pidfd.Close()
	}
}

// events hands ends over without ever dropping or blocking.
type events struct {
	out  chan machine.Status
	wake chan struct{}
	mu   sync.Mutex
	list []machine.Status
}

func newEvents() *events {
	return &events{out: make(chan machine.Status), wake: make(chan struct{}, 1)}
}

func (e *events) put(st machine.Status) {
	e.mu.Lock()
	e.list = append(e.list, st)
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *events) run(ctx context.Context) {
	defer close(e.out)
	for {
		e.mu.Lock()
		list := e.list
		e.list = nil
		e.mu.Unlock()
		for _, st := range list {
			select {
			case e.out <- st:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-e.wake:
		case <-ctx.Done():
			return
		}
	}
}
