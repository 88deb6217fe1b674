package inside

import (
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// OpenBelow clones the mount of a directory at or below another one of the host, to be put somewhere. Links that lead out of the first, and whoever exchanges
// directories meanwhile, get an error and no other directory. Inside, root is whoever owns that first directory, by its user and its group; everybody else has no
// id there, and neither set-user-id bits nor devices work. A directory of the server's root is for reading alone: files with such bits would work outside. File systems that are mounted below are not shown.
func OpenBelow(root, below string, readOnly bool, idBase uint32) (_ *os.File, err error) {
	top, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(top)
	var st unix.Stat_t
	if err := unix.Fstat(top, &st); err != nil {
		return nil, &os.PathError{Op: "look at", Path: root, Err: err}
	}
	if !readOnly && (st.Uid == 0 || st.Gid == 0) {
		return nil, fmt.Errorf("%s belongs to the server's root, and what is written there would, with set-user-id bits: %w; give it to another user and group, or show it to be read alone", root, unix.EPERM)
	}
	dir, err := unix.Openat2(top, below, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, fmt.Errorf("find %s below %s, without leaving it: %w", below, root, err)
	}
	defer unix.Close(dir)
	ids, err := mount.GetUsernsFD(fmt.Sprintf("%d:%d:1", st.Uid, idBase), fmt.Sprintf("%d:%d:1", st.Gid, idBase))
	if err != nil {
		return nil, fmt.Errorf("map the owner of %s: %w", root, err)
	}
	defer ids.Close()
	tree, err := unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("clone the mount of %s: %w", root, err)
	}
	f := os.NewFile(uintptr(tree), "mount")
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(ids.Fd())}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		f.Close()
		return nil, fmt.Errorf("map the ids of %s, which its file system may not be able to: %w", root, err)
	}
	return f, nil
}
