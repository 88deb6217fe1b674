package e2e

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"

	"github.com/nacre-cloud/nacre/internal/agent/machine/machinetest"
	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// consoleKey makes a key for the consoles and returns its file and its public half.
func consoleKey(t *testing.T) (file, public string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return file, string(bytes.TrimSpace(b))
}

// serial is OpenSSH's client at an instance's serial console.
func serial(t *testing.T, c *cloudtest.Cloud, id, key string) *exec.Cmd {
	t.Helper()
	at, err := url.Parse(c.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command("ssh", "-p", at.Port(), "-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-tt", "-e", "none", id+".port0@"+at.Hostname())
}

func TestAConsoleIsTypedToByManyAndOutlivesManagersAndReboots(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	c.Nacre("image", "bake", "linux")
	c.Nacre("run", "busybox", "--vm", "--name", "echo", "--", "sh", "-c", `while read l </dev/ttyS0; do echo "you said $l"; done`)
	found, err := c.EC2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: []types.Filter{{Name: new("tag:Name"), Values: []string{"echo"}}}})
	if err != nil {
		t.Fatal(err)
	}
	id := *found.Reservations[0].Instances[0].InstanceId
	if out, err := c.Try("console", "echo"); err == nil || !strings.Contains(out, "enable-serial-console-access") {
		t.Errorf("consoles are not allowed, and it says %q, %v", out, err)
	}
	key, public := consoleKey(t)
	push := func() error {
		_, err := c.Connect.SendSerialConsoleSSHPublicKey(t.Context(), &ec2instanceconnect.SendSerialConsoleSSHPublicKeyInput{InstanceId: &id, SSHPublicKey: &public, SerialPort: 0})
		return err
	}
	cloudtest.WantCode(t, push(), "SerialConsoleAccessDisabledException")
	if _, err := c.EC2.EnableSerialConsoleAccess(t.Context(), &ec2.EnableSerialConsoleAccessInput{}); err != nil {
		t.Fatal(err)
	}
	if out, err := serial(t, c, id, key).CombinedOutput(); err == nil || !strings.Contains(string(out), "denied") {
		t.Errorf("a key that nobody pushed: %q, %v", out, err)
	}
	if err := push(); err != nil {
		t.Fatal(err)
	}
	one := cloudtest.Converse(t, serial(t, c, id, key))
	one.Echoes("hello\r", "you said hello")
	two := c.TalkTo("console", "echo")
	two.Echoes("again\n", "you said again")
	one.Hears("you said again")
	if out, err := c.Try("console", "--vnc", "echo"); err == nil || !strings.Contains(out, "no screen") {
		t.Errorf("its screen: %q, %v", out, err)
	}

	// The connections end with the manager, the machine doesn't.
	c.Kill()
	if err := two.End(); err == nil || !strings.Contains(two.Said(), "the machine goes on") {
		t.Errorf("%v, it says %q", err, two.Said())
	}
	c.Up()
	three := c.TalkTo("console", "echo")
	three.Echoes("still there\n", "you said still there")

	// A session goes on over a reboot, and ends with a stop.
	if _, err := c.EC2.RebootInstances(t.Context(), &ec2.RebootInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	three.Hears(" is up")
	three.Echoes("rebooted\n", "you said rebooted")
	c.Nacre("stop", "echo")
	if err := three.End(); err != nil || !strings.Contains(three.Said(), "has ended") {
		t.Errorf("%v, it says %q", err, three.Said())
	}
	cloudtest.WantCode(t, push(), "EC2InstanceStateInvalidException")
	if out, err := c.Try("console", "echo"); err == nil || !strings.Contains(out, "is stopped") {
		t.Errorf("stopped, it says %q, %v", out, err)
	}
}

func TestAContainersConsoleIsReadOnly(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	c.Nacre("run", "busybox", "--name", "talks", "--", "sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done")
	console := c.TalkTo("console", "--allow", "talks")
	console.Say("what nobody reads\n")
	console.Hears("takes no input")
	console.Hears("line ")
	if said := console.Said(); strings.Contains(said, "nobody reads") {
		t.Errorf("it says %q", said)
	}
	followed := c.TalkTo("logs", "--follow", "talks")
	followed.Hears(fmt.Sprintf("line %d\n", 20))
}

func TestAnyOperatingSystemOfAPCHasAScreenAndAKeyboard(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	disk := filepath.Join(t.TempDir(), "old-pc.img")
	machinetest.MakeBootDisk(t, disk)
	c.Nacre("image", "import", disk, "--devices", "emulated")
	c.Nacre("run", "old-pc", "--name", "pc")
	console := c.TalkTo("console", "--allow", "pc")
	console.Echoes("typed", "typed")
	if logs := c.Nacre("logs", "pc"); !strings.Contains(logs, machinetest.BootDiskText) {
		t.Errorf("the log says %q", logs)
	}

	screen, port := c.OfferScreen("pc")
	for n, s := range []*machinetest.Screen{c.View(port), c.View(port)} {
		keys := fmt.Sprintf("viewer %d", n)
		if err := s.Type(keys); err != nil {
			t.Fatal(err)
		}
		console.Hears(keys)
	}

	c.Kill()
	if err := screen.End(); err == nil || !strings.Contains(screen.Said(), "the machine goes on") {
		t.Errorf("%v, it says %q", err, screen.Said())
	}
	c.Up()
	_, port = c.OfferScreen("pc")
	c.View(port)

	// Hibernated, what was on the screen is there again; no paravirtual device is needed for any of it.
	c.Nacre("stop", "--hibernate", "pc")
	c.Nacre("start", "pc")
	_, port = c.OfferScreen("pc")
	s := c.View(port)
	console = c.TalkTo("console", "pc")
	console.Echoes("resumed", "resumed")
	if err := s.Type(" by keyboard"); err != nil {
		t.Fatal(err)
	}
	console.Hears(" by keyboard")
}
