package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// emulators are the names under which Debian registers what runs an architecture's programs.
var emulators = map[string]string{"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"}

const (
	// formatsDir is where the kernel shows which formats of programs are run by others.
	formatsDir = "/proc/sys/fs/binfmt_misc"
	// registrationsDir is where Debian's emulators are described in the kernel's own form.
	registrationsDir = "/usr/lib/binfmt.d"
	maxRegistration  = 4096
)

// registering makes the kernel's list of formats the bake's own before it is written to: the host's is not touched.
const registering = `mount -t binfmt_misc binfmt_misc ` + formatsDir + ` && cat /tmp/registration > ` + formatsDir + `/register || {
	echo "this kernel lends no list of program formats to a bake, which Linux 6.7 and newer do; have the host run programs of other architectures (systemctl restart systemd-binfmt)" >&2
	exit 1
}
`

// emulation is what a bake needs so that programs of an architecture run in it: nothing, if this server's processors or the host's own
// settings do, or else the text that registers an emulator. formats and registrations are the directories above.
func emulation(architecture, formats, registrations string) (registration string, err error) {
	if architecture == native {
		return "", nil
	}
	name, ok := emulators[architecture]
	if !ok {
		return "", fmt.Errorf("nothing runs programs of the architecture %s here", architecture)
	}
	if b, err := os.ReadFile(filepath.Join(formats, name)); err == nil && formatHolds(string(b)) {
		return "", nil
	}
	b, err := os.ReadFile(filepath.Join(registrations, name+".conf"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("programs of %s run in a bake, and this server has nothing that runs them: it needs Debian's qemu-user-static; `nacre doctor --install` installs it", architecture)
	}
	if err != nil {
		return "", fmt.Errorf("read how programs of %s are run: %w", architecture, err)
	}
	text := strings.TrimSpace(string(b))
	if !registrationHolds(text) {
		return "", fmt.Errorf("how programs of %s are run, %s/%s.conf says in a way that holds in no other root: it needs the flag F, which Debian's qemu-user-static has", architecture, registrations, name)
	}
	return text, nil
}

// formatHolds tells whether a format that the kernel shows is in force, with an emulator that was opened beforehand and so runs in
// whatever root.
func formatHolds(shown string) bool {
	lines := strings.Split(shown, "\n")
	for _, l := range lines {
		if flags, ok := strings.CutPrefix(l, "flags: "); ok && strings.Contains(flags, "F") {
			return lines[0] == "enabled"
		}
	}
	return false
}

// registrationHolds tells the same of one that is to be made: one line, whose last field are the flags.
func registrationHolds(line string) bool {
	if len(line) < 2 || len(line) > maxRegistration || strings.ContainsAny(line, "\n") {
		return false
	}
	fields := strings.Split(line[1:], line[:1])
	return len(fields) == 7 && strings.Contains(fields[6], "F")
}

// ownFormats puts a bake into a user namespace of its own, which may have its own list of formats. All ids are what they are outside.
func ownFormats(a *syscall.SysProcAttr) {
	all := []syscall.SysProcIDMap{{Size: 1<<32 - 1}}
	a.Cloneflags |= syscall.CLONE_NEWUSER
	a.UidMappings, a.GidMappings, a.GidMappingsEnableSetgroups = all, all, true
}
