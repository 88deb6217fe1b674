package doctor

import (
	"slices"
	"testing"
)

func TestEveryLackNamesItsCost(t *testing.T) {
	findings := Examine(t.Context(), t.TempDir()+"/none")
	var names []string
	for _, f := range findings {
		names = append(names, f.Name)
		if f.Verdict != OK && f.Cost == "" {
			t.Errorf("%s is %s (%s) and doesn't say what that costs", f.Name, f.Verdict, f.Found)
		}
		if f.Found == "" {
			t.Errorf("%s doesn't say what was found", f.Name)
		}
	}
	for _, want := range []string{"root", "control groups", "user namespaces", "overlayfs", "nftables", "runc", "conmon"} {
		if !slices.Contains(names, want) {
			t.Errorf("nothing is said of %s", want)
		}
	}
}

func TestAProgramThatIsNotInstalledIsFoundMissingWithItsPackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	missing := map[string]string{}
	for _, f := range Examine(t.Context(), t.TempDir()+"/none") {
		if f.Package != "" {
			missing[f.Name] = f.Package
		}
	}
	for name, pkg := range map[string]string{"runc": "runc", "conmon": "conmon", "nft": "nftables", "mmdebstrap": "mmdebstrap", "busybox": "busybox-static",
		"qemu-system-x86_64": "qemu-system-x86", "qemu-system-aarch64": "qemu-system-arm"} {
		if missing[name] != pkg {
			t.Errorf("%s: package %q, want %q", name, missing[name], pkg)
		}
	}
}

func TestAServersOwnArchitectureIsToldFromTheOther(t *testing.T) {
	for own, want := range map[string][]string{
		"amd64": {"qemu-system-x86_64", "qemu-system-aarch64", "qemu-aarch64-static"},
		"arm64": {"qemu-system-aarch64", "qemu-system-x86_64", "qemu-x86_64-static"},
	} {
		var names []string
		for _, p := range ofArchitectures(own) {
			names = append(names, p.name)
		}
		if !slices.Equal(names, want) {
			t.Errorf("on %s it looks for %q", own, names)
		}
	}
}
