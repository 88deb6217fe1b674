package ec2

import (
	"context"
	"net/netip"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/capacity"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/cloud/placement"
	"github.com/nacre-cloud/nacre/internal/store"
)

// step is what a call does to one of its instances. It tells whether it changed it.
type step func(*store.Tx, *cloud.Instance) (changed bool, err error)

// change applies one step to every instance of a call, or to none. begin makes the step anew for each run of the
// transaction.
func (s *Service) change(ctx context.Context, call *awsapi.Call, ids []string, begin func() step) ([]ec2.InstanceStateChange, error) {
	if len(ids) == 0 {
		return nil, awsapi.MissingParameter("InstanceId")
	}
	var changes []ec2.InstanceStateChange
	err := s.update(ctx, call, func(tx *store.Tx) error {
		changes = []ec2.InstanceStateChange{}
		list, err := lookupAll(tx, store.Instances, ownerOfInstance, kindInstance, call.Account, ids)
		if err != nil {
			return err
		}
		step := begin()
		for _, i := range list {
			before := i.State
			changed, err := step(tx, i)
			if err != nil {
				return err
			}
			if changed {
				store.Put(tx, store.Instances, i)
			}
			changes = append(changes, ec2.InstanceStateChange{InstanceId: text(i.ID), PreviousState: stateShape(before), CurrentState: stateShape(i.State)})
		}
		return nil
	})
	return changes, err
}

// asleep refuses to change the hardware that saved memory was made on.
func asleep(i *cloud.Instance) error {
	return awsapi.Errorf("IncorrectInstanceState", "The instance '%s' is hibernated, and its memory goes on only with the hardware that it has; start it first, and stop it without hibernating.", i.ID)
}

// always begins with the same step, for those that keep nothing from one instance to the next.
func always(s step) func() step { return func() step { return s } }

func wrongState(i *cloud.Instance, verb string) error {
	return awsapi.Errorf("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be %s.", i.ID, verb)
}

func (s *Service) startInstances(ctx context.Context, call *awsapi.Call, req *ec2.StartInstancesRequest) (*ec2.StartInstancesResult, error) {
	changes, err := s.change(ctx, call, req.InstanceIds, func() step {
		var room returns
		return func(tx *store.Tx, i *cloud.Instance) (bool, error) {
			switch i.State {
			case cloud.StateRunning, cloud.StatePending:
				return false, nil
			case cloud.StateStopped:
			default:
				return false, wrongState(i, "started")
			}
			if err := rooted(tx, i); err != nil {
				return false, err
			}
			if err := room.take(tx.View(), i); err != nil {
				return false, err
			}
			if err := lendPublicAddresses(tx, i); err != nil {
				return false, err
			}
			i.Desired, i.ForceStop, i.Hibernate, i.LaunchTime = cloud.DesiredRunning, false, false, call.Now
			i.Boot++
			return true, i.Transition(cloud.StatePending, cloud.StateReason{}, call.Now)
		}
	})
	return &ec2.StartInstancesResult{StartingInstances: changes}, err
}

// returns counts the room on the nodes to which instances come back in one transaction. A stopped instance
// reserves nothing, so its node, where its disk is, may have filled up meanwhile.
type returns struct{ candidates []placement.Candidate }

func (t *returns) take(r store.Reader, i *cloud.Instance) error {
	if t.candidates == nil {
		t.candidates = capacity.Promised(r)
	}
	wanted, ok := capacity.Wanted(r, i)
	if !ok {
		return awsapi.Unsupported("The instance type %s of %s is not served by this cloud.", i.Type, i.ID)
	}
	candidates := t.candidates
	if i.Node != "" {
		at := slices.IndexFunc(candidates, func(c placement.Candidate) bool { return c.Node.ID == i.Node })
		if at < 0 {
			return awsapi.Errorf("InsufficientInstanceCapacity", "The server that holds the disk of %s has left the cloud.", i.ID)
		}
		candidates = candidates[at : at+1]
	}
	// The slice shares its array with the whole list: what is taken here is counted there.
	res := placement.Take(candidates, wanted)
	if res.Node == "" {
		return insufficientCapacity(i.Type, i.Zone, res)
	}
	if i.Node != "" {
		i.Partition = res.Partition
	}
	return nil
}

// insufficientCapacity says why no server takes an instance.
func insufficientCapacity(size cloud.InstanceType, zone string, res placement.Result) error {
	return awsapi.Errorf("InsufficientInstanceCapacity", "We currently do not have sufficient %s capacity in the Availability Zone you requested (%s): %s.",
		size, zone, res.Reason())
}

// lendPublicAddresses gives an instance's interfaces the public addresses that each start assigns.
func lendPublicAddresses(tx *store.Tx, i *cloud.Instance) error {
	if len(i.Interfaces) > 1 {
		return nil // EC2 lends none to an instance that has been given more interfaces
	}
	for _, id := range i.Interfaces {
		n, ok := store.Get(tx, store.Interfaces, id)
		if !ok || !n.AutoPublicIP || n.PublicIP().IsValid() {
			continue
		}
		pool, err := publicPool(tx.View())
		if err != nil {
			return err
		}
		public, err := claimPublic(tx, pool, n.ID, netip.Addr{})
		if err != nil {
			return err
		}
		n.Publish(cloud.PublicAddress{Private: n.PrivateIP, Public: public})
		store.Put(tx, store.Interfaces, n)
	}
	return nil
}

func (s *Service) stopInstances(ctx context.Context, call *awsapi.Call, req *ec2.StopInstancesRequest) (*ec2.StopInstancesResult, error) {
	force, hibernate := deref(req.Force), deref(req.Hibernate)
	if force && hibernate {
		return nil, awsapi.InvalidCombination("Force and Hibernate cannot be used together: a forced stop doesn't wait for the memory to be saved.")
	}
	changes, err := s.change(ctx, call, req.InstanceIds, always(func(_ *store.Tx, i *cloud.Instance) (bool, error) {
		switch i.State {
		case cloud.StateStopped:
			return false, nil
		case cloud.StateStopping: // a second, forced stop hurries a slow one
			hurry := force && !i.ForceStop
			i.ForceStop = i.ForceStop || force
			if force && i.Hibernate { // what is not saved yet is given up
				i.Hibernate, i.StateReason = false, cloud.ReasonUserStop
			}
			return hurry, nil
		case cloud.StateRunning:
		case cloud.StatePending:
			if i.RunningSince.IsZero() {
				return false, awsapi.Errorf("IncorrectInstanceState", "Instance '%s' cannot be stopped as it has never reached the 'running' state.", i.ID)
			}
		default:
			return false, wrongState(i, "stopped")
		}
		if i.DisableAPIStop {
			return false, awsapi.Errorf("OperationNotPermitted", "The instance '%s' may not be stopped. Modify its 'disableApiStop' instance attribute and try again.", i.ID)
		}
		if hibernate && !i.HibernationConfigured {
			return false, awsapi.Errorf("UnsupportedHibernationConfiguration", "The instance '%s' is not configured for hibernation: a launch with HibernationOptions.Configured=true is, of virtual machines.", i.ID)
		}
		i.Desired, i.ForceStop, i.Hibernate = cloud.DesiredStopped, force, hibernate
		reason := cloud.ReasonUserStop
		if hibernate {
			reason = cloud.ReasonUserHibernate
		}
		return true, i.Transition(cloud.StateStopping, reason, call.Now)
	}))
	return &ec2.StopInstancesResult{StoppingInstances: changes}, err
}

func (s *Service) rebootInstances(ctx context.Context, call *awsapi.Call, req *ec2.RebootInstancesRequest) (*ec2.RebootInstancesResult, error) {
	_, err := s.change(ctx, call, req.InstanceIds, always(func(_ *store.Tx, i *cloud.Instance) (bool, error) {
		if i.State != cloud.StateRunning {
			return false, wrongState(i, "rebooted")
		}
		i.Boot++
		return true, nil
	}))
	return &ec2.RebootInstancesResult{}, err
}

func (s *Service) terminateInstances(ctx context.Context, call *awsapi.Call, req *ec2.TerminateInstancesRequest) (*ec2.TerminateInstancesResult, error) {
	changes, err := s.change(ctx, call, req.InstanceIds, always(func(_ *store.Tx, i *cloud.Instance) (bool, error) {
		if i.State == cloud.StateTerminated || i.State == cloud.StateShuttingDown {
			return false, nil
		}
		if i.DisableAPITermination {
			return false, awsapi.Errorf("OperationNotPermitted", "The instance '%s' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.", i.ID)
		}
		i.Desired = cloud.DesiredTerminated
		return true, i.Transition(cloud.StateShuttingDown, cloud.ReasonUserTerminate, call.Now)
	}))
	return &ec2.TerminateInstancesResult{TerminatingInstances: changes}, err
}
