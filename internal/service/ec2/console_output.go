package ec2

import (
	"context"
	"encoding/base64"
	"errors"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

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
