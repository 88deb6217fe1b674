package qemu

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// What the hypervisor tells people has no other form than text. The process may have fallen to its guest: all of it is outside bytes.

// maxText bounds such a text, in bytes: the registers of a large processor take ten thousand.
const maxText = 256 << 10

// registers are what is known of a processor.
type registers struct {
	privilege string // "ring 3", "EL1"
	user      bool
	halted    *bool
	at        uint64
	// Control registers of x86_64, 0 elsewhere.
	cr0, cr3, cr4, efer uint64
}

var (
	register       = regexp.MustCompile(`\b(RIP|EIP|CR0|CR3|CR4|EFER|PC)=([0-9a-fA-F]{1,16})\b`)
	ring           = regexp.MustCompile(`\bCPL=([0-3])\b`)
	halt           = regexp.MustCompile(`\bHLT=([01])\b`)
	exceptionLevel = regexp.MustCompile(`\bPSTATE=[0-9a-fA-F]+ .{0,20}\bEL([0-3])[ht]\b`)
)

// parseRegisters reads what `info registers` says of one processor.
func parseRegisters(text string) (registers, error) {
	var r registers
	if len(text) > maxText {
		return r, fmt.Errorf("the hypervisor tells more than %d bytes of a processor", maxText)
	}
	for _, m := range register.FindAllStringSubmatch(text, -1) {
		v, err := strconv.ParseUint(m[2], 16, 64)
		if err != nil {
			return r, err
		}
		switch m[1] {
		case "RIP", "EIP", "PC":
			r.at = v
		case "CR0":
			r.cr0 = v
		case "CR3":
			r.cr3 = v
		case "CR4":
			r.cr4 = v
		case "EFER":
			r.efer = v
		}
	}
	if m := ring.FindStringSubmatch(text); m != nil {
		r.privilege, r.user = "ring "+m[1], m[1] == "3"
	} else if m := exceptionLevel.FindStringSubmatch(text); m != nil {
		r.privilege, r.user = "EL"+m[1], m[1] == "0"
	} else {
		return r, fmt.Errorf("the hypervisor tells no privilege level of a processor: %.80q", text)
	}
	if m := halt.FindStringSubmatch(text); m != nil {
		is := m[1] == "1"
		r.halted = &is
	}
	return r, nil
}

// parseTranslator reads what `info jit` says; nil when it says nothing that is known here.
func parseTranslator(text string) *cloud.Translator {
	t, found := &cloud.Translator{}, false
	if len(text) > maxText {
		return nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		for name, to := range map[string]*int64{"TB count": &t.Blocks, "gen code size": &t.CodeBytes, "TB flush count": &t.Flushes, "TB invalidate count": &t.Invalidated} {
			rest, ok := strings.CutPrefix(line, name+" ")
			if !ok {
				continue
			}
			value, limit, _ := strings.Cut(strings.TrimSpace(rest), "/")
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 {
				continue
			}
			*to, found = n, true
			if n, err := strconv.ParseInt(limit, 10, 64); err == nil && name == "gen code size" {
				t.CacheBytes = n
			}
		}
	}
	if !found {
		return nil
	}
	return t
}

var hostAddress = regexp.MustCompile(`^Host virtual address for 0x[0-9a-fA-F]+ \(.{0,200}\) is 0x([0-9a-fA-F]{1,16})\s*$`)

// parseHostAddress reads the answer to gpa2hva. The error is what the hypervisor says instead.
func parseHostAddress(text string) (uint64, error) {
	m := hostAddress.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return 0, fmt.Errorf("%.100s", strings.TrimSpace(text))
	}
	return strconv.ParseUint(m[1], 16, 64)
}

// parseGuestPhysical reads the answer to gva2gpa; ok is false for an address without a page.
func parseGuestPhysical(text string) (_ uint64, ok bool) {
	digits, found := strings.CutPrefix(strings.TrimSpace(text), "gpa: 0x")
	v, err := strconv.ParseUint(digits, 16, 64)
	return v, found && err == nil
}

// statistics is an answer to query-stats.
type statistics []struct {
	Provider string
	Stats    []struct {
		Name  string
		Value json.RawMessage
	}
}

// exits sums up how often the processors came back to the host, by reason.
func (s statistics) exits() []cloud.Counter {
	var out []cloud.Counter
	at := map[string]int{}
	for _, one := range s {
		if one.Provider != "kvm" {
			continue
		}
		for _, v := range one.Stats {
			n, err := strconv.ParseInt(string(v.Value), 10, 64)
			if err != nil || n <= 0 || v.Name != "exits" && !strings.HasSuffix(v.Name, "_exits") || len(v.Name) > 64 {
				continue
			}
			if i, ok := at[v.Name]; ok {
				out[i].Value += n
				continue
			}
			if len(out) < 100 {
				at[v.Name] = len(out)
				out = append(out, cloud.Counter{Name: v.Name, Value: n})
			}
		}
	}
	return out
}

// buses is an answer to query-pci.
type buses []struct {
	Devices []pciDevice
}

type pciDevice struct {
	Bus, Slot, Function int
	Class               struct {
		Number int    `json:"class"`
		Text   string `json:"desc"`
	} `json:"class_info"`
	ID     struct{ Vendor, Device int }
	Name   string                         `json:"qdev_id"`
	Bridge *struct{ Devices []pciDevice } `json:"pci_bridge"`
}

// virtioVendor is Red Hat's number, which all virtio devices carry.
const virtioVendor = 0x1af4

// virtio names the kinds of virtio devices, by their number: those up to 0x103f are of the older form.
var virtio = map[int]string{0x1000: "network", 0x1001: "disk", 0x1002: "balloon", 0x1003: "serial ports", 0x1004: "SCSI", 0x1005: "random numbers", 0x1009: "files",
	0x1041: "network", 0x1042: "disk", 0x1043: "serial ports", 0x1044: "random numbers", 0x1045: "balloon", 0x1048: "SCSI", 0x1058: "memory"}

// maxDevices bounds the devices that are listed.
const maxDevices = 256

func (b buses) list() []cloud.PCIDevice {
	var out []cloud.PCIDevice
	var add func(list []pciDevice)
	add = func(list []pciDevice) {
		for _, d := range list {
			if len(out) == maxDevices {
				return
			}
			p := cloud.PCIDevice{Slot: fmt.Sprintf("%x:%02x.%x", d.Bus, d.Slot, d.Function), Class: fmt.Sprintf("%.60s", d.Class.Text),
				ID: fmt.Sprintf("%04x:%04x", d.ID.Vendor, d.ID.Device)}
			if kind := virtio[d.ID.Device]; d.ID.Vendor == virtioVendor && kind != "" {
				p.Class, p.Paravirtual = kind, true
			}
			if p.Class == "" {
				p.Class = fmt.Sprintf("class %04x", d.Class.Number)
			}
			out = append(out, p)
			if d.Bridge != nil {
				add(d.Bridge.Devices)
			}
		}
	}
	for _, bus := range b {
		add(bus.Devices)
	}
	return out
}
