package e2e

import (
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// truthLimit is what nacre promises: after a crash, the API tells the truth again within it.
const truthLimit = 3 * time.Second

// Twenty instances run while nacre is killed again and again, at random instants, under a load of
// launches, tags and terminations. Instances go on, what was acknowledged stays, and the truth is
// back within three seconds.
func TestKillingNacreLosesNothing(t *testing.T) {
	c := cloudtest.Start(t)
	ctx := t.Context()
	key := c.KeyPair("k")
	group := c.Group("ssh", 22)
	steady := c.LaunchMany(20, cloudtest.WithKey("k"), cloudtest.WithGroups(group))
	boots := map[string]string{}
	for _, i := range steady[:3] {
		boots[*i.InstanceId] = c.SSH(i, "root", key).WaitLogin().Run("cut -d' ' -f22 /proc/1/stat; echo alive > /root/alive")
	}

	var mu sync.Mutex
	acked := map[string]string{} // tag values by instance, as last acknowledged
	var launched, terminated []string
	for round := range 8 {
		stop := make(chan struct{})
		var load sync.WaitGroup
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				id := *steady[n%len(steady)].InstanceId
				value := fmt.Sprintf("%d-%d", round, n)
				_, err := c.EC2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{id},
					Tags: []types.Tag{{Key: aws.String("seen"), Value: &value}}})
				if err == nil {
					mu.Lock()
					acked[id] = value
					mu.Unlock()
				}
			}
		})
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				out, err := c.EC2.RunInstances(ctx, &ec2.RunInstancesInput{ImageId: steady[0].ImageId, InstanceType: types.InstanceTypeT3Nano,
					MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})
				if err != nil {
					continue
				}
				id := *out.Instances[0].InstanceId
				mu.Lock()
				launched = append(launched, id)
				mu.Unlock()
				if _, err := c.EC2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}}); err == nil {
					mu.Lock()
					terminated = append(terminated, id)
					mu.Unlock()
				}
			}
		})
		time.Sleep(time.Duration(100+rand.Intn(700)) * time.Millisecond)
		c.Kill()
		close(stop)
		load.Wait()
		begin := time.Now()
		c.Up()
		c.WaitFor(10*time.Second, "the truth about the steady instances", func() error {
			var ids []string
			for _, i := range steady {
				ids = append(ids, *i.InstanceId)
			}
			out, err := c.EC2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: ids})
			if err != nil {
				return err
			}
			for _, r := range out.Reservations {
				for _, i := range r.Instances {
					if i.State.Name != types.InstanceStateNameRunning {
						return fmt.Errorf("%s is %s", *i.InstanceId, i.State.Name)
					}
				}
			}
			return nil
		})
		took := time.Since(begin).Round(time.Millisecond)
		t.Logf("round %d: the API told the truth %v after the restart began", round, took)
		if took > truthLimit {
			t.Errorf("round %d: the truth took %v, more than the promised %v", round, took, truthLimit)
		}
	}

	for id, value := range acked {
		for _, tag := range c.Describe(id).Tags {
			// A call that was cut off may have happened too: the value is the acknowledged one or a later one.
			if *tag.Key == "seen" && !notOlder(*tag.Value, value) {
				t.Errorf("%s: the acknowledged tag %s was lost, there is %s", id, value, *tag.Value)
			}
		}
	}
	for _, id := range launched {
		if _, err := c.EC2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}}); err != nil {
			t.Errorf("the acknowledged launch of %s was lost: %v", id, err)
		}
	}
	for _, id := range terminated {
		c.WaitState(id, types.InstanceStateNameTerminated)
	}
	for id, boot := range boots {
		m := c.SSH(c.Describe(id), "root", key).WaitLogin()
		if got := m.Run("cut -d' ' -f22 /proc/1/stat"); got != boot || m.Run("cat /root/alive") != "alive" {
			t.Errorf("%s was booted anew: %s, before %s", id, got, boot)
		}
	}
	seen := map[string]string{}
	out, err := c.EC2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range out.Reservations {
		for _, i := range r.Instances {
			if address := aws.ToString(i.PrivateIpAddress); address != "" {
				if other := seen[address]; other != "" {
					t.Errorf("%s and %s have the same address %s", other, *i.InstanceId, address)
				}
				seen[address] = *i.InstanceId
			}
		}
	}
	t.Logf("%d launches acknowledged under fire, %d terminations, %d tags", len(launched), len(terminated), len(acked))
}

// notOlder compares values of the form round-number.
func notOlder(a, b string) bool {
	var ar, an, br, bn int
	fmt.Sscanf(strings.ReplaceAll(a, "-", " "), "%d %d", &ar, &an)
	fmt.Sscanf(strings.ReplaceAll(b, "-", " "), "%d %d", &br, &bn)
	return ar > br || ar == br && an >= bn
}

func TestAnExitWhileNacreIsAwayIsSeenWhenItIsBack(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	key := c.KeyPair("k")
	i := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(c.Group("ssh", 22)))
	c.SSH(i, "root", key).WaitLogin().Run("(sleep 2; poweroff) >/dev/null 2>&1 </dev/null &")
	c.Kill()
	time.Sleep(3 * time.Second)
	c.Up()
	stopped := c.WaitState(*i.InstanceId, types.InstanceStateNameStopped)
	if got := aws.ToString(stopped.StateReason.Code); got != "Client.InstanceInitiatedShutdown" {
		t.Errorf("the reason is %q", got)
	}
}

func TestDownLeavesTheMachinesRunning(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	key := c.KeyPair("k")
	i := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(c.Group("ssh", 22)))
	m := c.SSH(i, "root", key).WaitLogin()
	boot := m.Run("cut -d' ' -f22 /proc/1/stat")
	c.Nacre("down")
	c.Up()
	if got := m.WaitLogin().Run("cut -d' ' -f22 /proc/1/stat"); got != boot {
		t.Errorf("the machine was booted anew: %s, before %s", got, boot)
	}
}
