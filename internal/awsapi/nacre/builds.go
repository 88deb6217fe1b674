package nacre

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
)

// The actions on builds. A build is an import task: CancelImportTask of EC2 ends it.
var (
	ActionBuildImage         = awsapi.Define[BuildImageRequest, BuildImageResponse](Service, "BuildImage")
	ActionDescribeImageBuild = awsapi.Define[DescribeImageBuildRequest, DescribeImageBuildResponse](Service, "DescribeImageBuild")
)

// BuildImageRequest says what an image is made of.
type BuildImageRequest struct {
	Name          *string           `json:"Name" required:"true" min:"3" max:"128"` // of the AMI
	Containerfile *string           `json:"Containerfile" required:"true" min:"1"`  // its text, of 256 KiB at most
	Context       *string           `json:"Context" min:"71" max:"71"`              // "sha256:…" of a plain tar that was uploaded; absent: there are no files
	BuildArgs     map[string]string `json:"BuildArgs" max:"200"`
	Secrets       []BuildSecret     `json:"Secrets" max:"32"`
	Target        *string           `json:"Target" min:"1" max:"128"` // name or number of the stage that is the image; absent: the last
	NoCache       *bool             `json:"NoCache"`                  // run every step
	Replace       *bool             `json:"Replace"`                  // an image of the name is deregistered when the build is done
}

// BuildSecret is what RUN --mount=type=secret shows, and nothing else has.
type BuildSecret struct {
	Id    *string `json:"Id" required:"true" min:"1" max:"128"`
	Value []byte  `json:"Value"` // 64 KiB at most
}

// BuildImageResponse has the build's id, which is an import task's.
type BuildImageResponse struct {
	BuildId *string `json:"BuildId"`
}

// DescribeImageBuildRequest asks how far a build is, and for what a step wrote.
type DescribeImageBuildRequest struct {
	BuildId *string `json:"BuildId" required:"true"`
	Step    *int64  `json:"Step" min:"0" max:"100000"` // whose output is wanted, from 0; absent: none
	Offset  *int64  `json:"Offset" min:"0"`            // from which byte on
}

// DescribeImageBuildResponse is how far a build is. The steps are known to its node until that is started again, and of the last builds.
type DescribeImageBuildResponse struct {
	BuildId    *string     `json:"BuildId"`
	Status     *string     `json:"Status"`  // "active", "completed", "failed", "cancelled"
	Message    *string     `json:"Message"` // why it failed
	ImageId    *string     `json:"ImageId"`
	Steps      []BuildStep `json:"Steps"`
	Output     []byte      `json:"Output"`     // of the step that was asked for: the last 256 KiB are kept
	NextOffset *int64      `json:"NextOffset"` // to go on from
}

// BuildStep is one instruction.
type BuildStep struct {
	Stage       *string `json:"Stage"` // name or number, "" for what comes before all stages
	Line        *int64  `json:"Line"`  // of the Containerfile
	Instruction *string `json:"Instruction"`
	State       *string `json:"State"` // "waiting", "running", "done", "cached", "failed"
	Millis      *int64  `json:"Millis"`
}

// BuildImage starts a build. It fails with ConflictException when the account has an image of the name, unless that is to be replaced, and with
// ValidationException when the text can't be built; the message names the line.
func (c Client) BuildImage(ctx context.Context, in *BuildImageRequest) (*BuildImageResponse, error) {
	return awsapi.Invoke(ctx, c.Client, ActionBuildImage, in)
}

// DescribeImageBuild tells how far a build is.
func (c Client) DescribeImageBuild(ctx context.Context, in *DescribeImageBuildRequest) (*DescribeImageBuildResponse, error) {
	return awsapi.Invoke(ctx, c.Client, ActionDescribeImageBuild, in)
}
