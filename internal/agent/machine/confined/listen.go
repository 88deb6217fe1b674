package confined

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Listen makes a socket in a directory that a program takes over, in the place of one that is there.
func Listen(dir, name string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	// Names of sockets may have 108 bytes only; the way through the descriptor is short.
	path := fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	return l.File()
}

// neverBlock has sockets that a program was handed never block whoever accepts: two of a program's threads may wake up for one connection, and
// the second must not wait for another one for ever. It is done when the program has them: the runtime, on the way there, takes it back.
// What is said of a descriptor holds for all that lead to the same socket.
func neverBlock(files []*os.File) error {
	for _, f := range files {
		listens, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if err != nil || listens == 0 {
			continue // no socket, or one that is connected
		}
		if err := unix.SetNonblock(int(f.Fd()), true); err != nil {
			return fmt.Errorf("keep %s from blocking: %w", f.Name(), err)
		}
	}
	return nil
}
