package machinetest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"syscall"
	"testing"
)

// Archive is an initial RAM disk in the making: a cpio archive in the "newc" format.
type Archive struct {
	b     bytes.Buffer
	inode int
}

func (a *Archive) add(name string, mode uint32, content []byte) {
	a.inode++
	fmt.Fprintf(&a.b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad()
	a.b.Write(content)
	a.pad()
}

func (a *Archive) pad() {
	for a.b.Len()%4 != 0 {
		a.b.WriteByte(0)
	}
}

// Directories adds empty directories.
func (a *Archive) Directories(names ...string) {
	for _, name := range names {
		a.add(name, syscall.S_IFDIR|0o755, nil)
	}
}

// Program adds a file that may be executed.
func (a *Archive) Program(name string, content []byte) {
	a.add(name, syscall.S_IFREG|0o755, content)
}

// File adds a file of the host's.
func (a *Archive) File(t testing.TB, name, source string) {
	t.Helper()
	b, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	a.Program(name, b)
}

// Bytes ends the archive and returns it, compressed.
func (a *Archive) Bytes(t testing.TB) []byte {
	t.Helper()
	a.add("TRAILER!!!", 0, nil)
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(a.b.Bytes())
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (a *Archive) write(t testing.TB, path string) {
	t.Helper()
	if err := os.WriteFile(path, a.Bytes(t), 0o666); err != nil {
		t.Fatal(err)
	}
}
