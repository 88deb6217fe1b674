package ec2_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// FuzzLaunchForm sends RunInstances with any parameters. Whatever they are, the answer is an error of AWS's that says what
// is wrong and leaves nothing behind, or a launch.
func FuzzLaunchForm(f *testing.F) {
	for _, seed := range []string{
		"", "SubnetId=subnet-0123456789abcdef0", "PrivateIpAddress=172.31.0.9", "PrivateIpAddress=::1", "UserData=eA==", "UserData=%00",
		"NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.PrivateIpAddress=172.31.0.255", "NetworkInterface.0.DeviceIndex=-1",
		"TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=nacre:command&TagSpecification.1.Tag.1.Value=[%22a%22]",
		"TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=nacre:command&TagSpecification.1.Tag.1.Value=[1]",
		"SecurityGroupId.1=sg-1&SecurityGroup.1=default", "Placement.AvailabilityZone=us-east-1a&Placement.Tenancy=default",
		"MetadataOptions.HttpPutResponseHopLimit=-1", "InstanceType=t3.nano&ClientToken=x", "MaxCount=99999999999999999999", "DryRun=true",
		"SecurityGroup.1=%ff%fe", "KeyName=%00&Monitoring.Enabled=1",
	} {
		f.Add(seed)
	}
	w := newWorld(f)
	f.Fuzz(func(t *testing.T, query string) {
		w.t = t
		form, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		for name, value := range map[string]string{"ImageId": w.image, "MinCount": "1", "MaxCount": "1"} {
			if !form.Has(name) {
				form.Set(name, value)
			}
		}
		form.Set("Action", "RunInstances")
		before := w.revision()
		status, text := w.ask(form)
		switch {
		case status == http.StatusOK:
			w.clear()
		case strings.Contains(text, "<Code>InternalError</Code>") || !strings.Contains(text, "<Code>"):
			t.Errorf("answered %d: %s", status, text)
		case w.revision() != before:
			t.Errorf("refused with %s, and the store has changed", text)
		}
	})
}

// clear ends all instances, the protected ones too, to make room for others.
func (w *world) clear() {
	w.t.Helper()
	w.update(func(tx *store.Tx) {
		for _, i := range store.List(tx, store.Instances) {
			if i.State == cloud.StateTerminated {
				store.Delete(tx, store.Instances, i.ID)
				continue
			}
			i.Desired = cloud.DesiredTerminated
			if err := i.Transition(cloud.StateShuttingDown, cloud.ReasonUserTerminate, time.Now()); err != nil {
				w.t.Error(err)
			}
			store.Put(tx, store.Instances, i)
		}
	})
	w.settle()
}
