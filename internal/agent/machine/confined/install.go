package confined

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Install writes a program into a directory under a name that changes with its content, and returns its path: a machine keeps
// the one that it started with.
func Install(dir, name string, b []byte) (string, error) {
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
