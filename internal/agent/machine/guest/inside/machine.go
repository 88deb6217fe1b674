package inside

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
)

// ThisMachine is the virtual machine that the program runs in.
type ThisMachine struct {
	Init  bool // the program is the first process
	Start Starter
	// Prepare is called before the network is brought up, Identified once the identity is in force; each once a boot.
	Prepare, Identified func(wire.Identity)

	mu    sync.Mutex // one identity at a time
	key   string     // of the identity in force; "" before
	reply wire.Reply
}

// Welcome implements Machine.
func (m *ThisMachine) Welcome(w *wire.Welcome) {
	b, _ := os.ReadFile(bootIDFile)
	w.BootID = strings.TrimSpace(string(b))
	w.Init = m.Init
	// A machine that is putting an identity in force is not ready either.
	if m.mu.TryLock() {
		w.Ready = m.key == ""
		m.mu.Unlock()
	}
}

// Identify implements Machine.
func (m *ThisMachine) Identify(want wire.Identity) wire.Reply {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := want.Instance + " " + want.BootID + " " + want.MachineID
	if m.key == key {
		return m.reply
	}
	if m.key != "" {
		return wire.Reply{Error: "this boot has the identity of another instance or boot"}
	}
	if want.Instance == "" || want.Hostname == "" {
		return wire.Reply{Error: "an identity without an instance or a host name"}
	}
	if m.Init && !want.System && len(want.Args) == 0 {
		return wire.Reply{Error: "an identity without a command to run"}
	}
	id := &identity{Identity: want, start: m.Start}
	id.seed()
	var keys []string
	var server sync.WaitGroup // beside the rest: a clone does all of it for the first time, and slowly
	server.Go(func() { keys = id.hostKeys() })
	id.apply()
	server.Wait()
	if m.Prepare != nil {
		m.Prepare(want)
	}
	id.connect()
	id.note("grow the root file system", GrowRoot())
	m.reply = wire.Reply{HostKeys: keys, Notes: id.notes}
	m.key = key
	if m.Identified != nil {
		m.Identified(want)
	}
	return m.reply
}

// Shutdown implements Machine.
func (m *ThisMachine) Shutdown(reboot bool) error {
	verb, sig := "poweroff", powerOffSignal
	if reboot {
		verb, sig = "reboot", rebootSignal
	}
	if m.Init {
		return syscall.Kill(1, sig)
	}
	systemctl, err := find("systemctl", []string{defaultPath}, "/")
	if err != nil {
		return err
	}
	return command(m.Start, systemctl, "--no-block", verb)
}

// Connect implements Machine.
func (m *ThisMachine) Connect(i wire.Interface) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.key == "" {
		return errors.New("it has no identity yet, which tells of all interfaces")
	}
	return setInterface(i)
}

// Stats implements Machine.
func (m *ThisMachine) Stats() (wire.Stats, error) {
	var s wire.Stats
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return s, err
	}
	s.MemoryTotal = int64(info.Totalram) * int64(info.Unit)
	s.Load = float64(info.Loads[0]) / (1 << 16)
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return s, err
	}
	var seconds float64
	if _, err := fmt.Sscan(string(b), &seconds); err != nil {
		return s, err
	}
	s.Uptime = int64(seconds * 1000)
	if b, err = os.ReadFile("/proc/meminfo"); err != nil {
		return s, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemAvailable:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return s, err
			}
			s.MemoryAvailable = kib << 10
		}
	}
	return s, nil
}
