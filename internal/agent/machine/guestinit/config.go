// Package guestinit is what the driver of containers and the first process inside them agree on.
//
// It is imported by both and stays tiny: the init is mapped by every instance.
package guestinit

const (
	// Program is where the init is inside an instance, Config its configuration, readable by root only.
	Program    = "/run/nacre/init"
	ConfigFile = "/run/nacre/init.json"
	// StepProgram is where the init is inside the container of a build's step, StepArgument what it is called with there, and StepSocket the
	// descriptor by which it hears its configuration, a line of JSON, and tells the exit code, a line of digits.
	StepProgram  = "/dev/nacre/init"
	StepArgument = "step"
	StepSocket   = 3
	// RebootCode is the exit code by which the init asks to be started again. An application's
	// own exit code of that value is turned into RebootCode-1.
	RebootCode = 194
	// Signals that ask the init to end, as systemd has them; 34 is the first that programs may use.
	SignalPowerOff = 34 + 4
	SignalReboot   = 34 + 5
)

// Config tells the init what to do.
type Config struct {
	Instance   string
	System     bool
	Hostname   string
	FQDN       string
	Address    string
	Resolvers  []string
	Domain     string
	Args       []string // of the application
	Env        []string
	WorkingDir string
	User       string
	StopSignal int    // what the application is told to end by
	Greeting   string // for the console
	UserData   []byte
	PublicKey  string
}
