package main

import (
	"bytes"
	"os"
	"strconv"
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

// setUp writes what a boot needs into the instance's files, and tells whether this is the first one. What fails is said on
// the console and does not keep the instance from coming up.
func setUp(c *guestinit.Config) (first bool) {
	note := func(what string, err error) {
		if err != nil {
			say(what+":", err.Error())
		}
	}
	note("make "+stateDir, os.MkdirAll(stateDir, 0o755))
	old, _ := os.ReadFile(marker)
	first = strings.TrimSpace(string(old)) != c.Instance
	note("make /etc", os.MkdirAll("/etc", 0o755))
	note("write /etc/hostname", os.WriteFile("/etc/hostname", []byte(c.Hostname+"\n"), 0o644))
	if c.Resolver != "" {
		os.Remove("/etc/resolv.conf") // it may be a link to where nothing is
		note("write /etc/resolv.conf", os.WriteFile("/etc/resolv.conf", []byte("search "+c.Domain+"\nnameserver "+c.Resolver+"\n"), 0o644))
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

// provideCommands puts the commands that end the instance where the image has none.
func provideCommands() {
	dir := "/usr/sbin"
	if _, err := os.Stat(dir); err != nil {
		dir = "/sbin"
	}
	for _, name := range []string{"poweroff", "halt", "reboot", "shutdown"} {
		if _, err := os.Lstat(dir + "/" + name); err != nil {
			os.Symlink(guestinit.Program, dir+"/"+name)
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

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// startUserData runs the instance's user data and returns its process, 0 when there is nothing to run.
func startUserData(c *guestinit.Config) int {
	var argv []string
	switch {
	case bytes.HasPrefix(c.UserData, []byte("#!")):
		script := stateDir + "/user-data"
		if err := os.WriteFile(script, c.UserData, 0o700); err != nil {
			say("write the user data:", err.Error())
			return 0
		}
		argv = []string{script}
	case bytes.HasPrefix(c.UserData, []byte("#cloud-config")):
		if _, err := os.Stat("/usr/bin/cloud-init"); err != nil {
			say("the user data is a cloud-config, and this image has no cloud-init to read it")
			return 0
		}
		seed := "/var/lib/cloud/seed/nocloud"
		err := os.MkdirAll(seed, 0o755)
		if err == nil {
			err = os.WriteFile(seed+"/meta-data", []byte("instance-id: "+c.Instance+"\nlocal-hostname: "+c.Hostname+"\n"), 0o644)
		}
		if err == nil {
			err = os.WriteFile(seed+"/user-data", c.UserData, 0o600)
		}
		if err != nil {
			say("hand the user data to cloud-init:", err.Error())
			return 0
		}
		argv = []string{"/bin/sh", "-c", "cloud-init init --local && cloud-init init && cloud-init modules --mode=config && cloud-init modules --mode=final"}
	default:
		say("the user data is neither a script that begins with #! nor a #cloud-config; it is not run")
		return 0
	}
	say("running the user data")
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Dir: "/", Env: []string{defaultPath, "HOME=/root", "USER=root"},
		Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		say("run the user data:", err.Error())
		return 0
	}
	return pid
}

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
