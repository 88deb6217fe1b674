package diskheader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// made has qemu-img make an image with a sector of data in it.
func made(t testing.TB, format string, options ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	raw := make([]byte, 4<<20)
	raw[0], raw[510], raw[511] = 0xeb, 0x55, 0xaa
	copy(raw[3<<20:], "data")
	if err := os.WriteFile(filepath.Join(dir, "raw"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"convert", "-f", "raw", "-O", format}, options...)
	if out, err := exec.Command("qemu-img", append(args, filepath.Join(dir, "raw"), filepath.Join(dir, "out"))...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func look(b []byte) (Header, error) {
	format, err := Detect(b[:min(len(b), Peek)])
	if err != nil || format == None {
		return Header{}, err
	}
	return Read(format, bytes.NewReader(b), int64(len(b)))
}

func TestHonestImagesAreTold(t *testing.T) {
	for name, c := range map[string]struct {
		format  Format
		options []string
	}{
		"raw": {Raw, nil}, "qcow2": {QCOW2, nil}, "qcow2 of version 2": {QCOW2, []string{"-o", "compat=0.10"}}, "small clusters": {QCOW2, []string{"-o", "cluster_size=512"}},
		"extended entries": {QCOW2, []string{"-o", "extended_l2=on,cluster_size=16k"}}, "compressed": {QCOW2, []string{"-c", "-o", "compression_type=zstd"}},
		"vmdk": {VMDK, nil}, "vmdk for streams": {VMDK, []string{"-o", "subformat=streamOptimized"}}, "vdi": {VDI, nil}, "fixed vdi": {VDI, []string{"-o", "static=on"}},
	} {
		h, err := look(made(t, string(c.format), c.options...))
		if err != nil || h != (Header{c.format, 4 << 20}) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	if h, err := look(footed(made(t, "vmdk", "-o", "subformat=streamOptimized"), 8192)); err != nil || h.Virtual != 4<<20 {
		t.Errorf("a stream with a footer: %+v, %v", h, err)
	}
	for _, archive := range []string{"\x1f\x8b\x08", "anything", "", strings.Repeat("\x00", 257) + "ustar" + strings.Repeat("\x00", 248) + "\x55\xaa"} {
		if f, err := Detect([]byte(archive)); f != None || err != nil {
			t.Errorf("%.20q is %q, %v", archive, f, err)
		}
	}
}

// change writes over an image's bytes.
func change(b []byte, at int, with ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[at:], with)
	return b
}

// footed is a stream whose directory is told of at its end, with a disk of so many sectors.
func footed(stream []byte, sectors uint64) []byte {
	b := change(stream, 56, le64(atEnd)...)
	b = append(b, make([]byte, 3*sector)...)
	copy(b[len(b)-2*sector:], change(stream[:sector], 12, le64(sectors)...))
	return b
}

func be64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }
func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func le64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
func le32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

func TestHostileImagesAreRefusedByTheirHeader(t *testing.T) {
	qcow, old, vmdk, vdi := made(t, "qcow2"), made(t, "qcow2", "-o", "compat=0.10"), made(t, "vmdk"), made(t, "vdi")
	stream := made(t, "vmdk", "-o", "subformat=streamOptimized")
	first, second := binary.BigEndian.Uint64(qcow[40:]), 0
	second = int(binary.BigEndian.Uint64(qcow[first:]) & qcowOffset)
	text := func(from, to string) []byte { return bytes.Replace(vmdk, []byte(from), []byte(to), 1) }
	pad := func(s string, n int) string { return s + strings.Repeat(" ", n-len(s)) }
	vmdkDirectory := int(binary.LittleEndian.Uint64(vmdk[56:])) * sector
	twice := bytes.Clone(vdi)
	copy(twice[512:], append(le32(0), le32(0)...))
	for name, c := range map[string]struct {
		image []byte
		why   string
	}{
		"a backing file":             {change(qcow, 8, append(be64(600), be32(11)...)...), "backing file"},
		"a backing file, version 2":  {change(old, 8, append(be64(600), be32(11)...)...), "backing file"},
		"an external data file":      {change(qcow, 72, be64(featureDataFile)...), "external file"},
		"a data file's name":         {change(qcow, int(binary.BigEndian.Uint32(qcow[100:])), append(be32(extensionDataFile), be32(8)...)...), "external data file"},
		"an endless extension":       {change(qcow, int(binary.BigEndian.Uint32(qcow[100:])), append(be32(1), be32(0xffffffff)...)...), "does not fit"},
		"an unknown feature":         {change(qcow, 72, be64(1<<40)...), "not known"},
		"the mark of corruption":     {change(qcow, 72, be64(featureCorrupt)...), "corrupt"},
		"encryption":                 {change(qcow, 32, be32(2)...), "encrypted"},
		"snapshots":                  {change(qcow, 60, be32(1)...), "snapshots"},
		"clusters of 2^40":           {change(qcow, 20, be32(40)...), "clusters"},
		"a disk of 2^62 bytes":       {change(qcow, 24, be64(1<<62)...), "are the most"},
		"a disk of nothing":          {change(qcow, 24, be64(0)...), "are taken"},
		"a huge first table":         {change(qcow, 36, be32(0xffffffff)...), "are the most"},
		"a first table too short":    {change(qcow, 24, be64(1<<40)...), "corrupt"},
		"a huge table of counts":     {change(qcow, 56, be32(0xffff)...), "reference counts"},
		"a first table in the void":  {change(qcow, 40, be64(1<<50)...), "outside"},
		"a first table at the front": {change(qcow, 40, be64(0)...), "refers to itself"},
		"a first table in itself":    {change(qcow, int(first), be64(first|1<<63)...), "refers to itself"},
		"a second table in the void": {change(qcow, int(first), be64(1<<40|1<<63)...), "cut off"},
		"a version to come":          {change(qcow, 4, be32(4)...), "version 4"},
		"qcow2 cut in its header":    {qcow[:60], "cut off"},
		"qcow2 cut in its tables":    {qcow[:second], "cut off"},
		"the first qcow":             {change(qcow, 4, be32(1)...), "qcow, the first"},
		"a descriptor alone":         {[]byte("# Disk DescriptorFile\nversion=1\nRW 8192 FLAT \"/etc/shadow\" 0\n"), "names other files"},
		"ESX's":                      {[]byte("COWD\x01\x00\x00\x00"), "ESX"},
		"VHD":                        {[]byte("conectix"), "VHD"},
		"VHDX":                       {[]byte("vhdxfile"), "VHDX"},
		"vmdk that leads elsewhere":  {change(vmdk, 12, le64(0)...), "other files"},
		"vmdk of 2^60 sectors":       {change(vmdk, 12, le64(1<<60)...), "are the most"},
		"vmdk without descriptor":    {change(vmdk, 28, le64(0)...), "no descriptor"},
		"vmdk's descriptor outside":  {change(vmdk, 28, le64(1<<40)...), "no descriptor"},
		"vmdk with a parent":         {text("parentCID=ffffffff", "parentCID=12345678"), "parent"},
		"vmdk with a parent's name":  {text("# Extent description", pad("parentFileNameHint=x", 20)), "parent"},
		"vmdk that is flat":          {text("SPARSE", "FLAT  "), "pieces"},
		"vmdk in pieces":             {text("monolithicSparse", "twoGbMaxExtentFl"), "kind"},
		"vmdk of odd grains":         {change(vmdk, 20, le64(7)...), "grains"},
		"vmdk with huge tables":      {change(vmdk, 44, le32(1<<31)...), "tables"},
		"vmdk's directory outside":   {change(vmdk, 56, le64(1<<40)...), "directory"},
		"vmdk's tables outside":      {change(vmdk, vmdkDirectory, le32(0x7fffffff)...), "outside"},
		"vmdk's directory in itself": {change(vmdk, vmdkDirectory, le32(uint32(vmdkDirectory/sector))...), "refers to itself"},
		"vmdk without its footer":    {change(stream, 56, le64(atEnd)...), "footer"},
		"vmdk with two sizes":        {footed(stream, 1<<20), "its footer of"},
		"vdi with a parent":          {change(vdi, 440, 1), "parent"},
		"a differing vdi":            {change(vdi, 76, le32(4)...), "another image"},
		"vdi with odd blocks":        {change(vdi, 376, le32(1)...), "blocks"},
		"vdi with a huge map":        {change(vdi, 384, le32(1<<31)...), "map"},
		"vdi's map in its header":    {change(vdi, 340, le32(0)...), "refers to itself"},
		"vdi's data in its map":      {change(vdi, 344, le32(512)...), "refers to itself"},
		"vdi's blocks twice":         {twice, "refers to itself"},
		"vdi cut off":                {vdi[:2<<20-1], "cut off"},
		"raw that is cut":            {made(t, "raw")[:4<<20-7], "cut off"},
	} {
		_, err := look(c.image)
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", name, err, c.why)
		}
	}
}

func TestADisksFirstBytesTellHowItBoots(t *testing.T) {
	disk := func(code bool, kind byte, table bool, at uint64) []byte {
		b := make([]byte, BootBytes)
		b[510], b[511], b[oldTable+4] = 0x55, 0xaa, kind
		if code {
			b[0] = 0xeb
		}
		if table {
			copy(b[sector:], "EFI PART")
			copy(b[sector+72:], append(le64(at), append(le32(128), le32(128)...)...))
			copy(b[2*sector+3*entrySize:], espType)
		}
		return b
	}
	for name, c := range map[string]struct {
		disk       []byte
		bios, uefi bool
	}{
		"both":                {disk(true, oldCover, true, 2), true, true},
		"uefi":                {disk(false, oldCover, true, 2), false, true},
		"bios":                {disk(true, 0x83, false, 0), true, false},
		"uefi by the old one": {disk(false, oldESP, false, 0), false, true},
		"a table elsewhere":   {disk(true, oldCover, true, 1<<60), true, false},
		"a table uncovered":   {disk(true, 0x83, true, 2), true, false},
		"empty":               {make([]byte, BootBytes), false, false},
		"short":               {[]byte{0x55}, false, false},
	} {
		if bios, uefi := Boot(c.disk); bios != c.bios || uefi != c.uefi {
			t.Errorf("%s: BIOS %v, UEFI %v", name, bios, uefi)
		}
	}
}

func FuzzHeaders(f *testing.F) {
	for _, b := range [][]byte{made(f, "raw"), made(f, "qcow2", "-o", "cluster_size=512"), made(f, "vmdk"), made(f, "vdi")} {
		f.Add(b[:min(len(b), 16<<10)])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := look(b)
		if err == nil && h.Format != None && (h.Virtual < sector || h.Virtual > MaxVirtual) {
			t.Errorf("%+v is taken", h)
		}
	})
}

func FuzzBoot(f *testing.F) {
	f.Add(make([]byte, BootBytes))
	f.Fuzz(func(t *testing.T, b []byte) {
		if bios, uefi := Boot(b); (bios || uefi) && len(b) < sector {
			t.Error("less than a sector boots")
		}
	})
}
