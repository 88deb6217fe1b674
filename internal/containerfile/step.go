package containerfile

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Image is an image's configuration, with what Containerfiles say beyond OCI's.
type Image = dockerspec.DockerOCIImage

// Step is one instruction of a stage. At most one of Run, Copy and Dir is set; a step without any changes the configuration only.
type Step struct {
	Line int
	Text string // as it is written, on one line
	Run  *Run
	Copy *Copy
	Dir  string // a directory that is to be there
}

// Layered tells whether a step may add a layer.
func (s Step) Layered() bool { return s.Run != nil || s.Copy != nil || s.Dir != "" }

// Run is a command.
type Run struct {
	Args    []string
	Env     []string // "KEY=value": the image's, and the build's arguments that are declared
	Proxies []string // "KEY=value": proxies of the builder's, which are no input of the step's
	Dir     string
	User    string
	Network bool // it may reach the world
	Mounts  []Mount
	Script  string // shown at ScriptFile where it is not empty
}

// ScriptFile is where a command finds a script of its own.
const ScriptFile = "/dev/nacre/script"

// MountKind is what is mounted.
type MountKind string

// Kinds of mounts.
const (
	MountBind   MountKind = "bind"
	MountCache  MountKind = "cache"
	MountTmpfs  MountKind = "tmpfs"
	MountSecret MountKind = "secret"
)

// Mount is something that a command sees and that is in no layer.
type Mount struct {
	Kind     MountKind
	From     Source // of a bind; zero for the context
	Source   string // of a bind: the path in From
	Target   string // absolute; "" for a secret that is in the environment only
	ID       string // of a secret or cache
	Env      string // of a secret: the variable that has it, "" for none
	ReadOnly bool
	Required bool
	Shared   string // of a cache: "shared", "private" or "locked"
	Size     int64  // of a tmpfs, in bytes; 0 for the default
	Mode     uint32
	UID, GID uint32
}

// Copy is a COPY or an ADD.
type Copy struct {
	From    *Source // nil for the context
	Paths   []string
	Inline  []Inline // files that stand in the text
	Dest    string   // absolute; with a slash behind it where it must be a directory
	Chown   string   // "user:group", names or numbers, "" for none
	Mode    *uint32  // nil keeps that of each file
	Unpack  bool     // archives are unpacked
	Link    bool     // the destination's path is made anew, whatever there is
	Exclude []string
}

// Inline is a file in the text.
type Inline struct{ Name, Content string }

// proxies are arguments that need no declaration, and that a step doesn't depend on.
var proxies = []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"}

// scene is what holds at one line of a stage.
type scene struct {
	f      *File
	st     *Stage
	img    *Image
	args   map[string]string
	cmdSet bool
	// started says that the text says what is run, labelled that it says itself what kind of image this is.
	started, labelled bool
}

// Outcome is a stage that has been worked out.
type Outcome struct {
	Steps  []Step
	Config Image
	cmdSet bool

	labelled bool
}

// Evaluate works out a stage on a base's configuration; before is the base's outcome where it is a stage too.
func (f *File) Evaluate(st *Stage, base Image, before *Outcome) (*Outcome, error) {
	base.Config.Env = slices.Clone(base.Config.Env)
	base.Config.Labels = cloneMap(base.Config.Labels)
	base.Config.Volumes = cloneMap(base.Config.Volumes)
	base.Config.ExposedPorts = cloneMap(base.Config.ExposedPorts)
	base.OS, base.Architecture = "linux", f.opts.Architecture
	when := time.Unix(f.Epoch, 0).UTC()
	base.Created = &when
	triggers := base.Config.OnBuild
	base.Config.OnBuild = nil
	s := &scene{f: f, st: st, img: &base, args: map[string]string{}, cmdSet: before != nil && before.cmdSet, labelled: before != nil && before.labelled}
	if st.Base.Image == Scratch {
		base.Config.WorkingDir = "/"
	}
	if !slices.ContainsFunc(base.Config.Env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) && st.Base.Image != Scratch {
		base.Config.Env = append(base.Config.Env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	out := &Outcome{}
	cmds := st.cmds
	if len(triggers) > 0 {
		parsed, err := onbuild(triggers)
		if err != nil {
			return nil, mistake(st.Line, "ONBUILD of the base: %w", err)
		}
		cmds = append(parsed, cmds...)
	}
	for _, c := range cmds {
		steps, err := s.apply(c)
		if err != nil {
			return nil, mistake(max(lineOf(c), 1), "%s: %w", strings.ToUpper(c.Name()), err)
		}
		out.Steps = append(out.Steps, steps...)
	}
	if s.started && !s.labelled {
		delete(s.img.Config.Labels, cloud.LabelSystem) // on an operating system, an application
	}
	out.Config, out.cmdSet, out.labelled = *s.img, s.cmdSet, s.labelled
	return out, nil
}

// onbuild are the instructions that a base image left for those who build on it.
func onbuild(triggers []string) ([]instructions.Command, error) {
	var list []instructions.Command
	for _, t := range triggers {
		ast, err := parser.Parse(strings.NewReader(t))
		if err != nil {
			return nil, err
		}
		for _, n := range ast.AST.Children {
			c, err := instructions.ParseCommand(n)
			if err != nil {
				return nil, err
			}
			if len(fromsOf(c)) > 0 && fromsOf(c)[0] != "" {
				return nil, fmt.Errorf("%q takes files from another image, which is not built", t)
			}
			list = append(list, c)
		}
	}
	return list, nil
}

func cloneMap[V any](m map[string]V) map[string]V {
	out := map[string]V{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

// env is what words are expanded with: arguments, and the image's variables over them.
func (s *scene) env() environment {
	e := environment{}
	for k, v := range s.args {
		e[k] = v
	}
	for _, kv := range s.img.Config.Env {
		k, v, _ := strings.Cut(kv, "=")
		e[k] = v
	}
	return e
}

func (s *scene) expander() instructions.SingleWordExpander {
	env := s.env()
	return func(word string) (string, error) { return s.f.expand(word, env) }
}

// text is an instruction as it is shown, on one line.
func text(c instructions.Command) string {
	t, ok := c.(fmt.Stringer)
	if !ok {
		return strings.ToUpper(c.Name())
	}
	return strings.Join(strings.Fields(t.String()), " ")
}

func (s *scene) apply(c instructions.Command) ([]Step, error) {
	step := Step{Line: lineOf(c), Text: text(c)}
	if e, ok := c.(instructions.SupportsSingleWordExpansion); ok {
		if err := e.Expand(s.expander()); err != nil {
			return nil, err
		}
	}
	if e, ok := c.(instructions.SupportsSingleWordExpansionRaw); ok {
		env := s.env()
		err := e.ExpandRaw(func(word string) (string, error) {
			lex := shell.NewLex('\\')
			lex.SkipProcessQuotes = true
			out, _, err := lex.ProcessWord(word, env)
			return out, err
		})
		if err != nil {
			return nil, err
		}
	}
	cfg := &s.img.Config
	var err error
	switch c := c.(type) {
	case *instructions.RunCommand:
		step.Run, err = s.run(c)
	case *instructions.CopyCommand:
		step.Copy, err = s.copy(c)
	case *instructions.AddCommand:
		step.Copy, err = s.add(c)
	case *instructions.WorkdirCommand:
		if cfg.WorkingDir, err = s.absolute(c.Path); err == nil {
			step.Dir = cfg.WorkingDir
		}
	case *instructions.EnvCommand:
		for _, kv := range c.Env {
			cfg.Env = setEnv(cfg.Env, kv.Key, kv.Value)
		}
	case *instructions.ArgCommand:
		s.declare(c)
	case *instructions.LabelCommand:
		for _, kv := range c.Labels {
			cfg.Labels[kv.Key] = kv.Value
			s.labelled = s.labelled || kv.Key == cloud.LabelSystem
		}
	case *instructions.UserCommand:
		cfg.User = c.User
	case *instructions.CmdCommand:
		cfg.Cmd, s.cmdSet, s.started = s.line(c.ShellDependantCmdLine), true, true
	case *instructions.EntrypointCommand:
		if cfg.Entrypoint = s.line(c.ShellDependantCmdLine); !s.cmdSet {
			cfg.Cmd = nil // that of the base was for the base's entrypoint
		}
		s.started = true
	case *instructions.ShellCommand:
		cfg.Shell = c.Shell
	case *instructions.StopSignalCommand:
		cfg.StopSignal = c.Signal
	case *instructions.HealthCheckCommand:
		cfg.Healthcheck = c.Health
	case *instructions.VolumeCommand:
		for _, v := range c.Volumes {
			if v == "" {
				return nil, fmt.Errorf("a volume's path is empty")
			}
			cfg.Volumes[v] = struct{}{}
		}
	case *instructions.ExposeCommand:
		err = s.expose(c)
	case *instructions.OnbuildCommand:
		cfg.OnBuild = append(cfg.OnBuild, c.Expression)
	case *instructions.MaintainerCommand:
		s.img.Author = c.Maintainer
	default:
		return nil, fmt.Errorf("this instruction is not built")
	}
	if err != nil {
		return nil, err
	}
	return []Step{step}, nil
}

// declare makes arguments known from here on.
func (s *scene) declare(c *instructions.ArgCommand) {
	platform := s.f.platform()
	for _, kv := range c.Args {
		given, isGiven := s.f.opts.Args[kv.Key]
		global, isGlobal := s.f.global[kv.Key]
		builtin, isBuiltin := platform[kv.Key]
		switch {
		case isGiven:
			s.args[kv.Key] = given
		case kv.Value != nil:
			s.args[kv.Key] = *kv.Value
		case isGlobal:
			s.args[kv.Key] = global
		case isBuiltin:
			s.args[kv.Key] = builtin
		default:
			delete(s.args, kv.Key)
		}
	}
}

func setEnv(env []string, key, value string) []string {
	for i, e := range env {
		if k, _, _ := strings.Cut(e, "="); k == key {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}

// absolute is a path below the stage's working directory.
func (s *scene) absolute(p string) (string, error) {
	if p == "" {
		return "", fmt.Errorf("the path is empty")
	}
	if !path.IsAbs(p) {
		p = path.Join("/", s.img.Config.WorkingDir, p)
	}
	return path.Clean(p), nil
}

// line is a command line, with the shell before it where it isn't JSON.
func (s *scene) line(c instructions.ShellDependantCmdLine) []string {
	if !c.PrependShell {
		return slices.Clone(c.CmdLine)
	}
	sh := s.img.Config.Shell
	if len(sh) == 0 {
		sh = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(sh), strings.Join(c.CmdLine, " "))
}

func (s *scene) expose(c *instructions.ExposeCommand) error {
	for _, word := range c.Ports {
		ports, err := shell.NewLex(s.f.escape).ProcessWords(word, s.env())
		if err != nil {
			return err
		}
		for _, p := range ports {
			number, proto, given := strings.Cut(p, "/")
			if !given {
				proto = "tcp"
			}
			first, last, ranged := strings.Cut(number, "-")
			if !ranged {
				last = first
			}
			from, errFrom := strconv.ParseUint(first, 10, 16)
			to, errTo := strconv.ParseUint(last, 10, 16)
			if errFrom != nil || errTo != nil || from == 0 || to < from || !slices.Contains([]string{"tcp", "udp", "sctp"}, strings.ToLower(proto)) {
				return fmt.Errorf("%.60q is not a port, such as 80, 53/udp or 7000-7010", p)
			}
			for n := from; n <= to; n++ {
				s.img.Config.ExposedPorts[fmt.Sprintf("%d/%s", n, strings.ToLower(proto))] = struct{}{}
			}
		}
	}
	return nil
}

// run is a RUN.
func (s *scene) run(c *instructions.RunCommand) (*Run, error) {
	r := &Run{Dir: s.img.Config.WorkingDir, User: s.img.Config.User}
	line := c.ShellDependantCmdLine
	if len(c.Files) > 0 {
		if len(line.CmdLine) != 1 || !line.PrependShell {
			return nil, fmt.Errorf("a here-document needs a command of the shell, not one of JSON")
		}
		if doc, err := parser.ParseHeredoc(line.CmdLine[0]); err == nil && doc != nil {
			data := c.Files[0].Data
			if c.Files[0].Chomp {
				data = parser.ChompHeredocContent(data)
			}
			line.CmdLine = []string{data}
			if strings.HasPrefix(data, "#!") {
				r.Script, line.CmdLine = data, []string{ScriptFile}
			}
		} else {
			full := line.CmdLine[0]
			for _, file := range c.Files {
				full += "\n" + file.Data + file.Name
			}
			line.CmdLine = []string{full}
		}
	}
	if r.Args = s.line(line); len(r.Args) == 0 || r.Args[len(r.Args)-1] == "" && len(r.Args) == 1 {
		return nil, fmt.Errorf("there is no command")
	}
	for _, k := range environment(s.args).Keys() {
		r.Env = append(r.Env, k+"="+s.args[k])
	}
	for _, kv := range s.img.Config.Env {
		k, v, _ := strings.Cut(kv, "=")
		r.Env = setEnv(r.Env, k, v)
	}
	for _, k := range proxies {
		if v, ok := s.f.opts.Args[k]; ok {
			if _, declared := s.args[k]; !declared {
				r.Proxies = append(r.Proxies, k+"="+v)
			}
		}
	}
	switch n := instructions.GetNetwork(c); n {
	case instructions.NetworkDefault:
		r.Network = true
	case instructions.NetworkNone:
	default:
		return nil, fmt.Errorf("--network=%s is not built: a build never has the server's own network", n)
	}
	if m := instructions.GetSecurity(c); m != instructions.SecuritySandbox {
		return nil, fmt.Errorf("--security=%s is not built: a build never has privileges on the server", m)
	}
	if len(instructions.GetDevices(c)) > 0 {
		return nil, fmt.Errorf("--device is not built")
	}
	for _, m := range instructions.GetMounts(c) {
		mount, err := s.mount(m)
		if err != nil {
			return nil, fmt.Errorf("--mount=type=%s: %w", m.Type, err)
		}
		r.Mounts = append(r.Mounts, mount)
	}
	return r, nil
}

// mount is a --mount of a RUN.
func (s *scene) mount(m *instructions.Mount) (Mount, error) {
	out := Mount{Kind: MountKind(m.Type), ID: m.CacheID, ReadOnly: m.ReadOnly, Required: m.Required, Size: m.SizeLimit, Shared: string(m.CacheSharing)}
	target := m.Target
	var mode uint64
	switch out.Kind {
	case MountSecret:
		if out.ID == "" {
			if out.ID = m.Source; out.ID == "" {
				out.ID = path.Base(target)
			}
		}
		if m.Env != nil {
			if out.Env = *m.Env; out.Env == "" {
				out.Env = out.ID
			}
		}
		if target == "" && m.Env == nil {
			target = "/run/secrets/" + path.Base(out.ID)
		}
		mode = 0o400
	case MountCache:
		if target == "" {
			return out, fmt.Errorf("it has no target")
		}
		if m.From != "" || m.Source != "" {
			return out, fmt.Errorf("from and source are not built")
		}
		mode = 0o755
	case MountBind:
		if target == "" {
			return out, fmt.Errorf("it has no target")
		}
		out.Source = path.Join("/", m.Source)
		if m.From != "" {
			out.From = s.f.source(m.From, s.st)
		}
	case MountTmpfs:
		if target == "" {
			return out, fmt.Errorf("it has no target")
		}
	default:
		return out, fmt.Errorf("this type is not built; bind, cache, tmpfs and secret are")
	}
	if target != "" {
		abs, err := s.absolute(target)
		if err != nil || abs == "/" {
			return out, fmt.Errorf("the target is %q", target)
		}
		out.Target = abs
	}
	if out.Kind == MountCache && out.ID == "" {
		out.ID = out.Target
	}
	if m.Mode != nil {
		mode = *m.Mode
	}
	if m.UID != nil {
		out.UID = uint32(*m.UID)
	}
	if m.GID != nil {
		out.GID = uint32(*m.GID)
	}
	if mode > 0o7777 || out.UID > maxID || out.GID > maxID {
		return out, fmt.Errorf("a mode ends at 7777, ids end at %d", maxID)
	}
	out.Mode = uint32(mode)
	return out, nil
}

// maxID is the last user or group id that an instance has.
const maxID = 65535

// copy is a COPY.
func (s *scene) copy(c *instructions.CopyCommand) (*Copy, error) {
	if c.Parents {
		return nil, fmt.Errorf("--parents is not built")
	}
	out, err := s.files(c.SourcesAndDest, c.Chown, c.Chmod, c.ExcludePatterns)
	if err != nil {
		return nil, err
	}
	out.Link = c.Link
	if c.From != "" {
		from := s.f.source(c.From, s.st)
		if from.Image == Scratch {
			return nil, fmt.Errorf("--from=scratch: there is nothing in it")
		}
		out.From = &from
	}
	return out, nil
}

// add is an ADD.
func (s *scene) add(c *instructions.AddCommand) (*Copy, error) {
	for _, p := range c.SourcePaths {
		if strings.Contains(p, "://") || strings.HasPrefix(p, "git@") {
			return nil, fmt.Errorf("%.200s: fetching from elsewhere is not built; fetch it in a RUN, or put it into the context", p)
		}
	}
	if c.Checksum != "" || c.KeepGitDir != nil {
		return nil, fmt.Errorf("--checksum and --keep-git-dir are for what is fetched from elsewhere, which is not built")
	}
	out, err := s.files(c.SourcesAndDest, c.Chown, c.Chmod, c.ExcludePatterns)
	if err != nil {
		return nil, err
	}
	out.Link, out.Unpack = c.Link, c.Unpack == nil || *c.Unpack
	return out, nil
}

func (s *scene) files(sd instructions.SourcesAndDest, chown, chmod string, exclude []string) (*Copy, error) {
	dest, err := s.absolute(sd.DestPath)
	if err != nil {
		return nil, err
	}
	if dest != "/" && (strings.HasSuffix(sd.DestPath, "/") || sd.DestPath == "." || strings.HasSuffix(sd.DestPath, "/.")) {
		dest += "/"
	}
	out := &Copy{Paths: sd.SourcePaths, Dest: dest, Chown: chown, Exclude: exclude}
	for _, c := range sd.SourceContents {
		out.Inline = append(out.Inline, Inline{Name: c.Path, Content: c.Data})
	}
	if len(out.Paths)+len(out.Inline) > 1 && !strings.HasSuffix(dest, "/") {
		return nil, fmt.Errorf("several files go to a directory: end %q with a slash", sd.DestPath)
	}
	if chmod != "" {
		mode, err := strconv.ParseUint(chmod, 8, 32)
		if err != nil || mode > 0o7777 {
			return nil, fmt.Errorf("--chmod=%.40s: only octal modes are built, such as 0644", chmod)
		}
		m := uint32(mode)
		out.Mode = &m
	}
	return out, nil
}

// History is the record of a step in the image.
func (f *File) History(s Step, layer bool) ocispec.History {
	when := time.Unix(f.Epoch, 0).UTC()
	return ocispec.History{Created: &when, CreatedBy: s.Text, Comment: "nacre", EmptyLayer: !layer}
}
