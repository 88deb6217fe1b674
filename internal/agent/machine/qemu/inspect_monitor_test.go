package qemu

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

func sample(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRegistersTellPrivilegeAndTables(t *testing.T) {
	r, err := parseRegisters(sample(t, "registers-x86_64.txt"))
	if err != nil || r.privilege != "ring 0" || r.user || r.halted == nil || *r.halted || r.at != 0xffffffff9f471467 || r.cr3 != 0x1f74000 {
		t.Errorf("%+v, %v", r, err)
	}
	if p, err := pagingOf(r); err != nil || p != (paging{0x1f74000, 5}) {
		t.Errorf("%+v, %v", p, err)
	}
	r.cr4 &^= cr4Levels5
	if p, _ := pagingOf(r); p.levels != 4 {
		t.Errorf("%d levels", p.levels)
	}
	r.cr0 &^= cr0Paging
	if _, err := pagingOf(r); err == nil {
		t.Error("tables without paging")
	}
	if r, err := parseRegisters(sample(t, "registers-x86_64-halted.txt")); err != nil || r.halted == nil || !*r.halted {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := parseRegisters(sample(t, "registers-arm64.txt")); err != nil || r.privilege != "EL1" || r.user || r.halted != nil || r.at != 0xffffffc0080e1a44 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := parseRegisters("unknown command"); err == nil {
		t.Error("a processor without a privilege level")
	}
}

func TestTheTranslatorsFiguresAreRead(t *testing.T) {
	got := parseTranslator(sample(t, "jit.txt"))
	if want := (cloud.Translator{Blocks: 127661, CodeBytes: 71182931, CacheBytes: 134053888, Invalidated: 16340}); got == nil || *got != want {
		t.Errorf("%+v", got)
	}
	if parseTranslator("JIT information is only available with accel=tcg") != nil {
		t.Error("figures from nothing")
	}
}

func TestTheHypervisorsAddressesAreRead(t *testing.T) {
	if got, err := parseHostAddress("Host virtual address for 0x1000 (pc.ram (x)) is 0x7fe947e01000\r\n"); err != nil || got != 0x7fe947e01000 {
		t.Errorf("%x, %v", got, err)
	}
	for _, no := range []string{"No memory is mapped at address 0xc0000000", "Memory at address 0xfee00000 is not RAM", ""} {
		if _, err := parseHostAddress(no); err == nil || err.Error() != no {
			t.Errorf("%q: %v", no, err)
		}
	}
	if got, ok := parseGuestPhysical("gpa: 0xa09c010\r\n"); !ok || got != 0xa09c010 {
		t.Errorf("%x, %v", got, ok)
	}
	if _, ok := parseGuestPhysical("Unmapped\r\n"); ok {
		t.Error("an unmapped address is somewhere")
	}
}

func TestExitsAreSummedUpOverTheProcessors(t *testing.T) {
	var s statistics
	err := json.Unmarshal([]byte(`[{"provider":"kvm","qom-path":"/machine/unattached/device[0]","stats":[{"name":"exits","value":5},{"name":"io_exits","value":2},{"name":"halt_poll_success_hist","value":[1,2]},{"name":"guest_mode","value":0}]},
		{"provider":"kvm","stats":[{"name":"exits","value":7},{"name":"mmio_exits","value":0}]},{"provider":"cryptodev","stats":[{"name":"exits","value":9}]}]`), &s)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.exits(), []cloud.Counter{{Name: "exits", Value: 12}, {Name: "io_exits", Value: 2}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestTheBusTellsParavirtualDevicesFromEmulatedOnes(t *testing.T) {
	var b buses
	err := json.Unmarshal([]byte(`[{"bus":0,"devices":[{"bus":0,"slot":1,"function":1,"class_info":{"class":257,"desc":"IDE controller"},"id":{"vendor":32902,"device":28688},"qdev_id":"","regions":[]},
		{"bus":0,"slot":2,"function":0,"class_info":{"class":1540},"id":{"vendor":6966,"device":1},"pci_bridge":{"devices":[{"bus":1,"slot":3,"function":0,"class_info":{"class":255},"id":{"vendor":6900,"device":4097},"qdev_id":"dev-disk0"}]}}]}]`), &b)
	if err != nil {
		t.Fatal(err)
	}
	want := []cloud.PCIDevice{{Slot: "0:01.1", Class: "IDE controller", ID: "8086:7010"}, {Slot: "0:02.0", Class: "class 0604", ID: "1b36:0001"}, {Slot: "1:03.0", Class: "disk", ID: "1af4:1001", Paravirtual: true}}
	if got := b.list(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestAThreadsTimeIsReadBehindAnyName(t *testing.T) {
	if got := parseCPUTime("3953 (CPU 0/TCG) ) S 1 3950 3950 0 -1 1077936192 1 0 0 0 1234 66 0 0 20 0 4 0 100 200"); got != 13000 {
		t.Error(got)
	}
	if got := parseCPUTime("3953 (x"); got != 0 {
		t.Error(got)
	}
}

func FuzzWhatTheHypervisorSays(f *testing.F) {
	for _, name := range []string{"registers-x86_64.txt", "registers-arm64.txt", "jit.txt"} {
		f.Add(sample(f, name))
	}
	f.Add("Host virtual address for 0x1000 (ram) is 0x7fe947e01000")
	f.Add("gpa: 0x10")
	f.Add(`[{"provider":"kvm","stats":[{"name":"exits","value":5}]}]`)
	f.Add(`[{"devices":[{"bus":1,"pci_bridge":{"devices":[{}]}}]}]`)
	f.Add("1 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13")
	f.Fuzz(func(t *testing.T, text string) {
		if r, err := parseRegisters(text); err == nil {
			if r.privilege == "" {
				t.Error("a processor without a privilege level")
			}
			if p, err := pagingOf(r); err == nil && (p.root&4095 != 0 || p.levels < 4 || p.levels > 5) {
				t.Errorf("%+v", p)
			}
		}
		parseTranslator(text)
		parseHostAddress(text)
		parseGuestPhysical(text)
		if parseCPUTime(text) < 0 {
			t.Error("a thread that ran for less than nothing")
		}
		var s statistics
		if json.Unmarshal([]byte(text), &s) == nil {
			s.exits()
		}
		var b buses
		if json.Unmarshal([]byte(text), &b) == nil && len(b.list()) > maxDevices {
			t.Error("more devices than are listed")
		}
	})
}
