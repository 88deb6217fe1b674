package guest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
	"github.com/nacre-cloud/nacre/internal/agent/machine/machinetest"
)

// boot starts a machine that holds the guest's program as its first process and busybox, and returns its socket and console.
func boot(t *testing.T) (socket string, console string, qemu *exec.Cmd) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a machine")
	}
	for _, p := range []string{"qemu-system-x86_64", "busybox"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%s is not installed; `make deps` installs it", p)
		}
	}
	dir := t.TempDir()
	program, err := os.ReadFile("program/guestbin/nacre-guest-amd64")
	if err != nil {
		t.Fatal("the guest's program is not built; `make guest` builds it")
	}
	machinetest.MakeRoot(t, dir+"/disk", program)
	kernel := machinetest.MakeInitrd(t, dir+"/initrd")
	console, socket = dir+"/console", dir+"/guest"
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	qemu = exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", kernel, "-initrd", dir+"/initrd", "-append", "console=ttyS0 quiet panic=-1",
		"-serial", "file:"+console, "-device", "virtio-serial-pci", "-chardev", "socket,id=guest,server=on,wait=off,path="+socket,
		"-device", "virtserialport,chardev=guest,name="+wire.Port,
		"-drive", "if=virtio,format=raw,file="+dir+"/disk", "-netdev", "hubport,id=net,hubid=1", "-device", "virtio-net-pci,netdev=net,romfile=,mac=02:00:0a:00:00:04")
	qemu.Stderr = os.Stderr
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		qemu.Process.Kill()
		qemu.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(console)
			t.Logf("the console:\n%s", b)
		}
	})
	return socket, console, qemu
}

// dial waits for QEMU's socket and the guest behind it.
func dial(t *testing.T, socket string) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	c, err := Dial(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestARealMachineTakesItsIdentityRunsProcessesAndItsApplicationAndEndsWithIt(t *testing.T) {
	socket, console, qemu := boot(t)
	began := time.Now()
	c := dial(t, socket)
	t.Logf("the guest answered after %v", time.Since(began).Round(time.Millisecond))
	if !c.Welcome.Ready || !c.Welcome.Init || c.Welcome.BootID == "" {
		t.Fatalf("%+v", c.Welcome)
	}
	cmd := func(script string) machine.ExecSpec {
		return machine.ExecSpec{Args: []string{"/bin/sh", "-c", script}}
	}
	// Processes run before the machine has an identity.
	if code, out, errs := run(t, c, cmd("id -u; echo $HOME; exit 5")); code != 5 || out != "0\n/\n" {
		t.Fatalf("%d, %q, %q", code, out, errs)
	}
	id := wire.Identity{MachineID: strings.Repeat("ab", 16), BootID: "11111111-2222-3333-4444-555555555555", Entropy: bytes.Repeat([]byte{7}, 64),
		Time: time.Date(2031, 5, 6, 0, 0, 0, 0, time.UTC).UnixNano()}
	id.Instance, id.Hostname, id.FQDN, id.Address, id.Resolvers = "i-0123456789abcdef0", "ip-10-0-0-4", "ip-10-0-0-4.ec2.internal", "10.0.0.4", []string{"10.0.0.2"}
	id.Interfaces = []wire.Interface{{MAC: "02:00:0a:00:00:04", MTU: 1400, Addresses: []string{"10.0.0.4/20"}, Gateway: "10.0.0.1"}}
	id.Args, id.User, id.StopSignal = []string{"sh", "-c", "id -un; trap 'echo app told; exit 4' TERM; trap '' HUP; while :; do sleep 0.1; done"}, "web", int(syscall.SIGTERM)
	got, err := c.Identify(within(t), id)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Notes) > 0 {
		t.Errorf("%q", got.Notes)
	}
	if again, err := c.Identify(within(t), id); err != nil || len(again.Notes) != len(got.Notes) {
		t.Errorf("said again: %+v, %v", again, err)
	}
	other := id
	other.Instance = "i-00000000000000000"
	if _, err := c.Identify(within(t), other); err == nil {
		t.Error("a machine became another one")
	}
	_, out, errs := run(t, c, cmd("hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; date +%Y-%m; sed -n 's/nameserver //p' /etc/resolv.conf"))
	want := "ip-10-0-0-4\n" + id.MachineID + "\n" + id.BootID + "\n2031-05\n10.0.0.2\n"
	if out != want {
		t.Errorf("%q, not %q; %q", out, want, errs)
	}
	if _, out, _ := run(t, c, cmd("ip -o addr show eth0; ip link show eth0; ip route; ip addr show lo")); !strings.Contains(out, "inet 10.0.0.4/20 ") || !strings.Contains(out, "mtu 1400 ") ||
		!strings.Contains(out, "default via 10.0.0.1 dev eth0") || !strings.Contains(out, "127.0.0.1/8") {
		t.Errorf("the network is %s", out)
	}
	_, out, _ = run(t, c, cmd("df -k / | sed -n '$s/^[^ ]* *\\([0-9]*\\) .*/\\1/p'"))
	var kib int
	if _, err := fmt.Sscan(out, &kib); err != nil || kib < 100<<10 {
		t.Errorf("the root has %q KiB on a disk of %d", out, machinetest.DiskSize>>10)
	}
	st, err := c.Stats(within(t))
	if err != nil || st.MemoryTotal < 100<<20 || st.MemoryAvailable <= 0 || st.MemoryAvailable > st.MemoryTotal || st.Uptime <= 0 {
		t.Errorf("%+v, %v", st, err)
	}
	// The agent goes away and comes back.
	c.Close()
	c = dial(t, socket)
	if c.Welcome.Ready || c.Welcome.BootID != id.BootID {
		t.Errorf("%+v", c.Welcome)
	}
	var much bytes.Buffer
	spec := cmd("head -c 2000000 /dev/zero; stty size")
	spec.TTY, spec.Cols, spec.Rows, spec.Stdout = true, 90, 40, &much
	p, err := c.Exec(within(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(); code != 0 || err != nil || much.Len() != 2000000+len("40 90\r\n") {
		t.Errorf("%d, %v, %d bytes", code, err, much.Len())
	}
	if err := c.Shutdown(within(t), false); err != nil {
		t.Error(err)
	}
	if err := qemu.Wait(); err != nil {
		t.Errorf("the machine did not power off: %v", err)
	}
	b, err := os.ReadFile(console)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"nacre-guest: instance i-0123456789abcdef0 on ip-10-0-0-4 is up", "web", "app told", "shutting down", "the machine ends with code 0"} {
		if !strings.Contains(string(b), line) {
			t.Errorf("the console does not say %q", line)
		}
	}
}
