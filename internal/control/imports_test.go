package control

import (
	"slices"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// bring finishes an import of one account that brings images.
func (w *world) bring(name string, images ...agentrpc.Imported) *cloud.ImportTask {
	w.t.Helper()
	task := cloud.ImportTask{ID: cloud.NewID[cloud.ImportTaskID](w.rand), Account: w.region.Root, Name: name, Node: w.node.ID, State: cloud.ImportActive, Created: start}
	w.update(func(tx *store.Tx) { store.Put(tx, store.ImportTasks, &task) })
	if err := applyImport(w.t.Context(), w.store, w.node.ID, agentrpc.ImportStatus{Task: task.ID, Done: true, Images: images}, start); err != nil {
		w.t.Fatal(err)
	}
	done, _ := store.Get(w.store.View(), store.ImportTasks, task.ID)
	return done
}

func (w *world) named(name string) *cloud.Image {
	w.t.Helper()
	for _, i := range store.List(w.store.View(), store.Images) {
		if i.Name == name {
			return i
		}
	}
	w.t.Fatalf("no image is called %s", name)
	return nil
}

func TestAnImportedKernelKnowsItsRAMDiskAndBothAreKept(t *testing.T) {
	w := newWorld(t)
	vm := cloud.Hardware{KernelDigest: "sha256:k", RamdiskDigest: "sha256:r"}
	task := w.bring("debian-12",
		agentrpc.Imported{Suffix: "-kernel", Type: cloud.ImageKernel, Digest: "sha256:k", Architecture: "x86_64"},
		agentrpc.Imported{Suffix: "-ramdisk", Type: cloud.ImageRamdisk, Digest: "sha256:r", Architecture: "x86_64"},
		agentrpc.Imported{Digest: "sha256:l", Architecture: "x86_64"},
		agentrpc.Imported{Suffix: "-vm", Digest: "sha256:l", Isolation: cloud.IsolationVM, Hardware: vm, Architecture: "x86_64"})
	if task.State != cloud.ImportCompleted || task.Image != w.named("debian-12").ID {
		t.Fatalf("the import ended as %s (%s) with %s", task.State, task.Message, task.Image)
	}
	kernel, ramdisk, machine := w.named("debian-12-kernel"), w.named("debian-12-ramdisk"), w.named("debian-12-vm")
	if kernel.Hardware.Ramdisk != ramdisk.ID || kernel.Hardware.RamdiskDigest != "sha256:r" {
		t.Errorf("the kernel goes with %+v", kernel.Hardware)
	}
	if machine.Hardware.Kernel != kernel.ID || machine.Hardware.Ramdisk != ramdisk.ID || machine.Tags[cloud.TagIsolation] != "vm" {
		t.Errorf("the virtual machines' image is %+v", machine)
	}
	if container := w.named("debian-12"); container.Hardware != (cloud.Hardware{}) || container.Tags[cloud.TagIsolation] != "" {
		t.Errorf("the containers' image is %+v", container)
	}
	w.update(func(tx *store.Tx) { // what runs keeps what it was started with, whatever became of the images
		for _, i := range store.List(tx, store.Images) {
			store.Delete(tx, store.Images, i.ID)
		}
	})
	id := w.launch("t3.micro", 10)
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, id)
		i.ImageDigest, i.Hardware = "sha256:l", vm
		store.Put(tx, store.Instances, i)
	})
	if kept := imagesToKeep(w.store.View()); !slices.Equal(kept, []string{"sha256:k", "sha256:l", "sha256:r"}) {
		t.Errorf("kept are %v", kept)
	}
}
