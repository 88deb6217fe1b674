// Package first is what the first process of an instance does, in a container (cmd/nacre-init) and in a virtual machine whose
// image has no init (cmd/nacre-guest): it sets the instance up on its first boot, runs its user data and its application, reaps
// what is left behind, and ends the instance in order.
package first

import (
	"os"
	"syscall"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
)

var (
	// Name begins what is said on the console. A program sets it and Program before anything else.
	Name = "nacre-init"
	// Program is where the commands that end the instance lead to.
	Program = guestinit.Program
)

// Say writes a line to the console.
func Say(parts ...string) {
	line := Name + ":"
	for _, p := range parts {
		line += " " + p
	}
	os.Stdout.WriteString(line + "\n")
}

// IsCommand tells whether a program was called by the name of a command that ends the instance.
func IsCommand(name string) bool {
	switch name {
	case "poweroff", "halt", "shutdown", "reboot":
		return true
	}
	return false
}

// Ask tells the first process to end the instance.
func Ask(command string, args []string) int {
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

// Await collects processes until there is a configuration, or a signal that asks for the end.
func Await(r *Reaper, s *Signals, configured <-chan *guestinit.Config) (*guestinit.Config, syscall.Signal) {
	for {
		r.reap()
		clear(r.ended)
		select {
		case c := <-configured:
			return c, 0
		case <-s.children:
		case told := <-s.others:
			if sig := told.(syscall.Signal); endsAll(sig) || ends(sig) {
				return nil, sig
			}
		}
	}
}

// Run sets the instance up, runs what it is for, and returns the code that the instance ends with: guestinit.RebootCode when
// it is to be started again.
func Run(c *guestinit.Config, r *Reaper, s *Signals) int {
	os.Clearenv()
	first := SetUp(c)
	Say("instance", c.Instance, "on", c.Hostname, "is up")
	os.Stdout.WriteString(c.Greeting)
	script := 0
	if first && len(c.UserData) > 0 {
		script = StartUserData(c)
	}
	c.UserData = nil
	app := 0
	if !c.System {
		// The application finds what its user data made.
		if sig := r.await(script, s); sig != 0 {
			return end(c, r, 0, s, sig)
		}
		script = 0
		var err error
		if app, err = startApplication(c); err != nil {
			Say("start", c.Args[0]+":", err.Error())
			return 127
		}
	}
	return serve(c, r, app, script, s)
}
