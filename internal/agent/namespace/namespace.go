// Package namespace makes the user namespace of a machine, and the network namespace that belongs to it.
//
// A network namespace that the machine's own user namespace owns lets root inside do with it what its capabilities
// say, and lets the runtime enter both again. The package only makes them: who keeps them, and under
// which name, is the caller's business. It never leaves a process behind.
package namespace

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// idCount is how many ids a machine has, inside and outside.
const idCount = 65536

// Pair makes a user namespace whose ids 0 to 65535 are the host's from idBase on, and a network namespace owned by it. The
// caller closes both files.
func Pair(idBase uint32) (user, net *os.File, err error) {
	// The process that makes the namespaces stops before its first instruction, as it is traced by this thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(idBase), Size: idCount}}
	p, err := os.StartProcess("/proc/self/exe", []string{"nacre-namespaces"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, UidMappings: mapping, GidMappings: mapping, GidMappingsEnableSetgroups: true,
		Ptrace: true, Pdeathsig: syscall.SIGKILL}})
	if err != nil {
		return nil, nil, fmt.Errorf("make a user and a network namespace: %w", err)
	}
	defer func() {
		err = errors.Join(err, p.Kill())
		if _, werr := p.Wait(); werr != nil {
			err = errors.Join(err, fmt.Errorf("end the process that made the namespaces: %w", werr))
		}
	}()
	dir := "/proc/" + strconv.Itoa(p.Pid) + "/ns/"
	if user, err = os.Open(dir + "user"); err != nil {
		return nil, nil, fmt.Errorf("open the user namespace: %w", err)
	}
	if net, err = os.Open(dir + "net"); err != nil {
		user.Close()
		return nil, nil, fmt.Errorf("open the network namespace: %w", err)
	}
	return user, net, nil
}
