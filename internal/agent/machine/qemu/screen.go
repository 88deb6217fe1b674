package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// monitorLimit is how long the monitor may take for what needs nothing of the guest.
const monitorLimit = 10 * time.Second

// viewName names the hypervisor's end of a connection to the screen, for the moment until it is one.
const viewName = "view"

// Screen connects to the screen, keyboard and pointer of a machine with emulated devices. The connection speaks RFB (RFC 6143),
// without a password, as nobody else can have it: the hypervisor listens nowhere. Many may be connected at once.
func (d *Driver) Screen(ctx context.Context, id cloud.InstanceID) (net.Conn, error) {
	s, err := d.Running(id)
	if err != nil {
		return nil, err
	}
	if s.VM.Devices != cloud.DevicesEmulated {
		return nil, fmt.Errorf("machine %s: it has paravirtual devices and no screen; its console is the serial line", id)
	}
	ctx, cancel := context.WithTimeout(ctx, monitorLimit)
	defer cancel()
	ours, theirs, err := connected()
	if err != nil {
		return nil, fmt.Errorf("machine %s: connect to its screen: %w", id, err)
	}
	defer theirs.Close()
	err = d.withMonitor(ctx, id, func(m *qmp.Client) error {
		if err := m.RunWith(ctx, "getfd", map[string]any{"fdname": viewName}, nil, theirs); err != nil {
			return err
		}
		if err := m.Run(ctx, "add_client", map[string]any{"protocol": "vnc", "fdname": viewName, "skipauth": true}, nil); err != nil {
			return errors.Join(err, m.Run(ctx, "closefd", map[string]any{"fdname": viewName}, nil))
		}
		return nil
	})
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("machine %s: connect to its screen: %w", id, err)
	}
	return ours, nil
}

// connected is a pair of sockets; the second is to be handed over.
func connected() (net.Conn, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	one, other := os.NewFile(uintptr(pair[0]), "screen"), os.NewFile(uintptr(pair[1]), "screen")
	defer one.Close()
	conn, err := net.FileConn(one)
	if err != nil {
		other.Close()
		return nil, nil, err
	}
	return conn, other, nil
}

// Break sends a break down a machine's serial line.
func (d *Driver) Break(ctx context.Context, id cloud.InstanceID) error {
	if _, err := d.Running(id); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, monitorLimit)
	defer cancel()
	if err := d.run(ctx, id, "chardev-send-break", map[string]any{"id": consoleID}, nil); err != nil {
		return fmt.Errorf("machine %s: send a break down its serial line: %w", id, err)
	}
	return nil
}
