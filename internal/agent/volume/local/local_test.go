package local

import (
	"path/filepath"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/agent/volume/daemon"
	"github.com/nacre-cloud/nacre/internal/agent/volume/keyring"
	"github.com/nacre-cloud/nacre/internal/agent/volume/volumetest"
)

func open(t *testing.T, dir string) *Backend {
	t.Helper()
	key := filepath.Join(dir, "master.key")
	id, err := keyring.Make(key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(Config{Dir: dir, User: daemon.User, Keys: keyring.Open(key, id)})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConformance(t *testing.T) {
	dirs := map[*testing.T]string{}
	volumetest.Run(t, func(t *testing.T) volume.Backend {
		if dirs[t] == "" {
			dirs[t] = volumetest.Dir(t)
		}
		return open(t, dirs[t])
	})
}
