package inside

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
)

// identity puts an identity in force, step by step. A step that fails is noted and does not keep the machine from coming up.
type identity struct {
	wire.Identity
	start Starter

	mu    sync.Mutex
	notes []string
}

func (id *identity) note(what string, err error) {
	if err != nil {
		id.mu.Lock()
		defer id.mu.Unlock()
		id.notes = append(id.notes, what+": "+err.Error())
	}
}

// seed makes the machine's random numbers its own. It comes first: keys are made from them.
func (id *identity) seed() { id.note("credit random bytes", addEntropy(id.Entropy)) }

// apply does what has to be done in every virtual machine.
func (id *identity) apply() {
	if id.Time != 0 {
		ts := unix.NsecToTimespec(id.Time)
		id.note("set the clock", unix.ClockSettime(unix.CLOCK_REALTIME, &ts))
	}
	if id.BootID != "" {
		id.note("set the boot id", setBootID(id.BootID))
	}
	if id.MachineID != "" {
		id.note("set the machine id", setMachineID("/etc/machine-id", "/var/lib/dbus/machine-id", id.MachineID))
	}
	id.note("set the host name", syscall.Sethostname([]byte(id.Hostname)))
	if id.BootID != "" {
		id.note("forget the seeds of random generators", dropSeeds())
	}
	dropLeases()
}

// connect brings the network up. It comes last: who reaches the machine meets it as it is to be.
func (id *identity) connect() {
	id.note("bring the loopback up", setLoopback())
	for _, i := range id.Interfaces {
		id.note("set the interface "+i.MAC+" up", setInterface(i))
	}
}

// addEntropy mixes random bytes in, credits them, and has the generator start from them at once: clones of one machine
// would otherwise go on with the same numbers.
func addEntropy(b []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	arg := make([]byte, 8+len(b))
	binary.NativeEndian.PutUint32(arg, uint32(len(b)*8))
	binary.NativeEndian.PutUint32(arg[4:], uint32(len(b)))
	copy(arg[8:], b)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&arg[0]))); errno != 0 {
		return errno
	}
	const reseed = 0x5207 // RNDRESEEDCRNG
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), reseed, 0); errno != 0 {
		return errno
	}
	return nil
}

const bootIDFile = "/proc/sys/kernel/random/boot_id"

// setBootID shows another boot id in the place of the kernel's, which clones share and which can't be written.
func setBootID(bootID string) error {
	if err := os.MkdirAll("/run/nacre", 0o755); err != nil {
		return err
	}
	own := "/run/nacre/boot_id"
	if err := os.WriteFile(own, []byte(bootID+"\n"), 0o444); err != nil {
		return err
	}
	for unix.Unmount(bootIDFile, unix.MNT_DETACH) == nil {
	}
	return unix.Mount(own, bootIDFile, "", unix.MS_BIND, "")
}

// setMachineID writes the id, and D-Bus's copy where that is a file of its own.
func setMachineID(path, copied, machineID string) error {
	if err := replace(path, machineID+"\n", 0o444); err != nil {
		return err
	}
	if info, err := os.Lstat(copied); err == nil && info.Mode().IsRegular() {
		return replace(copied, machineID+"\n", 0o444)
	}
	return nil
}

// replace writes a file whole or not at all.
func replace(path, text string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".nacre"
	if err := os.WriteFile(tmp, []byte(text), mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// GrowRoot makes the root file system as large as its disk.
func GrowRoot() error { return grow("/") }

// grow makes a mounted ext4 file system as large as its disk, which a launch may have made larger than the image.
func grow(dir string) error {
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &fs); err != nil {
		return err
	}
	if int64(fs.Type) != unix.EXT4_SUPER_MAGIC {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return err
	}
	b, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/size", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))))
	if err != nil {
		return err
	}
	var sectors uint64
	if _, err := fmt.Sscan(string(b), &sectors); err != nil {
		return err
	}
	blocks := sectors * 512 / uint64(fs.Bsize)
	const resize = 0x40086610 // EXT4_IOC_RESIZE_FS
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, root.Fd(), resize, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return errno
	}
	return nil
}

// dropLeases forgets what DHCP clients were told in another life.
func dropLeases() {
	for _, pattern := range []string{"/var/lib/dhcp/*.leases", "/var/lib/dhclient/*.leases", "/run/systemd/netif/leases/*",
		"/var/lib/NetworkManager/*.lease", "/var/lib/dhcpcd/*.lease"} {
		list, _ := filepath.Glob(pattern)
		for _, f := range list {
			os.Remove(f)
		}
	}
}

func setLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// interfaceWait is how long a device that was plugged in just now may take to appear.
const interfaceWait = 5 * time.Second

// setInterface gives the interface of a hardware address its addresses and no others.
func setInterface(i wire.Interface) error {
	want, err := net.ParseMAC(i.MAC)
	if err != nil {
		return err
	}
	var link netlink.Link
	for deadline := time.Now().Add(interfaceWait); ; time.Sleep(20 * time.Millisecond) {
		if link, err = linkOf(want); err == nil || time.Now().After(deadline) {
			break
		}
		if link, err = takeSpare(want); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	if i.MTU != 0 {
		if err := netlink.LinkSetMTU(link, i.MTU); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(link); err != nil || len(i.Addresses) == 0 {
		return err
	}
	keep := map[string]bool{}
	for _, a := range i.Addresses {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		keep[addr.IPNet.String()] = true
		if err := netlink.AddrReplace(link, addr); err != nil {
			return err
		}
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range have {
		if !a.IP.IsLinkLocalUnicast() && !keep[a.IPNet.String()] {
			if err := netlink.AddrDel(link, &a); err != nil {
				return err
			}
		}
	}
	if i.Gateway == "" {
		return nil
	}
	gw := net.ParseIP(i.Gateway)
	if gw == nil {
		return fmt.Errorf("the gateway %q is no address", i.Gateway)
	}
	if i.Table < 0 || i.Table > maxTable {
		return fmt.Errorf("there is no routing table %d", i.Table)
	}
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gw, Flags: int(netlink.FLAG_ONLINK), Table: i.Table}); err != nil || i.Table == 0 {
		return err
	}
	return leadTo(i.Table, keep)
}

// maxTable is the highest number of a table for an interface; those of the kernel are below the lowest.
const maxTable = 2000

// leadTo has what is sent with some addresses, given with their prefix lengths, and with no others, follow a table.
func leadTo(table int, addresses map[string]bool) error {
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, r := range rules {
		if r.Table == table {
			if err := netlink.RuleDel(&r); err != nil {
				return err
			}
		}
	}
	for a := range addresses {
		ip, _, err := net.ParseCIDR(a)
		if err != nil {
			return err
		}
		if ip.To4() == nil {
			continue
		}
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table, r.Src = netlink.FAMILY_V4, table, table, &net.IPNet{IP: ip.To4(), Mask: net.CIDRMask(32, 32)}
		if err := netlink.RuleAdd(r); err != nil {
			return err
		}
	}
	return nil
}

// takeSpare makes the card that a machine was frozen with its own.
func takeSpare(mac net.HardwareAddr) (netlink.Link, error) {
	spare, err := net.ParseMAC(wire.SpareMAC)
	if err != nil {
		return nil, err
	}
	link, err := linkOf(spare)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
		return nil, err
	}
	return linkOf(mac)
}

func linkOf(mac net.HardwareAddr) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Attrs().HardwareAddr.String() == mac.String() {
			return l, nil
		}
	}
	return nil, errors.New("there is no such interface")
}

// RenewJournal has systemd's journal begin anew for a machine and boot that it did not begin with.
func RenewJournal(start Starter) {
	if systemctl, err := find("systemctl", []string{defaultPath}, "/"); err == nil {
		command(start, systemctl, "--no-block", "try-restart", "systemd-journald.service")
	}
}

// command runs a program without input to its end; what it says goes to the console.
func command(start Starter, argv ...string) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	_, end, err := start(argv[0], argv, &syscall.ProcAttr{Dir: "/", Env: []string{defaultPath, "HOME=/root"}, Files: []uintptr{null.Fd(), 1, 2}})
	if err != nil {
		return err
	}
	if code := exitCode(<-end); code != 0 {
		return fmt.Errorf("%s ended with code %d", argv[0], code)
	}
	return nil
}
