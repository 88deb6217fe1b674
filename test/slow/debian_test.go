//go:build slow

package slow

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

func TestWholeDebiansAreForkedAndAreStrangersThatAnswerSSHThemselves(t *testing.T) {
	const clones, together = 20, 4
	c := cloudtest.New(t)
	c.Up("--cpu-overcommit", "64", "--memory-overcommit", "16")
	c.Nacre("image", "bake", "busybox") // what machines are launched from unless told otherwise
	c.Nacre("image", "bake", "debian-12-server")
	key, group := c.KeyPair("k"), c.Group("ssh", 22)
	with := func(image string) []cloudtest.Option {
		return []cloudtest.Option{func(in *ec2.RunInstancesInput) { in.ImageId = new(c.ImageID(image)) }, cloudtest.WithKey("k"), cloudtest.WithGroups(group)}
	}

	// The same layers are a container, which systemd does not run: commands that end it do.
	container := c.Launch(with("debian-12-server")...)
	m := c.SSH(container, "admin", key).WaitLogin()
	if got := m.Run("cat /proc/1/comm; ls /etc/ssh/ssh_host_* 2>/dev/null | wc -l"); got != "init\n0" {
		t.Errorf("the container says %q", got)
	}
	m.Try("sudo poweroff")
	c.WaitState(*container.InstanceId, types.InstanceStateNameStopped)

	booted := c.Launch(with("debian-12-server-vm")...)
	c.WaitFor(10*time.Minute, "a template", func() error {
		if !strings.Contains(c.Log(), "a template was made") {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	if got := c.SSH(booted, "admin", key).WaitLogin().Run("cat /proc/1/comm; df -m --output=size / | tail -n 1"); !strings.HasPrefix(got, "systemd\n") || len(strings.Fields(got)[1]) < 4 {
		t.Errorf("the booted machine says %q", got)
	}
	c.Terminate(*booted.InstanceId)
	strangers := c.Strangers()
	for range clones / together {
		machines := c.LaunchMany(together, with("debian-12-server-vm")...)
		strangers.Meet(machines, "admin", key)
		var ids []string
		for _, i := range machines {
			ids = append(ids, *i.InstanceId)
			answersItself(t, i)
			for _, tag := range i.Tags {
				if *tag.Key == "aws:nacre:launch" && *tag.Value != "forked" {
					t.Errorf("its launch is told as %q", *tag.Value)
				}
			}
			// The journal is this machine's and this boot's.
			if got := c.SSH(i, "admin", key).Run("sudo journalctl -b --no-pager -q | wc -l; systemctl is-system-running"); strings.HasPrefix(got, "0\n") || !strings.HasSuffix(got, "running") {
				t.Errorf("%s says %q of its journal and its state", *i.InstanceId, got)
			}
		}
		c.Terminate(ids...)
	}
}

// answersItself demands that the image's own server greets.
func answersItself(t *testing.T, i types.Instance) {
	t.Helper()
	conn, err := net.Dial("tcp", *i.PublicIpAddress+":22")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	banner, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(banner, "SSH-2.0-OpenSSH") {
		t.Errorf("%s greets with %q, %v", *i.InstanceId, banner, err)
	}
}
