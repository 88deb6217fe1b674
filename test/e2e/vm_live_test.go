package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// hypervisorShare is what a hypervisor may use beside its guest's memory, in MiB.
const hypervisorShare = 320

// inside waits until a machine says something.
func inside(c *cloudtest.Cloud, m *cloudtest.Machine, what, command string, right func(said string) bool) {
	c.WaitFor(60*time.Second, what, func() error {
		if said, code := m.Try(command); code != 0 || !right(strings.TrimSpace(said)) {
			return fmt.Errorf("it says %q (%d)", said, code)
		}
		return nil
	})
}

func TestAForkedVirtualMachineChangesWhileItRuns(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	c.Nacre("image", "bake", "linux")
	key, group := c.KeyPair("k"), c.Group("ssh", 22)
	c.Nacre("run", "busybox", "--vm", "--type", "t3.nano", "--key", "k", "--group", "ssh", "--name", "first")
	c.WaitFor(120*time.Second, "a template", func() error {
		if !strings.Contains(c.Log(), "a template was made") {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	i := c.Launch(withImage(c.ImageID("busybox-vm")), cloudtest.WithKey("k"), cloudtest.WithGroups(group), func(in *ec2.RunInstancesInput) { in.InstanceType = types.InstanceTypeT3Nano })
	id := *i.InstanceId
	m := c.SSH(i, "admin", key).WaitLogin()
	boot := m.Run("cat /proc/sys/kernel/random/boot_id")

	// Memory and processors.
	total := func(least, most int) func(string) bool {
		return func(said string) bool {
			var mib int
			_, err := fmt.Sscan(said, &mib)
			return err == nil && mib >= least && mib <= most
		}
	}
	const memory = "free -m | sed -n 's/^Mem: *\\([0-9]*\\).*/\\1/p'"
	c.Nacre("resize", id, "--memory", "1GiB", "--cpus", "1")
	inside(c, m, "it has 1 GiB", memory, total(900, 1024))
	inside(c, m, "it has one processor", "nproc", func(said string) bool { return said == "1" })
	if got := memoryLimit(t, id); got != 1024+hypervisorShare {
		t.Errorf("its hypervisor may use %d MiB", got)
	}
	c.Kill()
	c.Up()
	m.WaitLogin()
	c.Nacre("resize", id, "--memory", "384", "--cpus", "2")
	inside(c, m, "it has what it started with", memory, total(380, 512))
	inside(c, m, "it has two processors", "nproc", func(said string) bool { return said == "2" })
	inside(c, m, "a balloon has the rest", "free -m | sed -n 's/^Mem: *[0-9]* *\\([0-9]*\\).*/\\1/p'", total(128, 300))
	if got := memoryLimit(t, id); got != 384+hypervisorShare {
		t.Errorf("its hypervisor may use %d MiB", got)
	}
	if said, err := c.Try("resize", id, "--memory", "3GiB"); err == nil || !strings.Contains(said+err.Error(), "stop it, change its size, and start it") {
		t.Errorf("more than four times its first memory: %s %v", said, err)
	}

	// An interface more, which carries packets by the rules of its own groups.
	other := c.Group("other", 7000)
	nic, err := c.EC2.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: i.SubnetId, Groups: []string{other}})
	if err != nil {
		t.Fatal(err)
	}
	address := *nic.NetworkInterface.PrivateIpAddress
	attached, err := c.EC2.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{InstanceId: &id, NetworkInterfaceId: nic.NetworkInterface.NetworkInterfaceId, DeviceIndex: new(int32(1))})
	if err != nil {
		t.Fatal(err)
	}
	inside(c, m, "it has the second interface's address", "ip -o -4 addr show eth1", func(said string) bool { return strings.Contains(said, " "+address+"/") })
	m.Run("(while :; do nc -l -p 7000 </dev/null; done) >/dev/null 2>&1 </dev/null & (while :; do nc -l -p 7001 </dev/null; done) >/dev/null 2>&1 </dev/null & sleep 0.3")
	from := c.SSH(c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(group)), "admin", key).WaitLogin()
	reach := func(to string, port int) bool {
		_, code := from.Try(fmt.Sprintf("nc -w 3 %s %d </dev/null", to, port))
		return code == 0
	}
	c.WaitFor(60*time.Second, "the second interface carries packets", func() error {
		if !reach(address, 7000) {
			return fmt.Errorf("it does not")
		}
		return nil
	})
	if reach(address, 7001) || reach(*i.PrivateIpAddress, 7000) {
		t.Error("a port that no group opens is reached")
	}
	if _, err := c.EC2.DetachNetworkInterface(t.Context(), &ec2.DetachNetworkInterfaceInput{AttachmentId: attached.AttachmentId}); err != nil {
		t.Fatal(err)
	}
	inside(c, m, "the second interface is gone", "ls /sys/class/net", func(said string) bool { return !strings.Contains(said, "eth1") })
	c.WaitFor(60*time.Second, "the interface is free", func() error {
		_, err := c.EC2.DeleteNetworkInterface(t.Context(), &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: nic.NetworkInterface.NetworkInterfaceId})
		return err
	})
	if now := m.Run("cat /proc/sys/kernel/random/boot_id"); now != boot {
		t.Error("it was booted anew")
	}

	// Stopped, it gets another type, with which it boots.
	c.Nacre("stop", id)
	c.WaitState(id, types.InstanceStateNameStopped)
	c.Nacre("resize", id, "--memory", "0", "--cpus", "0")
	if _, err := c.EC2.ModifyInstanceAttribute(t.Context(), &ec2.ModifyInstanceAttributeInput{InstanceId: &id, InstanceType: &types.AttributeValue{Value: new("t3.micro")}}); err != nil {
		t.Fatal(err)
	}
	c.Nacre("start", id)
	m = c.SSH(c.WaitState(id, types.InstanceStateNameRunning), "admin", key).WaitLogin()
	inside(c, m, "it has a t3.micro's memory", memory, total(900, 1024))
	if got := memoryLimit(t, id); got != 1024+hypervisorShare {
		t.Errorf("as a t3.micro its hypervisor may use %d MiB", got)
	}

	// A server that has less memory than it wants available borrows what idle machines don't use, and gives it back when it has enough, another
	// manager too. What the machine is sold as does not change.
	const used = "free -m | sed -n 's/^Mem: *[0-9]* *\\([0-9]*\\).*/\\1/p'"
	c.Kill()
	c.Up("--memory-reserve", "100TiB")
	inside(c, m.WaitLogin(), "it lends half a GiB at least", used, total(500, 1024))
	if lent := c.Describe(id); lent.InstanceType != types.InstanceTypeT3Micro || memoryLimit(t, id) != 1024+hypervisorShare {
		t.Errorf("while it lends it is a %s, and its hypervisor may use %d MiB", lent.InstanceType, memoryLimit(t, id))
	}
	c.Kill()
	c.Up("--memory-reserve", "1MiB")
	inside(c, m.WaitLogin(), "it has its memory again", used, total(0, 200))
}
