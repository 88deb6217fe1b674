package oci

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// initFiles holds the init once `make guest` has built it.
//
//go:embed initbin
var initFiles embed.FS

// installInit puts the embedded init into a directory.
func installInit(dir string) (string, error) {
	b, err := initFiles.ReadFile("initbin/nacre-init")
	if errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("this nacre was built without the init of its instances; build it with `make build`")
	}
	if err != nil {
		return "", fmt.Errorf("read the embedded init: %w", err)
	}
	return install(dir, "nacre-init", b)
}

// install writes a program under a name that changes with its content: a machine keeps the one that it started with.
func install(dir, name string, b []byte) (string, error) {
	sum := sha256.Sum256(b)
	path := filepath.Join(dir, name+"-"+hex.EncodeToString(sum[:8]))
	if have, err := os.ReadFile(path); err == nil && sha256.Sum256(have) == sum {
		return path, nil
	}
	if err := renameio.WriteFile(path, b, 0o755); err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	return path, nil
}
