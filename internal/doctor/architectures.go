package doctor

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// architecture is one of virtual machines.
type architecture struct {
	debian, ec2         string
	hypervisor, pkg     string
	emulator, emulation string // what runs its programs on other processors, and by which name the kernel knows that
}

var architectures = []architecture{
	{"amd64", "x86_64", "qemu-system-x86_64", "qemu-system-x86", "qemu-x86_64-static", "qemu-x86_64"},
	{"arm64", "arm64", "qemu-system-aarch64", "qemu-system-arm", "qemu-aarch64-static", "qemu-aarch64"},
}

// ofArchitectures are the programs that virtual machines of each architecture need on a server of the architecture own, in Go's
// word, which is Debian's.
func ofArchitectures(own string) []program {
	var list []program
	for _, a := range architectures {
		p := program{a.hypervisor, a.pkg, "no virtual machines of the architecture " + a.ec2, []string{"--version"}, false}
		if a.debian == own {
			p.cost = "no virtual machines but translated ones of other architectures; containers are not concerned"
			list = append([]program{p}, list...)
			continue
		}
		list = append(list, p, program{a.emulator, "qemu-user-static", "`nacre image bake debian-12-" + a.debian + "` does not work; linux-" + a.debian + " and busybox-" + a.debian +
			" do, and images can still be imported and pulled", []string{"--version"}, false})
	}
	return list
}

// emulation tells whether bakes can run programs of another architecture: by the host's own settings, or by a list of program formats of
// their own, which is tried in namespaces that end with the trial.
func emulation(ctx context.Context) Finding {
	f := Finding{Name: "programs of other architectures", Verdict: OK, Found: "a bake has its own list of program formats"}
	for _, a := range architectures {
		if _, err := os.Stat("/proc/sys/fs/binfmt_misc/" + a.emulation); err == nil && a.debian != runtime.GOARCH {
			f.Found = "the host runs those of " + a.ec2
			return f
		}
	}
	out, err := exec.CommandContext(ctx, "unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc").CombinedOutput()
	if err != nil {
		f.Verdict, f.Found = Limited, "a bake can't have its own list of program formats: "+lastLines(strings.TrimSpace(string(out)+" "+err.Error()), 1)
		f.Cost = "`nacre image bake` makes whole systems of this server's architecture only; images can still be imported and pulled"
		f.Fix = "use Linux 6.7 or newer, or have the host run them (systemctl restart systemd-binfmt, with qemu-user-static)"
	}
	return f
}
