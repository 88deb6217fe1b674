package oci

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/confined"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
)

// Step is one command of an image's build: a container that lives as long as the command does, and no longer than this process.
type Step struct {
	Dir    string // for the container's files; the caller's to remove
	RootFS string
	IDBase uint32
	// UserNS maps IDBase's range, and owns NetNS, in which the step is.
	UserNS, NetNS *os.File
	Args          []string
	Env           []string
	WorkingDir    string
	User          string
	Mounts        []specs.Mount
	Resources     machine.Resources
	Output        io.Writer
}

// RunStep runs a step to its end and returns the command's exit code. It has the walls that a container machine has. When ctx ends, so does the
// step, and the error is ctx's cause.
func (d *Driver) RunStep(ctx context.Context, s Step) (int, error) {
	id := confined.OnceID(rand.Text())
	spec := d.Configuration(machine.Spec{ID: id, Hostname: "build", IDBase: s.IDBase}, confined.Limits(s.Resources))
	spec.Root = &specs.Root{Path: s.RootFS}
	spec.Process = &specs.Process{Args: []string{guestinit.StepProgram, guestinit.StepArgument}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Cwd: "/",
		Capabilities: capabilitySets()}
	own := func(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: own(s.UserNS)},
		specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: own(s.NetNS)})
	spec.Mounts = append(append(ownMounts(), confined.ReadOnly(d.init, guestinit.StepProgram)), s.Mounts...)
	spec.Linux.Seccomp = confined.SeccompProfile(spec)
	return d.Once(ctx, s.Dir, spec, guestinit.Config{Hostname: "build", Args: s.Args, Env: s.Env, WorkingDir: s.WorkingDir, User: s.User}, s.Output)
}
