package program

import (
	"bytes"
	"debug/elf"
	"io/fs"
	"os"
	"testing"
)

func TestADiskGetsTheStaticProgramOfItsArchitectureAndAUnitThatStartsIt(t *testing.T) {
	if _, err := os.Stat("guestbin/nacre-guest-arm64"); err != nil {
		t.Fatal("the guest's program is not built; `make guest` builds it")
	}
	for arch, machine := range map[string]elf.Machine{"x86_64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		list, err := Files(arch)
		if err != nil {
			t.Fatal(err)
		}
		files := map[string]File{}
		for _, f := range list {
			files[f.Path] = f
		}
		program, err := elf.NewFile(bytes.NewReader(files[Path].Content))
		if err != nil {
			t.Fatal(err)
		}
		if libraries, err := program.ImportedLibraries(); program.Machine != machine || len(libraries) > 0 {
			t.Errorf("%s: a program for %v with %q, %v", arch, program.Machine, libraries, err)
		}
		for _, f := range list {
			if f.Mode&fs.ModeSymlink == 0 {
				continue
			}
			if unit, ok := files[f.Symlink]; !ok || !bytes.Contains(unit.Content, []byte("ExecStart="+Path+"\n")) {
				t.Errorf("%s: %s leads to no unit that starts the program", arch, f.Path)
			}
		}
	}
	if _, err := Files("mips"); err == nil {
		t.Error("there is a program for mips")
	}
}
