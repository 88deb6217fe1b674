package oci

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/nacre-cloud/nacre/internal/agent/machine/confined"
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
	return confined.Install(dir, "nacre-init", b)
}
