package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// hand is QEMU started by hand with what a machine of nacre's was started with.
type hand struct {
	kernel, initrd string
	dir            string
}

// network is what somebody does by hand so that a Debian without nacre has a network and keys.
const network = `mkdir -p "$1/etc/systemd/network" "$1/etc/systemd/system/multi-user.target.wants"
printf '[Match]\nName=eth0\n[Network]\nDHCP=ipv4\n' >"$1/etc/systemd/network/eth0.network"
ln -sf /lib/systemd/system/systemd-networkd.service "$1/etc/systemd/system/multi-user.target.wants/"
ssh-keygen -q -A -f "$1"`

// prepare copies the disk, and gives the copy a network and host keys.
func (h *hand) prepare(base string) (err error) {
	if h.dir, err = os.MkdirTemp("", "nacre-bench-hand-"); err != nil {
		return err
	}
	root := filepath.Join(h.dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	run := func(argv ...string) {
		if err == nil {
			var out []byte
			if out, err = exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				err = fmt.Errorf("%q: %w\n%s", argv, err, out)
			}
		}
	}
	run("cp", "--sparse=always", base, h.disk())
	run("chmod", "600", h.disk())
	run("mount", "-o", "loop", h.disk(), root)
	if err != nil {
		return err
	}
	run("sh", "-ec", network, "sh", root)
	if out, unmount := exec.Command("umount", root).CombinedOutput(); unmount != nil {
		err = errors.Join(err, fmt.Errorf("unmount %s: %w\n%s", root, unmount, out))
	}
	return err
}

func (h *hand) disk() string { return filepath.Join(h.dir, "disk.ext4") }

func (h *hand) remove() { os.RemoveAll(h.dir) }

// command starts a hypervisor of the size of a t3.micro on a disk laid over the prepared one.
func (h *hand) command(port int, more ...string) (*exec.Cmd, error) {
	overlay := filepath.Join(h.dir, "overlay.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-b", h.disk(), "-F", "raw", overlay, "8G").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("qemu-img: %w\n%s", err, out)
	}
	args := []string{"-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024M", "-smp", "2",
		"-kernel", h.kernel, "-initrd", h.initrd, "-append", "console=ttyS0 root=/dev/vda rw quiet panic=-1 net.ifnames=0 init=/sbin/init",
		"-drive", "if=virtio,format=qcow2,file=" + overlay, "-netdev", fmt.Sprintf("user,id=net,hostfwd=tcp:127.0.0.1:%d-:22", port),
		"-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci", "-serial", "null"}
	cmd := exec.Command("qemu-system-x86_64", append(args, more...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

// boot returns the time from the start until the guest's SSH server greets.
func (h *hand) boot() (time.Duration, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	address := l.Addr().(*net.TCPAddr)
	l.Close()
	cmd, err := h.command(address.Port)
	if err != nil {
		return 0, err
	}
	var said strings.Builder
	cmd.Stderr = &said
	begin := time.Now()
	if err := startForGood(cmd); err != nil {
		return 0, err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if err := awaitBanner(address.String()); err != nil {
		return 0, fmt.Errorf("QEMU by hand: %w: %s", err, said.String())
	}
	return time.Since(begin), nil
}

// start returns the time from the start until the hypervisor would run the guest's first instruction.
func (h *hand) start() (time.Duration, error) {
	cmd, err := h.command(0, "-S", "-qmp", "stdio")
	if err != nil {
		return 0, err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := startForGood(cmd); err != nil {
		return 0, err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		return 0, errors.New("QEMU by hand says nothing")
	}
	fmt.Fprintln(in, `{"execute":"qmp_capabilities"}{"execute":"cont"}`)
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"RESUME"`) {
			return time.Since(begin), nil
		}
	}
	return 0, errors.New("QEMU by hand does not let its guest go")
}
