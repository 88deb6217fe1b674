package ec2_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/nacre-cloud/nacre/internal/attachments"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	gen "github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/awsapi/wiretest"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/control"
	"github.com/nacre-cloud/nacre/internal/nics"
	"github.com/nacre-cloud/nacre/internal/service/ec2"
	"github.com/nacre-cloud/nacre/internal/store"
)

// world is a region in memory behind a real endpoint, with AWS's own SDK in front of it and one node of 8 CPUs and
// 16 GiB, of which only the record exists: settle does what the control plane and the node would.
type world struct {
	t       testing.TB
	store   *store.Store
	handler *awsapi.Server
	rand    io.Reader
	door    http.Handler // to the handler; what comes out of it is held against AWS's model
	url     string
	*sdk.Client
	stranger *sdk.Client // of another account
	key      cloud.AccessKey
	node     cloud.NodeID
	image    string // for x86_64
	console  console
}

const strangerAccount = cloud.AccountID("999999999999")

func newWorld(t testing.TB) *world { return newWorldOf(t, "198.18.0.0/24") }

func newWorldOf(t testing.TB, pool string) *world { return newWorldFrom(t, pool, rand.Reader) }

// newWorldFrom draws every id from a source of the test's own: the same source makes the same world.
func newWorldFrom(t testing.TB, pool string, random io.Reader) *world {
	t.Helper()
	w := &world{t: t, store: store.OpenMemory(), rand: random}
	t.Cleanup(func() { w.store.Close() })
	region, key, err := control.Bootstrap(t.Context(), w.store, control.FirstStart{Region: "us-east-1", VolumeKey: volumeKeyID, PublicPool: netip.MustParsePrefix(pool),
		Rand: random, Now: time.Now().UTC()})
	if err != nil {
		t.Fatal(err)
	}
	w.key = key
	other := cloud.AccessKey{ID: "AKIASTRANGERSTRANGER", Secret: "other", Account: strangerAccount}
	node := cloud.Node{ID: cloud.NewID[cloud.NodeID](random), Zone: "us-east-1a", Architecture: "x86_64", CPUs: 8, MemoryMiB: 16 << 10, VolumeGiB: 2000,
		Engines: map[cloud.Isolation]string{cloud.IsolationContainer: "runc"}, CPUFactor: 1, MemoryFactor: 1}
	w.node = node.ID
	w.update(func(tx *store.Tx) {
		store.Put(tx, store.AccessKeys, &other)
		store.Put(tx, store.Nodes, &node)
	})
	w.image = w.addImage(region.Root, "debian-12", "x86_64")

	registry := awsapi.NewRegistry(gen.Service)
	ec2.New(ec2.Config{Store: w.store, Console: &w.console, Rand: random, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}).Register(registry)
	keys := func(_ context.Context, id cloud.AccessKeyID) (string, awsapi.Identity, error) {
		k, ok := store.Get(w.store.View(), store.AccessKeys, id)
		if !ok {
			return "", awsapi.Identity{}, awsapi.ErrNoKey
		}
		return k.Secret, awsapi.Identity{Account: k.Account, AccessKey: id, ARN: "arn:aws:iam::" + string(k.Account) + ":root"}, nil
	}
	w.handler = &awsapi.Server{Registry: registry, Auth: &awsapi.Authenticator{Region: "us-east-1", Keys: keys, Now: time.Now},
		Logger: slog.New(slog.DiscardHandler)}
	w.door = w.handler
	if _, bench := t.(*testing.B); !bench {
		w.door = wiretest.Handler(t, w.handler, gen.Service)
	}
	server := httptest.NewServer(w.door)
	t.Cleanup(server.Close)
	w.url = server.URL
	w.Client, w.stranger = w.clientOf(key), w.clientOf(other)
	return w
}

func (w *world) clientOf(k cloud.AccessKey) *sdk.Client {
	return sdk.New(sdk.Options{Region: "us-east-1", BaseEndpoint: &w.url, RetryMaxAttempts: 1, HTTPClient: &http.Client{Transport: plainBody{}},
		Credentials: credentials.NewStaticCredentialsProvider(string(k.ID), k.Secret, "")})
}

// plainBody hides that the SDK's request body has a WriteTo: smithy-go closes the body as soon as the answer is there, its
// WriteTo then returns io.EOF as an error, and net/http, should it only now be looking for the body's end, drops the
// connection while the answer is being read. A server in the same process is quick enough for that.
type plainBody struct{}

func (plainBody) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r = r.Clone(r.Context())
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return http.DefaultTransport.RoundTrip(r)
}

// signed is a request that was signed by hand, for what the SDK can't send or takes too long to.
func (w *world) signed(form url.Values) *http.Request {
	w.t.Helper()
	form = maps.Clone(form)
	form.Set("Version", gen.Service.Version)
	body := form.Encode()
	sum := sha256.Sum256([]byte(body))
	req := httptest.NewRequest(http.MethodPost, "http://localhost/", strings.NewReader(body))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	err := v4.NewSigner().SignHTTP(w.t.Context(), aws.Credentials{AccessKeyID: string(w.key.ID), SecretAccessKey: w.key.Secret}, req,
		hex.EncodeToString(sum[:]), "ec2", "us-east-1", time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	return req
}

// ask sends a form and returns the answer's status and text.
func (w *world) ask(form url.Values) (int, string) {
	w.t.Helper()
	answer := httptest.NewRecorder()
	w.door.ServeHTTP(answer, w.signed(form))
	return answer.Code, answer.Body.String()
}

func (w *world) update(fn func(*store.Tx)) {
	w.t.Helper()
	if err := w.store.Update(w.t.Context(), func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) addImage(owner cloud.AccountID, name, arch string, change ...func(*cloud.Image)) string {
	w.t.Helper()
	img := cloud.Image{ID: cloud.NewID[cloud.ImageID](w.rand), Account: owner, Name: name, Digest: "sha256:" + strings.Repeat("a", 64),
		Architecture: arch, State: cloud.ImageAvailable, Created: time.Now().UTC()}
	for _, c := range change {
		c(&img)
	}
	w.update(func(tx *store.Tx) { store.Put(tx, store.Images, &img) })
	return string(img.ID)
}

// console is what a node answers about an instance's console.
type console struct {
	text []byte
	at   time.Time
	err  error
}

func (c *console) Console(context.Context, cloud.NodeID, cloud.InstanceID, int) ([]byte, time.Time, error) {
	return c.text, c.at, c.err
}

// order is a RunInstances call.
type order = sdk.RunInstancesInput

func (w *world) run(changes ...func(*order)) ([]types.Instance, error) {
	in := &order{ImageId: &w.image, MinCount: aws.Int32(1), MaxCount: aws.Int32(1)}
	for _, c := range changes {
		c(in)
	}
	out, err := w.RunInstances(w.t.Context(), in)
	if err != nil {
		return nil, err
	}
	return out.Instances, nil
}

// launch runs instances that must come to be.
func (w *world) launch(changes ...func(*order)) []types.Instance {
	w.t.Helper()
	list, err := w.run(changes...)
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// running launches one instance and waits for it.
func (w *world) running(changes ...func(*order)) string {
	w.t.Helper()
	id := *w.launch(changes...)[0].InstanceId
	w.settle()
	return id
}

func count(low, high int32) func(*order) {
	return func(in *order) { in.MinCount, in.MaxCount = &low, &high }
}

func ofType(name types.InstanceType) func(*order) {
	return func(in *order) { in.InstanceType = name }
}

func tagged(pairs ...string) func(*order) {
	return func(in *order) { in.TagSpecifications = append(in.TagSpecifications, tagSpec("instance", pairs...)) }
}

func tagSpec(kind types.ResourceType, pairs ...string) types.TagSpecification {
	spec := types.TagSpecification{ResourceType: kind}
	for n := 0; n < len(pairs); n += 2 {
		spec.Tags = append(spec.Tags, types.Tag{Key: &pairs[n], Value: &pairs[n+1]})
	}
	return spec
}

// settle brings every instance into the state that was asked for, as the scheduler, the node and the lifecycle do.
func (w *world) settle() {
	w.t.Helper()
	now := time.Now().UTC()
	w.update(func(tx *store.Tx) {
		w.settleVolumes(tx)
		for _, i := range store.List(tx, store.Instances) {
			to := map[cloud.InstanceState]cloud.InstanceState{cloud.StatePending: cloud.StateRunning, cloud.StateStopping: cloud.StateStopped,
				cloud.StateShuttingDown: cloud.StateTerminated}[i.State]
			if to == "" {
				continue
			}
			nics.Settle(tx, i)
			for _, n := range store.ListBy(tx, store.InterfacesByInstance, i.ID) {
				if to != cloud.StateRunning && nics.TakeBack(tx, n) {
					store.Put(tx, store.Interfaces, n)
				}
				if to == cloud.StateTerminated {
					nics.Leave(tx, n)
				}
			}
			if to == cloud.StateTerminated {
				i.Interfaces = nil
				attachments.Leave(tx, i)
			}
			i.Node = w.node
			if err := i.Transition(to, i.StateReason, now); err != nil {
				w.t.Error(err)
			}
			store.Put(tx, store.Instances, i)
		}
	})
}

// settleVolumes does what the nodes do with volumes and snapshots.
func (w *world) settleVolumes(tx *store.Tx) {
	for _, v := range store.List(tx, store.Volumes) {
		switch {
		case v.State == cloud.VolumeDeleting:
			store.Delete(tx, store.Volumes, v.ID)
			continue
		case v.State == cloud.VolumeCreating && v.Instance == "":
			v.Made()
		case v.Attach == cloud.Attaching:
			v.Attach = cloud.Attached
			v.Made()
		case v.Attach == cloud.Detaching:
			v.Free()
		}
		if v.Node == "" {
			v.Node = w.node
		}
		if v.Change != nil && v.Change.Ended.IsZero() {
			v.Change.Ended = time.Now().UTC()
		}
		store.Put(tx, store.Volumes, v)
	}
	for _, i := range store.List(tx, store.Instances) {
		for _, c := range i.Captures {
			if img, ok := store.Get(tx, store.Images, c.Image); ok {
				img.State = cloud.ImageAvailable
				if c.Layer != "" {
					img.Digest = "sha256:of-" + c.ID
				}
				store.Put(tx, store.Images, img)
			}
		}
		if i.Captures != nil {
			i.Captures = nil
			store.Put(tx, store.Instances, i)
		}
	}
	for _, s := range store.List(tx, store.Snapshots) {
		s.Captured = ""
		if s.State == cloud.SnapshotDeleting {
			store.Delete(tx, store.Snapshots, s.ID)
			continue
		}
		s.State = cloud.SnapshotCompleted
		store.Put(tx, store.Snapshots, s)
	}
}

// instance describes one.
func (w *world) instance(id string) types.Instance {
	w.t.Helper()
	out, err := w.DescribeInstances(w.t.Context(), &sdk.DescribeInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.Reservations[0].Instances[0]
}

// found lists the ids of the instances that pass filters, given as name and comma-separated values.
func (w *world) found(filters ...string) []string {
	w.t.Helper()
	out, err := w.DescribeInstances(w.t.Context(), &sdk.DescribeInstancesInput{Filters: filterList(filters...)})
	if err != nil {
		w.t.Fatal(err)
	}
	return idsOf(out.Reservations)
}

func filterList(pairs ...string) (list []types.Filter) {
	for n := 0; n < len(pairs); n += 2 {
		list = append(list, types.Filter{Name: &pairs[n], Values: strings.Split(pairs[n+1], ",")})
	}
	return list
}

func idsOf(reservations []types.Reservation) (ids []string) {
	for _, r := range reservations {
		for _, i := range r.Instances {
			ids = append(ids, *i.InstanceId)
		}
	}
	return ids
}

// group makes a security group in the default VPC.
func (w *world) group(name string) string {
	w.t.Helper()
	out, err := w.CreateSecurityGroup(w.t.Context(), &sdk.CreateSecurityGroupInput{GroupName: &name, Description: aws.String("of a test")})
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.GroupId
}

func (w *world) subnet() *cloud.Subnet { return store.List(w.store.View(), store.Subnets)[0] }
func (w *world) revision() int64       { return w.store.View().Revision() }

func codeOf(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return fmt.Sprint(err)
}

// refused checks that a call was answered with an error's code, whose text says what is wanted of it.
func refused(t testing.TB, err error, code string, says ...string) {
	t.Helper()
	if got := codeOf(err); got != code {
		t.Errorf("answered %v, want %s", err, code)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q doesn't say %q", err, s)
		}
	}
}

// unchanged checks that calls leave no trace in the store.
func (w *world) unchanged(calls func()) {
	w.t.Helper()
	before := w.revision()
	calls()
	if after := w.revision(); after != before {
		w.t.Errorf("the store went from revision %d to %d", before, after)
	}
}
