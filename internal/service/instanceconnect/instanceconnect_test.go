package instanceconnect

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2instanceconnect"
	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

const owner = cloud.AccountID("111111111111")

// world is a service over a store in memory, with an endpoint, and a node whose consoles and screens echo.
type world struct {
	t       *testing.T
	s       *Service
	store   *store.Store
	address string
	id      cloud.InstanceID

	mu     sync.Mutex
	now    time.Time
	breaks int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: store.OpenMemory(), now: time.Now(), id: cloud.NewID[cloud.InstanceID](rand.Reader)}
	t.Cleanup(func() { w.store.Close() })
	w.s = New(Config{Store: w.store, Nodes: w, Rand: rand.Reader, Now: w.clock, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	w.put(func(tx *store.Tx) {
		store.Put(tx, store.AccountSettings, &cloud.AccountSettings{Account: owner, SerialConsole: true})
		store.Put(tx, store.Instances, &cloud.Instance{ID: w.id, Account: owner, State: cloud.StateRunning, Desired: cloud.DesiredRunning,
			Node: cloud.NewID[cloud.NodeID](rand.Reader), Isolation: cloud.IsolationVM})
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) clock() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

func (w *world) pass(d time.Duration) { w.mu.Lock(); defer w.mu.Unlock(); w.now = w.now.Add(d) }

func (w *world) put(fn func(*store.Tx)) {
	w.t.Helper()
	if err := w.store.Update(w.t.Context(), func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
		w.t.Fatal(err)
	}
}

// Open implements Nodes.
func (w *world) Open(_ context.Context, _ cloud.NodeID, to agentrpc.Target) (io.ReadWriteCloser, error) {
	ours, theirs := net.Pipe()
	switch {
	case to.Screen != "":
		theirs.Close()
		return nil, errors.New("it has no screen")
	case to.Console != w.id:
		return nil, errors.New("another console")
	}
	go io.Copy(theirs, theirs)
	return ours, nil
}

// Break implements Nodes.
func (w *world) Break(context.Context, cloud.NodeID, cloud.InstanceID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.breaks++
	return nil
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func (w *world) push(account cloud.AccountID, id, key string) error {
	call := &awsapi.Call{RequestID: "request", Now: w.clock(), Identity: awsapi.Identity{Account: account}}
	out, err := w.s.sendSerialConsoleSSHPublicKey(w.t.Context(), call, &ec2instanceconnect.SendSerialConsoleSSHPublicKeyRequest{InstanceId: &id, SSHPublicKey: &key})
	if err == nil && (!*out.Success || *out.RequestId != "request") {
		w.t.Errorf("it answers %+v", out)
	}
	return err
}

func (w *world) dial(user string, key ssh.Signer) (*ssh.Client, error) {
	known, err := w.s.getConsoleHostKeys(w.t.Context(), nil, &nacre.GetConsoleHostKeysRequest{})
	if err != nil || len(known.HostKeys) != 1 {
		w.t.Fatalf("%+v, %v", known, err)
	}
	host, _, _, _, err := ssh.ParseAuthorizedKey([]byte(known.HostKeys[0]))
	if err != nil {
		w.t.Fatal(err)
	}
	client, err := ssh.Dial("tcp", w.address, &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: ssh.FixedHostKey(host), Timeout: 20 * time.Second})
	if err == nil {
		w.t.Cleanup(func() { client.Close() })
	}
	return client, err
}

// letIn is a client whose key was pushed.
func (w *world) letIn() *ssh.Client {
	w.t.Helper()
	key := newKey(w.t)
	if err := w.push(owner, string(w.id), authorizedForm(key.PublicKey())); err != nil {
		w.t.Fatal(err)
	}
	client, err := w.dial(string(w.id)+portSuffix, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return client
}

func TestAKeyLetsInToOneConsoleForAMinuteWhileTheAccountAllowsIt(t *testing.T) {
	w := newWorld(t)
	key := newKey(t)
	user := string(w.id) + portSuffix
	if _, err := w.dial(user, key); err == nil {
		t.Error("a key that nobody pushed lets in")
	}
	if err := w.push(owner, string(w.id), authorizedForm(key.PublicKey())); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{string(w.id), "root", string(w.id) + ".port1", string(cloud.NewID[cloud.InstanceID](rand.Reader)) + portSuffix} {
		if _, err := w.dial(other, key); err == nil {
			t.Errorf("the key lets in as %s", other)
		}
	}
	if _, err := w.dial(user, newKey(t)); err == nil {
		t.Error("another key lets in")
	}
	if _, err := w.dial(user, key); err != nil {
		t.Fatal(err)
	}
	w.put(func(tx *store.Tx) {
		store.Put(tx, store.AccountSettings, &cloud.AccountSettings{Account: owner})
	})
	if _, err := w.dial(user, key); err == nil {
		t.Error("it lets in though the account does not allow consoles")
	}
	w.put(func(tx *store.Tx) {
		store.Put(tx, store.AccountSettings, &cloud.AccountSettings{Account: owner, SerialConsole: true})
	})
	w.pass(cloud.PushedKeyFor + time.Second)
	if _, err := w.dial(user, key); err == nil {
		t.Error("after a minute the key lets in")
	}
}

func TestKeysAreRefusedInAWSsWords(t *testing.T) {
	w := newWorld(t)
	key := authorizedForm(newKey(t).PublicKey())
	stopped := cloud.NewID[cloud.InstanceID](rand.Reader)
	w.put(func(tx *store.Tx) {
		store.Put(tx, store.Instances, &cloud.Instance{ID: stopped, Account: owner, State: cloud.StateStopped})
	})
	for name, c := range map[string]struct {
		account cloud.AccountID
		id, key string
		code    string
	}{
		"a stranger's":    {"222222222222", string(w.id), key, "EC2InstanceNotFoundException"},
		"not there":       {owner, string(cloud.NewID[cloud.InstanceID](rand.Reader)), key, "EC2InstanceNotFoundException"},
		"no id":           {owner, "i-nothing!!", key, "InvalidArgsException"},
		"no key":          {owner, string(w.id), strings.Repeat("x", 100), "InvalidArgsException"},
		"two keys":        {owner, string(w.id), key + "\n" + key, "InvalidArgsException"},
		"a key's options": {owner, string(w.id), `command="x" ` + key, "InvalidArgsException"},
		"stopped":         {owner, string(stopped), key, "EC2InstanceStateInvalidException"},
	} {
		var e *awsapi.Error
		if err := w.push(c.account, c.id, c.key); !errors.As(err, &e) || e.Code != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.put(func(tx *store.Tx) { store.Put(tx, store.AccountSettings, &cloud.AccountSettings{Account: owner}) })
	var e *awsapi.Error
	if err := w.push(owner, string(w.id), key); !errors.As(err, &e) || e.Code != "SerialConsoleAccessDisabledException" {
		t.Error(err)
	}
	w.put(func(tx *store.Tx) {
		store.Put(tx, store.AccountSettings, &cloud.AccountSettings{Account: owner, SerialConsole: true})
	})
	for range maxPushed {
		if err := w.push(owner, string(w.id), authorizedForm(newKey(t).PublicKey())); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.push(owner, string(w.id), authorizedForm(newKey(t).PublicKey())); !errors.As(err, &e) || e.Code != "ThrottlingException" {
		t.Error(err)
	}
	w.pass(cloud.PushedKeyFor + time.Second)
	if err := w.push(owner, string(w.id), key); err != nil {
		t.Error(err)
	}
}

func TestASessionTypesReadsAndBreaksAndNothingElseIsServed(t *testing.T) {
	w := newWorld(t)
	client := w.letIn()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, _ := session.StdinPipe()
	out, _ := session.StdoutPipe()
	if err := session.RequestPty("vt100", 24, 80, nil); err != nil {
		t.Error(err)
	}
	if err := session.Shell(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, "typed")
	b := make([]byte, 5)
	if _, err := io.ReadFull(out, b); err != nil || string(b) != "typed" {
		t.Errorf("%q, %v", b, err)
	}
	if ok, err := session.SendRequest("break", true, ssh.Marshal(struct{ Milliseconds uint32 }{500})); !ok || err != nil || w.breaks != 1 {
		t.Errorf("a break: %v, %v, %d", ok, err, w.breaks)
	}
	for _, kind := range []string{"exec", "subsystem", "env", "auth-agent-req@openssh.com"} {
		if ok, _ := session.SendRequest(kind, true, ssh.Marshal(struct{ A, B string }{"x", "y"})); ok {
			t.Errorf("%s is served", kind)
		}
	}
	for _, address := range []string{"127.0.0.1:22", "vnc:5901", "localhost:5900"} {
		if _, err := client.Dial("tcp", address); err == nil || !strings.Contains(err.Error(), "only the screen") {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := client.Dial("tcp", "vnc:5900"); err == nil || !strings.Contains(err.Error(), "it has no screen") {
		t.Errorf("the screen: %v", err)
	}
	if _, err := client.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("it listens for its client")
	}
}

func TestSessionsAreBoundedAndGivenBack(t *testing.T) {
	w := newWorld(t)
	client := w.letIn()
	var sessions []*ssh.Session
	for range maxSessions {
		s, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, s)
	}
	var refused *ssh.OpenChannelError
	if _, err := client.NewSession(); !errors.As(err, &refused) || refused.Reason != ssh.ResourceShortage {
		t.Errorf("one more: %v", err)
	}
	var e *awsapi.Error
	if err := w.push(owner, string(w.id), authorizedForm(newKey(t).PublicKey())); !errors.As(err, &e) || e.Code != "SerialConsoleSessionLimitExceededException" {
		t.Error(err)
	}
	for _, s := range sessions {
		s.Close()
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := client.NewSession(); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestAStoppedInstanceEndsItsSessions(t *testing.T) {
	w := newWorld(t)
	client := w.letIn()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	w.put(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, w.id)
		i.State = cloud.StateStopped
		store.Put(tx, store.Instances, i)
	})
	var said bytes.Buffer
	session.Stderr = &said
	var code *ssh.ExitError
	if err := session.Run(""); err == nil { // a command is never served
		t.Error("a command ran")
	}
	if session, err = client.NewSession(); err != nil {
		t.Fatal(err)
	}
	session.Stderr = &said
	if err := session.Shell(); err != nil {
		t.Fatal(err)
	}
	if err := session.Wait(); !errors.As(err, &code) || code.ExitStatus() != 1 || !strings.Contains(said.String(), "is stopped") {
		t.Errorf("%v, it says %q", err, &said)
	}
}

func FuzzUsersOfConsoles(f *testing.F) {
	f.Add("i-0123456789abcdef0.port0")
	f.Add("root")
	f.Fuzz(func(t *testing.T, user string) {
		if id, err := parseUser(user); err == nil && (user != string(id)+portSuffix || !cloud.ValidID[cloud.InstanceID](string(id))) {
			t.Errorf("%q is %q", user, id)
		}
	})
}
