// Package image is a node's store of images: content by digest, unpacked layers, and the
// writable root file systems that machines grow on them.
//
// It stands on containerd's content store, metadata with leases and garbage collection and
// overlay snapshotter, all in this process. It promises that a blob or layer is verified by its
// digest before anything uses it, stored once, and never written again; that a
// root file system appears in constant time, whatever its image's size; and that a
// crash at any instruction leaves nothing that the next Open doesn't collect.
// It never trusts an archive's paths, sizes or digests.
package image

import (
	"sync"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Image is one image in the store.
type Image struct {
	Digest       string // of the manifest for its platform, or of the file that it is: "sha256:…"
	Name         string // the reference or recipe it came from, such as "docker.io/library/nginx:1.27"
	Architecture string // EC2's word: "x86_64" or "arm64"
	Created      time.Time
	Size         int64 // bytes of the unpacked layers
	Layers       int
	Config       Config

	Kind Kind // what Digest is of
	// Of disks: "qcow2" or "raw", the bytes that a machine sees, and what they are started with.
	Format      string         `json:",omitempty"`
	VirtualSize int64          `json:",omitempty"`
	Firmware    cloud.Firmware `json:",omitempty"`
	Devices     cloud.Devices  `json:",omitempty"`
}

// Config is what the image's author set for its machines.
type Config struct {
	// System is an operating system that wants a long-running init: the image says so by the label
	// "cloud.nacre.system=true", or has neither an entrypoint nor a command but a shell.
	System     bool
	Entrypoint []string
	Cmd        []string
	Env        []string
	WorkingDir string
	User       string
	StopSignal string
	// SSHServer says that the image brings an SSH server of its own (/usr/sbin/sshd).
	SSHServer bool
	// Systemd says that the image brings systemd, which runs the guest's program as its service; in virtual machines of other
	// images that is the first process itself.
	Systemd bool
	// LoginUser is the ordinary user that keys are for, such as "admin"; "" means root.
	LoginUser string
}

// Progress reports on long work: done of total in bytes or steps (total 0 when unknown), and
// what is being done, in a few words. It is called by one goroutine at a time.
type Progress func(done, total int64, what string)

// oneAtATime keeps that promise for work that goes on side by side.
func oneAtATime(p Progress) Progress {
	if p == nil {
		return nil
	}
	var mu sync.Mutex
	return func(done, total int64, what string) {
		mu.Lock()
		defer mu.Unlock()
		p(done, total, what)
	}
}
