package nacre_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	gen "github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/awsapi/wiretest"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/control"
	"github.com/nacre-cloud/nacre/internal/service/nacre"
	"github.com/nacre-cloud/nacre/internal/store"
	"github.com/nacre-cloud/nacre/internal/upload"
)

const (
	machine   = cloud.InstanceID("i-00000000000000001") // the operator's, a virtual machine
	container = cloud.InstanceID("i-00000000000000002") // the operator's
	stopped   = cloud.InstanceID("i-00000000000000003")
	strangers = cloud.InstanceID("i-00000000000000004") // another account's
	stranger  = cloud.AccountID("999999999999")
)

// node answers as a node would, with what a test gave it.
type node struct {
	asked   cloud.Look
	found   *cloud.Inspection
	made    *cloud.ImageMakeup
	use     *cloud.ImageUse
	refused string
	err     error
	build   agentrpc.BuildQuery
	built   agentrpc.BuildAnswer
}

func (n *node) Images(_ context.Context, _ cloud.NodeID, digest string) (*cloud.ImageMakeup, *cloud.ImageUse, error) {
	if digest == "" {
		return nil, n.use, n.err
	}
	return n.made, nil, n.err
}

func (n *node) Open(context.Context, cloud.NodeID, agentrpc.Target) (io.ReadWriteCloser, error) {
	return nil, n.err
}

func (n *node) Inspect(_ context.Context, _ cloud.NodeID, id cloud.InstanceID, look cloud.Look) (*cloud.Inspection, string, error) {
	n.asked = look
	if n.found != nil {
		n.found.Instance = id
	}
	return n.found, n.refused, n.err
}

func (n *node) Build(_ context.Context, _ cloud.NodeID, q agentrpc.BuildQuery) (agentrpc.BuildAnswer, error) {
	n.build = q
	return n.built, n.err
}

// world is a region with four instances behind a real endpoint, whose answers are held against the shapes.
type world struct {
	node     node
	store    *store.Store
	secrets  *upload.Secrets
	operator gen.Client
	stranger gen.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s := store.OpenMemory()
	t.Cleanup(func() { s.Close() })
	region, key, err := control.Bootstrap(t.Context(), s, control.FirstStart{Region: "us-east-1", PublicPool: netip.MustParsePrefix("198.18.0.0/24"), Rand: rand.Reader, Now: time.Now().UTC()})
	if err != nil {
		t.Fatal(err)
	}
	other := cloud.AccessKey{ID: "AKIASTRANGERSTRANGER", Secret: "other", Account: stranger}
	err = s.Update(t.Context(), func(tx *store.Tx) error {
		store.Put(tx, store.AccessKeys, &other)
		for _, img := range []cloud.Image{{ID: "ami-00000000000000001", Account: region.Root, Digest: "sha256:private"}, {ID: "ami-00000000000000002", Account: region.Root, Digest: "sha256:public", Public: true}} {
			store.Put(tx, store.Images, &img)
		}
		for _, i := range []cloud.Instance{
			{ID: machine, Account: region.Root, State: cloud.StateRunning, Isolation: cloud.IsolationVM, Image: "ami-00000000000000001", Hardware: cloud.Hardware{Kernel: "aki-00000000000000001"}},
			{ID: container, Account: region.Root, State: cloud.StateRunning, Isolation: cloud.IsolationContainer},
			{ID: stopped, Account: region.Root, State: cloud.StateStopped, Isolation: cloud.IsolationContainer},
			{ID: strangers, Account: stranger, State: cloud.StateRunning, Isolation: cloud.IsolationVM},
		} {
			store.Put(tx, store.Instances, &i)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{store: s, secrets: upload.NewSecrets()}
	registry := awsapi.NewRegistry(gen.Service)
	nacre.New(nacre.Config{Store: s, Nodes: &w.node, Secrets: w.secrets, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler)}).Register(registry)
	auth := &awsapi.Authenticator{Region: region.Name, Now: time.Now, Keys: func(_ context.Context, id cloud.AccessKeyID) (string, awsapi.Identity, error) {
		k, ok := store.Get(s.View(), store.AccessKeys, id)
		if !ok {
			return "", awsapi.Identity{}, awsapi.ErrNoKey
		}
		return k.Secret, awsapi.Identity{Account: k.Account, AccessKey: k.ID}, nil
	}}
	server := httptest.NewServer(&awsapi.Server{Registry: registry, Auth: auth, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(server.Close)
	http := server.Client()
	http.Transport = wiretest.Transport(t, http.Transport, gen.Service)
	client := func(id cloud.AccessKeyID, secret string) gen.Client {
		return gen.Client{Client: &awsapi.Client{Endpoint: server.URL, Region: region.Name, AccessKey: string(id), Secret: secret, HTTP: http}}
	}
	w.operator, w.stranger = client(key.ID, key.Secret), client(other.ID, other.Secret)
	return w
}

// everything has something in each field.
func everything() *cloud.Inspection {
	found := &cloud.Inspection{}
	fill(reflect.ValueOf(found).Elem())
	for n, l := range found.Root.Layers {
		found.Root.Layers[n] = cloud.LayerMakeup{Digest: l.Digest, Size: l.Size, Images: []string{"sha256:private", "sha256:public", "sha256:gone"}, SharedWith: []cloud.InstanceID{container, strangers}}
	}
	return found
}

func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Struct:
		for n := range v.NumField() {
			fill(v.Field(n))
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Int64:
		v.SetInt(7)
	case reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Bool:
		v.SetBool(true)
	}
}

// empty names the members of an answer that are not there.
func empty(v reflect.Value, path string) (list []string) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice:
		if v.IsNil() {
			return []string{path}
		}
		if v.Kind() == reflect.Pointer {
			return empty(v.Elem(), path)
		}
		for n := range v.Len() {
			list = append(list, empty(v.Index(n), path)...)
		}
	case reflect.Struct:
		for n := range v.NumField() {
			list = append(list, empty(v.Field(n), path+"."+v.Type().Field(n).Name)...)
		}
	}
	return list
}

func TestTheOperatorIsToldEverything(t *testing.T) {
	w := newWorld(t)
	w.node.found = everything()
	got, err := w.operator.InspectInstance(t.Context(), &gen.InspectInstanceRequest{InstanceId: new(string(machine)), Address: new("0xFFFF800000000000"), Pages: new(int64(3))})
	if err != nil {
		t.Fatal(err)
	}
	if missing := empty(reflect.ValueOf(got), ""); !slices.Equal(missing, []string{".VM.RamdiskId"}) {
		t.Errorf("not told: %q", missing)
	}
	if *got.InstanceId != string(machine) || *got.ImageId != "ami-00000000000000001" || *got.VM.KernelId != "aki-00000000000000001" {
		t.Errorf("%+v", got)
	}
	if l := got.Root.Layers[0]; !slices.Equal(l.Images, []string{"ami-00000000000000001", "ami-00000000000000002"}) || len(l.SharedWith) != 2 {
		t.Errorf("%+v", l)
	}
	if want := (cloud.Look{Address: "0xffff800000000000", Pages: 3}); w.node.asked != want {
		t.Errorf("the node is asked %+v", w.node.asked)
	}
}

func TestOtherAccountsAreToldNothingOfTheServer(t *testing.T) {
	w := newWorld(t)
	w.node.found = everything()
	got, err := w.stranger.InspectInstance(t.Context(), &gen.InspectInstanceRequest{InstanceId: new(string(strangers)), Process: new("init")})
	if err != nil {
		t.Fatal(err)
	}
	missing := empty(reflect.ValueOf(got), "")
	for _, member := range []string{".Footprint", ".VM.Processors.Thread", ".VM.Memory.SharedWith", ".Translation.Pages.HostVirtual", ".Translation.Pages.HostPhysical", ".Translation.Pages.SharedWith",
		".Confinement.Namespaces.Inode", ".Confinement.UserIDs.Host", ".ControlGroup.Path", ".Processes.HostPID"} {
		if !slices.Contains(missing, member) {
			t.Errorf("%s is told", member)
		}
	}
	if p := got.Translation.Pages[0]; p.Physical == nil || p.Levels == nil {
		t.Errorf("the guest's own is not told: %+v", p)
	}
	if l := got.Root.Layers[0]; !slices.Equal(l.Images, []string{"ami-00000000000000002"}) || !slices.Equal(l.SharedWith, []string{string(strangers)}) {
		t.Errorf("%+v", l)
	}
}

func TestALookThatCanNotBeSaysWhy(t *testing.T) {
	w := newWorld(t)
	w.node.found = everything()
	id := func(id cloud.InstanceID) *string { return new(string(id)) }
	for name, c := range map[string]struct {
		req        gen.InspectInstanceRequest
		code, says string
	}{
		"no instance":            {gen.InspectInstanceRequest{}, "ValidationException", "InstanceId"},
		"no id":                  {gen.InspectInstanceRequest{InstanceId: new("web")}, "ValidationException", "no instance's id"},
		"not there":              {gen.InspectInstanceRequest{InstanceId: id("i-00000000000000009")}, "ResourceNotFoundException", "no instance"},
		"another account's":      {gen.InspectInstanceRequest{InstanceId: id(strangers)}, "ResourceNotFoundException", "no instance"},
		"stopped":                {gen.InspectInstanceRequest{InstanceId: id(stopped)}, "ConflictException", "is stopped"},
		"a container's address":  {gen.InspectInstanceRequest{InstanceId: id(container), Address: new("0x1")}, "ConflictException", "for virtual machines"},
		"no number":              {gen.InspectInstanceRequest{InstanceId: id(machine), Address: new("main")}, "ValidationException", "hexadecimal"},
		"pages of nothing":       {gen.InspectInstanceRequest{InstanceId: id(machine), Pages: new(int64(2))}, "ValidationException", "Address or a Process"},
		"too many pages":         {gen.InspectInstanceRequest{InstanceId: id(machine), Address: new("0x1"), Pages: new(int64(513))}, "ValidationException", "less than or equal to 512"},
		"processor of a process": {gen.InspectInstanceRequest{InstanceId: id(machine), Process: new("sh"), Processor: new(int64(1))}, "ValidationException", "leave Processor out"},
	} {
		_, err := w.operator.InspectInstance(t.Context(), &c.req)
		if awsapi.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.node = node{refused: `no process is called "x"`}
	if _, err := w.operator.InspectInstance(t.Context(), &gen.InspectInstanceRequest{InstanceId: id(machine), Process: new("x")}); awsapi.CodeOf(err) != "ValidationException" || !strings.Contains(err.Error(), w.node.refused) {
		t.Error(err)
	}
	w.node = node{err: errors.New("a secret of the server's")}
	if _, err := w.operator.InspectInstance(t.Context(), &gen.InspectInstanceRequest{InstanceId: id(machine)}); awsapi.CodeOf(err) != "ServiceUnavailable" || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}
