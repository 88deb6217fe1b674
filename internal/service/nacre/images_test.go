package nacre_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	gen "github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

func TestALookAtAnImageNamesOnlyWhatTheCallerMayKnowOf(t *testing.T) {
	w := newWorld(t)
	made := func() *cloud.ImageMakeup {
		return &cloud.ImageMakeup{Digest: "sha256:public", Layers: []cloud.LayerContent{{Digest: "sha256:layer", Size: 7, Files: 2, Deleted: 1, Largest: []cloud.FileSize{{Path: "/f", Size: 5}},
			Images: []string{"sha256:private", "sha256:public"}, Instances: []cloud.InstanceID{container, strangers}}}}
	}
	public := "ami-00000000000000002"
	for who, c := range map[string]struct {
		client            gen.Client
		images, instances []string
	}{
		"the operator": {w.operator, []string{"ami-00000000000000001", public}, []string{string(container), string(strangers)}},
		"a stranger":   {w.stranger, []string{public}, []string{string(strangers)}},
	} {
		w.node = node{made: made()}
		out, err := c.client.InspectImage(t.Context(), &gen.InspectImageRequest{ImageId: &public})
		if err != nil || len(out.Layers) != 1 {
			t.Fatalf("%s: %+v, %v", who, out, err)
		}
		if l := out.Layers[0]; !slices.Equal(l.Images, c.images) || !slices.Equal(l.Instances, c.instances) || *l.Size != 7 || *l.Deleted != 1 || *l.Largest[0].Path != "/f" {
			t.Errorf("%s is told %+v", who, l)
		}
	}
	for id, code := range map[string]string{"ami-00000000000000001": "ResourceNotFoundException", "image": "ValidationException"} {
		if _, err := w.stranger.InspectImage(t.Context(), &gen.InspectImageRequest{ImageId: &id}); awsapi.CodeOf(err) != code {
			t.Errorf("%s: %v", id, err)
		}
	}
	w.node = node{err: errors.New("a secret of the server's")}
	if _, err := w.operator.InspectImage(t.Context(), &gen.InspectImageRequest{ImageId: &public}); awsapi.CodeOf(err) != "ServiceUnavailable" || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

func TestWhereTheBytesAreIsTheOperatorsToKnow(t *testing.T) {
	w := newWorld(t)
	w.node = node{use: &cloud.ImageUse{Content: 1, Layers: 2, Written: 4, Disks: 8, Frozen: 16, Volumes: 32, Images: []cloud.ImageBytes{{Image: "sha256:public", Own: 3}, {Image: "sha256:left", Shared: 5}}}}
	if _, err := w.stranger.DescribeImageUse(t.Context(), &gen.DescribeImageUseRequest{}); awsapi.CodeOf(err) != "AccessDeniedException" {
		t.Error(err)
	}
	out, err := w.operator.DescribeImageUse(t.Context(), &gen.DescribeImageUseRequest{})
	if err != nil || *out.Total != 63 || len(out.Images) != 2 || *out.Images[0].Image != "ami-00000000000000002" || *out.Images[1].Image != "sha256:left" {
		t.Errorf("%+v, %v", out, err)
	}
}
