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

// installInit puts the embedded init into a directory, under a name that changes with its content: a machine keeps the
// one that it started with.
func installInit(dir string) (string, error) {
	b, err := initFiles.ReadFile("initbin/nacre-init")
	if errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("this nacre was built without the init of its instances; build it with `make build`")
	}
	if err != nil {
		return "", fmt.Errorf("read the embedded init: %w", err)
	}
	sum := sha256.Sum256(b)
	path := filepath.Join(dir, "nacre-init-"+hex.EncodeToString(sum[:8]))
	if have, err := os.ReadFile(path); err == nil && sha256.Sum256(have) == sum {
		return path, nil
	}
	if err := renameio.WriteFile(path, b, 0o755); err != nil {
		return "", fmt.Errorf("install the init: %w", err)
	}
	return path, nil
}
