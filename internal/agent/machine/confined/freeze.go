package confined

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Freeze has all of a running machine's processes stand still, by its control group.
func (k *Keeper) Freeze(ctx context.Context, id cloud.InstanceID) error {
	if _, err := k.Running(id); err != nil {
		return err
	}
	if state, err := k.stateOf(ctx, id); err != nil || state == "paused" {
		return err
	}
	if _, err := k.runtime(ctx, "pause", string(id)); err != nil {
		return fmt.Errorf("machine %s: have it stand still: %w", id, err)
	}
	return nil
}

// Thaw lets a machine go on that stands still.
func (k *Keeper) Thaw(ctx context.Context, id cloud.InstanceID) error {
	if _, err := k.Running(id); err != nil {
		return nil
	}
	_, err := k.runtime(ctx, "resume", string(id))
	if err == nil {
		return nil
	}
	if state, unknown := k.stateOf(ctx, id); unknown == nil && state != "paused" {
		return nil
	}
	return fmt.Errorf("machine %s: let it go on: %w", id, err)
}

// stateOf is the runtime's word for a container's state: "running", "paused", "stopped".
func (k *Keeper) stateOf(ctx context.Context, id cloud.InstanceID) (string, error) {
	out, err := k.runtime(ctx, "state", string(id))
	var state struct{ Status string }
	if err = errors.Join(err, json.Unmarshal(out, &state)); err != nil {
		return "", fmt.Errorf("machine %s: ask for its state: %w", id, err)
	}
	return state.Status, nil
}
