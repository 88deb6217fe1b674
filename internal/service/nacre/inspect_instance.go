package nacre

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerInspect(r *awsapi.Registry) {
	awsapi.Handle(r, nacre.ActionInspectInstance, s.inspectInstance, awsapi.Honours("InstanceId", "Address", "Process", "Pages", "Processor"))
}

func (s *Service) inspectInstance(ctx context.Context, call *awsapi.Call, req *nacre.InspectInstanceRequest) (*nacre.InspectInstanceResponse, error) {
	look, err := lookOf(req)
	if err != nil {
		return nil, err
	}
	view := s.store.View()
	id := *req.InstanceId
	if !cloud.ValidID[cloud.InstanceID](id) {
		return nil, awsapi.InvalidParameterValue("InstanceId %.40q is no instance's id, such as i-0123456789abcdef0", id)
	}
	i, ok := store.Get(view, store.Instances, cloud.InstanceID(id))
	switch {
	case !ok || i.Account != call.Account:
		return nil, awsapi.Errorf("ResourceNotFoundException", "There is no instance %s.", id)
	case i.State != cloud.StateRunning:
		return nil, awsapi.Errorf("ConflictException", "The instance %s is %s: there is something to see inside while it runs.", id, i.State)
	case look.Wants() && i.Isolation != cloud.IsolationVM:
		return nil, awsapi.Errorf("ConflictException", "The instance %s is a container, whose addresses are translated by the server's own kernel: Address and Process are for virtual machines.", id)
	}
	found, refused, err := s.cfg.Nodes.Inspect(ctx, i.Node, i.ID, look)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil, awsapi.Errorf("Unavailable", "The node of %s did not answer in time; try again.", id)
	case err != nil:
		s.cfg.Logger.Warn("an instance can't be looked at", "instance", id, "request", call.RequestID, "error", err)
		return nil, awsapi.Errorf("Unavailable", "The node of %s can't look inside it now; try again. The operator finds the reason in nacre's log by the request id.", id)
	case refused != "":
		return nil, awsapi.InvalidParameterValue("In %s that is not to be found: %s.", id, refused)
	case found == nil:
		return nil, fmt.Errorf("the node of %s answers with nothing", id)
	}
	return shapeOf(complete(view, call.Account, i, *found))
}

// lookOf reads what is to be looked at.
func lookOf(req *nacre.InspectInstanceRequest) (cloud.Look, error) {
	var look cloud.Look
	if req.Address != nil {
		v, err := cloud.HexAddress(*req.Address).Value()
		if err != nil {
			return look, awsapi.InvalidParameterValue("%s", err)
		}
		look.Address = cloud.HexAddressOf(v)
	}
	if req.Process != nil {
		look.Process = *req.Process
	}
	if req.Pages != nil {
		look.Pages = *req.Pages
	}
	if req.Processor != nil {
		look.Processor = *req.Processor
	}
	switch {
	case !look.Wants() && (req.Pages != nil || req.Processor != nil):
		return look, awsapi.InvalidCombination("Pages and Processor say more of an Address or a Process: give one of these too")
	case look.Process != "" && req.Processor != nil:
		return look, awsapi.InvalidCombination("a Process has tables of its own: leave Processor out, or Process")
	}
	return look, nil
}

// complete adds what the node does not know, and takes away what the caller may not know.
func complete(view store.Reader, account cloud.AccountID, i *cloud.Instance, found cloud.Inspection) cloud.Inspection {
	region, ok := store.Region(view)
	operator := ok && region.Root == account
	found.ImageID = i.Image
	if found.VM != nil {
		vm := *found.VM
		vm.KernelID, vm.RamdiskID = i.Hardware.Kernel, i.Hardware.Ramdisk
		found.VM = &vm
	}
	// Digests are the node's; callers know images by their ids, and only those that they may use.
	ids := map[string][]string{}
	for _, img := range store.List(view, store.Images) {
		if operator || img.Account == account || img.Public || slices.Contains(img.Launch, account) {
			ids[img.Digest] = append(ids[img.Digest], string(img.ID))
		}
	}
	if !operator {
		found = found.WithoutHost(func(id cloud.InstanceID) bool {
			other, ok := store.Get(view, store.Instances, id)
			return ok && other.Account == account
		}, func(digest string) bool { return ids[digest] != nil })
	}
	if found.Root == nil {
		return found
	}
	root := *found.Root
	root.Layers = slices.Clone(root.Layers)
	for n := range root.Layers {
		l := &root.Layers[n]
		var images []string
		for _, digest := range l.Images {
			images = append(images, ids[digest]...)
		}
		slices.Sort(images)
		l.Images = slices.Compact(images)
	}
	found.Root = &root
	return found
}

// shapeOf is an inspection in the API's shapes, whose members are called as its fields are.
func shapeOf(found cloud.Inspection) (*nacre.InspectInstanceResponse, error) {
	b, err := json.Marshal(found)
	if err != nil {
		return nil, err
	}
	out := &nacre.InspectInstanceResponse{}
	return out, json.Unmarshal(b, out)
}
