package cloud_test

import (
	"strconv"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

func FuzzSizeTags(f *testing.F) {
	for _, s := range []string{"1", "1024", "1025", "0", "-1", "+1", "01", "1e3", " 1", "64", "33554432", "99999999999999999999", ""} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, cpus, memory string) {
		c, m, err := cloud.SizeTags(cloud.Tags{cloud.TagCPUs: cpus, cloud.TagMemory: memory})
		if err != nil {
			return
		}
		if c < 1 || c > cloud.MaxCPUs || m < cloud.MinMemoryMiB || m > cloud.MaxMemoryMiB || strconv.Itoa(c) != cpus || strconv.FormatInt(m, 10) != memory {
			t.Errorf("%q and %q are %d CPUs and %d MiB", cpus, memory, c, m)
		}
		i := cloud.Instance{Type: "t3.micro"}
		i.SetSizing(cloud.Sizing{Type: "t3.micro", CPUs: c, MemoryMiB: m})
		if i.Tags[cloud.TagCPUs] != cpus || i.Tags[cloud.TagMemory] != memory {
			t.Errorf("written back they are %v", i.Tags)
		}
	})
}

func TestWhatAChangingInstanceReservesIsTheLargerOfBoth(t *testing.T) {
	i := cloud.Instance{Type: "m5.large", MemoryMiB: 512, Before: &cloud.Sizing{Type: "t3.micro", CPUs: 8}}
	size, ok := i.Reserved()
	if !ok || size.VCPUs != 8 || size.MemoryMiB != 1024 || size.Burstable() {
		t.Errorf("reserved are %d CPUs at %d %% and %d MiB", size.VCPUs, size.BaselinePercent, size.MemoryMiB)
	}
	i = cloud.Instance{Type: "t3.nano", Before: &cloud.Sizing{Type: "t3.large"}}
	if size, _ := i.Reserved(); size.BaselinePercent != 30 || size.MemoryMiB != 8192 {
		t.Errorf("of two burstable sizes %d %% and %d MiB are reserved", size.BaselinePercent, size.MemoryMiB)
	}
}
