package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// launched runs an image and returns what was launched.
func (c *testCloud) launched(args ...string) (instanceView, string) {
	c.t.Helper()
	out, said, err := c.nacre(append([]string{"run", "-o", "json", "--wait=false"}, args...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	var list []instanceView
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 {
		c.t.Fatalf("printed %s: %v", out, err)
	}
	return list[0], said
}

func TestRunVMMakesTheImageOfVirtualMachinesOnce(t *testing.T) {
	c := newTestCloud(t)
	plain := c.image("", "debian-12")
	if _, _, err := c.nacre("run", "debian-12", "--vm"); err == nil || !strings.Contains(err.Error(), "nacre image bake linux-amd64") {
		t.Errorf("without a kernel it says %v", err)
	}
	c.image(cloud.ImageKernel, "linux")
	first, said := c.launched("debian-12", "--vm")
	if first.Isolation != "vm" || !strings.Contains(said, "debian-12-vm") || !strings.Contains(said, "linux") {
		t.Errorf("launched %+v and said %q", first, said)
	}
	second, said := c.launched("debian-12", "--vm")
	if second.Image != first.Image || strings.Contains(said, "made") {
		t.Errorf("launched %+v and said %q", second, said)
	}
	if same, _ := c.launched("debian-12-vm", "--vm"); same.Image != first.Image {
		t.Errorf("launched %+v", same)
	}
	if container, _ := c.launched("debian-12"); container.Isolation != "container" || container.Image != string(plain) {
		t.Errorf("launched %+v", container)
	}
	out, _, err := c.nacre("ls")
	if err != nil || strings.Count(out, " vm ") != 3 || strings.Count(out, " container ") != 1 {
		t.Errorf("ls prints %s (%v)", out, err)
	}
}

func TestImageLsSaysWhatImagesAreFor(t *testing.T) {
	c := newTestCloud(t)
	c.image("", "plain")
	c.image("", "whole-vm", func(i *cloud.Image) {
		i.Isolation, i.Tags = cloud.IsolationVM, cloud.Tags{cloud.TagIsolation: "vm"}
	})
	kernel := c.image(cloud.ImageKernel, "linux")
	c.image(cloud.ImageRamdisk, "initrd")
	out, _, err := c.nacre("image", "ls")
	if err != nil {
		t.Fatal(err)
	}
	for name, kind := range map[string]string{"plain": "container", "whole-vm": "vm", "linux": "kernel", "initrd": "ramdisk"} {
		found := false
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			found = found || len(f) > 2 && f[1] == name && f[2] == kind
		}
		if !found {
			t.Errorf("%s is not shown as %s in %s", name, kind, out)
		}
	}
	if _, _, err := c.nacre("image", "rm", strings.TrimPrefix(string(kernel), "aki-")[:8]); err != nil {
		t.Error("the beginning of a kernel's id means nothing:", err)
	}
	out, _, _ = c.nacre("__complete", "run", "")
	if !strings.Contains(out, "plain\tcontainer") || !strings.Contains(out, "whole-vm\tvm") || strings.Contains(out, "linux") {
		t.Errorf("completes to %s", out)
	}
}

func TestAnImageForArmIsLaunchedOnATypeForArm(t *testing.T) {
	c := newTestCloud(t)
	c.image("", "arm-vm", func(i *cloud.Image) {
		i.Architecture, i.Isolation, i.Tags = "arm64", cloud.IsolationVM, cloud.Tags{cloud.TagIsolation: "vm"}
		i.Hardware = cloud.Hardware{Content: cloud.ContentDisk, Firmware: cloud.FirmwareUEFI}
	})
	if i, _ := c.launched("arm", "--vm"); i.Type != "t4g.micro" {
		t.Errorf("launched %+v", i)
	}
}

func TestRunLaunchesVirtualMachinesThatCanHibernate(t *testing.T) {
	c := newTestCloud(t)
	c.image("", "plain")
	c.image(cloud.ImageKernel, "linux")
	vm, _ := c.launched("plain", "--vm")
	container, _ := c.launched("plain")
	for _, i := range []instanceView{vm, container} {
		c.running(i.ID)
	}
	if _, _, err := c.nacre("stop", "--hibernate", "--wait=false", vm.ID); err != nil {
		t.Error(err)
	}
	if r, _ := store.Get(c.store.View(), store.Instances, cloud.InstanceID(vm.ID)); !r.Hibernate || r.Desired != cloud.DesiredStopped {
		t.Errorf("its node is told %+v", r)
	}
	if _, _, err := c.nacre("stop", "--hibernate", "--wait=false", container.ID); err == nil {
		t.Error("a container hibernates")
	}
	if _, _, err := c.nacre("stop", "--force", "--hibernate", "--wait=false", container.ID); err == nil {
		t.Error("a machine is stopped at once and hibernates")
	}
	if _, _, err := c.nacre("stop", "--force", "--wait=false", container.ID); err != nil {
		t.Error(err)
	}
	if r, _ := store.Get(c.store.View(), store.Instances, cloud.InstanceID(container.ID)); !r.ForceStop || r.Desired != cloud.DesiredStopped {
		t.Errorf("its node is told %+v", r)
	}
}
