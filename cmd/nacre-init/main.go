// Command nacre-init is the first process of a container instance: it sets the instance up on its first boot, runs its
// user data and its application, reaps what is left behind, and ends the instance in order.
//
// Called as poweroff, halt, reboot or shutdown it asks the first process to do that. It holds nothing of the cloud:
// what it needs is in one file that the driver wrote.
package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"

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

func run() int {
	// Before anything else: a first process without a handler loses the signal.
	s := listen()
	c, err := configuration()
	if err != nil {
		say("read the instance's configuration:", err.Error())
		return 1
	}
	os.Clearenv()
	r := &reaper{ended: map[int]syscall.WaitStatus{}}
	first := setUp(c)
	say("instance", c.Instance, "on", c.Hostname, "is up")
	os.Stdout.WriteString(c.Greeting)
	script := 0
	if first && len(c.UserData) > 0 {
		script = startUserData(c)
	}
	c.UserData = nil
	app := 0
	if !c.System {
		// The application finds what its user data made.
		if sig := r.await(script, s); sig != 0 {
			return end(c, r, 0, s, sig)
		}
		script = 0
		if app, err = startApplication(c); err != nil {
			say("start", c.Args[0]+":", err.Error())
			return 127
		}
	}
	return serve(c, r, app, script, s)
}

func configuration() (*guestinit.Config, error) {
	b, err := os.ReadFile(guestinit.ConfigFile)
	if err != nil {
		return nil, err
	}
	c := &guestinit.Config{}
	return c, json.Unmarshal(b, c)
}
