package first

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
)

func TestUserDataIsTakenForWhatItBeginsWith(t *testing.T) {
	for data, want := range map[string]userDataKind{
		"#!/bin/sh\ntrue\n":                        scriptUserData,
		"#cloud-config\npackages: []\n":            cloudInitUserData,
		"Content-Type: multipart/mixed; boundary=": cloudInitUserData,
		"\x1f\x8b\x08":                             cloudInitUserData,
		"":                                         unknownUserData,
		"hello":                                    unknownUserData,
		" #!/bin/sh":                               unknownUserData,
	} {
		if got := kindOf([]byte(data)); got != want {
			t.Errorf("%q is taken for %d, not %d", data, got, want)
		}
	}
}

func TestAnApplicationCanNotAskForAReboot(t *testing.T) {
	exited := func(n int) syscall.WaitStatus { return syscall.WaitStatus(n << 8) }
	if got := applicationCode(exited(guestinit.RebootCode)); got == guestinit.RebootCode {
		t.Error("an application's exit code is taken for a request of the init's")
	}
	if got := applicationCode(exited(9)); got != 9 {
		t.Errorf("9 became %d", got)
	}
	if got := applicationCode(syscall.WaitStatus(syscall.SIGKILL)); got != 137 {
		t.Errorf("killed became %d", got)
	}
}

func TestProgramsAreFoundInTheApplicationsPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"tool": 0o755, "text": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"A=b", "PATH=/nowhere:" + dir}
	if got, err := find("tool", env, "/"); err != nil || got != dir+"/tool" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := find("text", env, "/"); err == nil {
		t.Errorf("a file that can't be run was found: %q", got)
	}
	if got, err := find("./here", env, "/"); err != nil || got != "./here" {
		t.Errorf("%q, %v", got, err)
	}
}
