package ec2

import (
	"context"
	"encoding/base64"
	"errors"
	"net/netip"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// change applies one step to every instance of a call, or to none.
func (s *Service) change(ctx context.Context, call *awsapi.Call, ids []string, step func(*store.Tx, *cloud.Instance) error) ([]ec2.InstanceStateChange, error) {
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
		for _, i := range list {
			before := i.State
			if err := step(tx, i); err != nil {
				return err
			}
			store.Put(tx, store.Instances, i)
			changes = append(changes, ec2.InstanceStateChange{InstanceId: text(i.ID), PreviousState: stateShape(before), CurrentState: stateShape(i.State)})
		}
		return nil
	})
	return changes, err
}

func wrongState(i *cloud.Instance, verb string) error {
	return awsapi.Errorf("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be %s.", i.ID, verb)
}

func (s *Service) startInstances(ctx context.Context, call *awsapi.Call, req *ec2.StartInstancesRequest) (*ec2.StartInstancesResult, error) {
	changes, err := s.change(ctx, call, req.InstanceIds, func(tx *store.Tx, i *cloud.Instance) error {
		switch i.State {
		case cloud.StateRunning, cloud.StatePending:
			return nil
		case cloud.StateStopped:
		default:
			return wrongState(i, "started")
		}
		pool, err := publicPool(tx.View())
		if err != nil {
			return err
		}
		for _, id := range i.Interfaces {
			n, ok := store.Get(tx, store.Interfaces, id)
			if !ok || !n.AutoPublicIP || n.PublicIP.IsValid() {
				continue
			}
			if n.PublicIP, err = claimPublic(tx, pool, n.ID, netip.Addr{}); err != nil {
				return err
			}
			store.Put(tx, store.Interfaces, n)
		}
		i.Desired, i.LaunchTime = cloud.DesiredRunning, call.Now
		i.Boot++
		return i.Transition(cloud.StatePending, cloud.StateReason{}, call.Now)
	})
	return &ec2.StartInstancesResult{StartingInstances: changes}, err
}

func (s *Service) stopInstances(ctx context.Context, call *awsapi.Call, req *ec2.StopInstancesRequest) (*ec2.StopInstancesResult, error) {
	if deref(req.Hibernate) {
		return nil, awsapi.Errorf("UnsupportedHibernationConfiguration", "Container instances cannot hibernate.")
	}
	changes, err := s.change(ctx, call, req.InstanceIds, func(_ *store.Tx, i *cloud.Instance) error {
		switch i.State {
		case cloud.StateStopped:
			return nil
		case cloud.StateStopping:
			i.ForceStop = i.ForceStop || deref(req.Force) // a second, forced stop hurries a slow one
			return nil
		case cloud.StateRunning, cloud.StatePending:
		default:
			return wrongState(i, "stopped")
		}
		if i.DisableAPIStop {
			return awsapi.Errorf("OperationNotPermitted", "The instance '%s' may not be stopped. Modify its 'disableApiStop' instance attribute and try again.", i.ID)
		}
		i.Desired, i.ForceStop = cloud.DesiredStopped, deref(req.Force)
		return i.Transition(cloud.StateStopping, cloud.ReasonUserStop, call.Now)
	})
	return &ec2.StopInstancesResult{StoppingInstances: changes}, err
}

func (s *Service) rebootInstances(ctx context.Context, call *awsapi.Call, req *ec2.RebootInstancesRequest) (*ec2.RebootInstancesResult, error) {
	_, err := s.change(ctx, call, req.InstanceIds, func(_ *store.Tx, i *cloud.Instance) error {
		if i.State != cloud.StateRunning {
			return wrongState(i, "rebooted")
		}
		i.Boot++
		return nil
	})
	return &ec2.RebootInstancesResult{}, err
}

func (s *Service) terminateInstances(ctx context.Context, call *awsapi.Call, req *ec2.TerminateInstancesRequest) (*ec2.TerminateInstancesResult, error) {
	changes, err := s.change(ctx, call, req.InstanceIds, func(_ *store.Tx, i *cloud.Instance) error {
		if i.State == cloud.StateTerminated || i.State == cloud.StateShuttingDown {
			return nil
		}
		if i.DisableAPITermination {
			return awsapi.Errorf("OperationNotPermitted", "The instance '%s' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.", i.ID)
		}
		i.Desired = cloud.DesiredTerminated
		return i.Transition(cloud.StateShuttingDown, cloud.ReasonUserTerminate, call.Now)
	})
	return &ec2.TerminateInstancesResult{TerminatingInstances: changes}, err
}

// consoleLimit is EC2's: the last 64 KB.
const consoleLimit = 64 << 10

func (s *Service) getConsoleOutput(ctx context.Context, call *awsapi.Call, req *ec2.GetConsoleOutputRequest) (*ec2.GetConsoleOutputResult, error) {
	i, err := lookup(s.store.View(), store.Instances, ownerOfInstance, kindInstance, call.Account, deref(req.InstanceId))
	if err != nil {
		return nil, err
	}
	out := &ec2.GetConsoleOutputResult{InstanceId: text(i.ID), Timestamp: &i.StateChanged, Output: new("")}
	if i.Node == "" || i.State == cloud.StateTerminated || call.DryRun {
		return out, nil
	}
	b, at, err := s.cfg.Console.Console(ctx, i.Node, i.ID, consoleLimit)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil, awsapi.Errorf("Unavailable", "The console of %s could not be read in time; try again.", i.ID)
	case err != nil:
		s.cfg.Logger.Warn("a console can't be read", "instance", i.ID, "error", err)
		return nil, awsapi.Errorf("Unavailable", "The node of %s does not answer; try again.", i.ID)
	}
	out.Output = new(base64.StdEncoding.EncodeToString(b))
	if !at.IsZero() {
		out.Timestamp = &at
	}
	return out, nil
}
