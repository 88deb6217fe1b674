package cloudtest

import (
	"fmt"
	"os/exec"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// strangers are the questions to which no two machines may give the same answer.
var strangers = []string{"cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id", "cat /proc/sys/kernel/random/uuid",
	"head -c 64 /dev/urandom | md5sum", "hostname", "ip -o -4 addr show eth0", "cat /sys/class/net/eth0/address"}

// Strangers demands that machines have nothing in common by which one could be taken for another: host keys, machine ids, boot ids, random
// numbers, names, addresses; and that each one's clock is right.
func (c *Cloud) Strangers(machines []types.Instance, user, key string) {
	c.t.Helper()
	seen := map[string]string{}
	note := func(who, what, got string) {
		c.t.Helper()
		if other, ok := seen[what+got]; ok || got == "" {
			c.t.Errorf("%s and %s say %q to %s", who, other, got, what)
		}
		seen[what+got] = who
	}
	for _, i := range machines {
		m := c.SSH(i, user, key).WaitLogin()
		out := strings.Split(m.Run(strings.Join(strangers, "; ")+"; date +%s"), "\n")
		if len(out) != len(strangers)+1 {
			c.t.Fatalf("%s says %q", *i.InstanceId, out)
		}
		for n, what := range strangers {
			note(*i.InstanceId, what, out[n])
		}
		var then int64
		if _, err := fmt.Sscan(out[len(strangers)], &then); err != nil || then < i.LaunchTime.Unix() || then-i.LaunchTime.Unix() > 3600 {
			c.t.Errorf("%s was launched at %v and has the time %q", *i.InstanceId, i.LaunchTime, out[len(strangers)])
		}
		keys, err := exec.Command("ssh-keyscan", "-T", "60", "-t", "ed25519,ecdsa", *i.PublicIpAddress).Output()
		if err != nil {
			c.t.Fatalf("ssh-keyscan of %s: %v", *i.InstanceId, err)
		}
		kinds := 0
		for line := range strings.Lines(string(keys)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == *i.PublicIpAddress {
				note(*i.InstanceId, "the host key of the type "+f[1], f[2])
				kinds++
			}
		}
		if kinds != 2 {
			c.t.Errorf("%s shows %d host keys: %q", *i.InstanceId, kinds, keys)
		}
	}
}
