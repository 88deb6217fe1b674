package first

import (
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
)

// endGrace is from the request to end to SIGKILL for what ignores it. The driver's own grace is longer.
const endGrace = 10 * time.Second

// Signals are what the first process is told. Ends of children have a channel of their own: a flood of them must not push a
// request to end out of the other.
type Signals struct {
	children chan os.Signal
	others   chan os.Signal
}

// Listen takes every signal from now on.
func Listen() *Signals {
	s := &Signals{children: make(chan os.Signal, 1), others: make(chan os.Signal, 64)}
	signal.Notify(s.children, syscall.SIGCHLD)
	for n := syscall.Signal(1); n < 65; n++ {
		switch n {
		case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGWINCH, syscall.SIGKILL, syscall.SIGSTOP:
			// SIGURG is the Go runtime's own; the size of a terminal is nothing to a first process.
		default:
			signal.Notify(s.others, n)
		}
	}
	return s
}

// endsAll tells whether a signal asks for the end of the instance.
func endsAll(sig syscall.Signal) bool {
	return sig == guestinit.SignalReboot || sig == guestinit.SignalPowerOff || sig == syscall.SIGPWR
}

// serve reaps and forwards signals until the instance is to end. app is 0 for an operating system, script for user data that
// has ended or was none.
func serve(c *guestinit.Config, r *Reaper, app, script int, s *Signals) int {
	for {
		r.reap()
		if st, ok := r.ended[script]; ok && script != 0 {
			tellScript(st)
			script = 0
		}
		if st, ok := r.ended[app]; ok && app != 0 {
			return applicationCode(st)
		}
		clear(r.ended)
		select {
		case <-s.children:
		case told := <-s.others:
			sig := told.(syscall.Signal)
			switch {
			case endsAll(sig), app == 0 && ends(sig):
				return end(c, r, app, s, sig)
			case app != 0 && sig == syscall.SIGTERM:
				syscall.Kill(app, syscall.Signal(c.StopSignal))
			case app != 0:
				syscall.Kill(app, sig)
			}
		}
	}
}

// end ends every process and returns the instance's exit code.
func end(c *guestinit.Config, r *Reaper, app int, s *Signals, sig syscall.Signal) int {
	if sig == guestinit.SignalReboot {
		Say("rebooting")
		r.endAll(c, app, s)
		return guestinit.RebootCode
	}
	Say("shutting down")
	r.endAll(c, app, s)
	return 0
}

// code is a process's exit code as shells have it.
func code(st syscall.WaitStatus) int {
	if st.Signaled() {
		return 128 + int(st.Signal())
	}
	return st.ExitStatus()
}

// applicationCode is what the instance ends with when its application did.
func applicationCode(st syscall.WaitStatus) int {
	n := code(st)
	if n == guestinit.RebootCode {
		n--
	}
	return n
}

func tellScript(st syscall.WaitStatus) { Say("the user data ended with code", strconv.Itoa(code(st))) }

// Reaper collects every process that ends, as the first process has to.
type Reaper struct {
	ended map[int]syscall.WaitStatus

	mu      sync.Mutex // around a start and its entry, so that no child is collected before it is known
	watched map[int]chan syscall.WaitStatus
}

// NewReaper returns one that watches no process.
func NewReaper() *Reaper {
	return &Reaper{ended: map[int]syscall.WaitStatus{}, watched: map[int]chan syscall.WaitStatus{}}
}

// Start starts a process whose end comes by the channel. It may be called from any goroutine.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	end := make(chan syscall.WaitStatus, 1)
	r.watched[pid] = end
	return pid, end, nil
}

// reap collects what has ended, and tells whether any process is left.
func (r *Reaper) reap() (left bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var st syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &st, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return false // no children
		case pid == 0:
			return true
		case st.Exited() || st.Signaled():
			if end := r.watched[pid]; end != nil {
				end <- st
				delete(r.watched, pid)
				continue
			}
			r.ended[pid] = st
		}
	}
}

// await waits for the user data, unless the instance is asked to end: then it returns the signal that asked.
func (r *Reaper) await(script int, s *Signals) syscall.Signal {
	for script != 0 {
		r.reap()
		if st, ok := r.ended[script]; ok {
			tellScript(st)
			break
		}
		select {
		case <-s.children:
		case told := <-s.others:
			if sig := told.(syscall.Signal); endsAll(sig) || sig == syscall.SIGTERM || sig == syscall.SIGINT {
				return sig
			}
		}
	}
	return 0
}

// endAll asks every process to end, waits, and kills what doesn't.
func (r *Reaper) endAll(c *guestinit.Config, app int, s *Signals) {
	if app != 0 {
		syscall.Kill(app, syscall.Signal(c.StopSignal))
	}
	// Shells at a terminal ignore SIGTERM and heed SIGHUP.
	syscall.Kill(-1, syscall.SIGTERM)
	syscall.Kill(-1, syscall.SIGHUP)
	deadline := time.NewTimer(endGrace)
	defer deadline.Stop()
	for r.reap() {
		select {
		case <-s.children:
		case <-deadline.C:
			syscall.Kill(-1, syscall.SIGKILL)
			for r.reap() {
				<-s.children
			}
			return
		}
	}
}

// ends tells whether a signal asks a system to end: the driver's, and those that busybox's own poweroff and halt send to
// their init.
func ends(sig syscall.Signal) bool {
	return sig == syscall.SIGTERM || sig == syscall.SIGINT || sig == syscall.SIGUSR1 || sig == syscall.SIGUSR2
}
