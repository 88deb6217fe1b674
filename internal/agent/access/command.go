package access

import (
	"fmt"
	"net"
	"path"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
)

const (
	defaultShell = "/bin/sh"
	rootPath     = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	userPath     = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"

	maxClientEnv      = 64   // variables taken from a client
	maxClientEnvValue = 4096 // bytes of each, name and value
)

// loginShells take -l as the way to be a login shell.
var loginShells = map[string]bool{"sh": true, "bash": true, "rbash": true, "dash": true, "ash": true,
	"zsh": true, "ksh": true, "mksh": true, "fish": true, "csh": true, "tcsh": true}

// sftpServers are where distributions keep OpenSSH's SFTP server.
var sftpServers = []string{"/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server",
	"/usr/libexec/sftp-server", "/usr/lib/sftp-server"}

// spec is the process for a shell, a command or a subsystem, save for its terminal's size. It returns
// false for what isn't there.
func (s *session) spec(kind, value string) (*machine.ExecSpec, bool) {
	u := s.c.user
	if kind == "subsystem" && value != "sftp" || strings.ContainsRune(value, 0) {
		return nil, false
	}
	spec := &machine.ExecSpec{User: u.name, TTY: s.tty, Term: s.term, Env: s.environment()}
	switch {
	case s.c.key.command != "":
		if kind == "subsystem" {
			value = "internal-sftp" // as sshd tells the forced command
		}
		if kind != "shell" {
			spec.Env = append(spec.Env, "SSH_ORIGINAL_COMMAND="+value)
		}
		spec.Args = []string{u.shell, "-c", s.c.key.command}
	case kind == "subsystem":
		if spec.Args = s.c.sftpServer(); spec.Args == nil {
			return nil, false
		}
	case kind == "exec":
		spec.Args = []string{u.shell, "-c", value}
	case loginShells[path.Base(u.shell)]:
		spec.Args = []string{u.shell, "-l"}
	default:
		spec.Args = []string{u.shell}
	}
	return spec, true
}

// sftpServer prefers the image's own server: it is what the image's authors test with.
func (c *connection) sftpServer() []string {
	root, err := openRoot(c.RootFS)
	if err == nil {
		defer root.Close()
		for _, name := range sftpServers {
			if root.executable(name) {
				return []string{name}
			}
		}
	}
	return c.SFTPServer
}

// environment is what a login adds to the image's environment. A later variable wins.
func (s *session) environment() []string {
	u := s.c.user
	search := userPath
	if u.uid == 0 {
		search = rootPath
	}
	env := make([]string, 0, len(s.c.Env)+len(s.env)+10)
	if !hasVariable(s.c.Env, "PATH") {
		env = append(env, "PATH="+search)
	}
	env = append(env, s.c.Env...)
	env = append(env, s.env...)
	env = append(env, "USER="+u.name, "LOGNAME="+u.name, "HOME="+u.home, "SHELL="+u.shell)
	if s.tty && s.term != "" {
		env = append(env, "TERM="+s.term)
	}
	from, fromPort, errFrom := net.SplitHostPort(s.c.client.RemoteAddr().String())
	to, toPort, errTo := net.SplitHostPort(s.c.client.LocalAddr().String())
	if errFrom == nil && errTo == nil {
		env = append(env, fmt.Sprintf("SSH_CLIENT=%s %s %s", from, fromPort, toPort),
			fmt.Sprintf("SSH_CONNECTION=%s %s %s %s", from, fromPort, to, toPort))
	}
	return env
}

func hasVariable(env []string, name string) bool {
	for _, v := range env {
		if strings.HasPrefix(v, name+"=") {
			return true
		}
	}
	return false
}

// setEnv takes over a variable from the client: the locale, as Debian's sshd does, and nothing that could steer
// a program otherwise.
func (s *session) setEnv(payload []byte) bool {
	var m struct{ Name, Value string }
	if s.began || len(s.env) >= maxClientEnv || ssh.Unmarshal(payload, &m) != nil {
		return false
	}
	if m.Name != "LANG" && !strings.HasPrefix(m.Name, "LC_") || strings.Contains(m.Name, "=") ||
		!cleanEnv(m.Name) || !cleanEnv(m.Value) {
		return false
	}
	s.env = append(s.env, m.Name+"="+m.Value)
	return true
}

func cleanEnv(s string) bool { return len(s) <= maxClientEnvValue && !strings.ContainsRune(s, 0) }
