package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/containerfile"
)

type buildOptions struct {
	tag, file, target         string
	args, secrets             []string
	noCache, replace, verbose bool
}

func imageBuildCommand(g *globals) *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build [DIR]",
		Short: "Build an image of a Containerfile",
		Long: `Build an image of the Containerfile or Dockerfile in a directory, which is sent as the build's context without what .dockerignore
names. The result is an image as any other: "nacre run NAME" starts containers of it, "nacre run NAME --vm" virtual machines.

FROM names an image of this cloud, by name or id, "scratch", an earlier stage, or else one that is pulled from its registry. Each step
runs in a container of its own, with the walls, ids and limits that instances have; it reaches the world, but neither this host nor any
instance's private address, and nothing with RUN --network=none. Each step's layer is kept and found again while nothing that went into it has changed.

Every file that the build makes is dated 1970, or as the build argument SOURCE_DATE_EPOCH says: the same inputs make the same digest.
Secrets are shown to RUN --mount=type=secret,id=ID in memory, and are in no layer, no record and no log.`,
		Example: `  nacre image build . --tag app
  nacre image build . --tag app:1.1 --file deploy/Containerfile --build-arg VERSION=1.1
  nacre image build . --tag app --replace --secret id=token,src=$HOME/.token --target server`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			return g.buildImage(cmd, dir, o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.tag, "tag", "t", "", "`NAME` of the image (default the directory's)")
	f.StringVarP(&o.file, "file", "f", "", "the Containerfile; - reads it from the standard input (default Containerfile or Dockerfile in DIR)")
	f.StringArrayVar(&o.args, "build-arg", nil, "`KEY=VALUE` for an ARG; KEY alone takes the value of that variable here")
	f.StringArrayVar(&o.secrets, "secret", nil, "`id=ID,src=FILE` or id=ID,env=VARIABLE: what RUN --mount=type=secret,id=ID shows")
	f.StringVar(&o.target, "target", "", "`STAGE` that is the image (default the last)")
	f.BoolVar(&o.noCache, "no-cache", false, "do every step anew")
	f.BoolVar(&o.replace, "replace", false, "an image of that name is removed when the new one is there")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "show what each step writes, not only that of one that fails")
	return cmd
}

func (g *globals) buildImage(cmd *cobra.Command, dir string, o buildOptions) error {
	a, err := g.connect()
	if err != nil {
		return err
	}
	req, err := o.request(cmd, dir)
	if err != nil {
		return err
	}
	show := newProgress(cmd.ErrOrStderr())
	defer show.end()
	patterns, err := ignored(dir, o.file)
	if err != nil {
		return err
	}
	packed, err := packContext(cmd.Context(), dir, patterns, func(n int, _ int64) { show.set(0, 0, fmt.Sprintf("packing %s: %d files", dir, n)) })
	if err != nil {
		return err
	}
	defer packed.file.Close()
	if packed.count > 0 {
		body := &count{r: packed.file, tell: func(n int64) { show.set(n, packed.size, "sending "+dir) }}
		if err := a.raw.Put(cmd.Context(), uploadPath+"sha256:"+packed.digest, uploadService, body, packed.size, packed.digest); err != nil {
			return err
		}
		req.Context = new("sha256:" + packed.digest)
	}
	show.end()
	started, err := a.own.BuildImage(cmd.Context(), req)
	if err != nil {
		return err
	}
	w := &buildWatch{a: a, id: started.BuildId, out: cmd.ErrOrStderr(), verbose: o.verbose}
	end, err := w.follow(cmd.Context())
	if err != nil {
		return err
	}
	if g.json() {
		return printJSON(cmd, map[string]any{"id": deref(end.ImageId), "name": *req.Name, "steps": end.Steps})
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", deref(end.ImageId), *req.Name)
	return nil
}

// request reads what the flags name.
func (o *buildOptions) request(cmd *cobra.Command, dir string) (*nacre.BuildImageRequest, error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory that could be built", dir)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	var text []byte
	switch o.file {
	case "-":
		text, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), containerfile.MaxText+1))
	case "":
		o.file = filepath.Join(dir, "Containerfile")
		if text, err = os.ReadFile(o.file); errors.Is(err, os.ErrNotExist) {
			o.file = filepath.Join(dir, "Dockerfile")
			text, err = os.ReadFile(o.file)
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%s has neither a Containerfile nor a Dockerfile; --file names another", dir)
		}
	default:
		text, err = os.ReadFile(o.file)
	}
	if err != nil {
		return nil, err
	}
	if len(text) > containerfile.MaxText {
		return nil, fmt.Errorf("%s has more than %d bytes", o.file, containerfile.MaxText)
	}
	req := &nacre.BuildImageRequest{Name: new(firstOf(o.tag, filepath.Base(abs))), Containerfile: new(string(text)), Target: given(o.target), BuildArgs: map[string]string{}}
	if o.noCache {
		req.NoCache = new(true)
	}
	if o.replace {
		req.Replace = new(true)
	}
	for _, arg := range o.args {
		key, value, ok := strings.Cut(arg, "=")
		if !ok {
			if value, ok = os.LookupEnv(key); !ok {
				continue // as if it had not been given, as other builders have it
			}
		}
		req.BuildArgs[key] = value
	}
	for _, s := range o.secrets {
		secret, err := readSecret(s)
		if err != nil {
			return nil, err
		}
		req.Secrets = append(req.Secrets, secret)
	}
	return req, nil
}

// readSecret reads "id=ID,src=FILE" or "id=ID,env=VARIABLE".
func readSecret(word string) (s nacre.BuildSecret, err error) {
	var file, variable string
	for part := range strings.SplitSeq(word, ",") {
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "id":
			s.Id = given(value)
		case "src", "source":
			file = value
		case "env":
			variable = value
		case "type":
			if value != "file" && value != "env" {
				return s, fmt.Errorf("--secret %s: the type is file or env", word)
			}
		default:
			return s, fmt.Errorf("--secret %s: %q is none of id, src and env", word, key)
		}
	}
	switch {
	case s.Id == nil:
		return s, fmt.Errorf("--secret %s: it has no id", word)
	case file != "":
		s.Value, err = os.ReadFile(file)
		return s, err
	case variable == "":
		variable = *s.Id
	}
	value, ok := os.LookupEnv(variable)
	if !ok {
		return s, fmt.Errorf("--secret %s: there is no variable %s here; src=FILE reads a file", word, variable)
	}
	s.Value = []byte(value)
	return s, nil
}

// buildWatch shows a build's steps as they end.
type buildWatch struct {
	a       *api
	id      *string
	out     io.Writer
	verbose bool

	shown  int   // steps that have been told
	step   int   // whose output is read
	offset int64 // of that
	begun  bool  // its title is written
}

// patience is how long a cloud that is being started again is waited for.
const patience = 30 * time.Second

// follow waits for the end. A build that fails is an error, after the output of the step that failed.
func (w *buildWatch) follow(ctx context.Context) (*nacre.DescribeImageBuildResponse, error) {
	heard := time.Now()
	for {
		st, err := w.look(ctx)
		var refused *awsapi.Error
		switch {
		case ctx.Err() != nil:
			return nil, w.a.giveUp(ctx, w.id, context.Canceled)
		case err != nil && (errors.As(err, &refused) && refused.Status < 500 || time.Since(heard) > patience):
			return nil, err
		case err == nil:
			heard = time.Now()
			w.tell(st)
			switch deref(st.Status) {
			case "completed":
				return st, nil
			case "failed":
				if err := w.failure(ctx, st); err != nil {
					return nil, err
				}
				return nil, errors.New(deref(st.Message))
			case "cancelled":
				return nil, errors.New("the build was cancelled")
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, w.a.giveUp(ctx, w.id, ctx.Err())
		}
	}
}

func (w *buildWatch) look(ctx context.Context) (*nacre.DescribeImageBuildResponse, error) {
	req := &nacre.DescribeImageBuildRequest{BuildId: w.id}
	if w.verbose {
		req.Step, req.Offset = new(int64(w.step)), &w.offset
	}
	return w.a.own.DescribeImageBuild(ctx, req)
}

// tell writes what is new.
func (w *buildWatch) tell(st *nacre.DescribeImageBuildResponse) {
	if len(st.Steps) < w.shown { // its node was started again, and it with it
		w.shown, w.step, w.offset, w.begun = 0, 0, 0, false
		return
	}
	for n := w.shown; n < len(st.Steps); n++ {
		s := st.Steps[n]
		state := deref(s.State)
		if w.verbose && n == w.step && state != "waiting" {
			if len(st.Output) > 0 {
				if !w.begun {
					fmt.Fprintf(w.out, "%s\n", w.title(n, len(st.Steps), s))
					w.begun = true
				}
				w.out.Write(st.Output)
				w.offset = deref(st.NextOffset)
			}
		}
		if state == "waiting" || state == "running" {
			return
		}
		if w.verbose && n == w.step && len(st.Output) > 0 {
			return // there may be more of it
		}
		took := "cached"
		switch state {
		case "done":
			took = (time.Duration(deref(s.Millis)) * time.Millisecond).String()
		case "failed":
			took = "FAILED after " + (time.Duration(deref(s.Millis)) * time.Millisecond).String()
		}
		fmt.Fprintf(w.out, "%s  %s\n", w.title(n, len(st.Steps), s), took)
		w.shown, w.step, w.offset, w.begun = n+1, n+1, 0, false
	}
}

func (w *buildWatch) title(n, all int, s nacre.BuildStep) string {
	text := deref(s.Instruction)
	if r := []rune(text); len(r) > 100 {
		text = string(r[:99]) + "…"
	}
	stage := ""
	if deref(s.Stage) != "" {
		stage = deref(s.Stage) + " "
	}
	return fmt.Sprintf("[%s%d/%d] %s", stage, n+1, all, text)
}

// failure writes what the step that failed wrote, unless it was shown.
func (w *buildWatch) failure(ctx context.Context, st *nacre.DescribeImageBuildResponse) error {
	if w.verbose {
		return nil
	}
	for n, s := range st.Steps {
		if deref(s.State) != "failed" {
			continue
		}
		for offset := int64(0); ; {
			part, err := w.a.own.DescribeImageBuild(ctx, &nacre.DescribeImageBuildRequest{BuildId: w.id, Step: new(int64(n)), Offset: &offset})
			if err != nil {
				return err
			}
			if len(part.Output) == 0 {
				return nil
			}
			w.out.Write(part.Output)
			offset = deref(part.NextOffset)
		}
	}
	return nil
}
