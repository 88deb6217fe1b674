package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/image/build"
	"github.com/nacre-cloud/nacre/internal/agent/machine/oci"
	"github.com/nacre-cloud/nacre/internal/agent/namespace"
	"github.com/nacre-cloud/nacre/internal/agent/network"
	"github.com/nacre-cloud/nacre/internal/agent/network/dns"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// buildsAtOnce bounds builds under way on a node; others wait.
	buildsAtOnce = 2
	// logsKept is how many builds' steps are remembered.
	logsKept = 20
	// stepMemory is what a command of a build may have, where the server has twice as much, in bytes.
	stepMemory = 4 << 30
	// answerRoom bounds the output in one answer, in bytes.
	answerRoom = 256 << 10
)

// Builds is what images are built with.
type Builds struct {
	Dir string // see build.Config
	// Run runs a command in a container of its own, Sweep takes away what an earlier process's left.
	Run   func(ctx context.Context, s oci.Step) (int, error)
	Sweep func(ctx context.Context) error
	// Secrets are a build's, by id; false when they are not known, as after a start of the control plane.
	Secrets func(task cloud.ImportTaskID) (map[string][]byte, bool)
}

// imageBuilds runs the builds that are ordered as imports, and remembers what they did.
type imageBuilds struct {
	a       *Agent
	builder *build.Builder // nil where images aren't built
	bound   *semaphore.Weighted

	mu    sync.Mutex
	logs  map[cloud.ImportTaskID]*build.Log
	order []cloud.ImportTaskID
}

func newBuilds(ctx context.Context, a *Agent) (*imageBuilds, error) {
	b := &imageBuilds{a: a, bound: semaphore.NewWeighted(buildsAtOnce), logs: map[cloud.ImportTaskID]*build.Log{}}
	cfg := a.cfg.Builds
	if cfg == nil {
		return b, nil
	}
	if err := cfg.Sweep(ctx); err != nil {
		return nil, fmt.Errorf("take away what builds left: %w", err)
	}
	var err error
	b.builder, err = build.New(build.Config{Images: a.cfg.Images, Dir: cfg.Dir, Space: b.space, Run: cfg.Run, Memory: min(stepMemory, a.node.MemoryMiB<<20/2), Logger: a.log,
		Pull: func(ctx context.Context, ref string) (string, error) {
			img, err := a.cfg.Images.Pull(ctx, ref, "", nil)
			return img.Digest, err
		}})
	return b, err
}

// build makes a task's image.
func (b *imageBuilds) build(ctx context.Context, task cloud.ImportTask, p image.Progress) (image.Image, error) {
	if b.builder == nil || task.Build == nil {
		return image.Image{}, errors.New("this node builds no images")
	}
	if err := b.bound.Acquire(ctx, 1); err != nil {
		return image.Image{}, err
	}
	defer b.bound.Release(1)
	req := build.Request{Account: task.Account, Name: task.Name, Spec: *task.Build}
	if len(task.Build.Secrets) > 0 {
		secrets, known := b.a.cfg.Builds.Secrets(task.ID)
		if !known {
			return image.Image{}, errors.New("nacre was started again meanwhile, and secrets are kept in memory alone; build it again")
		}
		req.Secrets = secrets
	}
	if task.Build.Context != "" {
		f, err := b.a.cfg.OpenUpload(ctx, task.Build.Context)
		if err != nil {
			return image.Image{}, err
		}
		defer f.Close()
		if req.Context, err = onDisk(f); err != nil {
			return image.Image{}, err
		}
	}
	return b.builder.Build(ctx, req, b.newLog(task.ID), p)
}

// onDisk is an upload that can be read from anywhere in it.
func onDisk(r io.Reader) (*os.File, error) {
	f, ok := r.(*os.File)
	if !ok {
		return nil, fmt.Errorf("a context must be a file on the node, not a %T", r)
	}
	return f, nil
}

func (b *imageBuilds) newLog(id cloud.ImportTaskID) *build.Log {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := &build.Log{}
	if b.logs[id] == nil {
		b.order = append(b.order, id)
	}
	b.logs[id] = l
	if len(b.order) > logsKept {
		delete(b.logs, b.order[0])
		b.order = b.order[1:]
	}
	return l
}

// read tells how far a build is.
func (b *imageBuilds) read(q agentrpc.BuildQuery) *agentrpc.BuildAnswer {
	b.mu.Lock()
	l := b.logs[q.Task]
	b.mu.Unlock()
	ans := &agentrpc.BuildAnswer{}
	if l != nil {
		ans.Steps, ans.Output, ans.Next = l.Read(q.Step, q.Offset, min(max(q.Limit, 0), answerRoom))
	}
	return ans
}

// space makes the ids and namespaces of one command.
func (b *imageBuilds) space(ctx context.Context, connected bool) (s *build.Space, err error) {
	id := cloud.InstanceID("build-" + strings.ToLower(rand.Text()))
	base, err := b.a.ids.allocate(id)
	if err != nil {
		return nil, err
	}
	closes := []func() error{func() error { b.a.ids.release(id, base); return nil }}
	undo := func() error {
		var problems []error
		for n := len(closes) - 1; n >= 0; n-- {
			problems = append(problems, closes[n]())
		}
		return errors.Join(problems...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, undo())
		}
	}()
	s = &build.Space{IDBase: base, Close: undo}
	if s.UserNS, s.NetNS, err = namespace.Pair(base); err != nil {
		return nil, err
	}
	closes = append(closes, s.UserNS.Close, s.NetNS.Close)
	if err := network.Loopback(s.NetNS); err != nil {
		return nil, err
	}
	if !connected {
		return s, nil
	}
	outlet, err := b.a.cfg.Network.OpenOutlet(ctx, s.NetNS)
	if err != nil {
		return nil, err
	}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		err := dns.New(dns.Config{Logger: b.a.log}).Serve(serving, []net.PacketConn{outlet.Packets}, []net.Listener{outlet.Conns})
		if err != nil && serving.Err() == nil {
			b.a.log.Error("a build's resolver ended", "error", err)
		}
	})
	s.Resolver = network.OutletResolver
	closes = append(closes, func() error {
		cancel()
		wg.Wait()
		return outlet.Close()
	})
	return s, nil
}
