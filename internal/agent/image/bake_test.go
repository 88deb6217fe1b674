package image

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/image/busybox"
)

const debianStanza = `# a comment
Types: deb deb-src
URIs: http://deb.debian.org/debian
Suites: bookworm
 bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://packages.example/debian
Suites: bookworm
Components: main
Signed-By: /etc/apt/keyrings/example.gpg

Types: deb
Enabled: no
URIs: http://deb.debian.org/debian
Suites: bookworm-security
Components: main
`

func TestOnlyDebians12sOwnSourcesAreBakedFrom(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  []string // URI and suites
	}{
		"stanzas": {map[string]string{"sources.list.d/debian.sources": debianStanza}, []string{"http://deb.debian.org/debian bookworm bookworm-updates"}},
		"lines": {map[string]string{"sources.list": "deb cdrom:[Debian 12]/ bookworm main\ndeb http://a/debian bookworm main # mirror\n# deb http://b/debian bookworm main\ndeb-src http://a/debian bookworm main\ndeb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]   http://a/security bookworm-security main contrib"},
			[]string{"http://a/debian bookworm", "http://a/security bookworm-security"}},
		"spread over files": {map[string]string{"sources.list": "deb http://a bookworm main\n", "sources.list.d/security.list": "deb http://s bookworm-security main\n"},
			[]string{"http://a bookworm", "http://s bookworm-security"}},
		"another release":    {map[string]string{"sources.list": "deb http://a trixie main\n"}, nil},
		"another vendor":     {map[string]string{"sources.list": "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://v/debian bookworm main\n"}, nil},
		"without main":       {map[string]string{"sources.list": "deb http://a bookworm stable\n"}, nil},
		"updates only":       {map[string]string{"sources.list": "deb http://a bookworm-updates main\n"}, nil},
		"nothing":            {nil, nil},
		"not in apt's sight": {map[string]string{"sources.list.d/debian.sources.disabled": debianStanza}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			etc := t.TempDir()
			if err := os.Mkdir(filepath.Join(etc, "sources.list.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			for file, text := range c.files {
				if err := os.WriteFile(filepath.Join(etc, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			found, err := debianSources(etc)
			if (err == nil) != (c.want != nil) {
				t.Fatal(err)
			}
			var got []string
			for _, a := range found {
				got = append(got, strings.Join(append(a.uris, a.suites...), " "))
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func FuzzPackageSources(f *testing.F) {
	f.Add(debianStanza)
	f.Add("deb [signed-by=/x] http://a bookworm main")
	f.Fuzz(func(t *testing.T, text string) {
		lines, _ := parseOneLine(strings.NewReader(text))
		stanzas, _ := parseStanzas(strings.NewReader(text))
		for _, a := range append(lines, stanzas...) {
			a, ok := a.debian12()
			if !ok {
				continue
			}
			again, err := parseStanzas(strings.NewReader(a.String()))
			if err != nil || len(again) != 1 || !reflect.DeepEqual(again[0], a) {
				t.Errorf("%+v is written as %q and read as %+v, %v", a, a.String(), again, err)
			}
		}
	})
}

func TestTheHostsProxyIsUsedAndStaysWhereItIsTrue(t *testing.T) {
	all, lasting := aptProxies(`APT::Architecture "amd64";
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://cache.example:3142";
Acquire::http::Proxy::local.example "DIRECT";
Acquire::http::Timeout "5";
Acquire::https::Proxy "http://127.0.0.1:3128";
Acquire::http::Proxy-Auto-Detect "/usr/bin/auto-apt-proxy";
`)
	if len(all) != 4 || len(lasting) != 2 || !strings.Contains(lasting[0], "cache.example") {
		t.Errorf("%q, of which %q last", all, lasting)
	}
}

func TestABakesProgressOnlyGrows(t *testing.T) {
	last := int64(-1)
	tail := follow(strings.NewReader("I: automatically chosen\nI: running apt-get update...\nI: downloading packages with apt...\nE: broken\n"+strings.Repeat("x", 1<<17)), func(done, total int64, what string) {
		if done <= last || done >= total {
			t.Errorf("%d of %d after %d: %s", done, total, last, what)
		}
		last = done
	})
	if last != 2 || tail[len(tail)-1] != "E: broken" {
		t.Errorf("%d steps, the last words are %q", last, tail)
	}
}

func TestTheBusyboxRecipeIsReproducibleAndASystem(t *testing.T) {
	s := newStore(t)
	began := time.Now()
	first, err := s.Bake(t.Context(), "busybox", nil)
	if err != nil {
		t.Fatal(err)
	}
	a := first.Image
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	b, err := s.Bake(t.Context(), "busybox", nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.Digest != b.Image.Digest || !a.Config.System || a.Config.LoginUser != busybox.LoginUser {
		t.Errorf("%+v and %s", a, b.Image.Digest)
	}
	if _, err := s.Bake(t.Context(), "cake", nil); err == nil {
		t.Error("an unknown recipe was baked")
	}
}

func TestDebianIsBakedForItsUsers(t *testing.T) {
	if os.Getenv("NACRE_TEST_BAKE") == "" {
		t.Skip("it takes a minute and Debian's package servers; NACRE_TEST_BAKE=1 runs it, and so does `make try`")
	}
	s := newStore(t)
	began := time.Now()
	s.loadGuest(func(string) ([]File, error) {
		return []File{{Path: "/" + guestProgram, Mode: 0o755, Content: []byte("x")}}, nil
	})
	baked, err := s.Bake(t.Context(), "debian-12", func(done, total int64, what string) {
		t.Logf("%6.1fs %d/%d %s", time.Since(began).Seconds(), done, total, what)
	})
	if err != nil {
		t.Fatal(err)
	}
	img := baked.Image
	t.Logf("%v, %d MiB, %s", time.Since(began), img.Size>>20, img.Digest)
	if baked.Kernel == nil || baked.Ramdisk == nil || baked.Kernel.Kind != KindKernel || baked.Ramdisk.Size < 1<<20 {
		t.Errorf("%+v, %+v", baked.Kernel, baked.Ramdisk)
	}
	if !img.Config.System || img.Config.LoginUser != "admin" || img.Config.SSHServer {
		t.Errorf("%+v", img.Config)
	}
	const idBase = 0x10000000
	root := target(t, s, "debian")
	if err := s.PrepareRoot(t.Context(), "d", img.Digest, idBase, root, nil); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"id -u admin; id -nG admin":        "1000\nadmin sudo\n",
		"getent shadow root | cut -d: -f2": "*\n",
		"sudo -u admin sudo -n id -u":      "0\n",
		"ls /var/lib/apt/lists /etc/apt/apt.conf.d/99mmdebstrap 2>&1 | grep -v -e partial -e auxfiles -e lock | tail -1": "ls: cannot access '/etc/apt/apt.conf.d/99mmdebstrap': No such file or directory\n",
		"test -e /etc/machine-id && ! test -s /etc/machine-id && echo y":                                                 "y\n",
		"stat -c %u:%a /usr/bin/sudo": "0:4755\n",
	} {
		if out, err := inside(t, root, idBase, line); err != nil || out != want {
			t.Errorf("%s: %q, %v; want %q", line, out, err, want)
		}
	}
	again, err := s.Bake(t.Context(), "debian-12", nil)
	if err != nil {
		t.Fatal(err)
	}
	if again.Image.Digest != img.Digest {
		t.Errorf("the second bake made %s, the first %s", again.Image.Digest, img.Digest)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), "mmdebstrap") {
		t.Errorf("a bake's mounts show on the host, %v", err)
	}
}

func TestARecipeMayNameAnArchitecture(t *testing.T) {
	for recipe, want := range map[string][2]string{"debian-12": {"debian-12", native}, "debian-12-arm64": {"debian-12", "arm64"}, "linux-amd64": {"linux", "amd64"}, "arm64": {"arm64", native}} {
		if base, architecture := cutArchitecture(recipe); base != want[0] || architecture != want[1] {
			t.Errorf("%s is %s for %s", recipe, base, architecture)
		}
	}
}

// formats are what the kernel shows and what Debian registers.
const (
	shownFormat = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POF\noffset 0\nmagic 7f45\n"
	arm64Format = `:qemu-aarch64:M::\x7f\x45:\xff\xff:/usr/libexec/qemu-binfmt/aarch64-binfmt-P:OPF` + "\n"
)

func TestABakeOfAnotherArchitectureRunsByTheHostsEmulatorOrItsOwnOrSaysWhatIsMissing(t *testing.T) {
	foreign := map[string]string{"amd64": "arm64", "arm64": "amd64"}[native]
	name := emulators[foreign]
	for what, c := range map[string]struct {
		architecture, shown, registered string
		own                             bool
		refused                         string
	}{
		"this server's own":            {architecture: native},
		"the host's":                   {architecture: foreign, shown: shownFormat},
		"the host's, switched off":     {architecture: foreign, shown: strings.Replace(shownFormat, "enabled", "disabled", 1), registered: arm64Format, own: true},
		"the host's, by its path":      {architecture: foreign, shown: strings.Replace(shownFormat, "POF", "PO", 1), registered: arm64Format, own: true},
		"the bake's own":               {architecture: foreign, registered: arm64Format, own: true},
		"the bake's own, by its path":  {architecture: foreign, registered: strings.Replace(arm64Format, "OPF", "OP", 1), refused: "flag F"},
		"the bake's own, of two lines": {architecture: foreign, registered: arm64Format + arm64Format, refused: "flag F"},
		"none":                         {architecture: foreign, refused: "qemu-user-static"},
		"of what nothing emulates":     {architecture: "riscv64", refused: "riscv64"},
	} {
		formats, registrations := t.TempDir(), t.TempDir()
		for path, text := range map[string]string{filepath.Join(formats, name): c.shown, filepath.Join(registrations, name+".conf"): c.registered} {
			if text != "" {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		text, err := emulation(c.architecture, formats, registrations)
		switch {
		case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%s: %v", what, err)
		case c.refused == "" && (err != nil || (text != "") != c.own):
			t.Errorf("%s: %q, %v", what, text, err)
		}
	}
}

func FuzzRegistrations(f *testing.F) {
	f.Add(arm64Format)
	f.Add(":a:E::x::/b:F")
	f.Fuzz(func(t *testing.T, line string) {
		if registrationHolds(line) && (strings.Contains(line, "\n") || len(line) > maxRegistration) {
			t.Errorf("%q", line)
		}
	})
}
