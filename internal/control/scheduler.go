package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nacre-cloud/nacre/internal/attachments"
	"github.com/nacre-cloud/nacre/internal/capacity"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/cloud/placement"
	"github.com/nacre-cloud/nacre/internal/store"
)

// schedule places every instance that waits for a node, oldest first. An instance that was placed
// before keeps its node: its disk is there.
func schedule(ctx context.Context, s *store.Store, now func() time.Time) error {
	view := s.View()
	waiting := capacity.Waiting(view)
	if len(waiting) == 0 {
		return nil
	}
	candidates := capacity.Candidates(view)
	choice := map[cloud.InstanceID]placement.Result{}
	var problems []error
	for _, i := range waiting {
		wanted, ok := capacity.Wanted(view, i)
		if !ok {
			problems = append(problems, fmt.Errorf("instance %s: unknown type %s", i.ID, i.Type))
			continue
		}
		choice[i.ID] = placement.Take(candidates, wanted)
	}
	err := s.Update(ctx, func(tx *store.Tx) error {
		for id, res := range choice {
			i, ok := store.Get(tx, store.Instances, id)
			if !ok || i.Node != "" || i.State != cloud.StatePending {
				continue
			}
			if res.Node == "" {
				i.Desired = cloud.DesiredTerminated
				if err := i.Transition(cloud.StateShuttingDown, cloud.ReasonInsufficientCapacity(res.Reason()), now()); err != nil {
					return err
				}
			} else {
				i.Node, i.Partition = res.Node, res.Partition
				attachments.Place(tx, i)
			}
			store.Put(tx, store.Instances, i)
		}
		return nil
	})
	return errors.Join(append(problems, err)...)
}

// finishUnplaced terminates instances that were given up before any node had them.
func finishUnplaced(ctx context.Context, s *store.Store, now func() time.Time) error {
	for _, i := range store.ListBy(s.View(), store.InstancesByState, cloud.StateShuttingDown) {
		if i.Node != "" {
			continue
		}
		err := s.Update(ctx, func(tx *store.Tx) error {
			i, ok := store.Get(tx, store.Instances, i.ID)
			if !ok || i.Node != "" || i.State != cloud.StateShuttingDown {
				return nil
			}
			if err := terminate(tx, i, now()); err != nil {
				return err
			}
			store.Put(tx, store.Instances, i)
			return nil
		})
		if err != nil {
			return fmt.Errorf("instance %s: finish a launch that no node took: %w", i.ID, err)
		}
	}
	return nil
}
