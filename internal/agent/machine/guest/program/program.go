// Package program carries the program of virtual machines (cmd/nacre-guest) and says where it is in a disk.
package program

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
)

// programs holds the guest's program for each architecture once `make guest` has built it.
//
//go:embed guestbin
var programs embed.FS

// Path is where the program is in a machine's disk: /sbin/init of a machine whose image has no init of its own.
const Path = "/usr/lib/nacre/nacre-guest"

const unitDir = "/usr/lib/systemd/system/"

// unit starts the program early in an operating system: the SSH server and whatever needs the network find the machine's
// identity in force where the agent is there to tell it, and keys to start with where it is not. It is told to stay until the end, so that
// a shutdown can be watched.
const unit = `[Unit]
Description=nacre's guest program
Documentation=https://github.com/nacre-cloud/nacre
DefaultDependencies=no
After=systemd-remount-fs.service systemd-tmpfiles-setup-dev.service
Before=sysinit.target
ConditionPathExistsGlob=/sys/class/virtio-ports/*

[Service]
Type=notify
ExecStart=` + Path + `
Restart=always
RestartSec=1
KillMode=process
StandardOutput=journal+console

[Install]
WantedBy=sysinit.target
`

// File is one that a machine's disk must hold, owned by root.
type File struct {
	Path    string      // absolute
	Mode    fs.FileMode // permissions; of a link: fs.ModeSymlink
	Content []byte
	Symlink string // what a link leads to
}

// Files are what a disk must hold to be a guest of the architecture, "x86_64" or "arm64". The unit does nothing in an image
// without systemd.
func Files(architecture string) ([]File, error) {
	name, ok := map[string]string{"x86_64": "amd64", "arm64": "arm64"}[architecture]
	if !ok {
		return nil, fmt.Errorf("there is no guest program for the architecture %q", architecture)
	}
	b, err := programs.ReadFile("guestbin/nacre-guest-" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("this nacre was built without the program of its virtual machines; build it with `make build`")
	}
	if err != nil {
		return nil, fmt.Errorf("read the embedded guest program: %w", err)
	}
	return []File{
		{Path: Path, Mode: 0o755, Content: b},
		{Path: unitDir + "nacre-guest.service", Mode: 0o644, Content: []byte(unit)},
		{Path: "/etc/systemd/system/sysinit.target.wants/nacre-guest.service", Mode: fs.ModeSymlink | 0o777, Symlink: unitDir + "nacre-guest.service"},
	}, nil
}
