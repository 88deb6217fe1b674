//go:build slow

package slow

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// patience is how long a translated Debian may take to do anything, beside whatever else the host runs.
const patience = 15 * time.Minute

// until waits until a command inside says what is wanted.
func until(t *testing.T, m *cloudtest.Machine, what, command string, right func(out string, code int) bool) string {
	t.Helper()
	var last string
	cloudtest.WaitFor(t, patience, what, func() error {
		out, code := m.Try(command)
		last = strings.TrimSpace(out)
		if !right(last, code) {
			return fmt.Errorf("%q says %q (%d)", command, last, code)
		}
		return nil
	})
	return last
}

func TestAWholeDebianIsSetUpByItsOwnCloudInit(t *testing.T) {
	c := cloudtest.Start(t)
	c.Nacre("image", "bake", "debian-12-cloud")
	image := c.ImageID("debian-12-cloud")
	key, group := c.KeyPair("k"), c.Group("ssh", 22)
	launch := func(image, data string) types.Instance {
		encoded := base64.StdEncoding.EncodeToString([]byte(data))
		return c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(group), cloudtest.WithUserData(encoded), func(in *ec2.RunInstancesInput) {
			in.ImageId, in.InstanceType = &image, types.InstanceTypeT3Micro
			in.HibernationOptions = &types.HibernationOptionsRequest{Configured: new(true)}
			in.MetadataOptions = &types.InstanceMetadataOptionsRequest{HttpTokens: types.HttpTokensStateRequired}
		})
	}
	vm := launch(image, "#cloud-config\nwrite_files:\n- path: /etc/motd\n  content: \"made by cloud-config\\n\"\nruncmd:\n- [touch, /var/ran]\n")
	id := *vm.InstanceId
	m := c.SSH(vm, "admin", key)
	until(t, m, "cloud-init to be done", "cloud-init status", func(out string, _ int) bool { return out == "status: done" })
	if got := m.Run("cat /etc/motd; ls /var/ran; cloud-id; hostname; sudo -n id -u"); got != "made by cloud-config\n/var/ran\naws\n"+strings.Split(*vm.PrivateDnsName, ".")[0]+"\n0" {
		t.Errorf("cloud-init made of it %q", got)
	}
	if got := m.Run("ip -o -4 addr show scope global | tr -s ' ' | cut -d' ' -f4 | cut -d/ -f1"); got != *vm.PrivateIpAddress {
		t.Errorf("its address is %q, not %s", got, *vm.PrivateIpAddress)
	}
	if got := m.Run("df --output=size -BG / | tail -n 1 | tr -d ' G'"); got != "8" && got != "7" {
		t.Errorf("its root has %s GiB", got)
	}
	if got := m.Run("systemctl --failed --no-legend"); got != "" {
		t.Errorf("units failed: %q", got)
	}
	// The server that answers is its own, with keys of its own.
	if got := m.Run("cat /etc/ssh/ssh_host_ed25519_key.pub; sudo -n ss -tlnp sport = :22"); !strings.Contains(got, "sshd") || !strings.Contains(got, "ssh-ed25519") {
		t.Errorf("port 22 is answered by %q", got)
	}

	boot := m.Run("cat /proc/sys/kernel/random/boot_id; echo kept >kept; sync")
	same := func(out string, code int) bool { return code == 0 && out == boot }
	c.Kill()
	c.Up()
	until(t, m, "it to go on beside a new manager", "cat /proc/sys/kernel/random/boot_id", same)
	m.Run("echo here >/dev/shm/memory")
	c.Nacre("stop", "--hibernate", id)
	c.WaitState(id, types.InstanceStateNameStopped)
	c.Nacre("start", id)
	vm = c.WaitState(id, types.InstanceStateNameRunning)
	m = c.SSH(vm, "admin", key)
	until(t, m, "it to go on where it was", "cat /proc/sys/kernel/random/boot_id", same)
	if got := m.Run("cat /dev/shm/memory"); got != "here" {
		t.Errorf("its memory says %q", got)
	}

	// Reboot and stop press the power button: systemd shuts down, and the next boot knows; unless its time ran out, of which nacre tells.
	clean := func() {
		t.Helper()
		other := func(out string, code int) bool { return code == 0 && out != "" && out != boot }
		boot = until(t, m, "it to boot anew", "cat /proc/sys/kernel/random/boot_id", other)
		late := strings.Contains(c.Log(), "machine is killed, as it did not end in its grace")
		if got := m.Run("cat kept; sudo -n journalctl --boot -1 --lines 20 --output cat | grep -c 'Reached target.*\\(shutdown\\|poweroff\\|final\\)' || true"); !strings.HasPrefix(got, "kept\n") || got == "kept\n0" && !late {
			t.Errorf("it did not shut down: %q", got)
		}
	}
	if _, err := c.EC2.RebootInstances(t.Context(), &ec2.RebootInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	clean()
	c.Nacre("stop", id)
	c.WaitFor(patience, id+" to be stopped", func() error {
		if s := c.Describe(id).State.Name; s != types.InstanceStateNameStopped {
			return fmt.Errorf("it is %s", s)
		}
		return nil
	})
	c.Nacre("start", id)
	vm = c.WaitState(id, types.InstanceStateNameRunning)
	m = c.SSH(vm, "admin", key)
	clean()

	// It has no program of nacre's: memory that is plugged in is taken in and given back by its own kernel.
	mebibytes := func() int {
		n := 0
		if _, err := fmt.Sscan(m.Run("awk '/^MemTotal/ {print int($2/1024)}' /proc/meminfo"), &n); err != nil {
			t.Error(err)
		}
		return n
	}
	had := mebibytes()
	if out, err := c.Try("resize", id, "--memory", "1280MiB"); err != nil {
		t.Errorf("more memory: %v\n%s", err, out)
	} else if has := mebibytes(); has < had+200 || has > had+300 {
		t.Errorf("it had %d MiB, and with 256 more has %d", had, has)
	} else if out, err := c.Try("resize", id, "--memory", "0"); err != nil {
		t.Errorf("its memory is not taken back: %v\n%s", err, out)
	} else if has := mebibytes(); has > had+8 {
		t.Errorf("it had %d MiB, and has %d again", had, has)
	}
	c.Terminate(id)

	// The same disk starts by UEFI too; user data may be a script.
	out, err := c.EC2.RegisterImage(t.Context(), &ec2.RegisterImageInput{Name: new("debian-12-uefi"), ImageLocation: &image, BootMode: types.BootModeValuesUefi})
	if err != nil {
		t.Fatal(err)
	}
	vm = launch(*out.ImageId, "#!/bin/sh\necho script ran >/var/ran\n")
	m = c.SSH(vm, "admin", key)
	until(t, m, "the script to have run", "cat /var/ran", func(out string, code int) bool { return code == 0 && out == "script ran" })
	if got := m.Run("ls -d /sys/firmware/efi"); got != "/sys/firmware/efi" {
		t.Errorf("it was started by %q", got)
	}
	c.Terminate(*vm.InstanceId)
}
