package cloudtest

import (
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// strangers are the questions to which no two machines may give the same answer.
var strangers = []string{"cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id", "cat /proc/sys/kernel/random/uuid",
	"head -c 64 /dev/urandom | md5sum", "hostname", "ip -o -4 addr show eth0", "cat /sys/class/net/eth0/address"}

// Strangers are machines that have nothing in common by which one could be taken for another.
type Strangers struct {
	c    *Cloud
	seen map[string]string
}

// Strangers begins with none.
func (c *Cloud) Strangers() *Strangers { return &Strangers{c: c, seen: map[string]string{}} }

func (s *Strangers) note(who, what, got string) {
	s.c.t.Helper()
	if other, ok := s.seen[what+got]; ok || got == "" {
		s.c.t.Errorf("%s and %s say %q to %s", who, other, got, what)
	}
	s.seen[what+got] = who
}

// Meet demands that machines share no host key, machine id, boot id, random number, name or address with each other and those that were
// met before, and that each one's clock is right.
func (s *Strangers) Meet(machines []types.Instance, user, key string) {
	s.c.t.Helper()
	for _, i := range machines {
		m := s.c.SSH(i, user, key).WaitLogin()
		var out []string
		s.c.WaitFor(3*time.Minute, "answers of "+*i.InstanceId, func() error { // many translated machines at once may be slow to let in
			text, code := m.Try(strings.Join(strangers, "; ") + "; date +%s")
			if out = strings.Split(strings.TrimSpace(text), "\n"); code != 0 || len(out) != len(strangers)+1 {
				return fmt.Errorf("it says %q (%d)", text, code)
			}
			return nil
		})
		for n, what := range strangers {
			s.note(*i.InstanceId, what, out[n])
		}
		var then int64
		if _, err := fmt.Sscan(out[len(strangers)], &then); err != nil || then < i.LaunchTime.Unix() || then-i.LaunchTime.Unix() > 3600 {
			s.c.t.Errorf("%s was launched at %v and has the time %q", *i.InstanceId, i.LaunchTime, out[len(strangers)])
		}
		s.hostKeys(i)
	}
}

// hostKeys notes a machine's keys as a client sees them.
func (s *Strangers) hostKeys(i types.Instance) {
	s.c.t.Helper()
	kinds := map[string]string{}
	s.c.WaitFor(3*time.Minute, "host keys of "+*i.InstanceId, func() error {
		out, err := exec.Command("ssh-keyscan", "-T", "60", "-t", "ed25519,ecdsa", *i.PublicIpAddress).Output()
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == *i.PublicIpAddress {
				kinds[f[1]] = f[2]
			}
		}
		if len(kinds) != 2 {
			return fmt.Errorf("ssh-keyscan prints %q: %v", out, err)
		}
		return nil
	})
	for kind, value := range kinds {
		s.note(*i.InstanceId, "the host key of the type "+kind, value)
	}
}
