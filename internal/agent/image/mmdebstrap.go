package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// bakesDir holds the directories in which images are baked.
const bakesDir = "bakes"

// bakedAt is the time that nothing in a baked image is younger than, so that the same packages make the same digest.
var bakedAt = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// debianPackages are what a user of a server expects beside Debian's essential ones.
var debianPackages = []string{"sudo", "ca-certificates", "iproute2", "iputils-ping", "procps", "less", "vim-tiny", "netbase", "curl", "openssh-sftp-server"}

// serverPackages make of it a server that boots by itself: systemd with its bus and logins, and OpenSSH's server.
var serverPackages = []string{"systemd-sysv", "udev", "dbus", "libpam-systemd", "openssh-server"}

// customize is run by mmdebstrap in the finished root, whose path is $1. The options of apt and dpkg were for
// baking: a user gets Debian's own, and the way to the packages that the host has. Keys are a machine's, never an image's.
const customize = `#!/bin/sh
set -e
chroot "$1" useradd --create-home --uid 1000 --user-group --shell /bin/bash --groups sudo --comment Debian admin
echo 'admin ALL=(ALL) NOPASSWD:ALL' > "$1/etc/sudoers.d/90-nacre"
chmod 0440 "$1/etc/sudoers.d/90-nacre"
rm -f "$1"/etc/ssh/ssh_host_*
rm -f "$1/etc/hostname" "$1/etc/resolv.conf" "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
if [ -s /tmp/proxy.conf ]; then install -m 0644 /tmp/proxy.conf "$1/etc/apt/apt.conf.d/90-nacre-proxy"; fi
: > "$1/etc/machine-id"
`

// extract is the option by which packages are unpacked only, and none of their programs is run.
const extract = "--variant=extract"

// baking is run in namespaces of its own: mmdebstrap's mounts of the host's /dev, /proc and /sys never show on the
// host, and everything ends with the first process. The bake's directory is its /tmp, so that apt can
// fetch as its own user.
const (
	baking    = `mount --bind "$1" /tmp && shift || exit 1` + "\n"
	bootstrap = `exec mmdebstrap "$@"`
)

// debianSteps are the words by which mmdebstrap tells how far it is.
var debianSteps = []string{"running apt-get update", "downloading packages with apt", "extracting archives", "installing essential packages",
	"installing remaining packages inside the chroot", "running --customize-hook", "cleaning package lists", "creating tarball"}

func (s *Store) bakeDebian(ctx context.Context, name, architecture string, more []string, p Progress) (img Image, err error) {
	options := []string{"--variant=minbase", "--include=" + strings.Join(slices.Concat(debianPackages, more), ","),
		`--dpkgopt=path-exclude=/usr/share/man/*`, `--dpkgopt=path-exclude=/usr/share/doc/*`, `--dpkgopt=path-include=/usr/share/doc/*/copyright`,
		"--customize-hook=/tmp/customize"}
	err = s.debstrap(ctx, name, architecture, options, p, func(ctx context.Context, tar io.Reader) error {
		img, err = s.ImportRootFS(ctx, tar, systemImage("admin", architecture), name,
			func(_, _ int64, what string) { report(p, int64(len(debianSteps)), int64(len(debianSteps)+1), what) })
		return err
	})
	return img, err
}

// debstrap has mmdebstrap make a root file system of an architecture's Debian packages and gives use its tar stream, whose end is seen only
// when mmdebstrap has succeeded.
func (s *Store) debstrap(ctx context.Context, name, architecture string, options []string, p Progress, use func(ctx context.Context, tar io.Reader) error) error {
	for _, program := range []string{"mmdebstrap", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("baking %s needs %s; `nacre doctor --install` installs it", name, program)
		}
	}
	emulator := ""
	if !slices.Contains(options, extract) {
		var err error
		if emulator, err = emulation(architecture, formatsDir, registrationsDir); err != nil {
			return fmt.Errorf("bake %s: %w", name, err)
		}
	}
	dir, err := os.MkdirTemp(filepath.Join(s.root, bakesDir), name+"-")
	if err != nil {
		return fmt.Errorf("bake %s: %w", name, err)
	}
	defer os.RemoveAll(dir)
	args, err := s.prepareBake(ctx, dir, options)
	if err != nil {
		return fmt.Errorf("bake %s: %w", name, err)
	}
	args = append([]string{"--architectures=" + architecture}, args...)
	script, process := baking+bootstrap, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if architecture != native {
		args = append([]string{"--skip=check/qemu"}, args...) // that was seen to
	}
	if emulator != "" {
		if err := os.WriteFile(filepath.Join(dir, "registration"), []byte(emulator), 0o644); err != nil {
			return fmt.Errorf("bake %s: %w", name, err)
		}
		script = baking + registering + bootstrap
		ownFormats(process)
		args = append([]string{"--skip=chroot/mount/sys"}, args...) // who has the network of others may not
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A bake ends with nacre, whichever way that ends. The kernel looks at the thread that started it, so this one
	// stays until the end.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "sh", "-c", script, "sh", dir}, args...)...)
	cmd.SysProcAttr = process
	cmd.WaitDelay = 10 * time.Second
	cmd.Dir = "/" // where nacre was started may be below the host's /tmp, which the bake doesn't see
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+fmt.Sprint(bakedAt.Unix()), "LC_ALL=C.UTF-8", "TMPDIR=")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("bake %s: %w", name, err)
	}
	messages, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("bake %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("bake %s: start mmdebstrap: %w", name, err)
	}
	var last []string
	var reading sync.WaitGroup
	reading.Go(func() { last = follow(messages, p) })
	wait := sync.OnceValue(func() error {
		reading.Wait() // Wait closes what is still to be read
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("mmdebstrap: %w\n%s", err, strings.Join(last, "\n"))
		}
		return nil
	})
	if err := use(ctx, &untilExit{r: out, wait: wait}); err != nil {
		cancel()
		wait()
		return fmt.Errorf("bake %s: %w", name, err)
	}
	return nil
}

// prepareBake writes the files that a bake needs into its directory and returns mmdebstrap's arguments.
func (s *Store) prepareBake(ctx context.Context, dir string, options []string) ([]string, error) {
	if err := os.Chmod(dir, 0o1777); err != nil { // it becomes /tmp; nobody passes the store's root to it
		return nil, err
	}
	sources, err := debianSources("/etc/apt")
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	for n, a := range sources {
		if n > 0 {
			text.WriteByte('\n')
		}
		text.WriteString(a.String())
	}
	if err := os.WriteFile(filepath.Join(dir, "debian.sources"), []byte(text.String()), 0o644); err != nil {
		return nil, err
	}
	for name, script := range map[string]string{"customize": customize, "customize-cloud": customizeCloud} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			return nil, err
		}
	}
	dump, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil, fmt.Errorf("read apt's configuration: %w", err)
	}
	proxies, lasting := aptProxies(string(dump))
	if err := os.WriteFile(filepath.Join(dir, "proxy.conf"), []byte(strings.Join(lasting, "")), 0o644); err != nil {
		return nil, err
	}
	args := append([]string{"--mode=root", "--format=tar"}, options...)
	for _, o := range proxies {
		args = append(args, "--aptopt="+strings.TrimSpace(o))
	}
	return append(args, debianSuites[0], "-", "/tmp/debian.sources"), nil
}

// aptProxies finds in apt's configuration the lines that say by which proxy it goes, and those of them that are true
// in a machine too: a program of the host is not there, nor is its loopback.
func aptProxies(dump string) (all, lasting []string) {
	for line := range strings.Lines(dump) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasPrefix(name, "Acquire::http::") && !strings.HasPrefix(name, "Acquire::https::") {
			continue
		}
		last := strings.ToLower(name[strings.LastIndex(name, "::")+2:])
		program := last == "proxy-auto-detect" || last == "proxyautodetect"
		if value == `"";` || !program && !strings.HasPrefix(strings.ToLower(strings.SplitAfterN(name, "::", 3)[2]), "proxy") {
			continue
		}
		all = append(all, line)
		local := strings.Contains(value, "//127.") || strings.Contains(value, "//localhost") || strings.Contains(value, "//[::1]")
		if !program && !local {
			lasting = append(lasting, line)
		}
	}
	return all, lasting
}

// sweepBakes removes what a bake that a crash cut off had made. Its processes and mounts ended with it.
func (s *Store) sweepBakes() error {
	left, err := os.ReadDir(filepath.Join(s.root, bakesDir))
	if err != nil {
		return fmt.Errorf("look for bakes that a crash left: %w", err)
	}
	for _, e := range left {
		if err := os.RemoveAll(filepath.Join(s.root, bakesDir, e.Name())); err != nil {
			s.log.Warn("what an interrupted bake left stays until the next start", "error", err)
		}
	}
	return nil
}

// untilExit is a program's output, whose end counts only when the program succeeded: a stream that was cut off is never
// taken for an image.
type untilExit struct {
	r    io.Reader
	wait func() error
}

func (u *untilExit) Read(b []byte) (int, error) {
	n, err := u.r.Read(b)
	if errors.Is(err, io.EOF) {
		if failed := u.wait(); failed != nil {
			err = failed
		}
	}
	return n, err
}

// follow turns mmdebstrap's messages into progress and keeps the last ones for an error.
func follow(r io.Reader, p Progress) []string {
	var last []string
	step := -1
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if last = append(last, line); len(last) > 15 {
			last = last[1:]
		}
		for n, words := range debianSteps {
			if n > step && strings.Contains(line, words) {
				step = n
				report(p, int64(n+1), int64(len(debianSteps)+1), words)
			}
		}
	}
	io.Copy(io.Discard, r) // a line too long for the scanner must not block the program
	return last
}
