package confined

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestAProgramGetsASocketThatNeverBlocksIt(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // the second takes the first one's place
		f, err := Listen(dir, "a.sock")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd := exec.Command("/bin/sh", "-c", "read go; grep flags /proc/self/fdinfo/3")
		cmd.ExtraFiles = []*os.File{f, os.Stdin}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		err = errors.Join(neverBlock(cmd.ExtraFiles), in.Close(), cmd.Wait())
		if err != nil {
			t.Fatal(err)
		}
		if flags := strings.Fields(out.String()); len(flags) != 2 || flags[1] != "04002" {
			t.Errorf("the program's descriptor has the flags %q, not O_RDWR|O_NONBLOCK", out.String())
		}
	}
}
