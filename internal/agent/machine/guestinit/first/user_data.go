package first

import (
	"bytes"
	"os"
	"syscall"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
)

// userDataKind is who understands an instance's user data.
type userDataKind int

const (
	unknownUserData   userDataKind = iota
	scriptUserData                 // the kernel, by its first line
	cloudInitUserData              // cloud-init, if the image has it
)

// kindOf tells by how user data begins, as cloud-init does.
func kindOf(data []byte) userDataKind {
	if bytes.HasPrefix(data, []byte("#!")) {
		return scriptUserData
	}
	for _, begin := range []string{"#cloud-config", "#cloud-boothook", "#include", "#part-handler", "## template: jinja",
		"Content-Type: multipart/", "MIME-Version:", "From ", "\x1f\x8b"} {
		if bytes.HasPrefix(data, []byte(begin)) {
			return cloudInitUserData
		}
	}
	return unknownUserData
}

// cloudInit runs all stages of cloud-init as its services would.
const cloudInit = "cloud-init init --local && cloud-init init && cloud-init modules --mode=config && cloud-init modules --mode=final"

// StartUserData runs the instance's user data and returns its process, 0 when there is nothing to run.
func StartUserData(c *guestinit.Config) int {
	var argv []string
	switch kindOf(c.UserData) {
	case scriptUserData:
		script := stateDir + "/user-data"
		if err := os.WriteFile(script, c.UserData, 0o700); err != nil {
			Say("write the user data:", err.Error())
			return 0
		}
		argv = []string{script}
	case cloudInitUserData:
		if _, err := os.Stat("/usr/bin/cloud-init"); err != nil {
			Say("the user data is for cloud-init, which this image does not have; it is not run")
			return 0
		}
		if err := seedCloudInit(c); err != nil {
			Say("hand the user data to cloud-init:", err.Error())
			return 0
		}
		argv = []string{"/bin/sh", "-c", cloudInit}
	default:
		Say("the user data is neither a script that begins with #! nor for cloud-init; it is not run")
		return 0
	}
	Say("running the user data")
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Dir: "/", Env: []string{defaultPath, "HOME=/root", "USER=root"},
		Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		Say("run the user data:", err.Error())
		return 0
	}
	return pid
}

// seedCloudInit puts the user data where cloud-init looks first.
func seedCloudInit(c *guestinit.Config) error {
	seed := "/var/lib/cloud/seed/nocloud"
	if err := os.MkdirAll(seed, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(seed+"/meta-data", []byte("instance-id: "+c.Instance+"\nlocal-hostname: "+c.Hostname+"\n"), 0o644); err != nil {
		return err
	}
	return os.WriteFile(seed+"/user-data", c.UserData, 0o600)
}
