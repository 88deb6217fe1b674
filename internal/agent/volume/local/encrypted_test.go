package local

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/agent/volume/daemon"
	"github.com/nacre-cloud/nacre/internal/agent/volume/keyring"
	"github.com/nacre-cloud/nacre/internal/agent/volume/volumetest"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	mib    = 1 << 20
	holder = cloud.InstanceID("i-0123456789abcdef0")
)

// vault is a backend, and the daemons that open its volumes.
type vault struct {
	*testing.T
	*Backend
	dir     string
	devices *daemon.Server
}

func newVault(t *testing.T) *vault {
	dir := volumetest.Dir(t)
	return &vault{T: t, Backend: open(t, dir), dir: dir, devices: volumetest.NewServer(t, volumetest.Dir(t))}
}

// with opens a volume for a while.
func (v *vault) with(id cloud.VolumeID, do func(device string)) {
	v.Helper()
	err := v.Hold(v.Context(), id, holder)
	if err != nil {
		v.Fatal(err)
	}
	g, err := v.Graph(id)
	if err != nil {
		v.Fatal(err)
	}
	d, err := v.devices.Serve(v.Context(), g)
	if err != nil {
		v.Fatal(err)
	}
	do(d.Path)
	if err := errors.Join(v.devices.Stop(v.Context(), id), v.Release(v.Context(), id, holder)); err != nil {
		v.Fatal(err)
	}
}

func (v *vault) write(device string, text []byte) {
	v.Helper()
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		v.Fatal(err)
	}
	_, err = f.WriteAt(bytes.Repeat(text, 4096/len(text)), 0)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		v.Fatal(err)
	}
}

// holds tells whether any file below the backend's directory holds some bytes.
func (v *vault) holds(text []byte) bool {
	v.Helper()
	found := false
	err := filepath.WalkDir(v.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		found = found || bytes.Contains(b, text)
		return err
	})
	if err != nil {
		v.Fatal(err)
	}
	return found
}

var plain = []byte("what nobody is to read on a disk")

func TestNothingOfAnEncryptedVolumeIsOnTheDiskAsItIs(t *testing.T) {
	v := newVault(t)
	for _, encrypted := range []bool{false, true} {
		id := volumetest.NewVolume()
		if _, err := v.Create(t.Context(), volume.Spec{ID: id, Size: 8 * mib, Encrypted: encrypted}); err != nil {
			t.Fatal(err)
		}
		v.with(id, func(device string) {
			v.write(device, plain)
			if err := v.Snapshot(t.Context(), id, cloud.SnapshotID("snap-0123456789abcdef0"), v.devices.Door(id)); err != nil {
				t.Fatal(err)
			}
		})
		if v.holds(plain) == encrypted {
			t.Errorf("encrypted %v: the files tell what was written: %v", encrypted, !encrypted)
		}
		if err := errors.Join(v.DeleteSnapshot(t.Context(), "snap-0123456789abcdef0"), v.Delete(t.Context(), id)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheLastThatNeedsALayerDestroysItsKey(t *testing.T) {
	v := newVault(t)
	id, snap := volumetest.NewVolume(), cloud.SnapshotID("snap-0123456789abcdef0")
	if _, err := v.Create(t.Context(), volume.Spec{ID: id, Size: 8 * mib, Encrypted: true}); err != nil {
		t.Fatal(err)
	}
	if err := v.Snapshot(t.Context(), id, snap, nil); err != nil {
		t.Fatal(err)
	}
	// Files that are open are seen after they have no name any more.
	frozen, err := os.Open(filepath.Join(v.Dir(id), "l0"+keySuffix))
	if err != nil {
		t.Fatal(err)
	}
	defer frozen.Close()
	head, err := os.Open(filepath.Join(v.Dir(id), "l1"+keySuffix))
	if err != nil {
		t.Fatal(err)
	}
	defer head.Close()
	destroyed := func(f *os.File) bool {
		t.Helper()
		b := make([]byte, 4096)
		n, err := f.ReadAt(b, 0)
		if n == 0 {
			t.Fatal(err)
		}
		return len(bytes.Trim(b[:n], "\x00")) == 0
	}
	if err := v.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if !destroyed(head) || destroyed(frozen) {
		t.Errorf("after the volume's end: its own key destroyed %v, the snapshot's %v", destroyed(head), destroyed(frozen))
	}
	// What a crash left on its way out is destroyed by the next start.
	out := filepath.Join(v.dir, makingDir, "out-1")
	if err := errors.Join(os.Mkdir(out, 0o711), os.Rename(v.snapshotDir(snap), filepath.Join(out, movedOut))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := v.Recover(t.Context()); err != nil || !destroyed(frozen) {
		t.Errorf("after the snapshot's end its key is destroyed: %v, %v", destroyed(frozen), err)
	}
}

func TestWithoutTheMasterKeyEncryptedVolumesSayWhatIsMissing(t *testing.T) {
	v := newVault(t)
	id, clear := volumetest.NewVolume(), volumetest.NewVolume()
	for at, encrypted := range map[cloud.VolumeID]bool{id: true, clear: false} {
		if _, err := v.Create(t.Context(), volume.Spec{ID: at, Size: 8 * mib, Encrypted: encrypted}); err != nil {
			t.Fatal(err)
		}
	}
	v.with(id, func(device string) { v.write(device, plain) })
	key := filepath.Join(v.dir, "master.key")
	other := filepath.Join(t.TempDir(), "other.key")
	otherID, err := keyring.Make(other)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := keyring.Make(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, ring := range map[string]*keyring.Ring{"missing": keyring.Open(key+".not", mine), "another file": keyring.Open(other, mine), "another region's": keyring.Open(other, otherID), "none": nil} {
		b, err := Open(Config{Dir: v.dir, User: daemon.User, Keys: ring})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Recover(t.Context()); err != nil {
			t.Error(name, err)
		}
		if _, err := b.Graph(id); !errors.Is(err, keyring.ErrNoKey) || !strings.Contains(err.Error(), string(id)) {
			t.Errorf("%s: opened: %v", name, err)
		}
		if _, err := b.Graph(clear); err != nil {
			t.Errorf("%s: a volume that is not encrypted: %v", name, err)
		}
		if name == "another region's" { // which would go on by its own
			continue
		}
		if err := b.Snapshot(t.Context(), id, "snap-0123456789abcdef0", nil); !errors.Is(err, keyring.ErrNoKey) {
			t.Errorf("%s: kept as a snapshot: %v", name, err)
		}
		if _, err := b.Create(t.Context(), volume.Spec{ID: volumetest.NewVolume(), Size: mib, Encrypted: true}); !errors.Is(err, keyring.ErrNoKey) {
			t.Errorf("%s: made: %v", name, err)
		}
	}
	v.with(id, func(device string) {
		if b, err := os.ReadFile(device); err != nil || !bytes.HasPrefix(b, plain) {
			t.Errorf("with its master key again: %v", err)
		}
	})
}

func TestAVolumeThatGrowsWhileNobodyHasItOpenStaysEncrypted(t *testing.T) {
	v := newVault(t)
	id := volumetest.NewVolume()
	if _, err := v.Create(context.Background(), volume.Spec{ID: id, Size: 8 * mib, Encrypted: true}); err != nil {
		t.Fatal(err)
	}
	v.with(id, func(device string) { v.write(device, plain) })
	if err := v.Grow(t.Context(), id, 2<<30, nil); err != nil {
		t.Fatal(err)
	}
	v.with(id, func(device string) {
		f, err := os.Open(device)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, len(plain))
		if _, err := f.ReadAt(b, 0); err != nil || !bytes.Equal(b, plain) {
			t.Errorf("%q, %v", b, err)
		}
		if n, err := f.Seek(0, 2); n != 2<<30 {
			t.Errorf("it has %d bytes, %v", n, err)
		}
	})
}
