package ec2_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (w *world) stop(ids ...string) ([]types.InstanceStateChange, error) {
	out, err := w.StopInstances(w.t.Context(), &sdk.StopInstancesInput{InstanceIds: ids})
	if err != nil {
		return nil, err
	}
	return out.StoppingInstances, nil
}

func (w *world) start(ids ...string) ([]types.InstanceStateChange, error) {
	out, err := w.StartInstances(w.t.Context(), &sdk.StartInstancesInput{InstanceIds: ids})
	if err != nil {
		return nil, err
	}
	return out.StartingInstances, nil
}

func (w *world) reboot(ids ...string) error {
	_, err := w.RebootInstances(w.t.Context(), &sdk.RebootInstancesInput{InstanceIds: ids})
	return err
}

func (w *world) terminate(ids ...string) ([]types.InstanceStateChange, error) {
	out, err := w.TerminateInstances(w.t.Context(), &sdk.TerminateInstancesInput{InstanceIds: ids})
	if err != nil {
		return nil, err
	}
	return out.TerminatingInstances, nil
}

// stopped launches one instance and stops it.
func (w *world) stopped() string {
	w.t.Helper()
	id := w.running()
	if _, err := w.stop(id); err != nil {
		w.t.Fatal(err)
	}
	w.settle()
	return id
}

func (w *world) record(id string) *cloud.Instance {
	w.t.Helper()
	i, ok := store.Get(w.store.View(), store.Instances, cloud.InstanceID(id))
	if !ok {
		w.t.Fatalf("no instance %s", id)
	}
	return i
}

// went checks what a call answers about one instance.
func went(t *testing.T, changes []types.InstanceStateChange, err error, from, to types.InstanceStateName) {
	t.Helper()
	if err != nil || len(changes) != 1 || changes[0].PreviousState.Name != from || changes[0].CurrentState.Name != to {
		t.Errorf("answered %+v, %v; want %s to %s", changes, err, from, to)
	}
}

func TestALifeFromLaunchToTermination(t *testing.T) {
	w := newWorld(t)
	id := w.running()
	changes, err := w.stop(id)
	went(t, changes, err, "running", "stopping")
	if r := w.record(id); r.Desired != cloud.DesiredStopped || r.ForceStop {
		t.Errorf("%s is wanted, force %v", r.Desired, r.ForceStop)
	}
	w.settle()
	i := w.instance(id)
	if i.State.Name != "stopped" || i.PublicIpAddress != nil || i.PrivateIpAddress == nil || *i.StateReason.Code != "Client.UserInitiatedShutdown" ||
		!strings.HasPrefix(*i.StateTransitionReason, "User initiated (") {
		t.Errorf("stopped, it is %s with %v, for %v: %s", i.State.Name, i.PublicIpAddress, i.StateReason, *i.StateTransitionReason)
	}

	changes, err = w.start(id)
	went(t, changes, err, "stopped", "pending")
	i = w.instance(id)
	if i.PublicIpAddress == nil {
		t.Error("started, it has no public address")
	}
	if r := w.record(id); r.Boot != 2 || r.Desired != cloud.DesiredRunning || i.StateReason != nil {
		t.Errorf("boot %d, %s is wanted, for %v", r.Boot, r.Desired, i.StateReason)
	}
	w.settle()

	if err := w.reboot(id); err != nil {
		t.Fatal(err)
	}
	if r := w.record(id); r.Boot != 3 || r.State != cloud.StateRunning {
		t.Errorf("rebooted, it is %s at boot %d", r.State, r.Boot)
	}

	changes, err = w.terminate(id)
	went(t, changes, err, "running", "shutting-down")
	w.settle()
	i = w.instance(id)
	if i.State.Name != "terminated" || i.PrivateIpAddress != nil || i.PublicIpAddress != nil || len(i.NetworkInterfaces) != 0 || i.SubnetId != nil || i.VpcId != nil {
		t.Errorf("terminated, it still has %v, %v, %d interfaces", i.PrivateIpAddress, i.PublicIpAddress, len(i.NetworkInterfaces))
	}
	for _, c := range store.List(w.store.View(), store.Claims) {
		if strings.HasPrefix(c.Owner, "eni-") {
			t.Errorf("%s still has %q", c.Owner, c.Key)
		}
	}
}

func TestWhatIsSoAlreadyIsNotChanged(t *testing.T) {
	w := newWorld(t)
	running, stopped := w.running(), w.stopped()
	dead := w.running()
	if _, err := w.terminate(dead); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.unchanged(func() {
		changes, err := w.start(running)
		went(t, changes, err, "running", "running")
		changes, err = w.stop(stopped)
		went(t, changes, err, "stopped", "stopped")
		changes, err = w.terminate(dead)
		went(t, changes, err, "terminated", "terminated")
	})
}

func TestAnInstanceTakesOnlyTheStepsThatItsStateAllows(t *testing.T) {
	w := newWorld(t)
	pending := *w.launch()[0].InstanceId
	_, err := w.stop(pending)
	refused(t, err, "IncorrectInstanceState", "never reached the 'running' state")
	refused(t, w.reboot(pending), "IncorrectInstanceState")
	w.settle()
	stopped, dead := w.stopped(), w.running()
	if _, err := w.terminate(dead); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{dead} {
		_, err = w.start(id)
		refused(t, err, "IncorrectInstanceState", id)
		_, err = w.stop(id)
		refused(t, err, "IncorrectInstanceState", id)
		refused(t, w.reboot(id), "IncorrectInstanceState", id)
	}
	refused(t, w.reboot(stopped), "IncorrectInstanceState", stopped)
	if _, err := w.start(stopped); err != nil {
		t.Fatal(err)
	}
	// One that ran before may be stopped while it starts again.
	changes, err := w.stop(stopped)
	went(t, changes, err, "pending", "stopping")
	_, err = w.start(stopped)
	refused(t, err, "IncorrectInstanceState", stopped)
	changes, err = w.terminate(stopped)
	went(t, changes, err, "stopping", "shutting-down")
}

func TestAForcedStopHurriesASlowOne(t *testing.T) {
	w := newWorld(t)
	id := w.running()
	if _, err := w.stop(id); err != nil {
		t.Fatal(err)
	}
	if _, err := w.StopInstances(t.Context(), &sdk.StopInstancesInput{InstanceIds: []string{id}, Force: aws.Bool(true)}); err != nil || !w.record(id).ForceStop {
		t.Errorf("forced: %v, %v", w.record(id).ForceStop, err)
	}
	w.settle()
	if _, err := w.start(id); err != nil || w.record(id).ForceStop {
		t.Errorf("a start leaves force at %v, %v", w.record(id).ForceStop, err)
	}
	_, err := w.StopInstances(t.Context(), &sdk.StopInstancesInput{InstanceIds: []string{id}, Hibernate: aws.Bool(true)})
	refused(t, err, "UnsupportedHibernationConfiguration")
}

func TestACallOverSeveralInstancesChangesAllOrNone(t *testing.T) {
	w := newWorld(t)
	a, b := w.running(), w.running()
	const none = "i-0123456789abcdef0"
	const nobody = "i-0fffffffffffffff0"
	w.unchanged(func() {
		_, err := w.stop(a, none, b, nobody)
		refused(t, err, "InvalidInstanceID.NotFound", none+", "+nobody)
		_, err = w.terminate(a, "i-xyz")
		refused(t, err, "InvalidInstanceID.Malformed", "i-xyz")
		_, err = w.stranger.TerminateInstances(t.Context(), &sdk.TerminateInstancesInput{InstanceIds: []string{a}})
		refused(t, err, "InvalidInstanceID.NotFound", a)
	})
	protect(t, w, b, &sdk.ModifyInstanceAttributeInput{DisableApiTermination: &types.AttributeBooleanValue{Value: aws.Bool(true)}})
	w.unchanged(func() {
		_, err := w.terminate(a, b)
		refused(t, err, "OperationNotPermitted", b, "disableApiTermination")
	})
	if changes, err := w.stop(a, b, a); err != nil || len(changes) != 2 {
		t.Errorf("answered %v, %v", changes, err)
	}
}

func protect(t *testing.T, w *world, id string, in *sdk.ModifyInstanceAttributeInput) {
	t.Helper()
	in.InstanceId = &id
	if _, err := w.ModifyInstanceAttribute(t.Context(), in); err != nil {
		t.Fatal(err)
	}
}

func TestProtectionIsGivenAtLaunchOrLaterAndTakenAway(t *testing.T) {
	w := newWorld(t)
	id := w.running(func(in *order) { in.DisableApiTermination, in.DisableApiStop = aws.Bool(true), aws.Bool(true) })
	_, err := w.terminate(id)
	refused(t, err, "OperationNotPermitted")
	_, err = w.stop(id)
	refused(t, err, "OperationNotPermitted", "disableApiStop")
	protect(t, w, id, &sdk.ModifyInstanceAttributeInput{DisableApiStop: &types.AttributeBooleanValue{Value: aws.Bool(false)}})
	protect(t, w, id, &sdk.ModifyInstanceAttributeInput{Attribute: "disableApiTermination", Value: aws.String("false")})
	if _, err = w.stop(id); err != nil {
		t.Error(err)
	}
	if _, err = w.terminate(id); err != nil {
		t.Error(err)
	}
}

func TestAStartNeedsRoomOnTheNodeThatHoldsTheDisk(t *testing.T) {
	w := newWorld(t)
	a, b := w.stopped(), w.stopped()
	for _, id := range []string{a, b} {
		protect(t, w, id, &sdk.ModifyInstanceAttributeInput{InstanceType: &types.AttributeValue{Value: aws.String("t3.large")}})
	}
	other := w.running(ofType("t3.large")) // 8 of 16 GiB
	w.unchanged(func() {
		_, err := w.start(a, b)
		refused(t, err, "InsufficientInstanceCapacity", "t3.large")
	})
	if _, err := w.start(a); err != nil {
		t.Fatal(err)
	}
	_, err := w.start(b)
	refused(t, err, "InsufficientInstanceCapacity")
	if _, err := w.terminate(other); err != nil {
		t.Fatal(err)
	}
	w.settle()
	if _, err := w.start(b); err != nil {
		t.Error(err)
	}
}
