package access

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"

	"golang.org/x/crypto/ssh"
)

const (
	version      = "SSH-2.0-nacre"
	maxAuthTries = 6
)

// login is who a client proved to be, and what its key allows.
type login struct {
	user  user
	key   authorizedKey
	print string // the key's fingerprint
}

type loginKey struct{} // of a login in ssh.Permissions.ExtraData

// errRefused is the one answer to everyone who may not log in, so that it tells nobody which users exist.
var errRefused = errors.New("no such user, or the key is not authorised")

func (e *endpoint) config(attempted *string) *ssh.ServerConfig {
	algorithms := ssh.SupportedAlgorithms()
	cfg := &ssh.ServerConfig{
		Config: ssh.Config{
			KeyExchanges: algorithms.KeyExchanges,
			Ciphers:      algorithms.Ciphers,
			MACs:         algorithms.MACs,
		},
		PublicKeyAuthAlgorithms: algorithms.PublicKeyAuths,
		MaxAuthTries:            maxAuthTries,
		ServerVersion:           version,
		// The library asks this also for keys that a client only offers. What it returns counts
		// for the connection only once the client has signed with that very key.
		PublicKeyCallback: func(conn ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			*attempted = conn.User()
			l, err := e.authorize(conn.User(), key, conn.RemoteAddr())
			if err != nil {
				e.log.Debug("SSH key refused", "user", conn.User(), "key", ssh.FingerprintSHA256(key), "source", conn.RemoteAddr(), "error", err)
				return nil, errRefused
			}
			return &ssh.Permissions{ExtraData: map[any]any{loginKey{}: l}}, nil
		},
	}
	for _, key := range e.HostKeys {
		cfg.AddHostKey(key)
	}
	return cfg
}

// authorize decides whether key is one that name may log in with from source. The instance's files are
// read anew each time: whoever edits them expects the next login to obey.
func (e *endpoint) authorize(name string, key ssh.PublicKey, source net.Addr) (login, error) {
	root, err := openRoot(e.RootFS)
	if err != nil {
		return login{}, err
	}
	defer root.Close()
	u, err := lookupUser(root, name)
	if err != nil {
		return login{}, err
	}
	l := login{user: u, key: authorizedKey{key: key, pty: true, forwarding: true}, print: ssh.FingerprintSHA256(key)}
	if u.uid == 0 && name == rootUser || name == e.LoginUser {
		for _, k := range e.LaunchKeys {
			if sameKey(k, key) {
				return l, nil
			}
		}
	}
	file := path.Join(u.home, ".ssh/authorized_keys")
	data, err := root.readPrivate(file, maxAuthorizedKeys, e.IDBase, e.IDBase+u.uid)
	if err != nil {
		return login{}, fmt.Errorf("the key is not the launch key, and there are no others: %w", err)
	}
	for _, k := range parseAuthorizedKeys(data) {
		if sameKey(k.key, key) && k.allowsSource(addrOf(source)) {
			l.key = k
			return l, nil
		}
	}
	return login{}, fmt.Errorf("the key is neither the launch key nor in %s", file)
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// addrOf returns the address of a TCP peer, the zero Addr for others.
func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
