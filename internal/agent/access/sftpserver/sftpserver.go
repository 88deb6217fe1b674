// Package sftpserver carries the SFTP server of instances whose image has none.
package sftpserver

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// sftpFiles holds the program nacre-sftp once `make guest` has built it.
//
//go:embed sftpbin
var sftpFiles embed.FS

// Install puts the SFTP server that nacre carries into dir and returns its path, for mounting it
// read-only into instances. The name changes with the content: an instance keeps the one that it started with.
func Install(dir string) (string, error) {
	data, err := sftpFiles.ReadFile("sftpbin/nacre-sftp")
	if errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("this nacre was built without its SFTP server; build it with `make build`")
	}
	if err != nil {
		return "", fmt.Errorf("read the embedded SFTP server: %w", err)
	}
	return installProgram(filepath.Join(dir, "nacre-sftp-"), data)
}

// installProgram writes an executable file that all may run, named by prefix and its content's digest.
func installProgram(prefix string, data []byte) (string, error) {
	sum := sha256.Sum256(data)
	name := prefix + hex.EncodeToString(sum[:8])
	if have, err := os.ReadFile(name); err == nil && sha256.Sum256(have) == sum {
		return name, nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(0o755), f.Sync(), f.Close()); err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	return name, nil
}
