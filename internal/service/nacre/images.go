package nacre

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerImages(r *awsapi.Registry) {
	awsapi.Handle(r, nacre.ActionInspectImage, s.inspectImage, awsapi.Honours("ImageId"))
	awsapi.Handle(r, nacre.ActionDescribeImageUse, s.describeImageUse, awsapi.Honours())
}

// known tells which images an account may know of.
func known(img *cloud.Image, account cloud.AccountID, operator bool) bool {
	return operator || img.Account == account || img.Public || slices.Contains(img.Launch, account)
}

func isOperator(r store.Reader, account cloud.AccountID) bool {
	region, ok := store.Region(r)
	return ok && region.Root == account
}

func (s *Service) inspectImage(ctx context.Context, call *awsapi.Call, req *nacre.InspectImageRequest) (*nacre.InspectImageResponse, error) {
	view := s.store.View()
	operator := isOperator(view, call.Account)
	id := *req.ImageId
	img, ok := store.Get(view, store.Images, cloud.ImageID(id))
	switch {
	case !cloud.ValidID[cloud.ImageID](id):
		return nil, awsapi.InvalidParameterValue("ImageId %.40q is no image's id, such as ami-0123456789abcdef0", id)
	case !ok || !known(img, call.Account, operator):
		return nil, awsapi.Errorf("ResourceNotFoundException", "There is no image %s.", id)
	case img.Digest == "":
		return nil, awsapi.Errorf("ConflictException", "The image %s is %s.", id, img.State)
	case img.Hardware.Content != cloud.ContentLayers || img.Kind() != cloud.ImageMachine:
		return nil, awsapi.Errorf("ConflictException", "The image %s has no layers: it is one file.", id)
	}
	made, _, err := s.cfg.Nodes.Images(ctx, keeper(view), img.Digest)
	if err != nil || made == nil {
		s.cfg.Logger.Warn("an image can't be looked at", "image", id, "request", call.RequestID, "error", err)
		return nil, awsapi.Errorf("Unavailable", "The image %s can't be looked at now; try again. The operator finds the reason in nacre's log by the request id.", id)
	}
	ids := idsOf(view, call.Account, operator)
	for n := range made.Layers {
		l := &made.Layers[n]
		var images []string
		for _, digest := range l.Images {
			images = append(images, ids[digest]...)
		}
		slices.Sort(images)
		l.Images = slices.Compact(images)
		l.Instances = slices.DeleteFunc(l.Instances, func(id cloud.InstanceID) bool {
			i, ok := store.Get(view, store.Instances, id)
			return !ok || !operator && i.Account != call.Account
		})
	}
	out := &nacre.InspectImageResponse{}
	return out, reshape(made, out)
}

// idsOf are the ids of the images that an account may know of, by digest.
func idsOf(r store.Reader, account cloud.AccountID, operator bool) map[string][]string {
	ids := map[string][]string{}
	for _, img := range store.List(r, store.Images) {
		if img.Digest != "" && known(img, account, operator) {
			ids[img.Digest] = append(ids[img.Digest], string(img.ID))
		}
	}
	return ids
}

// reshape writes a value of the domain in the API's shapes, whose members are called as its fields are.
func reshape(from, to any) error {
	b, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, to)
}

func (s *Service) describeImageUse(ctx context.Context, call *awsapi.Call, _ *nacre.DescribeImageUseRequest) (*nacre.DescribeImageUseResponse, error) {
	view := s.store.View()
	if !isOperator(view, call.Account) {
		return nil, awsapi.Errorf("AccessDeniedException", "What a server's disk holds is the operator's to know.")
	}
	_, use, err := s.cfg.Nodes.Images(ctx, keeper(view), "")
	if err != nil || use == nil {
		s.cfg.Logger.Warn("the images can't be weighed", "request", call.RequestID, "error", err)
		return nil, awsapi.Errorf("Unavailable", "The images can't be weighed now; try again. nacre's log has the reason by the request id.")
	}
	ids := idsOf(view, call.Account, true)
	for n := range use.Images {
		if list := ids[use.Images[n].Image]; len(list) > 0 {
			slices.Sort(list)
			use.Images[n].Image = strings.Join(list, " ")
		}
	}
	out := &nacre.DescribeImageUseResponse{Total: new(use.Total())}
	return out, reshape(use, out)
}
