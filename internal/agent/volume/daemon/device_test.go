package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestADaemonThatDoesNotAnswerTheKernelHoldsNobodyUpForEver(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	path := filepath.Join(t.TempDir(), "export")
	fuse, err := mountExport(path)
	if err != nil {
		t.Fatal(err)
	}
	defer fuse.Close()
	t.Cleanup(func() {
		if err := unmountExport(path); err != nil {
			t.Error(err)
		}
	})
	for range 2 { // the second finds no mount any more
		f, err := openShown(path, 100*time.Millisecond)
		if err == nil {
			f.Close()
			return
		}
		if !errors.Is(err, errSilent) {
			t.Fatalf("it says %v", err)
		}
	}
	t.Error("the mount is still there")
}
