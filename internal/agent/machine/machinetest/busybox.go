package machinetest

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Busybox makes the root file system of a tiny operating system below root, owned by the machine's ids: Debian's static busybox,
// root, and the ordinary user admin with the group extra.
func Busybox(t testing.TB, root string, idBase uint32) {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal("Debian's busybox-static is missing; `make deps` installs it")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "run", "root", "home/admin", "usr/sbin", "var/lib", "tmp"} {
		must(os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	must(os.WriteFile(filepath.Join(root, "bin/busybox"), program, 0o755))
	for _, applet := range []string{"sh", "sleep", "cat", "id", "echo", "stty", "tail", "ls", "kill", "true", "env", "grep", "mount", "touch", "wc", "seq"} {
		must(os.Symlink("busybox", filepath.Join(root, "bin", applet)))
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nadmin:x:1000:1000::/home/admin:/bin/sh\n",
		"etc/group":  "root:x:0:\nadmin:x:1000:\nextra:x:2000:admin\n",
	} {
		must(os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	}
	must(filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		id := int(idBase)
		if path == filepath.Join(root, "home/admin") {
			id += 1000
		}
		return os.Lchown(path, id, id)
	}))
}
