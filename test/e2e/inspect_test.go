package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// inspect is what the command finds, as JSON.
func inspect(c *cloudtest.Cloud, t *testing.T, args ...string) cloud.Inspection {
	t.Helper()
	var found cloud.Inspection
	if err := json.Unmarshal([]byte(c.Nacre(append([]string{"inspect", "-o", "json"}, args...)...)), &found); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestALookInsideAContainerShowsItsWallsItsUseAndItsLayers(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	one, two := *c.Launch().InstanceId, *c.Launch().InstanceId
	found := inspect(c, t, one)
	if found.Isolation != cloud.IsolationContainer || len(found.Processes) == 0 || found.Footprint == nil || found.Footprint.Share == 0 || found.ControlGroup.MemoryLimit == 0 {
		t.Errorf("%+v", found)
	}
	if l := found.Root.Layers; len(l) == 0 || len(l[0].SharedWith) != 1 || string(l[0].SharedWith[0]) != two || len(l[0].Images) != 1 || l[0].Images[0] != string(found.ImageID) {
		t.Errorf("its layers are %+v", l)
	}
	if uid := found.Confinement.UserIDs; len(uid) != 1 || uid[0].Host == inspect(c, t, two).Confinement.UserIDs[0].Host {
		t.Errorf("its users are %+v", uid)
	}
	c.Kill() // whoever comes next sees the same machine
	c.Up()
	c.WaitFor(30*time.Second, "the node to be back", func() error {
		_, err := c.Try("inspect", one)
		return err
	})
	if again := inspect(c, t, one); again.Footprint.PID != found.Footprint.PID || again.Confinement.UserIDs[0] != found.Confinement.UserIDs[0] {
		t.Errorf("%+v is not %+v", again, found)
	}
	text := c.Nacre("inspect", one)
	for _, want := range []string{"CONTROL GROUP", "net namespace", "LAYERS", two, "0 to 65535", "PSS"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	for args, want := range map[string]string{one + " --address 0x1000": "container", one + " --address main": "hexadecimal", one + " --pages 3": "--address", "nobody": "nobody"} {
		if out, err := c.Try(append([]string{"inspect"}, strings.Fields(args)...)...); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v, %s", args, err, out)
		}
	}
	c.Nacre("stop", two)
	if out, err := c.Try("inspect", two); err == nil || !strings.Contains(out, "is stop") {
		t.Errorf("stopped: %v, %s", err, out)
	}
}

func TestALookInsideAVirtualMachineFollowsAnAddressToTheServersMemory(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	c.Nacre("image", "bake", "linux")
	c.Nacre("run", "busybox", "--vm", "--type", "t3.nano", "--name", "v")
	c.WaitFor(90*time.Second, "the guest's program", func() error {
		if found := inspect(c, t, "v"); found.VM == nil || found.VM.Guest != "in touch" {
			return fmt.Errorf("it is %+v", found.VM)
		}
		return nil
	})
	found := inspect(c, t, "v")
	if found.VM.Accelerator != "tcg" || found.VM.Reason == "" || found.VM.Translator == nil || found.VM.KernelID == "" || found.Root.Written == 0 || found.Root.DiskSize == 0 {
		t.Errorf("%+v, %+v", found.VM, found.Root)
	}
	// A Go program's image begins where its first mapping does, with the letters of an ELF file.
	first := inspect(c, t, "v", "--process", "nacre-guest").Translation.Pages[0]
	page := inspect(c, t, "v", "--process", "1", "--address", string(first.Virtual)).Translation.Pages[0]
	if page.Problem != "" || page.HostVirtual == "" || page.Physical != first.Physical || len(page.Levels) < 4 {
		t.Fatalf("%+v", page)
	}
	at, err := page.HostVirtual.Value()
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", found.Footprint.PID))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	letters := make([]byte, 4)
	if _, err := mem.ReadAt(letters, int64(at)); err != nil || string(letters) != "\x7fELF" {
		t.Errorf("there is %q, %v", letters, err)
	}
	text := c.Nacre("inspect", "v", "--process", "1", "--address", string(first.Virtual))
	for _, want := range []string{"PML4", "guest physical", "host virtual", "host physical", string(page.HostVirtual)} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if table := c.Nacre("inspect", "v", "--process", "1", "--address", string(first.Virtual), "--pages", "5"); strings.Count(table, "nacre-guest") != 6 {
		t.Errorf("five pages are\n%s", table)
	}
	if out, err := c.Try("inspect", "v", "--process", "nobody"); err == nil || !strings.Contains(out, "no process") {
		t.Errorf("nobody: %v, %s", err, out)
	}
}
