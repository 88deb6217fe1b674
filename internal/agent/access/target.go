package access

import (
	"context"
	"net"
	"net/netip"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Target is the instance behind a listener. The callbacks may be called at any time, also side by side.
type Target struct {
	Instance cloud.InstanceID
	HostKeys []ssh.Signer // from LoadOrCreateHostKeys

	// RootFS is the instance's root file system as the host sees it, IDBase the host id of its root user.
	// Users and their keys are read from there at each login.
	RootFS string
	IDBase uint32

	// LaunchKeys let in root and LoginUser, the image's ordinary user ("" for none).
	LaunchKeys []ssh.PublicKey
	LoginUser  string

	Env []string // the image's environment, which a login adds to

	// SFTPServer is the command inside the instance that serves SFTP where the image has no sftp-server of
	// its own. Without either, SFTP is refused.
	SFTPServer []string

	// Resolver and Domain are the DNS server and search domain that the instance uses, for the names that
	// forwarded connections go to. An invalid Resolver leaves addresses, localhost and /etc/hosts.
	Resolver netip.Addr
	Domain   string

	// Exec starts a process inside the instance. Its context outlives the start: it ends when a
	// process went on for Limits.HangupGrace after its client had gone. Wait must return
	// soon afterwards; whether the process is killed or goes on unobserved is the driver's to say.
	//
	// Signal and Resize may be called while Wait returns. Wait must not wait for the end of Stdin.
	// A Process that knows its process to have been killed by a signal says so by the method
	// ExitSignal() syscall.Signal (0 when it was not).
	Exec func(ctx context.Context, spec machine.ExecSpec) (machine.Process, error)

	// Dial and Listen work as in package net, inside the instance's network namespace. The addresses
	// are IP addresses with ports; the networks are tcp4, tcp6 and udp.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Listen func(ctx context.Context, network, address string) (net.Listener, error)
}
