package nacre

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// exportFormats are those of images of layers and of whole disks; the first is what an image is exported as that nothing is said of.
var exportFormats = map[cloud.ImageContent][]string{cloud.ContentLayers: {"oci"}, cloud.ContentDisk: {"qcow2", "raw", "vmdk"}}

// ExportImage opens one of an account's own images for reading, whole or with an error. format "" is the first of those that the image can have.
func (s *Service) ExportImage(ctx context.Context, account cloud.AccountID, id, format string) (io.ReadCloser, error) {
	view := s.store.View()
	img, ok := store.Get(view, store.Images, cloud.ImageID(id))
	switch {
	case !cloud.ValidID[cloud.ImageID](id):
		return nil, awsapi.InvalidParameterValue("%.40q is no image's id, such as ami-0123456789abcdef0", id)
	case !ok || img.Account != account && !img.Public && !slices.Contains(img.Launch, account):
		return nil, awsapi.Errorf("ResourceNotFoundException", "There is no image %s.", id)
	case img.Account != account:
		return nil, awsapi.Errorf("AccessDeniedException", "The image %s is another account's: it is its owner's to export.", id)
	case img.State != cloud.ImageAvailable && img.State != cloud.ImageDisabled:
		return nil, awsapi.Errorf("ConflictException", "The image %s is %s.", id, img.State)
	case img.Kind() != cloud.ImageMachine:
		return nil, awsapi.Errorf("ConflictException", "The image %s is a %s, and machine images are exported.", id, img.Kind())
	case img.Root() != nil:
		return nil, awsapi.Errorf("ConflictException", "The root of the image %s is the snapshot %s, and snapshots are not exported: attach a volume of it to an instance, and copy what is on it.", id, img.Root().Snapshot)
	}
	formats := exportFormats[img.Hardware.Content]
	if format == "" {
		format = formats[0]
	}
	if !slices.Contains(formats, format) {
		return nil, awsapi.InvalidParameterValue("The image %s can't be exported as %.20q: it can be as %s.", id, format, strings.Join(formats, ", "))
	}
	node := keeper(view)
	if node == "" {
		return nil, awsapi.Errorf("Unavailable", "No server is there that keeps the image %s.", id)
	}
	t, err := s.cfg.Nodes.Open(ctx, node, agentrpc.Target{Export: &agentrpc.Export{Digest: img.Digest, Format: format}})
	if err != nil {
		s.cfg.Logger.Warn("an image can't be exported", "image", id, "error", err)
		return nil, awsapi.Errorf("Unavailable", "The image %s can't be exported now; try again. The operator finds the reason in nacre's log.", id)
	}
	return struct {
		io.Reader
		io.Closer
	}{agentrpc.WholeReader(t), t}, nil
}

// keeper is the node that has been there longest: until images travel, it has all of them. "" is for none.
func keeper(r store.Reader) cloud.NodeID {
	var oldest *cloud.Node
	for _, n := range store.List(r, store.Nodes) {
		if oldest == nil || n.Registered.Before(oldest.Registered) {
			oldest = n
		}
	}
	if oldest == nil {
		return ""
	}
	return oldest.ID
}
