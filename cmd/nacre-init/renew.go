package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
)

// renewer makes the files of an instance that was launched from an image of another one its own. What the image never had, or its owner
// has taken away, it doesn't bring.
type renewer struct {
	machineID, dbusID, keys string
	keygen                  []string // makes the host keys that are missing
}

var here = renewer{machineID: "/etc/machine-id", dbusID: "/var/lib/dbus/machine-id", keys: "/etc/ssh", keygen: []string{"/usr/bin/ssh-keygen", "-A"}}

// renew gives the instance a machine id, and an SSH server of the image's keys of its own.
func (r renewer) renew(instance string, note func(what string, err error)) {
	sum := sha256.Sum256([]byte("machine-id of " + instance))
	id := []byte(hex.EncodeToString(sum[:16]) + "\n")
	for _, path := range []string{r.machineID, r.dbusID} {
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
			note("set the machine id", os.WriteFile(path, id, 0o444))
		}
	}
	old, err := filepath.Glob(filepath.Join(r.keys, "ssh_host_*_key*"))
	if err != nil || len(old) == 0 {
		return
	}
	// Without a program that makes keys, there are none rather than another's.
	for _, key := range old {
		err = errors.Join(err, os.Remove(key))
	}
	note("remove another instance's host keys", err)
	if _, err := exec.LookPath(r.keygen[0]); err == nil {
		note("make host keys", exec.Command(r.keygen[0], r.keygen[1:]...).Run())
	}
}
