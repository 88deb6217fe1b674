package build

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/confined"
	"github.com/nacre-cloud/nacre/internal/agent/machine/oci"
	"github.com/nacre-cloud/nacre/internal/containerfile"
)

// Limits of one command.
const (
	stepTime = time.Hour
	stepPIDs = 8192
	// secretRoom is the size of the memory file system that secrets are in, tmpfsRoom of one that a command asks for without a size, in bytes.
	secretRoom = 4 << 20
	tmpfsRoom  = 256 << 20
)

// runKey is the name of a command's layer in the cache. A secret is in it by its id, never by its value; proxies are not.
func (s *session) runKey(on image.Stack, r *containerfile.Run) (string, error) {
	var mounts []any
	for _, m := range r.Mounts {
		from := ""
		switch {
		case m.Kind != containerfile.MountBind:
		case m.From == containerfile.Source{}:
			in, err := s.bound(m)
			if err != nil {
				return "", err
			}
			from = in
		default:
			from = s.stackOf(m.From).Chain()
		}
		m.From = containerfile.Source{}
		mounts = append(mounts, []any{m, from})
	}
	return s.key(on, "run", r.Args, r.Env, r.Dir, r.User, r.Network, r.Script, mounts)
}

// bound is the digest of what a bind mount shows of the context.
func (s *session) bound(m containerfile.Mount) (string, error) {
	c := &containerfile.Copy{Paths: []string{m.Source}}
	list, err := picks(s.context, c)
	if err != nil {
		return "", err
	}
	return inputs(source{tree: s.context}, c, list)
}

// ErrFailed is a command that ended with another code than 0.
var ErrFailed = errors.New("the command failed")

// run runs a command on a stack and makes a layer of what it wrote.
func (s *session) run(ctx context.Context, on image.Stack, r *containerfile.Run, out io.Writer) (stack image.Stack, err error) {
	if len(on) == 0 {
		return nil, errors.New("there is nothing to run in an empty stage")
	}
	space, err := s.b.cfg.Space(ctx, r.Network)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, space.Close()) }()
	t := &theatre{s: s, space: space, dir: filepath.Join(s.b.steps(), rand.Text())}
	defer func() { err = errors.Join(err, t.strike(ctx)) }()
	if err := t.set(ctx, on, r); err != nil {
		return nil, err
	}
	env := slices.Concat(r.Proxies, r.Env, t.env)
	limited, cancel := context.WithTimeoutCause(ctx, stepTime, fmt.Errorf("the command took longer than %v and was ended", stepTime))
	defer cancel()
	code, err := s.b.cfg.Run(limited, oci.Step{Dir: t.path(bundleDir), RootFS: t.path(rootDir), IDBase: space.IDBase, UserNS: space.UserNS, NetNS: space.NetNS, Args: r.Args, Env: env,
		WorkingDir: r.Dir, User: r.User, Mounts: t.mounts, Resources: machine.Resources{Memory: s.b.cfg.Memory, PIDs: stepPIDs, Weight: 100}, Output: out})
	switch {
	case errors.Is(err, confined.ErrNotRun):
		return nil, fmt.Errorf("its container ended before the command did; if it ran out of memory: a step has %d MiB: %w", s.b.cfg.Memory>>20, err)
	case err != nil:
		return nil, err
	case code == 137:
		return nil, fmt.Errorf("%w: it was killed (exit code 137); a step has %d MiB of memory", ErrFailed, s.b.cfg.Memory>>20)
	case code != 0:
		return nil, fmt.Errorf("%w: exit code %d", ErrFailed, code)
	}
	if err := t.removeStubs(); err != nil {
		return nil, err
	}
	return t.root.Layer(ctx, s.date, nil)
}

// What is in a command's directory.
const (
	rootDir    = "root"
	bundleDir  = "bundle"
	secretsDir = "secrets"
)

// theatre is what is set up around one command, and taken down after it.
type theatre struct {
	s      *session
	space  *Space
	dir    string
	root   *image.Root
	others []*image.Root // that binds are of
	mounts []specs.Mount
	env    []string
	stubs  []string // names in the root that mounting makes, those above before those below
	unlock []func()
	count  int
}

func (t *theatre) path(name string) string { return filepath.Join(t.dir, name) }

// set mounts root, secrets and whatever the command asks for.
func (t *theatre) set(ctx context.Context, on image.Stack, r *containerfile.Run) error {
	for _, d := range []string{t.dir, t.path(rootDir), t.path(bundleDir), t.path(secretsDir)} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return fmt.Errorf("make the command's directory: %w", err)
		}
	}
	if err := unix.Mount("tmpfs", t.path(secretsDir), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=711,size=%d", secretRoom)); err != nil {
		return fmt.Errorf("make a place for secrets: %w", err)
	}
	var err error
	if t.root, err = t.s.w.Root(ctx, on, t.path(rootDir), t.space.IDBase, t.space.UserNS); err != nil {
		return err
	}
	resolver := ""
	if t.space.Resolver != "" {
		resolver = "nameserver " + t.space.Resolver + "\n"
	}
	targets := []string{"/proc", "/dev", "/sys"}
	for _, f := range []struct {
		target, content string
		mode            fs.FileMode
	}{{"/etc/resolv.conf", resolver, 0o644}, {"/etc/hosts", "127.0.0.1 localhost build\n::1 localhost\n", 0o644}, {containerfile.ScriptFile, r.Script, 0o755}} {
		if f.content == "" && f.target == containerfile.ScriptFile {
			continue
		}
		if err := t.show(f.target, []byte(f.content), f.mode, 0, 0); err != nil {
			return err
		}
		targets = append(targets, f.target)
	}
	for _, m := range r.Mounts {
		if err := t.mount(ctx, m); err != nil {
			return fmt.Errorf("--mount=type=%s: %w", m.Kind, err)
		}
		if m.Target != "" {
			targets = append(targets, m.Target)
		}
	}
	return t.noteStubs(targets)
}

// show has a small file appear at a target. It is in memory only.
func (t *theatre) show(target string, content []byte, mode fs.FileMode, uid, gid uint32) error {
	t.count++
	at := filepath.Join(t.path(secretsDir), strconv.Itoa(t.count))
	if err := os.WriteFile(at, content, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", target, err)
	}
	if err := errors.Join(os.Chown(at, int(t.space.IDBase+uid), int(t.space.IDBase+gid)), os.Chmod(at, mode)); err != nil {
		return fmt.Errorf("write %s: %w", target, err)
	}
	t.mounts = append(t.mounts, specs.Mount{Destination: target, Type: "bind", Source: at, Options: []string{"bind", "nosuid", "nodev"}})
	return nil
}

func (t *theatre) mount(ctx context.Context, m containerfile.Mount) error {
	switch m.Kind {
	case containerfile.MountSecret:
		value, there := t.s.req.Secrets[m.ID]
		switch {
		case !there && m.Required:
			return fmt.Errorf("the secret %q was not given", m.ID)
		case !there:
			return nil
		}
		if m.Env != "" {
			t.env = append(t.env, m.Env+"="+string(value))
		}
		if m.Target == "" {
			return nil
		}
		return t.show(m.Target, value, fs.FileMode(m.Mode&0o777), m.UID, m.GID)
	case containerfile.MountTmpfs:
		size := m.Size
		if size <= 0 {
			size = tmpfsRoom
		}
		t.mounts = append(t.mounts, specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", fmt.Sprintf("size=%d", size)}})
		return nil
	case containerfile.MountCache:
		return t.cache(ctx, m)
	}
	return t.bind(ctx, m)
}

// bind shows files of a stage, an image or the context. What is written to them is thrown away.
func (t *theatre) bind(ctx context.Context, m containerfile.Mount) error {
	stack := t.s.ctxTop
	if m.From != (containerfile.Source{}) {
		stack = t.s.stackOf(m.From)
	} else if stack == nil {
		var err error
		everything := &containerfile.Copy{Paths: []string{"/"}, Dest: "/"}
		src := source{tree: t.s.context}
		list, err := picks(src.tree, everything)
		if err != nil {
			return err
		}
		if stack, err = t.s.w.Add(ctx, nil, func(w io.Writer) error {
			l := newLayer(ctx, w, emptyTree{}, t.s.date)
			return errors.Join(l.copyInto(src, everything, list), l.out.Close())
		}); err != nil {
			return err
		}
		t.s.ctxTop = stack
	}
	if len(stack) == 0 {
		return errors.New("there is nothing in what it shows")
	}
	t.count++
	dir := t.path("bind" + strconv.Itoa(t.count))
	if err := os.Mkdir(dir, 0o711); err != nil {
		return fmt.Errorf("make a mount point: %w", err)
	}
	root, err := t.s.w.Root(ctx, stack, dir, t.space.IDBase, t.space.UserNS)
	if err != nil {
		return err
	}
	t.others = append(t.others, root)
	real, _, there, err := resolve(dirTree(dir), m.Source)
	if err != nil {
		return err
	}
	if !there {
		return fmt.Errorf("%s is not there", m.Source)
	}
	options := []string{"bind", "nosuid", "nodev"}
	if m.ReadOnly {
		options = append(options, "ro")
	}
	t.mounts = append(t.mounts, specs.Mount{Destination: m.Target, Type: "bind", Source: filepath.Join(dir, filepath.FromSlash(real)), Options: options})
	return nil
}

// cache shows a directory that is kept from build to build.
func (t *theatre) cache(ctx context.Context, m containerfile.Mount) error {
	if m.Shared == "private" {
		return errors.New("sharing=private is not built; shared and locked are")
	}
	dir, unlock, err := t.s.b.caches.take(ctx, string(t.s.req.Account)+"/"+m.ID, m.Shared == "locked")
	if err != nil {
		return err
	}
	t.unlock = append(t.unlock, unlock)
	if err := t.s.b.caches.own(dir, fs.FileMode(m.Mode), int(m.UID), int(m.GID)); err != nil {
		return err
	}
	t.count++
	at := t.path("cache" + strconv.Itoa(t.count))
	if err := os.Mkdir(at, 0o711); err != nil {
		return fmt.Errorf("make a mount point: %w", err)
	}
	if err := image.BindMapped(dir, at, t.space.UserNS); err != nil {
		return err
	}
	options := []string{"bind", "nosuid", "nodev"}
	if m.ReadOnly {
		options = append(options, "ro")
	}
	t.mounts = append(t.mounts, specs.Mount{Destination: m.Target, Type: "bind", Source: at, Options: options})
	return nil
}

// noteStubs finds out which mount points the runtime will have to make: they are no part of the layer.
func (t *theatre) noteStubs(targets []string) error {
	root := dirTree(t.path(rootDir))
	for _, target := range targets {
		parts := split(target)
		for i := range parts {
			real, _, there, err := resolve(root, path.Join(parts[:i+1]...))
			if err != nil {
				return fmt.Errorf("the mount point %s: %w", target, err)
			}
			if !there && !slices.Contains(t.stubs, real) {
				t.stubs = append(t.stubs, real)
			}
		}
	}
	return nil
}

// removeStubs takes mount points away that were made for the command, unless it put something there. It is looked for without following a link, as
// the command may have left anything.
func (t *theatre) removeStubs() error {
	root, err := os.Open(t.path(rootDir))
	if err != nil {
		return fmt.Errorf("look for mount points: %w", err)
	}
	defer root.Close()
	for _, name := range slices.Backward(t.stubs) {
		dir := path.Dir(name)
		fd, err := unix.Openat2(int(root.Fd()), dir, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
		if err != nil {
			continue // it is not what it was
		}
		base := path.Base(name)
		var st unix.Stat_t
		if unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			switch {
			case st.Mode&unix.S_IFMT == unix.S_IFDIR:
				_ = unix.Unlinkat(fd, base, unix.AT_REMOVEDIR) // one with something in it stays
			case st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0:
				_ = unix.Unlinkat(fd, base, 0)
			}
		}
		unix.Close(fd)
	}
	return nil
}

// strike takes everything down.
func (t *theatre) strike(ctx context.Context) error {
	var problems []error
	for _, r := range append(t.others, t.root) {
		if r != nil {
			problems = append(problems, r.Remove(ctx))
		}
	}
	for _, unlock := range t.unlock {
		unlock()
	}
	return errors.Join(append(problems, clear(t.dir))...)
}
