package agent

import (
	"slices"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

func TestImagesOfAnotherArchitectureAreOfVirtualMachinesAlone(t *testing.T) {
	other := map[string]string{"x86_64": "arm64", "arm64": "x86_64"}[Architecture]
	for architecture, want := range map[string][]cloud.Isolation{
		Architecture: {cloud.IsolationContainer, cloud.IsolationVM},
		other:        {cloud.IsolationVM},
	} {
		layers := image.Image{Digest: "sha256:layers", Architecture: architecture}
		if got := imported(layers, ""); got.Isolation != want[0] || got.Architecture != architecture {
			t.Errorf("one of %s is imported as %+v", architecture, got)
		}
		kernel, ramdisk := image.Image{Digest: "sha256:k", Kind: image.KindKernel, Architecture: architecture}, image.Image{Digest: "sha256:r", Kind: image.KindRamdisk, Architecture: architecture}
		made := bakedImages(image.Baked{Image: layers, Kernel: &kernel, Ramdisk: &ramdisk})
		if len(made) != 2+len(want) || made[0].Type != cloud.ImageRamdisk || made[1].Hardware.RamdiskDigest != "sha256:r" {
			t.Fatalf("baked for %s: %+v", architecture, made)
		}
		for n, isolation := range want {
			i := made[2+n]
			if i.Isolation != isolation || (i.Suffix == "") != (n == 0) || (i.Hardware.KernelDigest != "") != (isolation == cloud.IsolationVM) {
				t.Errorf("baked for %s: %+v", architecture, i)
			}
		}
	}
}

func TestAnImageThatNobodyKeepsAtTwoLooksGoes(t *testing.T) {
	im := &imports{active: map[cloud.ImportTaskID]*importRun{}, fresh: map[string]bool{"brought": true}}
	found := []image.Image{{Digest: "brought"}, {Digest: "kept"}, {Digest: "old"}}
	look := func(want ...string) {
		t.Helper()
		if got := im.unkept(found); !slices.Equal(got, want) {
			t.Errorf("it removes %v, not %v", got, want)
		}
	}
	look() // the control plane has not said what it keeps
	look()
	im.keep([]string{"kept"})
	look()
	im.keep([]string{"kept", "old"}) // registered again
	look()
	im.keep([]string{"kept"})
	look()
	im.active["import-ami-1"] = &importRun{}
	look() // it may be bringing one
	im.active["import-ami-1"].result = &agentrpc.ImportStatus{}
	look()
	look("old")
	im.keep([]string{"brought"})
	look("old")
	look("kept", "old")
}
