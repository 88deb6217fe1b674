package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/agent/access"
	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// sftpTarget is where a machine finds the SFTP server that nacre brings.
const sftpTarget = "/run/nacre/sftp-server"

// openSSH answers port 22 of a running machine, as long as none of its own processes does. It is not on
// the launch's critical path, and a failure leaves the machine running.
func (w *worker) openSSH(ctx context.Context, d *agentrpc.Machine) {
	if w.sshStop != nil || isVM(d) { // a virtual machine's guest serves it
		return
	}
	stop, err := w.a.serveSSH(ctx, d)
	if err != nil {
		w.log.Error("SSH does not answer on this machine", "error", err)
		return
	}
	w.sshStop = stop
}

func (w *worker) closeSSH() {
	if w.sshStop != nil {
		w.sshStop()
		w.sshStop = nil
	}
}

// greeting is what a machine says on its console about the keys that answer for it.
func (a *Agent) greeting(d *agentrpc.Machine, img image.Config) (string, error) {
	if !img.System || len(d.Interfaces) == 0 {
		return "", nil
	}
	keys, err := access.LoadOrCreateHostKeys(a.machineDir(d.Instance.ID))
	if err != nil {
		return "", fmt.Errorf("machine %s: its host keys: %w", d.Instance.ID, err)
	}
	return access.Greeting(keys, cloud.HostName(d.Interfaces[0].PrivateIP)), nil
}

// serveSSH starts answering and returns what ends it.
func (a *Agent) serveSSH(ctx context.Context, d *agentrpc.Machine) (stop func(), err error) {
	id := d.Instance.ID
	img, err := a.cfg.Images.Get(ctx, d.Instance.ImageDigest)
	if err != nil {
		return nil, fmt.Errorf("machine %s: its image's users: %w", id, err)
	}
	rec, ok, err := a.readRecord(id)
	if err != nil || !ok {
		return nil, fmt.Errorf("machine %s: its record: %w", id, err)
	}
	keys, err := access.LoadOrCreateHostKeys(a.machineDir(id))
	if err != nil {
		return nil, fmt.Errorf("machine %s: its host keys: %w", id, err)
	}
	spec, err := a.spec(d, img.Config)
	if err != nil {
		return nil, err
	}
	target := access.Target{
		Instance: id, HostKeys: keys, RootFS: a.rootFS(id), IDBase: rec.IDBase, LoginUser: img.Config.LoginUser, Env: img.Config.Env,
		SFTPServer: []string{sftpTarget}, Domain: firstDomain(spec.Domain),
		Exec: func(ctx context.Context, s machine.ExecSpec) (machine.Process, error) {
			return a.cfg.Driver.Exec(ctx, id, s)
		},
	}
	if len(spec.Resolvers) > 0 {
		if target.Resolver, err = netip.ParseAddr(spec.Resolvers[0]); err != nil {
			return nil, fmt.Errorf("machine %s: its resolver: %w", id, err)
		}
	}
	if d.Instance.PublicKey != "" {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(d.Instance.PublicKey))
		if err != nil {
			return nil, fmt.Errorf("machine %s: its launch key: %w", id, err)
		}
		target.LaunchKeys = []ssh.PublicKey{key}
	}
	return a.listenSSH(ctx, target)
}

// listenSSH takes the machine's port 22 and serves it in the background.
func (a *Agent) listenSSH(ctx context.Context, target access.Target) (stop func(), err error) {
	id := target.Instance
	target.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return a.cfg.Network.DialInstance(ctx, id, network, address)
	}
	target.Listen = func(ctx context.Context, network, address string) (net.Listener, error) {
		return a.cfg.Network.ListenInstance(ctx, id, network, address)
	}
	l, err := a.cfg.Network.ListenSSH(ctx, id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.cfg.Access.Serve(ctx, l, target); err != nil {
			a.log.Error("SSH ended on this machine", "instance", id, "error", err)
		}
	}()
	return func() { cancel(); <-done }, nil
}

// firstDomain is the one of several search domains that names of forwarded connections are tried in.
func firstDomain(domains string) string {
	first, _, _ := strings.Cut(domains, " ")
	return first
}
