// Command nacre-guest is nacre's part of a virtual machine. Over a serial port the agent tells it who the machine is and has
// it run processes. As the first process, of an image that has no init, it also sets the machine up, runs the image's
// application, and powers the machine off when that ends; as a service of an operating system it leaves that to the image.
package main

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/inside"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit/first"
)

const (
	// retry is the time between looks for the port, or for the agent behind it.
	retry = 50 * time.Millisecond
	// soon is the time between the first looks for an agent that went away, as many as looks: a clone that wakes up finds the
	// template's gone and its own a moment later.
	soon  = 5 * time.Millisecond
	looks = 100
)

func main() {
	first.Name = "nacre-guest"
	if os.Getpid() == 1 && inRamdisk() {
		first.Say(bootRoot().Error())
		unix.Sync()
		first.Say("power off:", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF).Error())
	}
	if name := filepath.Base(os.Args[0]); first.IsCommand(name) {
		os.Exit(first.Ask(name, os.Args[1:]))
	}
	if len(os.Args) == 2 && os.Args[1] == sftpMode {
		os.Exit(serveSFTP())
	}
	if os.Getpid() != 1 {
		serveSystem()
	}
	os.Exit(runInit())
}

// serveSystem is the program's life as a service of an operating system, where it does what that's own programs don't.
func serveSystem() {
	if err := inside.LendHostKey(); err != nil {
		first.Say("a host key for the SSH server:", err.Error())
	}
	ready()
	if err := inside.GrowRoot(); err != nil {
		first.Say("grow the root file system:", err.Error())
	}
	firstBoot := false
	servePort(&inside.ThisMachine{Start: inside.StartChild, Prepare: func(id wire.Identity) {
		if firstBoot = first.SetUp(&id.Config); firstBoot && len(id.HostKeys) > 0 {
			greet(id.Greeting)
		}
	}, Identified: func(id wire.Identity) {
		if id.SSH != nil {
			go serveSSH(id, inside.StartChild)
		}
		if id.BootID != "" {
			go inside.RenewJournal(inside.StartChild)
		}
		// cloud-init asks the metadata service by itself.
		if _, err := os.Stat("/usr/bin/cloud-init"); err == nil || !firstBoot || len(id.UserData) == 0 {
			return
		}
		if pid := first.StartUserData(&id.Config); pid != 0 {
			go func() {
				var st syscall.WaitStatus
				syscall.Wait4(pid, &st, 0, nil)
			}()
		}
	}})
}

// ready tells systemd that what must come before everything else was done.
func ready() {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	os.Unsetenv("NOTIFY_SOCKET")
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte("READY=1"))
		conn.Close()
	}
	if err != nil {
		first.Say("tell systemd:", err.Error())
	}
}

// greet says on the console by which keys the machine is known.
func greet(text string) {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY|syscall.O_NOCTTY, 0)
	if err != nil {
		return
	}
	defer console.Close()
	console.WriteString(text)
}

// runInit is the life of a machine whose first process this is.
func runInit() int {
	s := first.Listen()
	mountAll()
	first.Program, _ = os.Readlink("/proc/self/exe")
	r := first.NewReaper()
	configured := make(chan *guestinit.Config, 1)
	m := &inside.ThisMachine{Init: true, Start: r.Start, Identified: func(id wire.Identity) {
		configured <- &id.Config
		if id.SSH != nil {
			go serveSSH(id, r.Start)
		}
	}}
	if err := inside.GrowRoot(); err != nil {
		first.Say("grow the root file system:", err.Error())
	}
	go servePort(m)
	code := 0
	c, sig := first.Await(r, s, configured)
	switch {
	case c != nil:
		code = first.Run(c, r, s)
	case sig == guestinit.SignalReboot:
		code = guestinit.RebootCode
	}
	endSSH()
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	if code == guestinit.RebootCode {
		how = unix.LINUX_REBOOT_CMD_RESTART
	} else {
		first.Say("the machine ends with code", strconv.Itoa(code))
	}
	unix.Sync()
	unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	first.Say("power off:", unix.Reboot(how).Error())
	return 1
}

// servePort serves the agent for good.
func servePort(m *inside.ThisMachine) {
	said := ""
	for ; ; time.Sleep(retry) {
		port, err := inside.OpenPort()
		if err != nil {
			if err.Error() != said {
				said = err.Error()
				first.Say(said)
			}
			continue
		}
		server := &inside.Server{Machine: m, Starter: m.Start}
		for n := 0; ; n++ {
			began := time.Now()
			// It ends whenever the agent goes away, and goes on with the next one.
			server.Serve(port)
			if time.Since(began) > retry { // there was one
				n = 0
			}
			if n < looks {
				time.Sleep(soon)
			} else {
				time.Sleep(retry)
			}
		}
	}
}

// mountAll mounts what a Linux system has, as far as an initial RAM disk has not.
func mountAll() {
	for _, m := range []struct {
		kind, at, options string
		flags             uintptr
	}{
		{"proc", "/proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", "/sys", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"devtmpfs", "/dev", "mode=0755", unix.MS_NOSUID},
		{"devpts", "/dev/pts", "mode=0620,gid=5,ptmxmode=0666", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", "/run", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
		{"cgroup2", "/sys/fs/cgroup", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	} {
		if mounted(m.at) {
			continue
		}
		os.MkdirAll(m.at, 0o755)
		if err := unix.Mount(m.kind, m.at, m.kind, m.flags, m.options); err != nil {
			first.Say("mount", m.at+":", err.Error())
		}
	}
	unix.Mount("", "/", "", unix.MS_REMOUNT, "")
}

// mounted tells whether a directory is on another file system than the one above it.
func mounted(dir string) bool {
	var a, b unix.Stat_t
	return unix.Stat(dir, &a) == nil && unix.Stat(filepath.Dir(dir), &b) == nil && a.Dev != b.Dev
}
