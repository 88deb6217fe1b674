package machinetest

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

// BootDiskText is what the program of MakeBootDisk reads from its disk and says on screen and serial line.
const BootDiskText = "the second sector says hello"

// What the program of MakeBootDisk does with what is typed: every character comes back on screen and serial line, a break as
// BreakEcho; FloodKey on the serial line makes it write FloodByte to that line forever.
const (
	BreakEcho = "#"
	FloodKey  = "!"
	FloodByte = '~'
)

// bootListing is a boot sector's program for a PC, made by an assembler of what stands beside it. It knows the BIOS and the first
// serial port, nothing else.
const bootListing = `
	31c0 8ed8 8ec0 8ed0 bc007c      | xor ax,ax; ds, es, ss = ax; sp = 7c00
	52 b80300 cd10 5a               | text mode, the drive kept
	b80102 bb007e b90200 b600 cd13  | read the second sector to 7e00
	720d                            | failed: keys
	be007e                          | si = 7e00
	ac 84c0 7405 e83600 ebf6        | each character up to 0: put
	b401 cd16 7407                  | keys: none: line
	b400 cd16 e82700                | put it
	bafd03 ec a810 7407             | line: a break?
	b023 e81a00 ebe4                | put '#'; keys
	a801 74e0                       | nothing: keys
	baf803 ec 3c21 7507             | '!'?
	b07e e81000 ebf9                | flood: '~' out, forever
	e80200 ebcc                     | put it; keys
	bb0700 b40e 50 cd10 58          | put: on the screen
	88c1 bafd03 ec a820 74f8        | out: until the line is free
	88c8 baf803 ee c3               | send it; ret
`

// MakeBootDisk makes a raw disk of a MiB whose boot sector's program greets and echoes.
func MakeBootDisk(t testing.TB, path string) {
	t.Helper()
	var digits strings.Builder
	for line := range strings.SplitSeq(bootListing, "\n") {
		code, _, _ := strings.Cut(line, "|")
		digits.WriteString(strings.Join(strings.Fields(code), ""))
	}
	disk := make([]byte, 1<<20)
	n, err := hex.Decode(disk, []byte(digits.String()))
	if err != nil || n > 440 {
		t.Fatalf("the boot sector's program has %d bytes, %v", n, err)
	}
	// One partition of the rest, from the second sector on.
	copy(disk[446:], []byte{0x80, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 0xff, 0x07, 0, 0})
	disk[510], disk[511] = 0x55, 0xaa
	copy(disk[512:], BootDiskText)
	if err := os.WriteFile(path, disk, 0o644); err != nil {
		t.Fatal(err)
	}
}
