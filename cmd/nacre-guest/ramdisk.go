package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/accel/proof"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit/first"
)

const (
	// moduleDir is there only in an initial RAM disk of nacre's: what it holds is loaded in the order of names.
	moduleDir = "/modules"
	newRoot   = "/root"
	// rootLimit is how long the root's device may take to appear.
	rootLimit = 30 * time.Second
)

// inRamdisk tells whether this is the first program of an initial RAM disk.
func inRamdisk() bool {
	_, err := os.Stat(moduleDir)
	return err == nil && os.Args[0] == "/init"
}

// bootRoot loads the modules, mounts the root that the kernel's command line names, and becomes the first program there. It
// returns only what went wrong.
func bootRoot() error {
	for _, m := range []struct{ kind, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := os.MkdirAll("/run", 0o755); err != nil {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	if token, ok := parameter(string(line), proof.Parameter); ok {
		return errors.New(proof.Answer(token))
	}
	names, err := filepath.Glob(moduleDir + "/*.ko")
	if err != nil {
		return err
	}
	for _, name := range names { // sorted
		if err := load(name); err != nil && err != unix.EEXIST {
			first.Say("load", filepath.Base(name)+":", err.Error())
		}
	}
	root, init, flags := "/dev/vda", "/sbin/init", uintptr(unix.MS_RDONLY)
	for _, word := range strings.Fields(string(line)) {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "root":
			root = value
		case "init":
			init = value
		case "rw":
			flags = 0
		}
	}
	if err := await(root); err != nil {
		return err
	}
	if err := unix.Mount(root, newRoot, "ext4", flags, ""); err != nil {
		return fmt.Errorf("mount %s: %w", root, err)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		os.MkdirAll(newRoot+dir, 0o755)
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	// Its files would stay in memory for good.
	os.RemoveAll(moduleDir)
	os.Remove("/init")
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", init, unix.Exec(init, []string{init}, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=linux"}))
}

// parameter finds one of a kernel's parameters in its command line.
func parameter(line, name string) (value string, found bool) {
	for _, word := range strings.Fields(line) {
		if value, found := strings.CutPrefix(word, name+"="); found {
			return value, true
		}
	}
	return "", false
}

func load(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

func await(device string) error {
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(device); err == nil {
			return nil
		}
		if time.Since(begin) > rootLimit {
			return fmt.Errorf("the root's device %s did not appear in %v", device, rootLimit)
		}
	}
}
