// Package build makes images of Containerfiles: it copies, runs and caches, one layer a step.
//
// A build is a pure function of its text, arguments, context and bases, save for what its commands themselves fetch or draw: every file that it brings is
// dated alike (SOURCE_DATE_EPOCH, or 1970), so that the same inputs make the same digest. A step's layer is found again by a key of all that
// went into it. Commands run as container machines do, with ids, limits and a filter of their own; files are copied without any process, by tar
// entries whose names were worked out in the tree that they are for. Secrets are in memory file systems while their command runs and nowhere else.
//
// Nothing of a build outlives the process but layers in the store: what a crash leaves is swept by the next New.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/machine/oci"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/containerfile"
)

// Space is where a command runs: ids and namespaces of its own.
type Space struct {
	IDBase        uint32
	UserNS, NetNS *os.File
	Resolver      string // address of a DNS server, "" without a network
	Close         func() error
}

// Config is what a Builder works with.
type Config struct {
	Images *image.Store
	Dir    string // a directory a command that runs, and the mounts that are caches; below directories that everybody may pass through
	// Space makes ids and namespaces for one command, with a way to the world or without.
	Space func(ctx context.Context, network bool) (*Space, error)
	// Run runs a command to its end.
	Run func(ctx context.Context, s oci.Step) (code int, err error)
	// Pull brings an image from a registry and returns its digest.
	Pull   func(ctx context.Context, ref string) (string, error)
	Memory int64 // bytes that a command may have
	Logger *slog.Logger
}

// Builder builds images. It is safe for concurrent use.
type Builder struct {
	cfg    Config
	caches caches
}

// New makes a builder, and takes away what builds of a process that is gone left mounted.
func New(cfg Config) (*Builder, error) {
	b := &Builder{cfg: cfg, caches: newCaches(filepath.Join(cfg.Dir, "caches"))}
	if err := errors.Join(os.MkdirAll(b.steps(), 0o711), os.MkdirAll(b.caches.dir, 0o711)); err != nil {
		return nil, fmt.Errorf("make the directories of builds: %w", err)
	}
	left, err := os.ReadDir(b.steps())
	if err != nil {
		return nil, fmt.Errorf("look for what builds left: %w", err)
	}
	for _, e := range left {
		err = errors.Join(err, clear(filepath.Join(b.steps(), e.Name())))
	}
	if err != nil {
		return nil, fmt.Errorf("take away what builds left: %w", err)
	}
	return b, nil
}

// steps is where commands that run have their directories.
func (b *Builder) steps() string { return filepath.Join(b.cfg.Dir, "steps") }

// Request is a build.
type Request struct {
	Account cloud.AccountID
	Name    string
	Spec    cloud.Build
	Context *os.File          // the archive, nil for an empty context
	Secrets map[string][]byte // by id
}

// session is one build under way.
type session struct {
	b       *Builder
	w       *image.Work
	req     Request
	log     *Log
	file    *containerfile.File
	context *contextTree
	date    time.Time
	bases   map[string]base
	stages  map[int]*built // by number
	changed func()
	ctxTop  image.Stack // the context as a layer, for binds
}

// base is an image that a stage begins with.
type base struct {
	stack  image.Stack
	config containerfile.Image
}

// built is a stage that is done.
type built struct {
	stack   image.Stack
	outcome *containerfile.Outcome
	history []ocispec.History
}

// Build makes an image. What it does is told to log; p hears of it too.
func (b *Builder) Build(ctx context.Context, req Request, log *Log, p image.Progress) (img image.Image, err error) {
	f, err := Parse(req.Spec)
	if err != nil {
		return img, err
	}
	s := &session{b: b, req: req, log: log, file: f, date: time.Unix(f.Epoch, 0).UTC(), bases: map[string]base{}, stages: map[int]*built{}}
	s.changed = func() {
		if p != nil {
			done, all := log.count()
			p(done, all, fmt.Sprintf("step %d of %d", min(done+1, all), all))
		}
	}
	if err := s.openContext(); err != nil {
		return img, err
	}
	err = b.cfg.Images.Work(ctx, func(ctx context.Context, w *image.Work) error {
		s.w = w
		if err := s.fetchBases(ctx); err != nil {
			return err
		}
		for _, st := range f.Stages {
			if err := s.stage(ctx, st); err != nil {
				return err
			}
		}
		img, err = s.finish(ctx)
		return err
	})
	trim := context.WithoutCancel(ctx)
	if terr := errors.Join(b.cfg.Images.TrimCache(trim), b.caches.trim()); terr != nil {
		b.cfg.Logger.Warn("the caches of builds could not be trimmed", "error", terr)
	}
	return img, err
}

// Parse reads a build's text as this server builds it.
func Parse(spec cloud.Build) (*containerfile.File, error) {
	return containerfile.Parse(spec.Text, containerfile.Options{Args: spec.Args, Target: spec.Target, Architecture: runtime.GOARCH})
}

func (s *session) openContext() error {
	if s.req.Context == nil {
		s.context = &contextTree{nodes: map[string]*contextNode{"": {node: node{mode: os.ModeDir | 0o755}, children: map[string]bool{}}}}
		return nil
	}
	info, err := s.req.Context.Stat()
	if err != nil {
		return fmt.Errorf("read the context: %w", err)
	}
	s.context, err = readContext(s.req.Context, info.Size())
	return err
}

// fetchBases finds all images that the text names, before anything is run.
func (s *session) fetchBases(ctx context.Context) error {
	for _, ref := range s.file.References() {
		d, known := s.req.Spec.Bases[ref]
		if !known {
			n := s.log.plan(cloud.BuildStep{Text: "pull " + ref})
			s.log.begin(n)
			s.changed()
			var err error
			if d, err = s.b.cfg.Pull(ctx, ref); err != nil {
				s.log.end(n, cloud.BuildFailed)
				return fmt.Errorf("the image %s is none of this account's and could not be pulled: %w", ref, err)
			}
			s.log.end(n, cloud.BuildDone)
		}
		stack, config, err := s.w.Base(ctx, d)
		if err != nil {
			return fmt.Errorf("the image %s: %w", ref, err)
		}
		var c containerfile.Image
		if err := json.Unmarshal(config, &c); err != nil {
			return fmt.Errorf("the image %s: read its configuration: %w", ref, err)
		}
		s.bases[ref] = base{stack, c}
	}
	return nil
}

// stage builds one stage.
func (s *session) stage(ctx context.Context, st *containerfile.Stage) error {
	var on base
	var before *containerfile.Outcome
	done := &built{}
	switch {
	case st.Base.Stage != nil:
		under := s.stages[st.Base.Stage.Number]
		on = base{under.stack, under.outcome.Config}
		before, done.history = under.outcome, append([]ocispec.History(nil), under.history...)
	case st.Base.Image != containerfile.Scratch:
		on = s.bases[st.Base.Image]
		done.history = on.config.History
	}
	out, err := s.file.Evaluate(st, on.config, before)
	if err != nil {
		return err
	}
	name := st.Name
	if name == "" {
		name = strconv.Itoa(st.Number)
	}
	coming := make([]cloud.BuildStep, len(out.Steps))
	for i, step := range out.Steps {
		coming[i] = cloud.BuildStep{Stage: name, Line: step.Line, Text: step.Text}
	}
	first := s.log.plan(coming...)
	done.stack, done.outcome = on.stack, out
	for i, step := range out.Steps {
		s.log.begin(first + i)
		s.changed()
		before := len(done.stack)
		var hit bool
		if done.stack, hit, err = s.step(ctx, done.stack, step, stepOutput{s.log, first + i}); err != nil {
			s.log.end(first+i, cloud.BuildFailed)
			s.changed()
			return fmt.Errorf("line %d: %s: %w", step.Line, shortened(step.Text), err)
		}
		state := cloud.BuildDone
		if hit {
			state = cloud.BuildCached
		}
		s.log.end(first+i, state)
		done.history = append(done.history, s.file.History(step, len(done.stack) > before))
	}
	s.stages[st.Number] = done
	return nil
}

// shortened is a step's text as it stands in an error.
func shortened(text string) string {
	if r := []rune(text); len(r) > 120 {
		return string(r[:119]) + "…"
	}
	return text
}

// key is the name of a step's layer in the cache: a digest of all that it depends on.
func (s *session) key(on image.Stack, what ...any) (string, error) {
	b, err := json.Marshal(append([]any{"1", s.req.Account, on.Chain(), s.date.Unix()}, what...))
	if err != nil {
		return "", fmt.Errorf("name a step: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// step does one step, or finds its layer.
func (s *session) step(ctx context.Context, on image.Stack, step containerfile.Step, out io.Writer) (image.Stack, bool, error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	switch {
	case step.Run != nil:
		return s.cached(ctx, on, func() (string, error) { return s.runKey(on, step.Run) }, func() (image.Stack, error) { return s.run(ctx, on, step.Run, out) })
	case step.Copy != nil:
		return s.copy(ctx, on, step.Copy)
	case step.Dir != "":
		return s.directory(ctx, on, step.Dir)
	}
	return on, false, nil
}

// cached looks a step up by its key, does it when it isn't there, and remembers it.
func (s *session) cached(ctx context.Context, on image.Stack, name func() (string, error), do func() (image.Stack, error)) (image.Stack, bool, error) {
	key, err := name()
	if err != nil {
		return nil, false, err
	}
	if !s.req.Spec.NoCache {
		if stack, hit, err := s.w.Cached(ctx, key, on); hit || err != nil {
			return stack, hit, err
		}
	}
	stack, err := do()
	if err != nil {
		return nil, false, err
	}
	return stack, false, s.w.Remember(ctx, key, stack)
}

// copy does a COPY or ADD.
func (s *session) copy(ctx context.Context, on image.Stack, c *containerfile.Copy) (stack image.Stack, hit bool, err error) {
	if c.From == nil {
		return s.copyFrom(ctx, on, c, source{tree: s.context})
	}
	from := s.stackOf(*c.From)
	if len(from) == 0 {
		return nil, false, errors.New("there is nothing in what it copies from")
	}
	verr := s.w.View(ctx, from, func(root string) error {
		stack, hit, err = s.copyFrom(ctx, on, c, source{tree: dirTree(root), owned: true, chain: from.Chain()})
		return nil
	})
	return stack, hit, errors.Join(err, verr)
}

func (s *session) copyFrom(ctx context.Context, on image.Stack, c *containerfile.Copy, src source) (image.Stack, bool, error) {
	list, err := picks(src.tree, c)
	if err != nil {
		return nil, false, err
	}
	if len(list)+len(c.Inline) > 1 && c.Dest[len(c.Dest)-1] != '/' {
		return nil, false, fmt.Errorf("%d files go to a directory: end %q with a slash", len(list)+len(c.Inline), c.Dest)
	}
	return s.cached(ctx, on, func() (string, error) {
		in, err := inputs(src, c, list)
		if err != nil {
			return "", err
		}
		return s.key(on, "copy", in, c.Dest, c.Chown, c.Mode, c.Unpack, c.Link, c.Exclude)
	}, func() (image.Stack, error) {
		return s.put(ctx, on, func(l *layer) error { return l.copyInto(src, c, list) })
	})
}

// put adds a layer that fn writes to a stack, with a look at what is there.
func (s *session) put(ctx context.Context, on image.Stack, fn func(*layer) error) (stack image.Stack, err error) {
	verr := s.w.View(ctx, on, func(root string) error {
		stack, err = s.w.Add(ctx, on, func(w io.Writer) error {
			l := newLayer(ctx, w, dirTree(root), s.date)
			if err := fn(l); err != nil {
				return err
			}
			return l.out.Close()
		})
		return nil
	})
	return stack, errors.Join(err, verr)
}

// directory makes a WORKDIR, unless it is there.
func (s *session) directory(ctx context.Context, on image.Stack, dir string) (image.Stack, bool, error) {
	key, err := s.key(on, "directory", dir)
	if err != nil {
		return nil, false, err
	}
	if !s.req.Spec.NoCache {
		if stack, hit, err := s.w.Cached(ctx, key, on); hit || err != nil {
			return stack, hit, err
		}
	}
	there := false
	err = s.w.View(ctx, on, func(root string) error {
		_, n, found, err := resolve(dirTree(root), dir)
		if found && err == nil && !n.mode.IsDir() {
			return fmt.Errorf("%s is there and is not a directory", dir)
		}
		there = found
		return err
	})
	if err != nil || there {
		return on, false, err
	}
	stack, err := s.put(ctx, on, func(l *layer) error {
		real, _, _, err := resolve(l.stage, dir)
		if err != nil {
			return err
		}
		return l.directories(real, node{mode: os.ModeDir | 0o755})
	})
	if err != nil {
		return nil, false, err
	}
	return stack, false, s.w.Remember(ctx, key, stack)
}

// stackOf is the layers of a stage or an image that files are taken from.
func (s *session) stackOf(from containerfile.Source) image.Stack {
	if from.Stage != nil {
		return s.stages[from.Stage.Number].stack
	}
	return s.bases[from.Image].stack
}

// finish makes the image of the last stage.
func (s *session) finish(ctx context.Context) (image.Image, error) {
	last := s.stages[s.file.Stages[len(s.file.Stages)-1].Number]
	if len(last.stack) == 0 {
		return image.Image{}, errors.New("the image has no layer: nothing was copied into it")
	}
	config := last.outcome.Config
	config.History = last.history
	config.RootFS = ocispec.RootFS{Type: "layers"}
	for _, l := range last.stack {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.Digest(l.DiffID))
	}
	b, err := json.Marshal(config)
	if err != nil {
		return image.Image{}, fmt.Errorf("encode the image's configuration: %w", err)
	}
	return s.w.Finish(ctx, last.stack, b, s.req.Name, nil)
}

// clear unmounts everything in a directory made for one command and removes it. Nothing is ever deleted through a mount.
func clear(dir string) error {
	if err := os.RemoveAll(filepath.Join(dir, bundleDir)); err != nil { // nothing is mounted there
		return err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		at := path.Join(dir, e.Name())
		for {
			err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.EINVAL) {
				break
			}
			if err != nil {
				return fmt.Errorf("unmount %s: %w", at, err)
			}
		}
		if err := os.Remove(at); err != nil { // what isn't empty is not ours to empty
			return err
		}
	}
	return os.Remove(dir)
}
