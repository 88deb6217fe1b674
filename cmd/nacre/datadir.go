package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	defaultDataDir = "/var/lib/nacre"
	dataDirEnv     = "NACRE_DATA_DIR"
	defaultListen  = "127.0.0.1:6421"
	defaultRegion  = "us-east-1"
	defaultPool    = "198.18.0.0/20"
)

// dataDir is the directory that holds one cloud's part of this machine.
type dataDir string

func (d dataDir) path(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

func (d dataDir) etcd() string        { return d.path("etcd") }
func (d dataDir) images() string      { return d.path("images") }
func (d dataDir) machines() string    { return d.path("machines") }
func (d dataDir) flowLogs() string    { return d.path("flow-logs") }
func (d dataDir) uploads() string     { return d.path("uploads") }
func (d dataDir) builds() string      { return d.path("builds") }
func (d dataDir) engine() string      { return d.path("engine") }
func (d dataDir) hypervisor() string  { return d.path("hypervisor") }
func (d dataDir) volumes() string     { return d.path("volumes") }
func (d dataDir) masterKey() string   { return d.path("master.key") }
func (d dataDir) verdict() string     { return d.path("accelerator.json") }
func (d dataDir) network() string     { return d.path("network") }
func (d dataDir) keys() string        { return d.path("keys") }
func (d dataDir) agentSocket() string { return d.path("agent.sock") }
func (d dataDir) log() string         { return d.path("nacre.log") }

// runDir is for what must not survive a reboot of the host.
func runDir(cloudID string) string { return filepath.Join("/run/nacre", cloudID) }

// access is what a client of this cloud needs. It is kept readable by root only.
type access struct {
	Endpoint  string `json:"endpoint"`
	Region    string `json:"region"`
	Account   string `json:"account"`
	AccessKey string `json:"access_key_id"`
	Secret    string `json:"secret_access_key"`
}

const accessFile = "access.json"

func (d dataDir) writeAccess(a access) error {
	b, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the access data: %w", err)
	}
	if err := renameio.WriteFile(d.path(accessFile), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the access data: %w", err)
	}
	return nil
}

func (d dataDir) readAccess() (access, error) {
	var a access
	b, err := os.ReadFile(d.path(accessFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return a, fmt.Errorf("there is no cloud in %s; start one with `nacre up --detach`, or name another with --data-dir", d)
	case errors.Is(err, fs.ErrPermission):
		return a, fmt.Errorf("the access data of the cloud in %s is root's; use sudo, or set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", d)
	case err != nil:
		return a, fmt.Errorf("read the access data: %w", err)
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, fmt.Errorf("the access data in %s is damaged: %w", d.path(accessFile), err)
	}
	return a, nil
}

// nodeFile is what this server is called, and the secret of its metadata tokens.
const nodeFile = "node.json"

type nodeIdentity struct {
	ID             cloud.NodeID
	MetadataSecret []byte
}

// identity returns the node's identity and makes it on the first start.
func (d dataDir) identity() (nodeIdentity, error) {
	var id nodeIdentity
	b, err := os.ReadFile(d.path(nodeFile))
	if errors.Is(err, fs.ErrNotExist) {
		id = nodeIdentity{ID: cloud.NewID[cloud.NodeID](rand.Reader), MetadataSecret: make([]byte, 32)}
		rand.Read(id.MetadataSecret)
		b, err := json.Marshal(id)
		if err != nil {
			return id, fmt.Errorf("encode this node's identity: %w", err)
		}
		if err := renameio.WriteFile(d.path(nodeFile), b, 0o600); err != nil {
			return id, fmt.Errorf("write this node's identity: %w", err)
		}
		return id, nil
	}
	if err != nil {
		return id, fmt.Errorf("read this node's identity: %w", err)
	}
	if err := json.Unmarshal(b, &id); err != nil || id.ID == "" || len(id.MetadataSecret) == 0 {
		return id, fmt.Errorf("this node's identity in %s is damaged: %w", d.path(nodeFile), err)
	}
	return id, nil
}

// lock is held by the one manager of a data directory.
type lock struct{ f *os.File }

// errRunning reports a data directory whose manager runs.
var errRunning = errors.New("a nacre is running on it already")

const lockFile = "lock"

// takeLock makes this process the data directory's manager. The lock ends with the process.
func (d dataDir) takeLock() (*lock, error) {
	f, err := os.OpenFile(d.path(lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s: %w", d, errRunning)
		}
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, fmt.Errorf("write the lock: %w", err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("write the lock: %w", err)
	}
	return &lock{f}, nil
}

// release ends the lock early.
func (l *lock) release() error { return l.f.Close() }

// manager returns the process that holds the lock, 0 when none does.
func (d dataDir) manager() (int, error) {
	f, err := os.Open(d.path(lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for a running nacre: %w", err)
	}
	defer f.Close()
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); {
	case err == nil:
		return 0, nil
	case !errors.Is(err, unix.EWOULDBLOCK):
		return 0, fmt.Errorf("look for a running nacre: %w", err)
	}
	b := make([]byte, 20)
	n, _ := f.ReadAt(b, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("a process holds %s and doesn't say which", d.path(lockFile))
	}
	return pid, nil
}
