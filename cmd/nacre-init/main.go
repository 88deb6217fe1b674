// Command nacre-init is the first process of a container instance: it sets the instance up on its first boot, runs its
// user data and its application, reaps what is left behind, and ends the instance in order.
//
// Called as poweroff, halt, reboot or shutdown it asks the first process to do that. It holds nothing of the cloud:
// what it needs is in one file that the driver wrote.
package main

import (
	"encoding/json"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case "poweroff", "halt", "shutdown", "reboot":
		os.Exit(ask(filepath.Base(os.Args[0]), os.Args[1:]))
	}
	if os.Getpid() != 1 {
		say("this is the first process of an instance and not for use by hand")
		os.Exit(2)
	}
	os.Exit(run())
}

// say writes a line to the console.
func say(parts ...string) {
	line := "nacre-init:"
	for _, p := range parts {
		line += " " + p
	}
	os.Stdout.WriteString(line + "\n")
}

// ask tells the first process to end the instance.
func ask(command string, args []string) int {
	sig := syscall.Signal(guestinit.SignalPowerOff)
	if command == "reboot" {
		sig = guestinit.SignalReboot
	}
	for _, a := range args {
		switch a {
		case "-r", "--reboot":
			sig = guestinit.SignalReboot
		case "-c":
			os.Stderr.WriteString(command + ": a shutdown that was asked for can't be taken back here\n")
			return 1
		}
	}
	if err := syscall.Kill(1, sig); err != nil {
		os.Stderr.WriteString(command + ": " + err.Error() + "; use sudo\n")
		return 1
	}
	return 0
}

const (
	// endGrace is from the request to end to SIGKILL for what ignores it. The driver's own grace is longer.
	endGrace = 10 * time.Second
)

func run() int {
	// Installed before anything else: a first process without a handler loses the signal.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	b, err := os.ReadFile(guestinit.ConfigFile)
	var c guestinit.Config
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		say("read the instance's configuration:", err.Error())
		return 1
	}
	b = nil
	os.Clearenv()
	r := &reaper{ended: map[int]syscall.WaitStatus{}}
	first := setUp(&c)
	say("instance", c.Instance, "on", c.Hostname, "is up")
	if first && len(c.UserData) > 0 {
		script := startUserData(&c)
		if !c.System {
			// The application finds what its user data made.
			r.await(script, signals)
		}
	}
	c.UserData = nil
	app := 0
	if !c.System {
		if app, err = startApplication(&c); err != nil {
			say("start", c.Args[0]+":", err.Error())
			return 127
		}
	}
	return serve(&c, r, app, signals)
}

// serve reaps and forwards signals until the instance is to end.
func serve(c *guestinit.Config, r *reaper, app int, signals <-chan os.Signal) int {
	for {
		r.reap()
		if app != 0 {
			if st, ok := r.ended[app]; ok {
				return applicationCode(st)
			}
		} else {
			clear(r.ended)
		}
		sig := (<-signals).(syscall.Signal)
		switch {
		case sig == guestinit.SignalReboot:
			say("rebooting")
			r.endAll(c, app, signals)
			return guestinit.RebootCode
		case sig == guestinit.SignalPowerOff, sig == syscall.SIGPWR, app == 0 && ends(sig):
			say("shutting down")
			r.endAll(c, app, signals)
			return 0
		case sig == syscall.SIGCHLD, sig == syscall.SIGURG, sig == syscall.SIGWINCH:
		case app != 0 && sig == syscall.SIGTERM:
			syscall.Kill(app, syscall.Signal(c.StopSignal))
		case app != 0:
			syscall.Kill(app, sig)
		}
	}
}

// ends tells whether a signal asks a system to end: the driver's, and those that busybox's own poweroff and halt send to
// their init.
func ends(sig syscall.Signal) bool {
	return sig == syscall.SIGTERM || sig == syscall.SIGINT || sig == syscall.SIGUSR1 || sig == syscall.SIGUSR2
}

// applicationCode is what the instance ends with when its application did.
func applicationCode(st syscall.WaitStatus) int {
	code := st.ExitStatus()
	if st.Signaled() {
		code = 128 + int(st.Signal())
	}
	if code == guestinit.RebootCode {
		code--
	}
	return code
}

// reaper collects every process that ends, as the first process has to.
type reaper struct {
	ended map[int]syscall.WaitStatus
}

// reap collects what has ended, and tells whether any process is left.
func (r *reaper) reap() (left bool) {
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
			r.ended[pid] = st
		}
	}
}

// await waits for one process.
func (r *reaper) await(pid int, signals <-chan os.Signal) {
	for pid != 0 {
		r.reap()
		if _, ok := r.ended[pid]; ok {
			delete(r.ended, pid)
			return
		}
		<-signals
	}
}

// endAll asks every process to end, waits, and kills what doesn't.
func (r *reaper) endAll(c *guestinit.Config, app int, signals <-chan os.Signal) {
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
		case <-signals:
		case <-deadline.C:
			syscall.Kill(-1, syscall.SIGKILL)
			for r.reap() {
				<-signals
			}
			return
		}
	}
}
