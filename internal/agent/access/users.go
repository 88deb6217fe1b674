package access

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

const (
	maxPasswd = 1 << 20
	maxID     = 1<<16 - 1 // an instance has 65,536 ids
	rootUser  = "root"
)

// user is a line of the instance's /etc/passwd.
type user struct {
	name        string
	uid, gid    uint32
	home, shell string
}

// lookupUser finds a user who may log in. An instance without /etc/passwd, as images of a single program
// are, has root.
func lookupUser(root *rootDir, name string) (user, error) {
	data, err := root.readFile("/etc/passwd", maxPasswd)
	if errors.Is(err, fs.ErrNotExist) && name == rootUser {
		return user{name: rootUser, home: "/", shell: defaultShell}, nil
	}
	if err != nil {
		return user{}, err
	}
	for _, u := range parsePasswd(data) {
		if u.name != name {
			continue
		}
		switch path.Base(u.shell) {
		case "nologin", "false", "true":
			return user{}, fmt.Errorf("user %s is not for logins: the shell is %s", name, u.shell)
		}
		if !root.executable(u.shell) {
			return user{}, fmt.Errorf("user %s has the shell %s, which is not an executable file", name, u.shell)
		}
		return u, nil
	}
	return user{}, fmt.Errorf("no user %q in /etc/passwd", name)
}

// parsePasswd reads the lines that are users, and passes over all others as the C library does.
func parsePasswd(data []byte) []user {
	var users []user
	for line := range bytes.Lines(data) {
		f := strings.Split(strings.TrimSuffix(string(line), "\n"), ":")
		if len(f) != 7 || f[0] == "" || strings.ContainsAny(f[0][:1], "+-#") || strings.ContainsRune(string(line), 0) {
			continue
		}
		uid, errUID := strconv.ParseUint(f[2], 10, 32)
		gid, errGID := strconv.ParseUint(f[3], 10, 32)
		if errUID != nil || errGID != nil || uid > maxID || gid > maxID {
			continue
		}
		u := user{name: f[0], uid: uint32(uid), gid: uint32(gid), home: path.Clean("/" + f[5]), shell: f[6]}
		if u.shell == "" {
			u.shell = defaultShell
		}
		users = append(users, u)
	}
	return users
}
