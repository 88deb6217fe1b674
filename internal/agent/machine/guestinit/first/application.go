package first

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/user"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// startApplication starts the image's application as the image's user.
func startApplication(c *guestinit.Config) (int, error) {
	who, err := user.GetExecUserPath(c.User, &user.ExecUser{Home: "/"}, "/etc/passwd", "/etc/group")
	if err != nil {
		return 0, err
	}
	env := c.Env
	has := func(name string) bool {
		for _, e := range env {
			if strings.HasPrefix(e, name+"=") {
				return true
			}
		}
		return false
	}
	if !has("PATH") {
		env = append(env, defaultPath)
	}
	if !has("HOME") {
		env = append(env, "HOME="+who.Home)
	}
	env = append(env, "HOSTNAME="+c.Hostname)
	dir := c.WorkingDir
	if dir == "" {
		dir = "/"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	path, err := find(c.Args[0], env, dir)
	if err != nil {
		return 0, err
	}
	groups := make([]uint32, len(who.Sgids))
	for i, g := range who.Sgids {
		groups[i] = uint32(g)
	}
	return syscall.ForkExec(path, c.Args, &syscall.ProcAttr{Dir: dir, Env: env, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{
		Setsid: true, Credential: &syscall.Credential{Uid: uint32(who.Uid), Gid: uint32(who.Gid), Groups: groups}}})
}

// find looks a program up in the application's own PATH.
func find(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, e := range env {
		list, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for _, d := range strings.Split(list, ":") {
			if d == "" {
				d = dir
			}
			if info, err := os.Stat(d + "/" + name); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return d + "/" + name, nil
			}
		}
	}
	return "", &os.PathError{Op: "find", Path: strconv.Quote(name), Err: syscall.ENOENT}
}
