package inside

import (
	"os"
	"strings"
	"syscall"

	"github.com/moby/sys/user"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// login is a user of this machine's. Name and shell are empty for a number that has no entry.
type login struct {
	*user.ExecUser
	name, shell string
}

// lookUp finds a user: "name" or "uid[:gid]", "" is root.
func lookUp(name string) (login, error) {
	who, err := user.GetExecUserPath(name, &user.ExecUser{Home: "/"}, "/etc/passwd", "/etc/group")
	if err != nil {
		return login{}, err
	}
	l := login{ExecUser: who, shell: "/bin/sh"}
	list, err := user.ParsePasswdFileFilter("/etc/passwd", func(u user.User) bool { return u.Uid == who.Uid })
	if err == nil && len(list) > 0 {
		l.name = list[0].Name
		if list[0].Shell != "" {
			l.shell = list[0].Shell
		}
	}
	return l, nil
}

func (l login) credential() *syscall.Credential {
	c := &syscall.Credential{Uid: uint32(l.Uid), Gid: uint32(l.Gid)}
	for _, g := range l.Sgids {
		c.Groups = append(c.Groups, uint32(g))
	}
	// Without privilege the groups can't be set, not even to what they are.
	c.NoSetGroups = os.Geteuid() != 0
	return c
}

// environment is what a login has; what the agent asks for wins.
func (l login) environment(x wire.Exec) []string {
	env := []string{defaultPath, "HOME=" + l.Home, "SHELL=" + l.shell}
	if l.name != "" {
		env = append(env, "USER="+l.name, "LOGNAME="+l.name)
	}
	if x.TTY {
		term := x.Term
		if term == "" {
			term = "xterm"
		}
		env = append(env, "TERM="+term)
	}
	at := map[string]int{}
	var out []string
	for _, e := range append(env, x.Env...) {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := at[name]; ok {
			out[i] = e
			continue
		}
		at[name] = len(out)
		out = append(out, e)
	}
	return out
}

func (l login) directory(dir string) string {
	if dir != "" {
		return dir
	}
	if info, err := os.Stat(l.Home); err == nil && info.IsDir() {
		return l.Home
	}
	return "/"
}

// find looks a program up in the process's own PATH.
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
	return "", &os.PathError{Op: "find", Path: name, Err: syscall.ENOENT}
}
