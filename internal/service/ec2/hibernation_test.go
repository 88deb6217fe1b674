package ec2_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func hibernation(in *order) {
	in.HibernationOptions = &types.HibernationOptionsRequest{Configured: aws.Bool(true)}
}

func (w *world) hibernate(id string, force ...bool) error {
	in := sdk.StopInstancesInput{InstanceIds: []string{id}, Hibernate: aws.Bool(true)}
	if len(force) > 0 {
		in.Force = &force[0]
	}
	_, err := w.StopInstances(w.t.Context(), &in)
	return err
}

// asleep is a virtual machine whose memory its node has saved.
func (w *world) asleep() string {
	w.t.Helper()
	id := w.running(ofImage(w.disk("x86_64", cloud.FirmwareBIOS)), hibernation)
	if err := w.hibernate(id); err != nil {
		w.t.Fatal(err)
	}
	w.settle()
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, cloud.InstanceID(id))
		i.Hibernated = true
		store.Put(tx, store.Instances, i)
	})
	return id
}

func TestAVirtualMachineThatWasLaunchedForItHibernates(t *testing.T) {
	w := newWorld(t).withVMs()
	id := w.running(ofImage(w.disk("x86_64", cloud.FirmwareBIOS)), hibernation)
	if got := w.found("hibernation-options.configured", "true"); len(got) != 1 || got[0] != id || !*w.instance(id).HibernationOptions.Configured {
		t.Errorf("found %v as configured", got)
	}
	refused(t, w.hibernate(id, true), "InvalidParameterCombination", "Force")
	if err := w.hibernate(id); err != nil {
		t.Fatal(err)
	}
	if i := w.instance(id); i.State.Name != "stopping" || *i.StateReason.Code != "Client.UserInitiatedHibernate" || *i.StateReason.Message != "Client.UserInitiatedHibernate: User initiated hibernate" {
		t.Errorf("it is %s for %s (%s)", i.State.Name, *i.StateReason.Code, *i.StateReason.Message)
	}
	if r := w.record(id); !r.Hibernate || r.Desired != cloud.DesiredStopped || r.Hibernated {
		t.Errorf("its node is told %+v", r)
	}
	w.settle()
	boot := w.record(id).Boot
	if _, err := w.start(id); err != nil {
		t.Fatal(err)
	}
	if r := w.record(id); r.Hibernate || r.Boot != boot+1 {
		t.Errorf("its node is told %+v", r)
	}
}

func TestWhoHibernatesIsTheLaunchsToSay(t *testing.T) {
	w := newWorld(t).withVMs()
	_, err := w.run(hibernation)
	refused(t, err, "UnsupportedHibernationConfiguration", "containers")
	refused(t, w.hibernate(w.running()), "UnsupportedHibernationConfiguration", "not configured")
	vm := w.running(ofImage(w.disk("x86_64", cloud.FirmwareBIOS)))
	w.unchanged(func() { refused(t, w.hibernate(vm), "UnsupportedHibernationConfiguration", vm) })
}

func TestAForcedStopGivesTheSavingUp(t *testing.T) {
	w := newWorld(t).withVMs()
	id := w.running(ofImage(w.disk("x86_64", cloud.FirmwareBIOS)), hibernation)
	if err := w.hibernate(id); err != nil {
		t.Fatal(err)
	}
	if _, err := w.StopInstances(t.Context(), &sdk.StopInstancesInput{InstanceIds: []string{id}, Force: aws.Bool(true)}); err != nil {
		t.Fatal(err)
	}
	if r := w.record(id); r.Hibernate || !r.ForceStop || r.StateReason != cloud.ReasonUserStop {
		t.Errorf("its node is told %+v", r)
	}
}

func TestHardwareOfAHibernatedInstanceStays(t *testing.T) {
	w := newWorld(t).withVMs()
	id := w.asleep()
	nic, err := w.CreateNetworkInterface(t.Context(), &sdk.CreateNetworkInterfaceInput{SubnetId: aws.String(string(w.subnet().ID))})
	if err != nil {
		t.Fatal(err)
	}
	w.unchanged(func() {
		_, err := w.ModifyInstanceAttribute(t.Context(), &sdk.ModifyInstanceAttributeInput{InstanceId: &id, InstanceType: &types.AttributeValue{Value: aws.String("t3.small")}})
		refused(t, err, "IncorrectInstanceState", "hibernated")
		_, err = w.AttachNetworkInterface(t.Context(), &sdk.AttachNetworkInterfaceInput{InstanceId: &id, NetworkInterfaceId: nic.NetworkInterface.NetworkInterfaceId, DeviceIndex: aws.Int32(1)})
		refused(t, err, "IncorrectInstanceState", "hibernated")
	})
	if _, err := w.terminate(id); err != nil {
		t.Error(err)
	}
}
