// Package busybox packs the smallest system that a person can log in to: one static program under all its names, with
// the users root and admin. It promises the same bytes for the same program; it reads nothing but that
// program, and writes nothing.
package busybox

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Program is where Debian's package busybox-static installs it.
const Program = "/bin/busybox"

// Time is that of all files.
var Time = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// LoginUser is the system's ordinary user.
const LoginUser = "admin"

// notApplets are names that an instance gets from nacre's init: the program's own would act on a real init or a real kernel.
var notApplets = []string{"busybox", "poweroff", "halt", "reboot", "shutdown", "init", "linuxrc"}

// RootFS is the system's root file system as a tar archive. body is the program, of any architecture, in the version that is
// installed here, which tells its names; nil is that one itself.
func RootFS(ctx context.Context, body []byte) ([]byte, error) {
	own, err := os.ReadFile(Program)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("a busybox system needs Debian's busybox-static; `nacre doctor --install` installs it")
	}
	if err != nil {
		return nil, fmt.Errorf("pack a busybox system: %w", err)
	}
	list, err := exec.CommandContext(ctx, Program, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("pack a busybox system: list its programs: %w", err)
	}
	if body == nil {
		body = own
	}
	var b bytes.Buffer
	w := tarWriter{w: tar.NewWriter(&b)}
	for _, d := range []string{"bin", "dev", "etc", "home", "proc", "run", "sys", "usr", "usr/bin", "usr/sbin", "sbin", "var", "var/lib"} {
		w.dir(d, 0o755, 0)
	}
	w.dir("root", 0o700, 0)
	w.dir("tmp", 0o1777, 0)
	w.dir("home/admin", 0o755, 1000)
	w.file("bin/busybox", 0o755, body)
	for _, name := range strings.Fields(string(list)) {
		if !slices.Contains(notApplets, name) {
			w.link("bin/"+name, "busybox")
		}
	}
	w.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nadmin:x:1000:1000:admin:/home/admin:/bin/sh\n"))
	w.file("etc/group", 0o644, []byte("root:x:0:\nadmin:x:1000:\n"))
	w.file("etc/shadow", 0o600, []byte("root:*:19723:0:99999:7:::\nadmin:*:19723:0:99999:7:::\n"))
	w.file("etc/profile", 0o644, []byte("export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"))
	if err := errors.Join(w.err, w.w.Close()); err != nil {
		return nil, fmt.Errorf("pack a busybox system: %w", err)
	}
	return b.Bytes(), nil
}

// tarWriter writes entries and keeps the first error.
type tarWriter struct {
	w   *tar.Writer
	err error
}

func (t *tarWriter) put(h tar.Header, body []byte) {
	if t.err != nil {
		return
	}
	h.ModTime, h.Size = Time, int64(len(body))
	if t.err = t.w.WriteHeader(&h); t.err == nil {
		_, t.err = t.w.Write(body)
	}
}

func (t *tarWriter) dir(name string, mode int64, owner int) {
	t.put(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: owner, Gid: owner}, nil)
}

func (t *tarWriter) file(name string, mode int64, body []byte) {
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, body)
}

func (t *tarWriter) link(name, target string) {
	t.put(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}
