package cloud

import (
	"fmt"
	"strconv"
)

// Tags by which an instance's owner says how much of a server it has, and the cloud's own that tells how far that is.
const (
	// TagCPUs is the number of virtual CPUs, from 1 to MaxCPUs, in the place of the type's.
	TagCPUs = "nacre:cpus"
	// TagMemory is the memory in MiB, from MinMemoryMiB to MaxMemoryMiB, in the place of the type's.
	TagMemory = "nacre:memory"
	// TagLiveResize, when it is "true", lets the type of an instance change while it runs. EC2 refuses that.
	TagLiveResize = "nacre:live-resize"
	// TagResize is "pending" while a server changes the size of a running instance, and "failed: …" after it couldn't.
	TagResize = "aws:nacre:resize"

	ResizePending = "pending"
	ResizeFailed  = "failed: "
)

// Bounds of what an instance may ask for. What it gets is bounded by the servers that there are.
const (
	MaxCPUs      = 1024
	MinMemoryMiB = 64
	MaxMemoryMiB = 32 << 20
)

// Sizing is how much of a server an instance is to have.
type Sizing struct {
	Type      InstanceType
	CPUs      int   // virtual CPUs, 0 for the type's
	MemoryMiB int64 // 0 for the type's
}

// Info is the type's with what stands in its place; ok is false for types that are not known.
func (s Sizing) Info() (info InstanceTypeInfo, ok bool) {
	info, ok = LookupInstanceType(s.Type)
	if s.CPUs > 0 {
		info.VCPUs = s.CPUs
	}
	if s.MemoryMiB > 0 {
		info.MemoryMiB = s.MemoryMiB
	}
	return info, ok
}

// Size is what an instance is to have.
func (i *Instance) Size() (InstanceTypeInfo, bool) { return i.Sizing().Info() }

// Sizing is what the instance asks for.
func (i *Instance) Sizing() Sizing { return Sizing{i.Type, i.CPUs, i.MemoryMiB} }

// Reserved is what an instance needs of its server: while a change of its size is on its way, the larger of both.
func (i *Instance) Reserved() (InstanceTypeInfo, bool) {
	size, ok := i.Size()
	if i.Before == nil {
		return size, ok
	}
	if before, known := i.Before.Info(); known {
		size.VCPUs, size.MemoryMiB = max(size.VCPUs, before.VCPUs), max(size.MemoryMiB, before.MemoryMiB)
		if size.Burstable() && before.Burstable() {
			size.BaselinePercent = max(size.BaselinePercent, before.BaselinePercent)
		} else {
			size.BaselinePercent = 0 // one of them has its CPUs whole
		}
	}
	return size, ok
}

// SizeTags reads what tags put in the place of a type's CPUs and memory, 0 for what they don't. Its errors are sentences for
// the tags' owner.
func SizeTags(tags Tags) (cpus int, memoryMiB int64, err error) {
	read := func(key string, low, high int64, unit string) int64 {
		text, ok := tags[key]
		if !ok || err != nil {
			return 0
		}
		n, wrong := strconv.ParseInt(text, 10, 64)
		if wrong != nil || n < low || n > high || strconv.FormatInt(n, 10) != text {
			err = fmt.Errorf("the value '%s' of the tag %s is not a number of %s from %d to %d", text, key, unit, low, high)
		}
		return n
	}
	cpus = int(read(TagCPUs, 1, MaxCPUs, "virtual CPUs"))
	memoryMiB = read(TagMemory, MinMemoryMiB, MaxMemoryMiB, "MiB")
	return cpus, memoryMiB, err
}

// SetSizing gives an instance a size, and the tags that say so.
func (i *Instance) SetSizing(s Sizing) {
	i.Type, i.CPUs, i.MemoryMiB = s.Type, s.CPUs, s.MemoryMiB
	if i.Tags == nil {
		i.Tags = Tags{}
	}
	for key, n := range map[string]int64{TagCPUs: int64(s.CPUs), TagMemory: s.MemoryMiB} {
		if delete(i.Tags, key); n > 0 {
			i.Tags[key] = strconv.FormatInt(n, 10)
		}
	}
}

// Resized ends a change of a running instance's size, which failed for a reason or, without one, is done. It tells whether one
// was on its way.
func (i *Instance) Resized(failure string) bool {
	if i.Before == nil {
		return false
	}
	delete(i.Tags, TagResize)
	if failure != "" {
		i.SetSizing(*i.Before)
		i.Tags[TagResize] = tagText(ResizeFailed + failure)
	}
	i.Before = nil
	return true
}

// tagText is as much of a text as a tag's value holds.
func tagText(text string) string {
	for n := range text { // whole characters, of which none has more than four bytes
		if n > MaxTagValueLength-4 {
			return text[:n]
		}
	}
	return text
}
