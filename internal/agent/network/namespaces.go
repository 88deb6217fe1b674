package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/namespace"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// within runs fn on a thread that is in a network namespace. Processes that fn starts, and sockets that it opens, are there.
func within(ns *os.File, fn func() error) error {
	done := make(chan error, 1)
	// A goroutine of its own: when the thread can't be brought back, it ends with the goroutine.
	go func() {
		runtime.LockOSThread()
		before, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("remember the network namespace: %w", err)
			return
		}
		defer before.Close()
		if err := netns.Set(netns.NsHandle(ns.Fd())); err != nil {
			done <- fmt.Errorf("enter the network namespace %s: %w", ns.Name(), err)
			return
		}
		err = fn()
		if back := netns.Set(before); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// newNetNS makes a network namespace that the host owns.
func newNetNS() (*os.File, error) {
	type made struct {
		f   *os.File
		err error
	}
	done := make(chan made, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in the new namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		var f *os.File
		if err == nil {
			f, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		done <- made{f, err}
	}()
	m := <-done
	if m.err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", m.err)
	}
	return m.f, nil
}

// pin gives a namespace a name that lasts: its file, bound to path.
func pin(ns *os.File, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("keep a namespace: %w", err)
	}
	if err == nil {
		f.Close()
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("keep a namespace at %s: %w", path, err)
	}
	return nil
}

// pinned tells whether a path is a namespace's file.
func pinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// unpin lets a namespace go. Nothing at the path is no error.
func unpin(path string) error {
	for pinned(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("let the namespace %s go: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("let the namespace %s go: %w", path, err)
	}
	return nil
}

// MachineNamespaces returns a machine's namespaces, and makes them the first time. Its interfaces are plugged into them.
func (n *Network) MachineNamespaces(id cloud.InstanceID, idBase uint32) (Namespaces, error) {
	files := n.namespaceFiles(id)
	if pinned(files.Net) && pinned(files.User) {
		return files, nil
	}
	if err := n.dropNamespaces(id); err != nil {
		return files, err
	}
	user, net, err := namespace.Pair(idBase)
	if err != nil {
		return files, fmt.Errorf("machine %s: %w", id, err)
	}
	defer user.Close()
	defer net.Close()
	return files, errors.Join(pin(user, files.User), pin(net, files.Net))
}

func (n *Network) dropNamespaces(id cloud.InstanceID) error {
	files := n.namespaceFiles(id)
	return errors.Join(unpin(files.Net), unpin(files.User))
}

// listFiles lists the names in a directory of this package's.
func listFiles(dir, suffix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), suffix); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// setting writes a kernel setting of the namespace that the calling thread is in.
func setting(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}
