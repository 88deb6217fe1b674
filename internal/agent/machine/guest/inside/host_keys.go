package inside

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
)

const (
	sshServer  = "/usr/sbin/sshd"
	sshPIDFile = "/run/sshd.pid"
	// sshSession is in OpenSSH from 9.8 on, whose server reads its keys once; an older one reads them anew for each connection.
	sshSession  = "/usr/lib/openssh/sshd-session"
	hostKeysDir = "/etc/ssh"
	// hostKeysMarker holds the id of the instance whose keys the server has: with another id, or none, it gets its own.
	hostKeysMarker = "/var/lib/nacre/host-keys-of"
)

// keyFiles are the names of a host key by its type.
var keyFiles = map[string]string{ssh.KeyAlgoED25519: "ssh_host_ed25519_key", ssh.KeyAlgoECDSA256: "ssh_host_ecdsa_key", ssh.KeyAlgoRSA: "ssh_host_rsa_key"}

// LendHostKey gives an SSH server of the image's a key of no worth where it has none, so that it can start before the machine
// knows who it is. Nobody meets it: the network stands only when the machine has keys of its own.
func LendHostKey() error {
	if _, err := os.Stat(sshServer); err != nil {
		return nil
	}
	return lendHostKey(hostKeysDir)
}

func lendHostKey(dir string) error {
	if have, err := filepath.Glob(filepath.Join(dir, "ssh_host_*_key")); err != nil || len(have) > 0 {
		return err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return err
	}
	files, err := hostKeyFiles(pem.EncodeToMemory(block), "")
	if err != nil {
		return err
	}
	return writeHostKeys(dir, files)
}

// putHostKeys gives the image's SSH server the instance's keys, once: what their owner does with them later stays. It tells
// whether it did.
func putHostKeys(dir, marker, instance, hostname string, keys []byte) (bool, error) {
	if of, err := os.ReadFile(marker); err == nil && strings.TrimSpace(string(of)) == instance {
		return false, nil
	}
	if _, err := os.Stat(dir); err != nil {
		return false, err
	}
	files, err := hostKeyFiles(keys, "root@"+hostname)
	if err != nil {
		return false, err
	}
	old, err := filepath.Glob(filepath.Join(dir, "ssh_host_*_key*"))
	if err != nil {
		return false, err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return false, err
		}
	}
	if err := writeHostKeys(dir, files); err != nil {
		return false, err
	}
	return true, replace(marker, instance+"\n", 0o644)
}

// hostKeyFiles are a server's files, by their names, for private keys in PEM, one after the other.
func hostKeyFiles(keys []byte, comment string) (map[string]string, error) {
	files := map[string]string{}
	for block, rest := pem.Decode(keys); block != nil; block, rest = pem.Decode(rest) {
		private := pem.EncodeToMemory(block)
		key, err := ssh.ParsePrivateKey(private)
		if err != nil {
			return nil, err
		}
		name, ok := keyFiles[key.PublicKey().Type()]
		if !ok {
			return nil, fmt.Errorf("no SSH server has a key of the type %s", key.PublicKey().Type())
		}
		public := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey()))) + " " + comment
		files[name], files[name+".pub"] = string(private), strings.TrimSpace(public)+"\n"
	}
	if len(files) == 0 {
		return nil, errors.New("there is none")
	}
	return files, nil
}

func writeHostKeys(dir string, files map[string]string) error {
	for name, text := range files {
		mode := os.FileMode(0o600)
		if strings.HasSuffix(name, ".pub") {
			mode = 0o644
		}
		if err := replace(filepath.Join(dir, name), text, mode); err != nil {
			return err
		}
	}
	return nil
}

// hostKeys gives the image's SSH server the machine's own keys, has it take them at once, and returns the public ones.
func (id *identity) hostKeys() []string {
	if len(id.HostKeys) == 0 {
		return nil
	}
	fresh, err := putHostKeys(hostKeysDir, hostKeysMarker, id.Instance, id.Hostname, id.HostKeys)
	id.note("put the host keys", err)
	if fresh && !takeKeys() {
		if systemctl, err := find("systemctl", []string{defaultPath}, "/"); err == nil {
			// The one of these names that there is and runs; the other is no error.
			command(id.start, systemctl, "--no-block", "try-restart", "ssh.service", "sshd.service", "dropbear.service")
		}
	}
	var out []string
	list, _ := filepath.Glob(hostKeysDir + "/ssh_host_*_key.pub")
	for _, f := range list {
		if b, err := os.ReadFile(f); err == nil {
			out = append(out, strings.TrimSpace(string(b)))
		}
	}
	return out
}

// takeKeys has a running OpenSSH server use new keys, from the next connection on. It tells whether there was one.
func takeKeys() bool {
	b, err := os.ReadFile(sshPIDFile)
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid < 2 {
		return false
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || exe != sshServer {
		return false
	}
	if _, err := os.Stat(sshSession); err != nil {
		return true
	}
	// It closes its socket before it takes another connection, and begins anew.
	return syscall.Kill(pid, syscall.SIGHUP) == nil
}

// dropSeeds deletes what random generators were to be started from at the next boot: other machines have the same.
func dropSeeds() error {
	for _, f := range []string{"/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed", "/var/lib/random-seed"} {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
