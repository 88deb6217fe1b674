package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/agent/access"
	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/inside"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit/first"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	sshPort = ":22"
	// sshRetry is the time between looks whether a server of the machine's own has let go of the port.
	sshRetry = 5 * time.Second
)

// sshServer is the server of this machine, so that its clients are hung up on before the machine is gone.
var sshServer = struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}{}

func init() { sshServer.ctx, sshServer.cancel = context.WithCancel(context.Background()) }

// endSSH hangs up on all clients.
func endSSH() {
	sshServer.cancel()
	done := make(chan struct{})
	go func() {
		sshServer.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}

// serveSSH answers port 22 until endSSH, whenever no server of the machine's own does, as the agent answers it for containers.
func serveSSH(id wire.Identity, start inside.Starter) {
	sshServer.wg.Add(1)
	defer sshServer.wg.Done()
	target, err := sshTarget(id, start)
	if err != nil {
		first.Say("SSH:", err.Error())
		return
	}
	server := access.New(access.Config{Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	for ; sshServer.ctx.Err() == nil; time.Sleep(sshRetry) {
		l, err := net.Listen("tcp", sshPort)
		if err != nil {
			continue
		}
		err = server.Serve(sshServer.ctx, l, target)
		if sshServer.ctx.Err() != nil {
			return
		}
		if err != nil {
			first.Say("SSH:", err.Error())
		}
	}
}

func sshTarget(id wire.Identity, start inside.Starter) (access.Target, error) {
	t := access.Target{Instance: cloud.InstanceID(id.Instance), RootFS: "/", LoginUser: id.SSH.LoginUser, Env: id.Env,
		Dial:   (&net.Dialer{FallbackDelay: -1}).DialContext,
		Listen: (&net.ListenConfig{}).Listen,
	}
	t.Domain, _, _ = strings.Cut(id.Domain, " ")
	if exe, err := os.Readlink("/proc/self/exe"); err == nil {
		t.SFTPServer = []string{exe, sftpMode}
	}
	if len(id.Resolvers) > 0 {
		t.Resolver, _ = netip.ParseAddr(id.Resolvers[0])
	}
	var err error
	if t.HostKeys, err = access.ParseHostKeys(id.SSH.HostKeys); err != nil {
		return t, fmt.Errorf("the host keys: %w", err)
	}
	if id.PublicKey != "" {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(id.PublicKey))
		if err != nil {
			return t, fmt.Errorf("the launch key: %w", err)
		}
		t.LaunchKeys = []ssh.PublicKey{key}
	}
	// Sessions' processes are started as the agent's are, over a port that leads nowhere else.
	near, far := net.Pipe()
	go (&inside.Server{Machine: &inside.ThisMachine{Start: start}, Starter: start}).Serve(far)
	client, err := guest.New(context.Background(), near)
	if err != nil {
		return t, err
	}
	t.Exec = func(ctx context.Context, s machine.ExecSpec) (machine.Process, error) { return client.Exec(ctx, s) }
	return t, nil
}
