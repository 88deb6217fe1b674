// Command nacre-init is the first process of a container instance: it sets the instance up on its first boot, runs its
// user data and its application, reaps what is left behind, and ends the instance in order.
//
// With the argument "step" it runs one command of an image's build instead, and ends with it.
//
// Called as poweroff, halt, reboot or shutdown it asks the first process to do that. It holds nothing of the cloud:
// what it needs is in one file that the driver wrote.
package main

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit/first"
)

func main() {
	if name := filepath.Base(os.Args[0]); first.IsCommand(name) {
		os.Exit(first.Ask(name, os.Args[1:]))
	}
	if os.Getpid() != 1 {
		first.Say("this is the first process of an instance and not for use by hand")
		os.Exit(2)
	}
	os.Exit(run())
}

func run() int {
	// Before anything else: a first process without a handler loses the signal.
	s := first.Listen()
	if len(os.Args) > 1 && os.Args[1] == guestinit.StepArgument {
		return first.Step(s)
	}
	c, err := configuration()
	if err != nil {
		first.Say("read the instance's configuration:", err.Error())
		return 1
	}
	first.Renew = here.renew
	return first.Run(c, first.NewReaper(), s)
}

func configuration() (*guestinit.Config, error) {
	b, err := os.ReadFile(guestinit.ConfigFile)
	if err != nil {
		return nil, err
	}
	c := &guestinit.Config{}
	return c, json.Unmarshal(b, c)
}
