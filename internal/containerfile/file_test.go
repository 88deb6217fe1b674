package containerfile_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/containerfile"
)

// last works out the last stage of a text, each stage on the one before it or on a base without anything.
func last(t *testing.T, text string, o containerfile.Options, base containerfile.Image) *containerfile.Outcome {
	t.Helper()
	o.Architecture = "amd64"
	f, err := containerfile.Parse(text, o)
	if err != nil {
		t.Fatal(err)
	}
	done := map[int]*containerfile.Outcome{}
	var out *containerfile.Outcome
	for _, st := range f.Stages {
		on, before := base, (*containerfile.Outcome)(nil)
		if st.Base.Stage != nil {
			before = done[st.Base.Stage.Number]
			on = before.Config
		}
		if out, err = f.Evaluate(st, on, before); err != nil {
			t.Fatal(err)
		}
		done[st.Number] = out
	}
	return out
}

func runs(o *containerfile.Outcome) (list []*containerfile.Run) {
	for _, s := range o.Steps {
		if s.Run != nil {
			list = append(list, s.Run)
		}
	}
	return list
}

func TestArgumentsAreSeenFromWhereTheyAreDeclared(t *testing.T) {
	out := last(t, `ARG VERSION=1
ARG HIDDEN=h
FROM scratch AS a
RUN early
ARG VERSION
ARG OWN=o-$VERSION
ENV SHOWN=$OWN
RUN late
FROM a
RUN other $OWN
`, containerfile.Options{Args: map[string]string{"VERSION": "2", "UNDECLARED": "u", "HTTP_PROXY": "p"}}, containerfile.Image{})
	env := runs(out)[0].Env
	if !slices.Contains(env, "SHOWN=o-2") || slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "VERSION=") || strings.HasPrefix(e, "OWN=") }) {
		t.Errorf("a stage on another has %v", env)
	}
	out = last(t, "ARG VERSION=1\nFROM scratch\nRUN early\nARG VERSION\nRUN late\n", containerfile.Options{Args: map[string]string{"VERSION": "2", "UNDECLARED": "u", "HTTP_PROXY": "p"}}, containerfile.Image{})
	early, late := runs(out)[0], runs(out)[1]
	if len(early.Env) != 0 || !slices.Equal(late.Env, []string{"VERSION=2"}) || !slices.Equal(late.Proxies, []string{"HTTP_PROXY=p"}) {
		t.Errorf("early %+v, late %+v", early, late)
	}
}

func TestAnInstructionSaysWhatTheImageSays(t *testing.T) {
	base := containerfile.Image{}
	base.Config.Env = []string{"PATH=/bin", "A=base"}
	base.Config.Cmd = []string{"base"}
	base.Config.Labels = map[string]string{cloud.LabelSystem: "true", "kept": "k"}
	base.Config.OnBuild = []string{"ENV TRIGGER=pulled"}
	out := last(t, `FROM base
LABEL a=b "c d"="e f"
WORKDIR /srv
WORKDIR sub/../x
USER nobody:nogroup
EXPOSE 80 53/udp 7000-7001
VOLUME /data ["/more"]
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s CMD true
SHELL ["/bin/ash", "-ec"]
ENV A=new B="$A b"
ENTRYPOINT run $A
ONBUILD RUN later
RUN it
`, containerfile.Options{}, base)
	c := out.Config.Config
	for what, ok := range map[string]bool{
		"labels":      c.Labels["a"] == "b" && c.Labels["c d"] == "e f" && c.Labels["kept"] == "k",
		"no system":   c.Labels[cloud.LabelSystem] == "",
		"directory":   c.WorkingDir == "/srv/x",
		"user":        c.User == "nobody:nogroup",
		"ports":       len(c.ExposedPorts) == 4,
		"signal":      c.StopSignal == "SIGQUIT",
		"health":      c.Healthcheck != nil && c.Healthcheck.Interval.Seconds() == 5,
		"entrypoint":  slices.Equal(c.Entrypoint, []string{"/bin/ash", "-ec", "run $A"}),
		"no command":  c.Cmd == nil,
		"environment": slices.Equal(c.Env, []string{"PATH=/bin", "A=new", "TRIGGER=pulled", "B=base b"}),
		"triggers":    slices.Equal(c.OnBuild, []string{"RUN later"}),
	} {
		if !ok {
			b, _ := json.Marshal(c)
			t.Errorf("%s: %s", what, b)
		}
	}
	if r := runs(out)[0]; r.Dir != "/srv/x" || r.User != "nobody:nogroup" || !slices.Equal(r.Args, []string{"/bin/ash", "-ec", "it"}) || !r.Network {
		t.Errorf("%+v", r)
	}
	if len(base.Config.Labels) != 2 || base.Config.Env[1] != "A=base" {
		t.Errorf("the base was changed: %+v", base.Config)
	}
}

func TestHereDocumentsAreScriptsAndFiles(t *testing.T) {
	out := last(t, "FROM scratch\nARG V=v\nRUN <<E\necho one\necho two\nE\nRUN <<E\n#!/bin/awk -f\nx\nE\nRUN cat <<E\nin $V\nE\nCOPY <<a <<\"b\" /d/\nin $V\na\nin $V\nb\n", containerfile.Options{}, containerfile.Image{})
	r := runs(out)
	if r[0].Args[2] != "echo one\necho two\n" || r[1].Script != "#!/bin/awk -f\nx\n" || r[1].Args[2] != containerfile.ScriptFile || r[2].Args[2] != "cat <<E\nin $V\nE" {
		t.Errorf("%+v %+v %+v", r[0], r[1], r[2])
	}
	c := out.Steps[len(out.Steps)-1].Copy
	if want := []containerfile.Inline{{Name: "a", Content: "in v\n"}, {Name: "b", Content: "in $V\n"}}; !reflect.DeepEqual(c.Inline, want) || c.Dest != "/d/" {
		t.Errorf("%+v", c)
	}
}

func TestOnlyWhatTheTargetNeedsIsBuilt(t *testing.T) {
	text := "FROM one AS a\nFROM two AS b\nRUN --mount=from=a,target=/x true\nFROM three AS c\nFROM four AS d\nCOPY --from=b /x /\nCOPY --from=five /y /\nFROM d\n"
	f, err := containerfile.Parse(text, containerfile.Options{Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, st := range f.Stages {
		names = append(names, st.Name)
	}
	if !slices.Equal(names, []string{"a", "b", "d", ""}) || !slices.Equal(f.References(), []string{"one", "two", "four", "five"}) {
		t.Errorf("%q on %q", names, f.References())
	}
	if f, err = containerfile.Parse(text, containerfile.Options{Architecture: "amd64", Target: "C"}); err != nil || len(f.Stages) != 1 || f.References()[0] != "three" {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestWhatIsNotBuiltIsRefusedWithItsLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                                                        "no instructions",
		"ENV a=b\nFROM scratch":                                   "no build stage",
		"FROM scratch\nRUNN":                                      "line 2: unknown instruction",
		"FROM scratch\nADD http://x /":                            "line 2: ADD: http://x: fetching",
		"FROM scratch\nADD git@x:y /":                             "fetching",
		"FROM scratch\nCOPY a b /c":                               "line 2: COPY: several files",
		"FROM scratch\nCOPY --parents a /c":                       "--parents",
		"FROM scratch\nCOPY --chmod=u+x a /c":                     "only octal",
		"FROM scratch\nRUN --network=host x":                      "never has the server's own network",
		"FROM scratch\nRUN --security=insecure x":                 "never has privileges",
		"FROM scratch\nRUN --mount=type=ssh x":                    "not built",
		"FROM scratch\nRUN --mount=type=cache,target=/x,from=y x": "from and source",
		"FROM scratch\nRUN --mount=type=tmpfs,target=/ x":         "target",
		"FROM scratch\nEXPOSE 99999":                              "not a port",
		"FROM --platform=linux/arm64 scratch":                     "this build is for linux/amd64",
		"FROM scratch\nWORKDIR ${X?no}":                           "line 2: WORKDIR",
		strings.Repeat("#\n", containerfile.MaxText):              "bytes",
	} {
		f, err := containerfile.Parse(text, containerfile.Options{Architecture: "amd64"})
		if err == nil {
			_, err = f.Evaluate(f.Stages[0], containerfile.Image{}, nil)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
	for word, ok := range map[string]bool{"12": true, "": true, "-1": false, "x": false} {
		if _, err := containerfile.Parse("FROM scratch", containerfile.Options{Architecture: "amd64", Args: map[string]string{containerfile.EpochArg: word}}); (err == nil) != ok {
			t.Errorf("the epoch %q: %v", word, err)
		}
	}
}

func FuzzTexts(f *testing.F) {
	for _, s := range []string{"FROM a\nRUN <<E\nx\nE\nCOPY --from=a --chown=1:2 x* y/ z/\n", "ARG X=1\nFROM $X AS y\nFROM y\nENV a=${X:-b} c='d'\nEXPOSE 1-5/udp\nHEALTHCHECK NONE\nONBUILD RUN x",
		"# escape=`\nFROM scratch\nSHELL [\"x\"]\nCMD y\nRUN --mount=type=secret,id=x,env=Y --mount=type=cache,target=/c z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := containerfile.Parse(text, containerfile.Options{Architecture: "amd64", Args: map[string]string{"X": "y"}})
		if err != nil {
			return
		}
		file.References()
		for _, st := range file.Stages {
			out, err := file.Evaluate(st, containerfile.Image{}, nil)
			if err != nil {
				continue
			}
			for _, s := range out.Steps {
				if c := s.Copy; c != nil && !strings.HasPrefix(c.Dest, "/") || s.Dir != "" && !strings.HasPrefix(s.Dir, "/") {
					t.Errorf("%+v leads to no place below the root", s)
				}
			}
		}
	})
}
