package qemu

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/confined"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// reconnect is the pause before a lost connection to a guest is tried anew.
const reconnect = 100 * time.Millisecond

// link is what the driver holds of a machine that runs.
type link struct {
	cancel context.CancelFunc
	// monitor is held while the hypervisor is spoken to: it takes one client at a time.
	monitor sync.Mutex

	mu      sync.Mutex
	client  *guest.Client // nil while the guest's program does not answer
	known   bool          // the guest has its identity
	changed chan struct{} // closed and made anew when either changes
}

func (d *Driver) linkOf(id cloud.InstanceID) *link {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.links[id]
	if l == nil {
		l = &link{cancel: func() {}, changed: make(chan struct{})}
		d.links[id] = l
	}
	return l
}

// withMonitor connects to a hypervisor's monitor. Connections are short: another agent's must find it free.
func (d *Driver) withMonitor(ctx context.Context, id cloud.InstanceID, f func(m *qmp.Client) error) error {
	l := d.linkOf(id)
	l.monitor.Lock()
	defer l.monitor.Unlock()
	conn, err := d.dial(ctx, id, monitorSocket)
	if err != nil {
		return fmt.Errorf("machine %s: connect to its hypervisor: %w", id, err)
	}
	m, err := qmp.New(ctx, conn)
	if err != nil {
		return fmt.Errorf("machine %s: %w", id, err)
	}
	defer m.Close()
	return f(m)
}

// run carries one command out.
func (d *Driver) run(ctx context.Context, id cloud.InstanceID, command string, arguments, result any) error {
	return d.withMonitor(ctx, id, func(m *qmp.Client) error {
		if err := m.Run(ctx, command, arguments, result); err != nil {
			return fmt.Errorf("machine %s: %w", id, err)
		}
		return nil
	})
}

// watched begins to speak with the guest's program of a machine that runs.
func (d *Driver) watched(p confined.Process) {
	l := d.linkOf(p.Spec.ID)
	ctx, cancel := context.WithCancel(d.Context())
	l.cancel = cancel
	if p.Spec.VM != nil && p.Spec.VM.GuestAgent {
		d.Go(func() { d.speak(ctx, l, p.Spec.ID) })
	}
}

// ended lets go of a machine.
func (d *Driver) ended(id cloud.InstanceID) {
	d.mu.Lock()
	l := d.links[id]
	delete(d.links, id)
	d.mu.Unlock()
	if l != nil {
		l.cancel()
		l.set(nil, false)
	}
}

func (l *link) set(c *guest.Client, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client != nil && l.client != c {
		l.client.Close()
	}
	l.client, l.known = c, known
	close(l.changed)
	l.changed = make(chan struct{})
}

// speak keeps a connection to the guest's program: it boots, it may boot again, and it waits for its identity after each.
func (d *Driver) speak(ctx context.Context, l *link, id cloud.InstanceID) {
	for ctx.Err() == nil {
		err := d.converse(ctx, l, id)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, guest.ErrLost) {
			d.log.Warn("the guest's program can't be spoken to", "instance", id, "error", err)
		}
		select {
		case <-time.After(reconnect):
		case <-ctx.Done():
		}
	}
}

func (d *Driver) converse(ctx context.Context, l *link, id cloud.InstanceID) error {
	conn, err := d.dial(ctx, id, portSocket)
	if err != nil {
		return err
	}
	c, err := guest.New(ctx, conn)
	if err != nil {
		return err
	}
	defer l.set(nil, false)
	if c.Welcome.Ready {
		s, err := d.Running(id)
		if err != nil {
			c.Close()
			return err
		}
		l.set(c, false)
		if s.Boot == templateBoot { // it is to stay without
			<-ctx.Done()
			return nil
		}
		got, err := c.Identify(ctx, identity(s))
		if err != nil {
			return fmt.Errorf("tell the guest who it is: %w", err)
		}
		for _, note := range got.Notes {
			d.log.Warn("the guest could not take all of its identity", "instance", id, "note", note)
		}
	}
	l.set(c, true)
	select {
	case <-c.Done():
		return guest.ErrLost
	case <-ctx.Done():
		return nil
	}
}

// identity is what a guest is told.
func identity(s machine.Spec) wire.Identity {
	sum := sha256.Sum256([]byte("machine-id of " + s.ID))
	id := wire.Identity{MachineID: hex.EncodeToString(sum[:16]), Entropy: make([]byte, 64), Time: time.Now().UnixNano()}
	rand.Read(id.Entropy)
	if s.VM.Forked {
		id.BootID = bootID(s)
	}
	stop := unix.SignalNum(s.StopSignal)
	if stop == 0 && s.StopSignal != "" && !strings.HasPrefix(s.StopSignal, "SIG") {
		stop = unix.SignalNum("SIG" + s.StopSignal)
	}
	if stop == 0 {
		stop = unix.SIGTERM
	}
	id.Config = guestinit.Config{Instance: string(s.ID), System: s.System, Hostname: s.Hostname, FQDN: s.FQDN, Address: s.Address, Resolvers: s.Resolvers,
		Domain: s.Domain, Args: s.Args, Env: s.Env, WorkingDir: s.WorkingDir, User: s.User, StopSignal: int(stop), Greeting: s.Greeting, UserData: s.UserData,
		PublicKey: s.PublicKey}
	switch {
	case s.VM.SSHServer:
		id.HostKeys = s.VM.SSHKeys
	case s.VM.SSHKeys != nil:
		id.SSH = &wire.SSH{HostKeys: s.VM.SSHKeys, LoginUser: s.VM.LoginUser}
	}
	for _, n := range s.VM.NICs {
		id.Interfaces = append(id.Interfaces, interfaceOf(n))
	}
	return id
}

func interfaceOf(n machine.NIC) wire.Interface {
	return wire.Interface{MAC: n.MAC, MTU: n.MTU, Addresses: n.Addresses, Gateway: n.Gateway, Table: n.Table}
}

// guestOf is the connection to a guest that has its identity, or nil.
func (d *Driver) guestOf(id cloud.InstanceID) *guest.Client {
	d.mu.Lock()
	l := d.links[id]
	d.mu.Unlock()
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.known {
		return nil
	}
	return l.client
}

// AwaitGuest waits, as long as ctx allows, until a machine's guest has its identity.
func (d *Driver) AwaitGuest(ctx context.Context, id cloud.InstanceID) error {
	for {
		if _, err := d.Running(id); err != nil {
			return err
		}
		l := d.linkOf(id)
		l.mu.Lock()
		known, changed := l.known, l.changed
		l.mu.Unlock()
		if known {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("machine %s: wait for its guest: %w", id, ctx.Err())
		}
	}
}

// Exec implements machine.Driver.
func (d *Driver) Exec(ctx context.Context, id cloud.InstanceID, spec machine.ExecSpec) (machine.Process, error) {
	s, err := d.Running(id)
	if err != nil {
		return nil, err
	}
	if !s.VM.GuestAgent {
		return nil, fmt.Errorf("machine %s: its image has no guest program that could run a process; use its own SSH server or the console", id)
	}
	c := d.guestOf(id)
	if c == nil {
		return nil, fmt.Errorf("machine %s is still booting, or its guest program has ended; its console tells more", id)
	}
	return c.Exec(ctx, spec)
}
