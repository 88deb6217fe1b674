package first

import (
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/moby/sys/user"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
)

const (
	stateDir = "/var/lib/nacre"
	// marker holds the id of the instance that was set up here: another id, or none, means a first boot.
	marker = stateDir + "/instance-id"
)

// Renew gives an instance whose files were another's what it must not share with that, and notes what fails. A program sets it that has no other way to.
var Renew func(instance string, note func(what string, err error))

// SetUp writes what a boot needs into the instance's files, and tells whether this is the first one. What fails is said on
// the console and does not keep the instance from coming up.
func SetUp(c *guestinit.Config) (first bool) {
	note := func(what string, err error) {
		if err != nil {
			Say(what+":", err.Error())
		}
	}
	note("make "+stateDir, os.MkdirAll(stateDir, 0o755))
	old, _ := os.ReadFile(marker)
	first = strings.TrimSpace(string(old)) != c.Instance
	if first && len(old) > 0 && Renew != nil {
		Renew(c.Instance, note)
	}
	note("make /etc", os.MkdirAll("/etc", 0o755))
	note("write /etc/hostname", os.WriteFile("/etc/hostname", []byte(c.Hostname+"\n"), 0o644))
	if len(c.Resolvers) > 0 {
		os.Remove("/etc/resolv.conf") // it may be a link to where nothing is
		note("write /etc/resolv.conf", os.WriteFile("/etc/resolv.conf", []byte(resolvConf(c)), 0o644))
	}
	if first {
		hosts := "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
		if c.Address != "" {
			hosts += c.Address + " " + c.FQDN + " " + c.Hostname + "\n"
		}
		note("write /etc/hosts", os.WriteFile("/etc/hosts", []byte(hosts), 0o644))
	}
	if c.System {
		provideCommands()
		if first && c.PublicKey != "" {
			for _, u := range loginUsers() {
				note("authorise the launch key for "+u.Name, authorise(u, c.PublicKey))
			}
		}
	}
	if first {
		note("write "+marker, os.WriteFile(marker, []byte(c.Instance+"\n"), 0o644))
	}
	return first
}

// provideCommands puts the commands that end the instance where the image has none, and before systemd's, which don't end an instance
// that systemd doesn't run.
func provideCommands() {
	dir := "/usr/sbin"
	if _, err := os.Stat(dir); err != nil {
		dir = "/sbin"
	}
	for _, name := range []string{"poweroff", "halt", "reboot", "shutdown"} {
		to, err := os.Readlink(dir + "/" + name)
		switch _, missing := os.Lstat(dir + "/" + name); {
		case missing != nil:
			os.Symlink(Program, dir+"/"+name)
		case err == nil && path.Base(to) == "systemctl" && os.Getpid() == 1:
			os.MkdirAll("/usr/local/sbin", 0o755)
			os.Symlink(Program, "/usr/local/sbin/"+name)
		}
	}
}

// loginUsers are root and the image's ordinary user.
func loginUsers() []user.User {
	list, err := user.ParsePasswdFile("/etc/passwd")
	if err != nil {
		return nil
	}
	var out []user.User
	ordinary := false
	for _, u := range list {
		person := u.Uid >= 1000 && u.Uid < 60000 && !strings.HasSuffix(u.Shell, "nologin") && !strings.HasSuffix(u.Shell, "false")
		if u.Uid == 0 || person && !ordinary {
			ordinary = ordinary || person
			out = append(out, u)
		}
	}
	return out
}

// authorise adds a key to a user's own file, so that an SSH server of the image's accepts it too.
func authorise(u user.User, key string) error {
	if u.Home == "" || u.Home == "/" {
		return nil
	}
	dir := u.Home + "/.ssh"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(dir+"/authorized_keys", os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(strings.TrimSpace(key) + "\n"); err != nil {
		return err
	}
	if err := os.Lchown(dir, u.Uid, u.Gid); err != nil {
		return err
	}
	return f.Chown(u.Uid, u.Gid)
}

func resolvConf(c *guestinit.Config) string {
	text := ""
	if c.Domain != "" {
		text = "search " + c.Domain + "\n"
	}
	for _, r := range c.Resolvers {
		text += "nameserver " + r + "\n"
	}
	return text
}
