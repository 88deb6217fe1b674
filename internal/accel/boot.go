package accel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/accel/proof"
)

const (
	// nobody runs the hypervisor: a proof needs no more than /dev/kvm and two files of its own.
	nobody = 65534
	// consoleKept is how much of the end of the guest's console is looked at, in bytes.
	consoleKept = 64 << 10
	// reasonLength bounds what is said of a console, in bytes.
	reasonLength = 200
)

// hypervisor is QEMU for this server's own architecture.
func hypervisor(ctx context.Context, args []string) *exec.Cmd {
	name, board := "qemu-system-x86_64", []string{"-machine", "pc"}
	if native == "arm64" {
		name, board = "qemu-system-aarch64", []string{"-machine", "virt,gic-version=2"}
	}
	return exec.CommandContext(ctx, name, append(board, args...)...)
}

// boot boots a guest and returns why that does not prove KVM, "" if it does. The error is that of ctx, or of this host's files.
func boot(ctx context.Context, cfg Config) (why string, err error) {
	dir, err := os.MkdirTemp("", "nacre-proof-")
	if err != nil {
		return "", fmt.Errorf("make a directory for the proof of KVM: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil {
		return "", fmt.Errorf("make a directory for the proof of KVM: %w", err)
	}
	// The store is root's.
	for name, from := range map[string]string{"kernel": cfg.Kernel, "ramdisk": cfg.Initrd} {
		if err := copyFile(filepath.Join(dir, name), from); err != nil {
			return "", fmt.Errorf("proof of KVM: %w", err)
		}
	}
	token := rand.Text()
	console := "ttyS0"
	if native == "arm64" {
		console = "ttyAMA0"
	}
	limited, cancel := context.WithTimeout(ctx, cfg.Limit)
	defer cancel()
	cmd := cfg.command(limited, []string{"-accel", KVM, "-cpu", "host", "-m", "128", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-kernel", filepath.Join(dir, "kernel"), "-initrd", filepath.Join(dir, "ramdisk"), "-serial", "stdio", "-monitor", "none",
		"-append", "console=" + console + " quiet panic=-1 " + proof.Parameter + "=" + token})
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out := &tail{wanted: []byte(proof.Answer(token)), found: cancel}
	cmd.Stdout = out
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, []string{"PATH=" + os.Getenv("PATH")}, time.Second
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = confine()
	}
	// The parent that a child dies with is the thread that made it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	text, proved := out.end()
	switch {
	case proved:
		return "", nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return "this server's hypervisor is not installed", nil
	}
	said := lastWords(complaint.String())
	if said == "" {
		said = lastWords(text)
	}
	how := fmt.Sprintf("a guest did not boot with KVM within %v", cfg.Limit)
	if limited.Err() == nil {
		how = "a guest with KVM ended without an answer"
	}
	if said == "" {
		return how + "; its console stayed empty", nil
	}
	return how + "; the last that was heard: " + said, nil
}

// confine makes the hypervisor nobody, who has /dev/kvm and no network, and dies with this process.
func confine() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		return a
	}
	a.Cloneflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS
	var st unix.Stat_t
	if unix.Stat(device, &st) != nil || st.Mode&0o060 == 0o060 {
		a.Credential = &syscall.Credential{Uid: nobody, Gid: st.Gid}
		return a
	}
	// Only root itself may open the device: root, but of a user namespace of its own, has no capability outside.
	a.Cloneflags |= syscall.CLONE_NEWUSER
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	a.GidMappings = a.UidMappings
	return a
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	// The caller's mask may have taken what nobody needs.
	return errors.Join(err, out.Chmod(0o644), out.Close())
}

// tail keeps the end of a console and looks for an answer in it.
type tail struct {
	mu     sync.Mutex
	b      []byte
	wanted []byte
	proved bool
	found  func()
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if !t.proved && bytes.Contains(t.b, t.wanted) {
		t.proved = true
		t.found()
	}
	if len(t.b) > consoleKept {
		t.b = append([]byte(nil), t.b[len(t.b)-consoleKept:]...)
	}
	return len(p), nil
}

func (t *tail) end() (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b), t.proved
}

// lastWords is the last line that says something, without what would move a terminal's cursor.
func lastWords(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.TrimSpace(strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' {
				return -1
			}
			return r
		}, lines[i]))
		if line != "" {
			return line[:min(len(line), reasonLength)]
		}
	}
	return ""
}
