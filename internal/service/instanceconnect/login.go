package instanceconnect

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

const (
	version      = "SSH-2.0-nacre"
	maxAuthTries = 6
	// portSuffix follows the instance in the name of a serial port's user.
	portSuffix = ".port0"
)

// login is which instance's consoles a client was let in to.
type login struct {
	instance cloud.InstanceID
	print    string // the key's fingerprint
}

type loginKey struct{} // of a login in ssh.Permissions.ExtraData

// errRefused is the one answer to everyone who may not log in, so that it tells nobody which instances exist.
var errRefused = errors.New("no such console, or the key was not pushed within the last minute")

// sshConfig takes users "i-….port0" with the keys that were pushed for them.
func (s *Service) sshConfig(host ssh.Signer) *ssh.ServerConfig {
	algorithms := ssh.SupportedAlgorithms()
	cfg := &ssh.ServerConfig{
		Config:                  ssh.Config{KeyExchanges: algorithms.KeyExchanges, Ciphers: algorithms.Ciphers, MACs: algorithms.MACs},
		PublicKeyAuthAlgorithms: algorithms.PublicKeyAuths,
		MaxAuthTries:            maxAuthTries,
		ServerVersion:           version,
		// The library asks this also for keys that a client only offers. What it returns counts for the connection only once the
		// client has signed with that very key.
		PublicKeyCallback: func(conn ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			l, err := s.authorize(conn.User(), key)
			if err != nil {
				s.cfg.Logger.Debug("a key for a console is refused", "user", fmt.Sprintf("%.64q", conn.User()), "key", ssh.FingerprintSHA256(key), "error", err)
				return nil, errRefused
			}
			return &ssh.Permissions{ExtraData: map[any]any{loginKey{}: l}}, nil
		},
	}
	cfg.AddHostKey(host)
	return cfg
}

// authorize decides whether a key lets a user in now.
func (s *Service) authorize(user string, key ssh.PublicKey) (login, error) {
	id, err := parseUser(user)
	if err != nil {
		return login{}, err
	}
	view := s.store.View()
	k, ok := store.Get(view, store.PushedKeys, store.PushedTo(id, authorizedForm(key)))
	switch {
	case !ok:
		return login{}, errors.New("the key was not pushed for the instance")
	case s.cfg.Now().After(k.Expires):
		return login{}, errors.New("the key was pushed longer than a minute ago")
	}
	i, ok := store.Get(view, store.Instances, id)
	if !ok || i.Account != k.Account {
		return login{}, errors.New("the instance is not there any more")
	}
	if settings, ok := store.Get(view, store.AccountSettings, i.Account); !ok || !settings.SerialConsole {
		return login{}, errConsolesOff
	}
	return login{instance: id, print: ssh.FingerprintSHA256(key)}, nil
}

// parseUser reads "i-….port0".
func parseUser(user string) (cloud.InstanceID, error) {
	id, ok := strings.CutSuffix(user, portSuffix)
	if !ok || !cloud.ValidID[cloud.InstanceID](id) {
		return "", fmt.Errorf("users of consoles are called like i-1234567890abcdef0%s", portSuffix)
	}
	return cloud.InstanceID(id), nil
}

// authorizedForm is a key as it is kept.
func authorizedForm(k ssh.PublicKey) string {
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(k)))
}

// hostKey is the endpoint's own key, made by whoever needs it first. It is the region's, and in its store: clients find the same
// whichever server answers.
func (s *Service) hostKey(ctx context.Context) (ssh.Signer, error) {
	kept, ok := store.ConsoleHostKey(s.store.View())
	if !ok {
		var err error
		if kept, err = s.makeHostKey(ctx); err != nil {
			return nil, err
		}
	}
	signer, err := ssh.ParsePrivateKey(kept.PEM)
	if err != nil {
		return nil, fmt.Errorf("the consoles' host key: %w", err)
	}
	return signer, nil
}

func (s *Service) makeHostKey(ctx context.Context) (*cloud.ConsoleHostKey, error) {
	_, private, err := ed25519.GenerateKey(s.cfg.Rand)
	if err != nil {
		return nil, fmt.Errorf("make the consoles' host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, fmt.Errorf("make the consoles' host key: %w", err)
	}
	kept := &cloud.ConsoleHostKey{PEM: pem.EncodeToMemory(block)}
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		if k, ok := store.ConsoleHostKey(tx); ok {
			kept = k
			return nil
		}
		store.Put(tx, store.ConsoleHostKeys, kept)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("keep the consoles' host key: %w", err)
	}
	return kept, nil
}
