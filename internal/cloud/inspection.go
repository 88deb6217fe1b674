package cloud

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

const (
	// MaxLookPages bounds the pages of one look.
	MaxLookPages = 512
	// PageSize is the unit of a look, in bytes, whatever sizes the tables use.
	PageSize = 4096
)

// HexAddress is a place in some memory, virtual or physical, in hexadecimal: "0x7ffd5000". It is a string because numbers of 64 bits don't
// survive every client's JSON. "" is none.
type HexAddress string

// HexAddressOf writes an address.
func HexAddressOf(v uint64) HexAddress { return HexAddress("0x" + strconv.FormatUint(v, 16)) }

// Value reads an address, with "0x" before it or without.
func (a HexAddress) Value() (uint64, error) {
	digits := strings.TrimPrefix(strings.TrimPrefix(strings.ReplaceAll(string(a), "_", ""), "0x"), "0X")
	v, err := strconv.ParseUint(digits, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("the address %.40q is not a hexadecimal number of at most 64 bits, such as 0xffffffff81000000", string(a))
	}
	return v, nil
}

// Look is what is to be found out about an instance, beside what is always told. Address and Process are for virtual machines.
type Look struct {
	Address   HexAddress // guest virtual; "" for none
	Process   string     // the id or name of a process in the guest, whose tables count; "" for those of Processor as they are now
	Pages     int64      // how many from Address on, or of Process; 0 is one, or with a process and no address one of each of its mappings
	Processor int64      // number of a virtual CPU
}

// Wants tells whether an address is to be translated.
func (l Look) Wants() bool { return l.Address != "" || l.Process != "" }

// Inspection is what a node finds when it looks inside an instance that runs. Fields marked host are about the server and about
// the instance's neighbours: they are the operator's (see WithoutHost).
type Inspection struct {
	Instance     InstanceID `json:"InstanceId"`
	ImageID      ImageID    `json:"ImageId,omitempty"` // the node does not know it
	Isolation    Isolation
	Engine       string        `json:",omitempty"` // such as "QEMU 7.2.22 (tcg, forked)"
	VM           *InsideVM     `json:",omitempty"` // of a virtual machine
	Translation  *Translation  `json:",omitempty"` // of the look's address or process
	Processes    []Process     `json:",omitempty"` // that run in a container
	MoreRunning  int64         // processes that are not in the list, which is bounded
	Confinement  *Confinement  `json:",omitempty"` // of a container, or of a virtual machine's hypervisor
	ControlGroup *ControlGroup `json:",omitempty"` // limits and use
	Footprint    *Footprint    `host:"only" json:",omitempty"`
	Root         *RootMakeup   `json:",omitempty"`
}

// Footprint is what an instance's processes take of the server's memory, in bytes.
type Footprint struct {
	PID       int64 // the first of them
	Processes int64
	Resident  int64 // mapped pages
	Share     int64 // PSS: a page that n processes map counts as an nth
	Private   int64 // mapped by one process alone
	Swapped   int64
}

// Confinement is what stands around a process on the server.
type Confinement struct {
	Namespaces      []Namespace `json:",omitempty"`
	UserIDs         []IDMapping `json:",omitempty"`
	GroupIDs        []IDMapping `json:",omitempty"`
	Capabilities    []string    `json:",omitempty"` // effective ones of its first process
	Bounding        []string    `json:",omitempty"` // those that any of its processes can have
	Seccomp         string      `json:",omitempty"` // "filter", "strict" or "off"
	NoNewPrivileges bool
}

// Namespace is one that the instance's first process is in.
type Namespace struct {
	Kind       string       `json:",omitempty"` // as in /proc/PID/ns: "net", "user" …
	Own        bool         // it is not the server's
	Inode      int64        `host:"only" json:",omitempty"`
	SharedWith []InstanceID `host:"only" json:",omitempty"` // other instances whose first process is in it
}

// IDMapping maps Count ids from Inside on to those from Host on.
type IDMapping struct {
	Inside, Count int64
	Host          int64 `host:"only" json:",omitempty"`
}

// Process is one of a container's.
type Process struct {
	PID     int64  // inside
	Parent  int64  // inside; 0 for the first, and for those that were started from outside
	HostPID int64  `host:"only" json:",omitempty"`
	Name    string `json:",omitempty"`
	Share   int64  `host:"only" json:",omitempty"` // PSS, in bytes
}

// ControlGroup is an instance's limits and what it used. Limits of 0 are none. Times are milliseconds, sizes bytes.
type ControlGroup struct {
	Version     int64   // 1 or 2
	Path        string  `host:"only" json:",omitempty"`
	CPUQuota    float64 // processors' worth of time
	CPUWeight   int64   // share under contention: cpu.weight (100 is ordinary) in version 2, cpu.shares (1024) in version 1
	CPUTime     int64
	Periods     int64 // in which it ran with a quota
	Throttled   int64 // periods in which the quota stopped it
	ThrottledMs int64 // how long it was stopped
	MemoryLimit int64
	Memory      int64 // files that are cached for it counted
	MemoryPeak  int64 // 0 where the kernel does not tell
	OOMKills    int64
	PIDLimit    int64
	PIDs        int64
	BytesRead   int64 // from disks
	BytesWrote  int64
	Reads       int64
	Writes      int64
}

// RootMakeup is what an instance's root disk is made of: the image's layers, and what the instance wrote over them.
type RootMakeup struct {
	Digest   string        `json:",omitempty"` // the image's
	Layers   []LayerMakeup `json:",omitempty"`
	Written  int64         // bytes on the server that are the instance's alone: copied on the first write, or new
	Disk     string        `json:",omitempty"` // of a virtual machine: what its overlay is laid over, such as "ext4 made of the layers"
	DiskSize int64         // bytes that the base takes on the server, once for all instances of the image
}

// LayerMakeup is a layer of an image, the lowest first.
type LayerMakeup struct {
	Digest     string       `json:",omitempty"` // of its unpacked content
	Size       int64        // bytes on the server, unpacked
	Images     []string     `json:",omitempty"` // that stand on it: digests, as the node knows them; ids for callers
	SharedWith []InstanceID `json:",omitempty"` // other instances of those images on the server
}

// WithoutHost is an inspection without what is the operator's: everything about the server, and other accounts' instances and
// images. mine tells which instances, known which images the caller may know of.
func (i Inspection) WithoutHost(mine func(InstanceID) bool, known func(digest string) bool) Inspection {
	v := reflect.New(reflect.TypeFor[Inspection]()).Elem()
	v.Set(reflect.ValueOf(i))
	i = withoutHost(v).Interface().(Inspection)
	if i.Root != nil {
		for n := range i.Root.Layers {
			l := &i.Root.Layers[n]
			l.Images = keep(l.Images, known)
			l.SharedWith = keep(l.SharedWith, mine)
		}
	}
	return i
}

func keep[T any](list []T, wanted func(T) bool) []T {
	var out []T
	for _, v := range list {
		if wanted(v) {
			out = append(out, v)
		}
	}
	return out
}

// withoutHost copies a value without the fields that are marked.
func withoutHost(v reflect.Value) reflect.Value {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return v
		}
		out := reflect.New(v.Type().Elem())
		out.Elem().Set(withoutHost(v.Elem()))
		return out
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for n := range v.Len() {
			out.Index(n).Set(withoutHost(v.Index(n)))
		}
		return out
	case reflect.Struct:
		out := reflect.New(v.Type()).Elem()
		for n := range v.NumField() {
			if v.Type().Field(n).Tag.Get("host") == "" {
				out.Field(n).Set(withoutHost(v.Field(n)))
			}
		}
		return out
	}
	return v
}
