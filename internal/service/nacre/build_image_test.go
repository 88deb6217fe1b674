package nacre_test

import (
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	gen "github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// withNode gives the region a server to build on.
func withNode(t *testing.T) *world {
	w := newWorld(t)
	err := w.store.Update(t.Context(), func(tx *store.Tx) error {
		store.Put(tx, store.Nodes, &cloud.Node{ID: "node-00000000000000001", Architecture: "x86_64"})
		img, _ := store.Get(tx, store.Images, cloud.ImageID("ami-00000000000000002"))
		img.State = cloud.ImageAvailable
		store.Put(tx, store.Images, img)
		return store.Insert(tx, store.Claims, &store.Claim{Key: store.NameClaim("image", img.Account, "taken"), Owner: string(img.ID)})
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestABuildIsATaskThatKnowsItsBasesAndNoSecret(t *testing.T) {
	w := withNode(t)
	out, err := w.operator.BuildImage(t.Context(), &gen.BuildImageRequest{Name: new("app:1"), Containerfile: new("FROM ami-00000000000000002 AS a\nFROM taken\nCOPY --from=example.com/x:1 / /\nCOPY --from=a / /\n"),
		Secrets: []gen.BuildSecret{{Id: new("token"), Value: []byte("hush")}}, BuildArgs: map[string]string{"A": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	id := cloud.ImportTaskID(*out.BuildId)
	task, _ := store.Get(w.store.View(), store.ImportTasks, id)
	if b := task.Build; b == nil || b.Bases["ami-00000000000000002"] != "sha256:public" || b.Bases["taken"] != "sha256:public" || len(b.Pull) != 1 || b.Pull[0] != "example.com/x:1" || b.Args["A"] != "b" || len(b.Secrets) != 1 {
		t.Errorf("%+v", task.Build)
	}
	if values, ok := w.secrets.Get(id); !ok || string(values["token"]) != "hush" {
		t.Errorf("the secrets are %v, %v", values, ok)
	}
	err = w.store.Update(t.Context(), func(tx *store.Tx) error {
		ended := *task
		ended.Node, ended.State, ended.Message = "node-00000000000000001", cloud.ImportFailed, "why"
		store.Put(tx, store.ImportTasks, &ended)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.node.built = agentrpc.BuildAnswer{Steps: []cloud.BuildStep{{Stage: "a", Line: 2, Text: "RUN x", State: cloud.BuildFailed, Millis: 5}}, Output: []byte("said"), Next: 9}
	got, err := w.operator.DescribeImageBuild(t.Context(), &gen.DescribeImageBuildRequest{BuildId: out.BuildId, Step: new(int64(0)), Offset: new(int64(5))})
	if err != nil || *got.Status != "failed" || *got.Message != "why" || len(got.Steps) != 1 || *got.Steps[0].State != "failed" || string(got.Output) != "said" || *got.NextOffset != 9 || w.node.build.Offset != 5 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, ok := w.secrets.Get(id); ok {
		t.Error("the secrets of a build that is over are kept")
	}
	if _, err := w.stranger.DescribeImageBuild(t.Context(), &gen.DescribeImageBuildRequest{BuildId: out.BuildId}); awsapi.CodeOf(err) != "ResourceNotFoundException" {
		t.Errorf("a stranger is told %v", err)
	}
}

func TestABuildThatCannotBeIsRefusedAtOnce(t *testing.T) {
	w := withNode(t)
	for name, c := range map[string]struct {
		by   gen.Client
		req  gen.BuildImageRequest
		code string
	}{
		"a taken name":          {w.operator, gen.BuildImageRequest{Name: new("taken"), Containerfile: new("FROM scratch")}, "ConflictException"},
		"no name of an image":   {w.operator, gen.BuildImageRequest{Name: new("a\x01b"), Containerfile: new("FROM scratch")}, "ValidationException"},
		"no Containerfile":      {w.operator, gen.BuildImageRequest{Name: new("app"), Containerfile: new("RUNN")}, "ValidationException"},
		"a context of nothing":  {w.operator, gen.BuildImageRequest{Name: new("app"), Containerfile: new("FROM scratch"), Context: new(strings.Repeat("x", 71))}, "ValidationException"},
		"a secret too large":    {w.operator, gen.BuildImageRequest{Name: new("app"), Containerfile: new("FROM scratch"), Secrets: []gen.BuildSecret{{Id: new("x"), Value: make([]byte, 70000)}}}, "ValidationException"},
		"a stranger's pull":     {w.stranger, gen.BuildImageRequest{Name: new("app"), Containerfile: new("FROM example.com/x")}, "ResourceNotFoundException"},
		"somebody else's image": {w.stranger, gen.BuildImageRequest{Name: new("app"), Containerfile: new("FROM ami-00000000000000001")}, "ResourceNotFoundException"},
	} {
		if _, err := c.by.BuildImage(t.Context(), &c.req); awsapi.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}
