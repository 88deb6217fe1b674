package qcow2

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func open(t *testing.T, path string) *File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	q, err := Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func fill(b byte) []byte { return bytes.Repeat([]byte{b}, Cluster) }

// content reads a disk as its layers, the uppermost first, have it.
func content(t *testing.T, layers ...*File) []byte {
	t.Helper()
	size := layers[0].Size()
	out := make([]byte, size)
	for c := range layers[0].Clusters() {
		for _, l := range layers {
			p, err := l.At(c)
			if err != nil {
				t.Fatal(err)
			}
			if p.Kind == Absent {
				continue
			}
			if p.Kind == Data {
				var b [Cluster]byte
				if err := l.Read(&b, p.Offset); err != nil {
					t.Fatal(err)
				}
				copy(out[c<<clusterBits:], b[:])
			}
			break
		}
	}
	return out
}

func TestWhatQEMUWroteIsFoundWhereItIs(t *testing.T) {
	dir := t.TempDir()
	raw, path := filepath.Join(dir, "raw"), filepath.Join(dir, "it.qcow2")
	want := make([]byte, 600<<20/16) // not whole clusters of tables
	for i := range 40 {
		copy(want[rand.IntN(len(want)-Cluster):], fill(byte(i+1)))
	}
	if err := os.WriteFile(raw, want, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
	if got := content(t, open(t, path)); !bytes.Equal(got, want) {
		t.Error("the qcow2 is read differently")
	}
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := content(t, Raw(f, int64(len(want)), f)); !bytes.Equal(got, want) {
		t.Error("the raw disk is read differently")
	}
}

func TestZerosThatWereWrittenHideWhatIsBelow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "it.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "8M")
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -z 1M 64k", "-c", "write -P 7 2M 4k", path)
	q := open(t, path)
	for cluster, want := range map[int64]Kind{0: Absent, 16: Zero, 32: Data, 127: Absent, 128: Absent, -1: Absent} {
		if p, err := q.At(cluster); err != nil || p.Kind != want {
			t.Errorf("the cluster %d is %v, %v", cluster, p, err)
		}
	}
}

func TestWhatIsWrittenIsWhatQEMUReads(t *testing.T) {
	for _, size := range []int64{Cluster, 3 << 20, 520 << 20, 5 << 30} {
		dir := t.TempDir()
		path := filepath.Join(dir, "it.qcow2")
		f := create(t, path)
		w, err := NewWriter(f, size)
		if err != nil {
			t.Fatal(err)
		}
		var args []string
		last := size/Cluster - 1
		for c := int64(0); c <= last; c += max(1, last/50) {
			if c%3 == 1 {
				if err := w.Map(c, Place{Kind: Zero}); err != nil {
					t.Fatal(err)
				}
				continue
			}
			at, err := w.Append(fill(byte(c%250 + 1)))
			if err == nil {
				err = w.Map(c, Place{Data, at})
			}
			if err != nil {
				t.Fatal(err)
			}
			args = append(args, "-c", "read -P "+itoa(c%250+1)+" "+itoa(c*Cluster)+" 64k")
		}
		if err := w.Finish(); err != nil {
			t.Fatal(err)
		}
		run(t, "qemu-img", "check", "-q", "-f", "qcow2", path)
		run(t, "qemu-io", append(append([]string{"-f", "qcow2", "-r"}, args...), path)...)
		if q := open(t, path); q.Size() != size {
			t.Errorf("it has %d bytes", q.Size())
		}
		if err := w.Map(0, Place{Kind: Zero}); err == nil {
			t.Error("a cluster was mapped after later ones")
		}
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func TestOtherFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "it.qcow2")
	for _, options := range []string{"cluster_size=4096", "extended_l2=on", "data_file=" + filepath.Join(dir, "data")} {
		run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "8M")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrForm) {
			t.Errorf("with %s: %v", options, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "it.qcow2")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		f.Fatal(err)
	}
	defer out.Close()
	w, err := NewWriter(out, 3*Cluster)
	if err != nil {
		f.Fatal(err)
	}
	at, err := w.Append(make([]byte, Cluster))
	if err := errors.Join(err, w.Map(1, Place{Data, at}), w.Finish()); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole[:headerSize], whole[Cluster:Cluster+8], whole[3*Cluster:3*Cluster+64])
	f.Fuzz(func(t *testing.T, header, l1, l2 []byte) {
		b := bytes.Clone(whole)
		copy(b, header)
		copy(b[Cluster:], l1)
		copy(b[3*Cluster:], l2)
		q, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for c := range min(q.Clusters(), 64) {
			if p, err := q.At(c); err == nil && p.Kind == Data {
				var block [Cluster]byte
				if err := q.Read(&block, p.Offset); err != nil {
					t.Error(err)
				}
			}
			q.Next(c)
		}
	})
}
