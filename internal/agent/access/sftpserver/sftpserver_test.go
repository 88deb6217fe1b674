package sftpserver

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAProgramIsInstalledOnceAndRepairedWhenDamaged(t *testing.T) {
	dir := t.TempDir()
	name, err := installProgram(filepath.Join(dir, "p-"), []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("cut"), 0o755); err != nil {
		t.Fatal(err)
	}
	again, err := installProgram(filepath.Join(dir, "p-"), []byte("content"))
	if data, readErr := os.ReadFile(name); err != nil || again != name || string(data) != "content" {
		t.Errorf("%s, %v: %q, %v", again, err, data, readErr)
	}
	if st, err := os.Stat(name); err != nil || st.Mode() != 0o755 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%v", entries)
	}
}
