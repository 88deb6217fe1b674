package nacre

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
)

// The actions that look at images.
var (
	ActionInspectImage     = awsapi.Define[InspectImageRequest, InspectImageResponse](Service, "InspectImage")
	ActionDescribeImageUse = awsapi.Define[DescribeImageUseRequest, DescribeImageUseResponse](Service, "DescribeImageUse")
)

// InspectImage tells what each layer of an image adds and who shares it. It fails with ConflictException for images that have no layers.
func (c Client) InspectImage(ctx context.Context, in *InspectImageRequest) (*InspectImageResponse, error) {
	return awsapi.Invoke(ctx, c.Client, ActionInspectImage, in)
}

// DescribeImageUse tells where the bytes of images are, and of what is made of them. It is the operator's account's alone.
func (c Client) DescribeImageUse(ctx context.Context, in *DescribeImageUseRequest) (*DescribeImageUseResponse, error) {
	return awsapi.Invoke(ctx, c.Client, ActionDescribeImageUse, in)
}

// InspectImageRequest names an image of layers.
type InspectImageRequest struct {
	ImageId *string `json:"ImageId" required:"true"`
}

// InspectImageResponse is what it is made of.
type InspectImageResponse struct {
	Digest *string        `json:"Digest"`
	Layers []LayerContent `json:"Layers"` // the lowest first
}

// LayerContent is a layer and what it adds to those below.
type LayerContent struct {
	Digest      *string    `json:"Digest"` // of its unpacked content
	Size        *int64     `json:"Size"`   // bytes on the server, unpacked
	Files       *int64     `json:"Files"`  // regular ones
	Directories *int64     `json:"Directories"`
	Others      *int64     `json:"Others"`  // links, pipes
	Deleted     *int64     `json:"Deleted"` // of the layers below
	Largest     []FileSize `json:"Largest"`
	Images      []string   `json:"Images"`    // ids of the images that stand on it
	Instances   []string   `json:"Instances"` // of those images
}

// FileSize is a file and its bytes.
type FileSize struct {
	Path *string `json:"Path"`
	Size *int64  `json:"Size"`
}

// DescribeImageUseRequest asks about everything.
type DescribeImageUseRequest struct{}

// DescribeImageUseResponse is where the bytes are. No byte counts twice: Total is the sum of the six before it.
type DescribeImageUseResponse struct {
	Content *int64       `json:"Content"` // manifests, layers as they came, whole disks, kernels
	Layers  *int64       `json:"Layers"`  // unpacked
	Written *int64       `json:"Written"` // by containers, over these
	Disks   *int64       `json:"Disks"`   // made of layers, for virtual machines
	Frozen  *int64       `json:"Frozen"`  // templates' disks, and those of virtual machines from before their roots were volumes
	Volumes *int64       `json:"Volumes"` // volumes and snapshots, save for what they share with the disks above
	Total   *int64       `json:"Total"`
	Images  []ImageBytes `json:"Images"`
}

// ImageBytes is what an image takes of Content, Layers and Disks.
type ImageBytes struct {
	Image  *string `json:"Image"`  // its ids, or its digest where none is left
	Own    *int64  `json:"Own"`    // that no other image needs
	Shared *int64  `json:"Shared"` // that others need too
}
