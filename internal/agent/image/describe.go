package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// describe works out what an image's machines need to know, from its configuration and a look inside.
func (s *Store) describe(ctx context.Context, img ocispec.Image, chain string) (Config, error) {
	c := Config{Entrypoint: img.Config.Entrypoint, Cmd: img.Config.Cmd, Env: img.Config.Env, WorkingDir: img.Config.WorkingDir,
		User: img.Config.User, StopSignal: img.Config.StopSignal, LoginUser: img.Config.Labels[loginUserLabel]}
	switch img.Config.Labels[systemLabel] {
	case "true":
		c.System = true
	case "false":
	default:
		c.System = len(c.Entrypoint) == 0 && (len(c.Cmd) == 0 || len(c.Cmd) == 1 && isShell(c.Cmd[0]))
	}
	err := s.view(ctx, chain, func(root string) error {
		c.SSHServer = existsWithin(root, "usr/sbin/sshd")
		c.Systemd = existsWithin(root, "sbin/init") && existsWithin(root, "usr/lib/systemd/systemd")
		if c.System && c.LoginUser == "" {
			c.LoginUser = ordinaryUser(root)
		}
		return nil
	})
	return c, err
}

func isShell(program string) bool {
	base := program[strings.LastIndex(program, "/")+1:]
	return slices.Contains([]string{"sh", "bash", "ash", "dash", "zsh"}, base)
}

// openWithin opens a file of an image; no link leads out of its root.
func openWithin(root, name string) (*os.File, error) {
	dir, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, fmt.Errorf("open %s in the image: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func existsWithin(root, name string) bool {
	f, err := openWithin(root, name)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

const maxPasswd = 1 << 20

// ordinaryUser is the first user of an image that is a person: an id from 1000 and a shell to log in with.
func ordinaryUser(root string) string {
	f, err := openWithin(root, "etc/passwd")
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return parseOrdinaryUser(io.LimitReader(f, maxPasswd))
}

func parseOrdinaryUser(r io.Reader) string {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 7 {
			continue
		}
		uid, err := strconv.Atoi(fields[2])
		if err != nil || uid < 1000 || uid >= 60000 || strings.HasSuffix(fields[6], "nologin") || strings.HasSuffix(fields[6], "false") {
			continue
		}
		return fields[0]
	}
	if err := lines.Err(); err != nil && !errors.Is(err, bufio.ErrTooLong) {
		return ""
	}
	return ""
}
