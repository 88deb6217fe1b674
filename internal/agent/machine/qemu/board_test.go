package qemu

import (
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// commandLine is how a machine is started.
func commandLine(t *testing.T, s machine.Spec) string {
	t.Helper()
	b, err := boardOf(s.VM.Architecture)
	if err != nil {
		t.Fatal(err)
	}
	l := &line{}
	l.channels(b, s, nil, nil)
	l.machine(b, s, sources{})
	return strings.Join(l.args, " ")
}

func TestEachArchitectureHasItsMachineProcessorConsoleAndWaysToPlugDevicesIn(t *testing.T) {
	for name, c := range map[string]struct {
		architecture, accelerator string
		has, hasNot               []string
	}{
		"a PC, translated": {"x86_64", "tcg", []string{"-machine pc,memory", "-cpu max ", "-append console=ttyS0 root", "vmgenid", "-accel tcg,"}, []string{"pcie-root-port", "pauth"}},
		"a PC, executed":   {"x86_64", "kvm", []string{"-machine pc,memory", "-cpu host ", "-accel kvm "}, nil},
		"arm64, translated": {"arm64", "tcg", []string{"-machine virt,gic-version=3,memory", "-cpu max,pauth-impdef=on ", "-append console=ttyAMA0 root", `"addr":"0x10"`, `"id":"port16"`, "cpus=2,maxcpus=2"},
			[]string{"vmgenid", "port32"}},
		"arm64, executed": {"arm64", "kvm", []string{"-machine virt,gic-version=host,memory", "-cpu host ", `"id":"port31"`}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := machine.Spec{ID: "i-0123456789abcdef0", Resources: machine.Resources{VCPUs: 2, Memory: 1 << 30},
				VM: &machine.VM{Architecture: c.architecture, Accelerator: c.accelerator, Kernel: "k", Initrd: "i", CPUs: 2, MaxCPUs: 2, Memory: 1 << 30, MaxMemory: 1 << 30, Cmdline: "root=/dev/vda", Product: "t4g.micro"}}
			got := commandLine(t, s)
			for _, want := range c.has {
				if !strings.Contains(got, want) {
					t.Errorf("%q is not in %s", want, got)
				}
			}
			for _, not := range c.hasNot {
				if strings.Contains(got, not) {
					t.Errorf("%q is in %s", not, got)
				}
			}
			s.VM.Firmware, s.VM.Kernel = cloud.FirmwareUEFI, ""
			if got := commandLine(t, s); !strings.Contains(got, "-bios "+uefiTarget) || strings.Contains(got, "-kernel") {
				t.Errorf("with firmware it is started by %s", got)
			}
		})
	}
}

func TestAServerRunsTheArchitecturesThatItHasHypervisorsFor(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if got := Architectures(); len(got) > 0 {
		t.Errorf("without any hypervisor it runs %q", got)
	}
	if _, err := Version(t.Context()); err == nil || !strings.Contains(err.Error(), "doctor --install") {
		t.Errorf("without any hypervisor: %v", err)
	}
	if _, err := boards["arm64"].find(); err == nil || !strings.Contains(err.Error(), "qemu-system-arm") {
		t.Errorf("without that for arm64: %v", err)
	}
	if _, err := boardOf("riscv64"); err == nil {
		t.Error("an unknown architecture has a machine")
	}
}

func TestADeviceIsPlacedInASlotOrInThePortThere(t *testing.T) {
	for architecture, want := range map[string]map[string]any{"x86_64": {"addr": "0x12"}, "arm64": {"bus": "port18"}} {
		card := nicDevice(&machine.VM{Architecture: architecture}, machine.NIC{Slot: 0x12})
		for name, v := range want {
			if card[name] != v {
				t.Errorf("%s: a card in slot 0x12 is %v", architecture, card)
			}
		}
		if any := nicDevice(&machine.VM{Architecture: architecture}, machine.NIC{}); any["addr"] != nil || any["bus"] != nil {
			t.Errorf("%s: a card in any slot is %v", architecture, any)
		}
	}
}
