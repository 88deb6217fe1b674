// Package accel finds out whether this server's KVM runs a virtual machine, by running one.
//
// That /dev/kvm opens proves nothing: there are hosts where it does, processors are made and a guest still dies. So a kernel
// and nacre's RAM disk are booted, without a disk, as nobody, in an empty network namespace, and only the answer of the program
// in the RAM disk counts. The verdict is kept, for one kernel of the host, one version of QEMU and one demand; a verdict against
// KVM also only for the kernel and RAM disk that were tried.
package accel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// What may be demanded, and what a verdict says.
const (
	Auto = "auto" // KVM where it is proved, else translation
	KVM  = "kvm"
	TCG  = "tcg" // translation by QEMU, in software
)

// Demands are the words of a demand.
var Demands = []string{Auto, KVM, TCG}

// DefaultLimit is how long a guest may take to answer: with a KVM that works it takes about one second.
const DefaultLimit = 10 * time.Second

// device is opened by QEMU.
const device = "/dev/kvm"

// notYet is the reason while nothing can be booted.
const notYet = "not proved yet: no kernel in the image store"

// Config is what a proof works with.
type Config struct {
	Kernel, Initrd string        // paths of a kernel and of a RAM disk whose first program is nacre-guest; "" while there are none
	Demand         string        // Auto, KVM or TCG; "" is Auto
	StateFile      string        // keeps the verdict; "" keeps none
	Limit          time.Duration // 0 is DefaultLimit
	QEMU           string        // its version, such as "7.2.22"

	device  string                                             // /dev/kvm but in tests
	command func(ctx context.Context, args []string) *exec.Cmd // the hypervisor but in tests
}

// Verdict is what was found out.
type Verdict struct {
	Accelerator string // KVM or TCG
	Reason      string // why, in a few words
	Demand      string
	HostKernel  string
	QEMU        string
	Tried       []string  `json:",omitempty"` // base names of the kernel and the RAM disk that were booted
	Proved      time.Time // zero where nothing was booted
}

// String is the verdict in one line, such as "tcg: there is no /dev/kvm".
func (v Verdict) String() string { return v.Accelerator + ": " + v.Reason }

// Require tells what a machine of an architecture (EC2's word) is executed by. The error says that KVM is demanded and not
// proved.
func (v Verdict) Require(architecture string) (string, error) {
	if architecture != native {
		return TCG, nil
	}
	if v.Demand == KVM && v.Accelerator != KVM {
		return "", fmt.Errorf("virtual machines are demanded to run with KVM (--accelerator kvm), which is not proved on this server: %s; start nacre with --accelerator auto to run them translated", v.Reason)
	}
	return v.Accelerator, nil
}

var native = map[string]string{"amd64": "x86_64", "arm64": "arm64"}[runtime.GOARCH]

// Prove gives the verdict that was kept, or finds it out and keeps it. Errors are of the demand's word and of the file; that KVM
// does not work is a verdict.
func Prove(ctx context.Context, cfg Config) (Verdict, error) {
	if cfg.Demand == "" {
		cfg.Demand = Auto
	}
	if cfg.device == "" {
		cfg.device = device
	}
	if cfg.Limit == 0 {
		cfg.Limit = DefaultLimit
	}
	if cfg.command == nil {
		cfg.command = hypervisor
	}
	v := Verdict{Accelerator: TCG, Demand: cfg.Demand, QEMU: cfg.QEMU}
	if !slices.Contains(Demands, cfg.Demand) {
		return v, fmt.Errorf("accelerator %q: use %s", cfg.Demand, strings.Join(Demands, ", "))
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return v, fmt.Errorf("read the kernel's version: %w", err)
	}
	v.HostKernel = unix.ByteSliceToString(u.Release[:])
	v.Tried = guestOf(cfg)
	switch {
	case cfg.Demand == TCG:
		v.Reason, v.Tried = "demanded", nil
		return v, keep(cfg.StateFile, v)
	case opens(cfg.device) != nil:
		v.Reason, v.Tried = "there is no "+device+" that opens: "+opens(cfg.device).Error(), nil
		return v, keep(cfg.StateFile, v)
	}
	// What may have changed is not believed: another kernel, another QEMU, another demand, another guest after a failure.
	if old, err := Read(cfg.StateFile); err == nil && old.HostKernel == v.HostKernel && old.QEMU == v.QEMU && old.Demand == v.Demand && old.settled(cfg) {
		return old, nil
	}
	if cfg.Kernel == "" {
		v.Reason = notYet
		return v, keep(cfg.StateFile, v)
	}
	begin := time.Now()
	why, err := boot(ctx, cfg)
	if err != nil {
		return v, err // nothing was found out
	}
	v.Proved, v.Reason = time.Now().UTC(), why
	if why == "" {
		v.Accelerator, v.Reason = KVM, fmt.Sprintf("a guest booted and answered in %v", time.Since(begin).Round(10*time.Millisecond))
	}
	return v, keep(cfg.StateFile, v)
}

// settled tells whether a verdict of this host needs no other proof.
func (v Verdict) settled(cfg Config) bool {
	return !v.Proved.IsZero() && (v.Accelerator == KVM || cfg.Kernel == "" || slices.Equal(v.Tried, guestOf(cfg)))
}

// guestOf names what is booted: paths end in a digest or a version.
func guestOf(cfg Config) []string {
	if cfg.Kernel == "" {
		return nil
	}
	return []string{filepath.Base(cfg.Kernel), filepath.Base(cfg.Initrd)}
}

func opens(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		var p *fs.PathError
		if errors.As(err, &p) {
			return p.Err
		}
		return err
	}
	return f.Close()
}

// Read gives the verdict that a file keeps. The error matches fs.ErrNotExist when nothing was found out yet.
func Read(path string) (v Verdict, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return v, fmt.Errorf("read the accelerator's verdict: %w", err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("read the accelerator's verdict in %s: %w", path, err)
	}
	return v, nil
}

func keep(path string, v Verdict) error {
	if path == "" {
		return nil
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the accelerator's verdict: %w", err)
	}
	if err := renameio.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("keep the accelerator's verdict: %w", err)
	}
	return nil
}
