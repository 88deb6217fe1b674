package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/control"
	"github.com/nacre-cloud/nacre/internal/service/billing"
	"github.com/nacre-cloud/nacre/internal/service/ec2"
	"github.com/nacre-cloud/nacre/internal/store"
)

// testCloud is a region in memory behind a real endpoint, which the commands of a test talk to. Its one node is a record.
type testCloud struct {
	t       *testing.T
	store   *store.Store
	account cloud.AccountID
}

func newTestCloud(t *testing.T) *testCloud {
	t.Helper()
	c := &testCloud{t: t, store: store.OpenMemory()}
	t.Cleanup(func() { c.store.Close() })
	region, key, err := control.Bootstrap(t.Context(), c.store, control.FirstStart{Region: "us-east-1",
		PublicPool: netip.MustParsePrefix("198.18.0.0/24"), Rand: rand.Reader, Now: time.Now().UTC()})
	if err != nil {
		t.Fatal(err)
	}
	c.account = region.Root
	c.update(func(tx *store.Tx) {
		store.Put(tx, store.Nodes, &cloud.Node{ID: cloud.NewID[cloud.NodeID](rand.Reader), Zone: "us-east-1a", Architecture: "x86_64", CPUs: 8, MemoryMiB: 16 << 10, VolumeGiB: 100,
			Engines: map[cloud.Isolation]string{cloud.IsolationContainer: "runc", cloud.IsolationVM: "QEMU"}, Guests: []string{"x86_64", "arm64"}, CPUFactor: 1, MemoryFactor: 1})
	})
	registry := awsapi.NewRegistry(gen.Services()...)
	ec2.New(ec2.Config{Store: c.store, Rand: rand.Reader, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}).Register(registry)
	billing.New(c.store).Register(registry)
	keys := func(context.Context, cloud.AccessKeyID) (string, awsapi.Identity, error) {
		return key.Secret, awsapi.Identity{Account: key.Account, AccessKey: key.ID, ARN: "arn:aws:iam::" + string(key.Account) + ":root"}, nil
	}
	server := httptest.NewServer(&awsapi.Server{Registry: registry, Auth: &awsapi.Authenticator{Region: "us-east-1", Keys: keys, Now: time.Now}, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(server.Close)
	t.Setenv("HOME", t.TempDir())
	t.Setenv(dataDirEnv, t.TempDir())
	t.Setenv("AWS_ENDPOINT_URL", server.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", string(key.ID))
	t.Setenv("AWS_SECRET_ACCESS_KEY", key.Secret)
	t.Setenv("AWS_DEFAULT_REGION", "us-east-1")
	return c
}

func (c *testCloud) update(fn func(*store.Tx)) {
	c.t.Helper()
	if err := c.store.Update(c.t.Context(), func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
		c.t.Fatal(err)
	}
}

// image adds an image of the operator's.
func (c *testCloud) image(kind cloud.ImageType, name string, change ...func(*cloud.Image)) cloud.ImageID {
	c.t.Helper()
	img := cloud.Image{ID: cloud.NewImageID(rand.Reader, kind), Account: c.account, Name: name, Type: kind, Digest: "sha256:" + name,
		Architecture: "x86_64", State: cloud.ImageAvailable, Created: time.Now().UTC()}
	for _, f := range change {
		f(&img)
	}
	c.update(func(tx *store.Tx) { store.Put(tx, store.Images, &img) })
	return img.ID
}

// nacre runs a command and returns what it printed and said.
func (c *testCloud) nacre(args ...string) (out, said string, err error) {
	c.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := rootCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	err = cmd.ExecuteContext(c.t.Context())
	return stdout.String(), stderr.String(), err
}
