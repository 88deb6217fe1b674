package image

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bake makes an image by a recipe: "debian-12" from Debian's packages, or "busybox", one program.
func (s *Store) Bake(ctx context.Context, recipe string, p Progress) (Image, error) {
	switch recipe {
	case "debian-12":
		return s.bakeDebian(ctx, p)
	case "busybox":
		return s.bakeBusybox(ctx, p)
	}
	return Image{}, fmt.Errorf("there is no recipe %q; there are debian-12 and busybox", recipe)
}

// systemImage is the configuration of an operating system's image.
func systemImage(user string) ocispec.Image {
	return ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config: ocispec.ImageConfig{
			Env:    []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"},
			Labels: map[string]string{systemLabel: "true", loginUserLabel: user},
		},
	}
}

// ImportRootFS makes an image with one layer of a root file system's tar stream.
func (s *Store) ImportRootFS(ctx context.Context, r io.Reader, config ocispec.Image, name string, p Progress) (Image, error) {
	var img Image
	err := s.leased(ctx, func(ctx context.Context) error {
		layer, err := s.putLayer(ctx, r, name)
		if err != nil {
			return err
		}
		config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}}
		b, err := json.Marshal(config)
		if err != nil {
			return fmt.Errorf("encode the configuration: %w", err)
		}
		configDesc, err := s.putBlob(ctx, ocispec.MediaTypeImageConfig, b)
		if err != nil {
			return err
		}
		manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: configDesc, Layers: []ocispec.Descriptor{layer}}
		if b, err = json.Marshal(manifest); err != nil {
			return fmt.Errorf("encode the manifest: %w", err)
		}
		desc, err := s.putBlob(ctx, ocispec.MediaTypeImageManifest, b)
		if err != nil {
			return err
		}
		img, err = s.add(ctx, desc, name, p)
		return err
	})
	return img, err
}

// putLayer writes a plain tar stream as a layer.
func (s *Store) putLayer(ctx context.Context, r io.Reader, name string) (ocispec.Descriptor, error) {
	w, err := content.OpenWriter(ctx, s.db.ContentStore(), content.WithRef("rootfs-"+name))
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("write the layer: %w", err)
	}
	defer w.Close()
	if err := w.Truncate(0); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("write the layer: %w", err)
	}
	n, err := io.Copy(w, &limited{ctx: ctx, s: s, r: r})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("write the layer: %w", err)
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: w.Digest(), Size: n}
	if err := w.Commit(ctx, n, desc.Digest); err != nil && !alreadyThere(err) {
		return desc, fmt.Errorf("write the layer: %w", err)
	}
	return desc, nil
}

// debianPackages are what a user of a server expects beside Debian's essential ones.
var debianPackages = []string{"sudo", "ca-certificates", "iproute2", "iputils-ping", "procps", "less", "vim-tiny", "netbase", "curl", "openssh-sftp-server"}

// customize is run by mmdebstrap in the finished root, whose path is $1.
const customize = `set -e
chroot "$1" useradd --create-home --uid 1000 --user-group --shell /bin/bash --groups sudo --comment Debian admin
echo 'admin ALL=(ALL) NOPASSWD:ALL' > "$1/etc/sudoers.d/90-nacre"
chmod 0440 "$1/etc/sudoers.d/90-nacre"
rm -f "$1/etc/hostname" "$1/etc/resolv.conf"
: > "$1/etc/machine-id"
mkdir -p "$1/run/nacre"
`

// debianSteps are the lines by which mmdebstrap tells how far it is.
var debianSteps = []string{"running apt-get update", "downloading packages with apt", "extracting archives", "installing essential packages",
	"downloading apt", "installing remaining packages", "running --customize-hook", "cleaning package lists", "creating tarball"}

func (s *Store) bakeDebian(ctx context.Context, p Progress) (Image, error) {
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return Image{}, fmt.Errorf("baking debian-12 needs mmdebstrap; `nacre doctor --install` installs it")
	}
	sources, err := debianSources("/etc/apt")
	if err != nil {
		return Image{}, err
	}
	hook, err := os.CreateTemp("", "nacre-bake-*.sh")
	if err != nil {
		return Image{}, fmt.Errorf("bake debian-12: %w", err)
	}
	defer os.Remove(hook.Name())
	_, err = hook.WriteString("#!/bin/sh\n" + customize)
	if err == nil {
		err = hook.Chmod(0o700)
	}
	if closeErr := hook.Close(); err != nil || closeErr != nil {
		return Image{}, fmt.Errorf("bake debian-12: write the hook: %v, %v", err, closeErr)
	}
	args := []string{"--variant=minbase", "--mode=root", "--format=tar", "--include=" + strings.Join(debianPackages, ","),
		"--aptopt=Apt::Install-Recommends false", `--dpkgopt=path-exclude=/usr/share/man/*`, `--dpkgopt=path-exclude=/usr/share/doc/*`,
		`--dpkgopt=path-include=/usr/share/doc/*/copyright`, "--customize-hook=" + hook.Name(), "bookworm", "-"}
	cmd := exec.CommandContext(ctx, "mmdebstrap", append(args, sources...)...)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1704067200", "LC_ALL=C.UTF-8")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Image{}, fmt.Errorf("bake debian-12: %w", err)
	}
	messages, err := cmd.StderrPipe()
	if err != nil {
		return Image{}, fmt.Errorf("bake debian-12: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return Image{}, fmt.Errorf("bake debian-12: start mmdebstrap: %w", err)
	}
	var last []string
	var reading sync.WaitGroup
	reading.Go(func() { last = follow(messages, p) })
	// The stream is read to its end before Wait, which closes it.
	img, err := s.ImportRootFS(ctx, &untilExit{r: out, wait: func() error {
		reading.Wait()
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("mmdebstrap: %w\n%s", err, strings.Join(last, "\n"))
		}
		return nil
	}, stop: func() { cmd.Process.Kill() }}, systemImage("admin"), "debian-12", p)
	if err != nil {
		return img, fmt.Errorf("bake debian-12: %w", err)
	}
	return img, nil
}

// untilExit is a program's output, whose end counts only when the program succeeded: a stream that was cut off is never
// taken for an image.
type untilExit struct {
	r    io.Reader
	wait func() error
	stop func()
	err  error
}

func (u *untilExit) Read(b []byte) (int, error) {
	if u.err != nil {
		return 0, u.err
	}
	n, err := u.r.Read(b)
	if err != nil {
		if err != io.EOF {
			u.stop()
		}
		if werr := u.wait(); werr != nil {
			err = werr
		}
		u.err = err
	}
	return n, err
}

// follow turns mmdebstrap's messages into progress and keeps the last ones for an error.
func follow(r io.Reader, p Progress) []string {
	var last []string
	step := 0
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if last = append(last, line); len(last) > 15 {
			last = last[1:]
		}
		for n, s := range debianSteps {
			if strings.Contains(line, s) && n >= step {
				step = n
				report(p, int64(n+1), int64(len(debianSteps)+1), s)
			}
		}
	}
	io.Copy(io.Discard, r) // a line too long for the scanner must not block the program
	return last
}

// debianSources finds the host's own package sources for Debian 12, in either of apt's forms.
func debianSources(etc string) ([]string, error) {
	candidates := []string{filepath.Join(etc, "sources.list.d", "debian.sources"), filepath.Join(etc, "sources.list")}
	more, err := filepath.Glob(filepath.Join(etc, "sources.list.d", "*"))
	if err != nil {
		return nil, fmt.Errorf("look for package sources: %w", err)
	}
	for _, path := range append(candidates, more...) {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if isDebian12(string(b)) {
			return []string{path}, nil
		}
	}
	return nil, fmt.Errorf("none of the package sources below %s is for Debian 12 (bookworm)", etc)
}

// isDebian12 tells whether a sources file names bookworm's main archive.
func isDebian12(text string) bool {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || strings.HasPrefix(fields[0], "#"):
		case strings.EqualFold(fields[0], "Suites:"):
			for _, suite := range fields[1:] {
				if suite == "bookworm" {
					return true
				}
			}
		case fields[0] == "deb":
			for _, f := range fields[1:] {
				if f == "bookworm" {
					return true
				}
			}
		}
	}
	return false
}
