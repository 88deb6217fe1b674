package nacre

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/containerfile"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerBuilds(r *awsapi.Registry) {
	awsapi.Handle(r, nacre.ActionBuildImage, s.buildImage, awsapi.Honours("Name", "Containerfile", "Context", "BuildArgs", "Secrets", "Target", "NoCache", "Replace"))
	awsapi.Handle(r, nacre.ActionDescribeImageBuild, s.describeImageBuild, awsapi.Honours("BuildId", "Step", "Offset"))
}

const (
	maxSecret       = 64 << 10
	maxArgs         = 128 << 10 // bytes of all build arguments
	maxActiveBuilds = 20
	// outputRoom bounds the output in one answer, in bytes.
	outputRoom = 128 << 10
)

var (
	contextDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	secretID      = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,128}$`)
	argumentName  = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_.-]{0,127}$`)
)

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// buildImage starts a build: an import task whose source is a Containerfile.
func (s *Service) buildImage(ctx context.Context, call *awsapi.Call, req *nacre.BuildImageRequest) (*nacre.BuildImageResponse, error) {
	name := *req.Name
	if !cloud.ValidImageName(name) {
		return nil, awsapi.InvalidParameterValue("Name %.140q is not an image's: 3 to 128 letters, digits, spaces and any of ()[]./-'@_:", name)
	}
	b := &cloud.Build{Text: *req.Containerfile, Context: deref(req.Context), Args: req.BuildArgs, Target: deref(req.Target), NoCache: deref(req.NoCache), Replace: deref(req.Replace),
		Bases: map[string]string{}}
	secrets, err := givenTo(b, req)
	if err != nil {
		return nil, err
	}
	node, err := s.builder()
	if err != nil {
		return nil, err
	}
	f, err := containerfile.Parse(b.Text, containerfile.Options{Args: b.Args, Target: b.Target, Architecture: ociWord(node.Architecture)})
	if err != nil {
		return nil, awsapi.InvalidParameterValue("Containerfile: %s", err)
	}
	t := &cloud.ImportTask{ID: cloud.NewID[cloud.ImportTaskID](s.cfg.Rand), Account: call.Account, Source: "build:" + name, Name: name, Build: b,
		TaskTags: cloud.Tags{"Name": name}, State: cloud.ImportActive, Message: "pending", Created: call.Now}
	// Before the node can hear of the build.
	if len(secrets) > 0 {
		s.cfg.Secrets.Put(t.ID, secrets, call.Now)
	}
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		b.Bases, b.Pull = map[string]string{}, nil
		if claim, taken := store.Get(tx, store.Claims, store.NameClaim("image", call.Account, name)); taken && !b.Replace {
			return awsapi.Errorf("ConflictException", "An image named %q exists (%s): build under another name, or replace it.", name, claim.Owner)
		}
		active := 0
		for _, other := range store.ListBy(tx.View(), store.ImportTasksByAccount, call.Account) {
			if other.State == cloud.ImportActive {
				active++
			}
		}
		if active >= maxActiveBuilds {
			return awsapi.Errorf("ConflictException", "%d builds and imports are active; wait for one to end.", active)
		}
		if err := s.findBases(tx, call.Account, b, f.References()); err != nil {
			return err
		}
		store.Put(tx, store.ImportTasks, t)
		return nil
	})
	if err != nil {
		s.cfg.Secrets.Drop(t.ID)
		return nil, err
	}
	return &nacre.BuildImageResponse{BuildId: new(string(t.ID))}, nil
}

// givenTo checks what comes with the text, notes it in the build, and returns the secrets.
func givenTo(b *cloud.Build, req *nacre.BuildImageRequest) (map[string][]byte, error) {
	if b.Context != "" && !contextDigest.MatchString(b.Context) {
		return nil, awsapi.InvalidParameterValue("Context is not a digest, sha256: and 64 hexadecimal digits")
	}
	size := 0
	for k, v := range b.Args {
		if size += len(k) + len(v); !argumentName.MatchString(k) || strings.ContainsRune(v, 0) {
			return nil, awsapi.InvalidParameterValue("%.140q is no name of a build argument, or its value has a zero byte", k)
		}
	}
	if size > maxArgs {
		return nil, awsapi.InvalidParameterValue("the build arguments have %d bytes; %d are accepted", size, maxArgs)
	}
	secrets := map[string][]byte{}
	for _, secret := range req.Secrets {
		id := deref(secret.Id)
		switch _, twice := secrets[id]; {
		case !secretID.MatchString(id):
			return nil, awsapi.InvalidParameterValue("%.140q is no id of a secret: 1 to 128 letters, digits and any of ._-", id)
		case twice:
			return nil, awsapi.InvalidParameterValue("the secret %s is given twice", id)
		case len(secret.Value) > maxSecret:
			return nil, awsapi.InvalidParameterValue("the secret %s has %d bytes; %d are accepted", id, len(secret.Value), maxSecret)
		}
		secrets[id] = secret.Value
		b.Secrets = append(b.Secrets, id)
	}
	slices.Sort(b.Secrets)
	return secrets, nil
}

// builder is the node that builds: as with imports, the one that has been there longest.
func (s *Service) builder() (*cloud.Node, error) {
	var node *cloud.Node
	for _, n := range store.List(s.store.View(), store.Nodes) {
		if node == nil || n.Registered.Before(node.Registered) {
			node = n
		}
	}
	if node == nil {
		return nil, awsapi.Errorf("Unavailable", "No node is there yet to build on; try again.")
	}
	return node, nil
}

// ociWord is OCI's word for an architecture of EC2's.
func ociWord(architecture string) string {
	if architecture == "x86_64" {
		return "amd64"
	}
	return architecture
}

// findBases finds the images that a text names: the account's own by name or id, those that it may launch by id. Others are pulled, which is the
// operator's alone.
func (s *Service) findBases(tx *store.Tx, account cloud.AccountID, b *cloud.Build, refs []string) error {
	for _, ref := range refs {
		var img *cloud.Image
		if cloud.ValidID[cloud.ImageID](ref) {
			found, ok := store.Get(tx, store.Images, cloud.ImageID(ref))
			if !ok || found.Account != account && !found.Public && !slices.Contains(found.Launch, account) {
				return awsapi.Errorf("ResourceNotFoundException", "There is no image %s to build on.", ref)
			}
			img = found
		} else if claim, ok := store.Get(tx, store.Claims, store.NameClaim("image", account, ref)); ok {
			img, _ = store.Get(tx, store.Images, cloud.ImageID(claim.Owner))
		}
		region, ok := store.Region(tx)
		switch {
		case img == nil && (!ok || region.Root != account):
			return awsapi.Errorf("ResourceNotFoundException", "This account has no image named %q to build on, and only the operator's account may pull from registries.", ref)
		case img == nil:
			b.Pull = append(b.Pull, ref)
		case img.State != cloud.ImageAvailable:
			return awsapi.Errorf("ConflictException", "The image %s (%s) is %s.", ref, img.ID, img.State)
		case img.Kind() != cloud.ImageMachine || img.Hardware.Content != "":
			return awsapi.InvalidParameterValue("the image %s (%s) is not made of layers: it can't be built on", ref, img.ID)
		default:
			b.Bases[ref] = img.Digest
		}
	}
	return nil
}

func (s *Service) describeImageBuild(ctx context.Context, call *awsapi.Call, req *nacre.DescribeImageBuildRequest) (*nacre.DescribeImageBuildResponse, error) {
	t, ok := store.Get(s.store.View(), store.ImportTasks, cloud.ImportTaskID(*req.BuildId))
	if !ok || t.Account != call.Account || t.Build == nil {
		return nil, awsapi.Errorf("ResourceNotFoundException", "There is no build %.60s.", *req.BuildId)
	}
	out := &nacre.DescribeImageBuildResponse{BuildId: req.BuildId, Status: new("active"), Message: new(t.Message), Steps: []nacre.BuildStep{}}
	switch t.State {
	case cloud.ImportCompleted:
		out.Status, out.ImageId = new("completed"), new(string(t.Image))
	case cloud.ImportFailed:
		out.Status = new("failed")
	case cloud.ImportDeleted:
		out.Status = new("cancelled")
	}
	if t.State != cloud.ImportActive && t.State != cloud.ImportDeleting {
		s.cfg.Secrets.Drop(t.ID)
	}
	if t.Node == "" {
		return out, nil
	}
	q := agentrpc.BuildQuery{Task: t.ID, Step: -1, Offset: deref(req.Offset), Limit: outputRoom}
	if req.Step != nil {
		q.Step = int(*req.Step)
	}
	found, err := s.cfg.Nodes.Build(ctx, t.Node, q)
	if err != nil {
		if t.State == cloud.ImportActive {
			return nil, awsapi.Errorf("Unavailable", "The node of the build %s does not answer; try again.", t.ID)
		}
		return out, nil // what became of it is known all the same
	}
	for _, step := range found.Steps {
		out.Steps = append(out.Steps, nacre.BuildStep{Stage: new(step.Stage), Line: new(int64(step.Line)), Instruction: new(step.Text), State: new(string(step.State)), Millis: new(step.Millis)})
	}
	out.Output, out.NextOffset = found.Output, new(found.Next)
	return out, nil
}
