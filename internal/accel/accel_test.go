package accel

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/program"
	"github.com/nacre-cloud/nacre/internal/agent/machine/machinetest"
)

// config has a kernel and nacre's RAM disk, and a device that opens.
func config(t *testing.T) Config {
	t.Helper()
	if os.Geteuid() != 0 || runtime.GOARCH != "amd64" {
		t.Skip("needs root and a kernel of this architecture")
	}
	files, err := program.Files("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	kernel := machinetest.MakeProofInitrd(t, dir+"/ramdisk", files[0].Content)
	open := filepath.Join(dir, "device")
	if err := os.WriteFile(open, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return Config{Kernel: kernel, Initrd: dir + "/ramdisk", StateFile: dir + "/verdict", QEMU: "7.2", device: open, Limit: time.Minute}
}

// translated is a hypervisor that boots a guest for certain, as a KVM that works does.
func translated(booted *int) func(context.Context, []string) *exec.Cmd {
	return func(ctx context.Context, args []string) *exec.Cmd {
		*booted++
		args = append([]string{}, args...)
		for i := range args {
			switch args[i] {
			case "-accel":
				args[i+1] = "tcg"
			case "-cpu":
				args[i+1] = "max"
			}
		}
		return hypervisor(ctx, args)
	}
}

func TestAGuestThatAnswersProvesKVMOnceForThisKernelAndQEMU(t *testing.T) {
	cfg := config(t)
	booted := 0
	cfg.command = translated(&booted)
	v, err := Prove(t.Context(), cfg)
	if err != nil || v.Accelerator != KVM || v.Proved.IsZero() || v.HostKernel == "" {
		t.Fatalf("%+v, %v", v, err)
	}
	if got, err := v.Require(native); got != KVM || err != nil {
		t.Errorf("native machines: %q, %v", got, err)
	}
	if got, err := v.Require("other"); got != TCG || err != nil {
		t.Errorf("foreign machines: %q, %v", got, err)
	}
	again, err := Prove(t.Context(), cfg)
	if err != nil || again.String() != v.String() || booted != 1 {
		t.Errorf("%+v, %v after %d boots", again, err, booted)
	}
	if left, _ := filepath.Glob(os.TempDir() + "/nacre-proof-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	cfg.QEMU, cfg.command = "8.0", func(ctx context.Context, _ []string) *exec.Cmd {
		return exec.CommandContext(ctx, "sh", "-c", "echo the guest answers, almost; echo out of luck >&2; exit 1")
	}
	v, err = Prove(t.Context(), cfg)
	if err != nil || v.Accelerator != TCG || !strings.Contains(v.Reason, "out of luck") {
		t.Errorf("another QEMU was not tried: %+v, %v", v, err)
	}
}

func TestAGuestThatOnlyPrintsItsParametersProvesNothing(t *testing.T) {
	cfg := config(t)
	cfg.Limit = 300 * time.Millisecond
	cfg.command = func(ctx context.Context, args []string) *exec.Cmd {
		return exec.CommandContext(ctx, "sh", "-c", `echo "Kernel command line: $0"; echo "stuck"; exec sleep 60`, args[len(args)-1])
	}
	cfg.Demand = KVM
	v, err := Prove(t.Context(), cfg)
	if err != nil || v.Accelerator != TCG || v.Reason != "a guest did not boot with KVM within 300ms; the last that was heard: stuck" {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := v.Require(native); err == nil || !strings.Contains(err.Error(), "stuck") || !strings.Contains(err.Error(), "--accelerator auto") {
		t.Errorf("a machine that demands KVM: %v", err)
	}
}

func TestWithoutADeviceOrAKernelNothingIsBooted(t *testing.T) {
	cfg := Config{device: t.TempDir() + "/none", StateFile: t.TempDir() + "/verdict", command: func(context.Context, []string) *exec.Cmd {
		t.Error("a guest was booted")
		return exec.Command("false")
	}}
	v, err := Prove(t.Context(), cfg)
	if err != nil || v.Accelerator != TCG || !strings.Contains(v.Reason, "no such file") {
		t.Errorf("%+v, %v", v, err)
	}
	cfg.device = os.DevNull
	v, err = Prove(t.Context(), cfg)
	if err != nil || v.Accelerator != TCG || v.Reason != notYet || !v.Proved.IsZero() {
		t.Errorf("%+v, %v", v, err)
	}
	if kept, err := Read(cfg.StateFile); err != nil || kept.Reason != notYet {
		t.Errorf("kept: %+v, %v", kept, err)
	}
	cfg.Demand = "hvf"
	if _, err := Prove(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "auto, kvm, tcg") {
		t.Errorf("an unknown demand: %v", err)
	}
}

func TestThisServersKVMGetsAVerdictWithAReason(t *testing.T) {
	cfg := config(t)
	cfg.device, cfg.Limit = "", 0
	begin := time.Now()
	v, err := Prove(t.Context(), cfg)
	if err != nil || v.Reason == "" || v.Accelerator != KVM && v.Accelerator != TCG {
		t.Fatalf("%+v, %v", v, err)
	}
	if time.Since(begin) > DefaultLimit+5*time.Second {
		t.Errorf("it took %v", time.Since(begin))
	}
	t.Log(v)
}
