package e2e

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

// withImage launches from another image than the usual one.
func withImage(id string) cloudtest.Option {
	return func(in *ec2.RunInstancesInput) { in.ImageId = &id }
}

func TestAVirtualMachineIsAnInstanceLikeAnyOther(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	c.ImageID("busybox")
	c.Nacre("image", "bake", "linux")
	key := c.KeyPair("k")
	open, shut := c.Group("open", 22, 7000), c.Group("shut", 22)
	data := base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\necho user data ran >/var/told\n"))
	// The command line makes busybox-vm of busybox's layers and the newest kernel.
	c.Nacre("run", "busybox", "--vm", "--name", "first", "--key", "k", "--group", "shut")
	image := c.ImageID("busybox-vm")
	vm := c.Launch(withImage(image), cloudtest.WithKey("k"), cloudtest.WithGroups(open), cloudtest.WithUserData(data))
	container := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(shut))
	if vm.VirtualizationType != types.VirtualizationTypeHvm || vm.KernelId == nil || !strings.HasPrefix(*vm.KernelId, "aki-") {
		t.Errorf("it is described as %v with the kernel %v", vm.VirtualizationType, vm.KernelId)
	}
	m := c.SSH(vm, "admin", key).WaitLogin()
	host, own := c.SSH(container, "admin", key).WaitLogin().Run("uname -r"), m.Run("uname -r")
	if own == host || !strings.Contains(own, "cloud") {
		t.Errorf("its kernel is %q, the host's is %q", own, host)
	}
	if got := m.Run("cat /var/told; hostname; wget -qO- http://169.254.169.254/latest/meta-data/instance-id"); got != "user data ran\n"+m.Run("hostname")+"\n"+*vm.InstanceId {
		t.Errorf("it says %q", got)
	}

	// The same rules hold between the two kinds.
	reach := func(from *cloudtest.Machine, to types.Instance, port int) bool {
		_, code := from.Try(fmt.Sprintf("nc -w 2 %s %d </dev/null", *to.PrivateIpAddress, port))
		return code == 0
	}
	cm := c.SSH(container, "admin", key)
	for _, x := range []*cloudtest.Machine{m, cm} {
		x.Run("(while :; do nc -l -p 7000 </dev/null; done) >/dev/null 2>&1 </dev/null & sleep 0.3")
	}
	if !reach(cm, vm, 7000) {
		t.Error("the container does not reach the virtual machine's open port")
	}
	if reach(m, container, 7000) {
		t.Error("the virtual machine reaches the container's shut port")
	}
	c.Allow(shut, 7000)
	c.WaitFor(10*time.Second, "the virtual machine reaches the port that was opened", func() error {
		if !reach(m, container, 7000) {
			return fmt.Errorf("it does not")
		}
		return nil
	})

	// It outlives the manager, and is adopted.
	boot := m.Run("cat /proc/sys/kernel/random/boot_id; echo kept >kept; sync")
	c.Kill()
	c.Up()
	if got := m.WaitLogin().Run("cat /proc/sys/kernel/random/boot_id"); got != boot {
		t.Error("it was booted anew")
	}
	id := *vm.InstanceId
	if _, err := c.EC2.RebootInstances(t.Context(), &ec2.RebootInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	c.WaitFor(60*time.Second, "it boots anew", func() error {
		if out, code := m.Try("cat /proc/sys/kernel/random/boot_id kept"); code != 0 || strings.Contains(out, boot) || !strings.Contains(out, "kept") {
			return fmt.Errorf("it says %q (%d)", out, code)
		}
		return nil
	})
	c.Nacre("stop", id)
	c.WaitState(id, types.InstanceStateNameStopped)
	c.Nacre("start", id)
	again := c.WaitState(id, types.InstanceStateNameRunning)
	if got := c.SSH(again, "admin", key).WaitLogin().Run("cat kept"); got != "kept" {
		t.Errorf("after a stop its disk says %q", got)
	}
	// The first one may hibernate: its processes go on where they were.
	found, err := c.EC2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: []types.Filter{{Name: new("tag:Name"), Values: []string{"first"}}}})
	if err != nil {
		t.Fatal(err)
	}
	first := found.Reservations[0].Instances[0]
	boot = c.SSH(first, "admin", key).WaitLogin().Run("cat /proc/sys/kernel/random/boot_id; echo here >/tmp/memory")
	c.Nacre("stop", "--hibernate", *first.InstanceId)
	first = c.WaitState(*first.InstanceId, types.InstanceStateNameStopped)
	if first.StateReason == nil || *first.StateReason.Code != "Client.UserInitiatedHibernate" {
		t.Errorf("it stopped for %+v", first.StateReason)
	}
	c.Nacre("start", *first.InstanceId)
	first = c.WaitState(*first.InstanceId, types.InstanceStateNameRunning)
	if got := c.SSH(first, "admin", key).WaitLogin().Run("cat /proc/sys/kernel/random/boot_id"); got != boot {
		t.Errorf("it was booted anew: %s, not %s", got, boot)
	}
	out, err := c.EC2.GetConsoleOutput(t.Context(), &ec2.GetConsoleOutputInput{InstanceId: &id, Latest: new(true)})
	if err != nil {
		t.Fatal(err)
	}
	text, err := base64.StdEncoding.DecodeString(*out.Output)
	if err != nil || !strings.Contains(string(text), "SSH HOST KEY FINGERPRINTS") {
		t.Errorf("%v, its console says %q", err, text)
	}
}
