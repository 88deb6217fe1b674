// Package containerfile turns a Containerfile into steps: what is run, what is copied, and what the image says of itself.
//
// BuildKit's parser reads the text; this package does what the words mean, without any I/O: the same text, arguments and base
// configurations make the same steps, whoever asks. What nacre doesn't build is refused with its line, never left out. Texts come from
// outside and are bounded.
package containerfile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Limits of a Containerfile.
const (
	MaxText   = 256 << 10 // bytes
	MaxStages = 100
	MaxSteps  = 1000 // in all stages
	MaxArgs   = 200
)

// Scratch is the base of a stage that begins with nothing.
const Scratch = "scratch"

// EpochArg is the build argument by which a build's files are dated, in seconds since 1970.
const EpochArg = "SOURCE_DATE_EPOCH"

// Options are what a build adds to the text.
type Options struct {
	Args         map[string]string // build arguments
	Target       string            // name or number of the stage that is the image, "" for the last
	Architecture string            // OCI's word, such as "amd64"
}

// File is a Containerfile that has been read.
type File struct {
	Stages []*Stage // those that the target needs, in order; the last is the target
	Epoch  int64    // seconds since 1970 that every file of the build is dated

	opts   Options
	escape rune
	global map[string]string // arguments of before the first FROM
}

// Stage is one FROM with what follows it.
type Stage struct {
	Number int    // in the text, from 0
	Name   string // "" for none
	Base   Source
	Line   int
	Text   string // the FROM, as it is written
	cmds   []instructions.Command
}

// Source is what a stage begins with or what files are copied from: another stage, or an image.
type Source struct {
	Stage *Stage
	Image string // a reference, or Scratch; "" where it is a stage
}

// mistake is an error with its place in the text.
func mistake(line int, format string, args ...any) error {
	return fmt.Errorf("line %d: %w", line, fmt.Errorf(format, args...))
}

// Parse reads a text. An error says which line is at fault.
func Parse(text string, o Options) (*File, error) {
	switch {
	case len(text) > MaxText:
		return nil, fmt.Errorf("the Containerfile has %d bytes; %d are accepted", len(text), MaxText)
	case len(o.Args) > MaxArgs:
		return nil, fmt.Errorf("there are %d build arguments; %d are accepted", len(o.Args), MaxArgs)
	}
	ast, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return nil, located(err)
	}
	stages, globals, err := instructions.Parse(ast.AST, nil)
	if err != nil {
		return nil, located(err)
	}
	if len(stages) == 0 {
		return nil, errors.New("the Containerfile has no FROM")
	}
	f := &File{opts: o, escape: ast.EscapeToken, global: map[string]string{}}
	if err := f.epoch(); err != nil {
		return nil, err
	}
	if err := f.globals(globals); err != nil {
		return nil, err
	}
	return f, f.plan(stages)
}

// located gives an error of the parser the form that this package's have.
func located(err error) error {
	var at *parser.LocationError
	text := err.Error()
	if _, after, ok := strings.Cut(text, "dockerfile parse error on line "); ok {
		return fmt.Errorf("line %s", after)
	}
	if errors.As(err, &at) && len(at.Locations) > 0 && len(at.Locations[0]) > 0 {
		return fmt.Errorf("line %d: %s", at.Locations[0][0].Start.Line, text)
	}
	return errors.New(text)
}

func (f *File) epoch() error {
	word, ok := f.opts.Args[EpochArg]
	if !ok || word == "" {
		return nil
	}
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil || n < 0 || n > 1<<33 {
		return fmt.Errorf("the build argument %s is %.40q and not a number of seconds since 1970", EpochArg, word)
	}
	f.Epoch = n
	return nil
}

// platform are the arguments that are there without being declared before the first FROM.
func (f *File) platform() map[string]string {
	a := f.opts.Architecture
	m := map[string]string{}
	for _, side := range []string{"TARGET", "BUILD"} {
		m[side+"PLATFORM"], m[side+"OS"], m[side+"ARCH"], m[side+"VARIANT"] = "linux/"+a, "linux", a, ""
	}
	return m
}

// globals are the arguments that FROM may use.
func (f *File) globals(args []instructions.ArgCommand) error {
	known := f.platform()
	for _, a := range args {
		for _, kv := range a.Args {
			value := ""
			if kv.Value != nil {
				var err error
				if value, err = f.expand(*kv.Value, known); err != nil {
					return mistake(lineOf(&a), "%w", err)
				}
			}
			if given, ok := f.opts.Args[kv.Key]; ok {
				value = given
			}
			known[kv.Key], f.global[kv.Key] = value, value
		}
	}
	return nil
}

func (f *File) expand(word string, env map[string]string) (string, error) {
	out, _, err := shell.NewLex(f.escape).ProcessWord(word, environment(env))
	return out, err
}

// environment is a map as the lexer wants it.
type environment map[string]string

func (e environment) Get(key string) (string, bool) { v, ok := e[key]; return v, ok }
func (e environment) Keys() []string                { return slices.Sorted(maps.Keys(e)) }

func lineOf(c instructions.Command) int {
	if at := c.Location(); len(at) > 0 {
		return at[0].Start.Line
	}
	return 0
}

// plan finds out what each stage stands on, and leaves out those that the target doesn't need.
func (f *File) plan(parsed []instructions.Stage) error {
	if len(parsed) > MaxStages {
		return fmt.Errorf("the Containerfile has %d stages; %d are accepted", len(parsed), MaxStages)
	}
	known := f.platform()
	maps.Copy(known, f.global)
	var all []*Stage
	steps := 0
	for n := range parsed {
		p := &parsed[n]
		st := &Stage{Number: n, Name: strings.ToLower(p.Name), Text: p.SourceCode, cmds: p.Commands}
		if len(p.Location) > 0 {
			st.Line = p.Location[0].Start.Line
		}
		if steps += len(p.Commands); steps > MaxSteps {
			return mistake(st.Line, "the Containerfile has more than %d steps", MaxSteps)
		}
		base, err := f.expand(p.BaseName, known)
		switch {
		case err != nil:
			return mistake(st.Line, "FROM %s: %w", p.BaseName, err)
		case base == "":
			return mistake(st.Line, "FROM %s: the name is empty", p.BaseName)
		}
		if p.Platform != "" {
			platform, err := f.expand(p.Platform, known)
			if err != nil {
				return mistake(st.Line, "FROM --platform=%s: %w", p.Platform, err)
			}
			if os, arch, _ := strings.Cut(platform, "/"); platform != "" && (os != "linux" || arch != f.opts.Architecture) {
				return mistake(st.Line, "FROM --platform=%s: this build is for linux/%s", platform, f.opts.Architecture)
			}
		}
		st.Base = sourceOf(all, base, n)
		all = append(all, st)
	}
	target := all[len(all)-1]
	if f.opts.Target != "" {
		if target = stageNamed(all, f.opts.Target, len(all)); target == nil {
			return fmt.Errorf("there is no stage %q", f.opts.Target)
		}
	}
	needed := map[int]bool{}
	if err := f.need(all, target, needed); err != nil {
		return err
	}
	for _, st := range all[:target.Number+1] {
		if needed[st.Number] {
			f.Stages = append(f.Stages, st)
		}
	}
	return nil
}

// sourceOf is what a name means in stage n: an earlier stage, else an image.
func sourceOf(all []*Stage, name string, n int) Source {
	if st := stageNamed(all, name, n); st != nil {
		return Source{Stage: st}
	}
	return Source{Image: name}
}

func stageNamed(all []*Stage, name string, before int) *Stage {
	for i := min(before, len(all)) - 1; i >= 0; i-- {
		if all[i].Name != "" && strings.EqualFold(all[i].Name, name) {
			return all[i]
		}
	}
	if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < min(before, len(all)) {
		return all[i]
	}
	return nil
}

// need marks a stage and those that it stands on or copies from.
func (f *File) need(all []*Stage, st *Stage, needed map[int]bool) error {
	if needed[st.Number] {
		return nil
	}
	needed[st.Number] = true
	if st.Base.Stage != nil {
		if err := f.need(all, st.Base.Stage, needed); err != nil {
			return err
		}
	}
	for _, c := range st.cmds {
		for _, from := range fromsOf(c) {
			if from == "" {
				continue
			}
			if other := stageNamed(all, from, st.Number); other != nil {
				if err := f.need(all, other, needed); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// fromsOf are the stages and images that a command takes files from.
func fromsOf(c instructions.Command) []string {
	switch c := c.(type) {
	case *instructions.CopyCommand:
		return []string{c.From}
	case *instructions.RunCommand:
		var list []string
		for _, m := range instructions.GetMounts(c) {
			list = append(list, m.From)
		}
		return list
	}
	return nil
}

// References are the images that the build needs from outside, each once.
func (f *File) References() []string {
	seen := map[string]bool{Scratch: true, "": true}
	var list []string
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			list = append(list, name)
		}
	}
	for _, st := range f.Stages {
		add(st.Base.Image)
		for _, c := range st.cmds {
			for _, from := range fromsOf(c) {
				if stageNamed(f.Stages, from, len(f.Stages)) == nil && !isNumber(from) {
					add(from)
				}
			}
		}
	}
	return list
}

func isNumber(s string) bool { _, err := strconv.Atoi(s); return err == nil }

// stage finds an earlier one by name or number among those that are needed.
func (f *File) source(name string, of *Stage) Source {
	var before []*Stage
	for _, st := range f.Stages {
		if st.Number < of.Number {
			before = append(before, st)
		}
	}
	for i := len(before) - 1; i >= 0; i-- {
		if before[i].Name != "" && strings.EqualFold(before[i].Name, name) {
			return Source{Stage: before[i]}
		}
	}
	if n, err := strconv.Atoi(name); err == nil {
		for _, st := range before {
			if st.Number == n {
				return Source{Stage: st}
			}
		}
	}
	return Source{Image: name}
}
