package network

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// A virtual machine's link is a tap in its VPC's namespace, with the name that the router's end of a container's link has: routes,
// neighbours and the packet filter are the same. It outlives who reads it, as a link outlives the processes of a container.

const (
	tunDevice = "/dev/net/tun"
	tapFlags  = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	// vnetHeader is the length of the header before each frame until the reader asks for another, in bytes.
	vnetHeader = 10
)

// attachTap opens the queue of a tap of the calling thread's namespace, and makes the tap when there is none. It tells whether the tap stays
// when the queue is closed.
func attachTap(name string) (fd int, stays bool, err error) {
	// No os.File yet: the file can be polled only once it is a tap's.
	fd, err = unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, false, fmt.Errorf("open %s: %w", tunDevice, err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(tapFlags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.TUNGETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return -1, false, fmt.Errorf("attach to the tap %s: %w", name, err)
	}
	return fd, req.Uint16()&unix.IFF_PERSIST != 0, nil
}

// makeTap makes a tap in a VPC's namespace. One that is there is kept, with its reader.
func (n *Network) makeTap(v *vpc, name string, mac net.HardwareAddr) error {
	if _, err := v.nl.LinkByName(name); err != nil {
		err := within(v.ns, func() error {
			fd, _, err := attachTap(name)
			if err != nil {
				return err
			}
			return errors.Join(unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1), unix.Close(fd))
		})
		if err != nil {
			return err
		}
	}
	link, err := v.nl.LinkByName(name)
	if err != nil {
		return err
	}
	if link.Attrs().HardwareAddr.String() != mac.String() {
		if err := v.nl.LinkSetHardwareAddr(link, mac); err != nil {
			return fmt.Errorf("give it its hardware address: %w", err)
		}
	}
	if link.Attrs().MTU != n.mtu {
		if err := v.nl.LinkSetMTU(link, n.mtu); err != nil {
			return fmt.Errorf("set its MTU: %w", err)
		}
	}
	return nil
}

// dropOtherKind removes a link that an interface had when its machine was of the other kind.
func (v *vpc) dropOtherKind(name string, tap bool) error {
	link, err := v.nl.LinkByName(name)
	if err != nil {
		return nil // there is none
	}
	if _, is := link.(*netlink.Tuntap); is == tap {
		return nil
	}
	if err := v.nl.LinkDel(link); err != nil {
		return fmt.Errorf("remove its former link: %w", err)
	}
	return nil
}

// OpenTap opens the machine's end of a plugged interface that is a tap: each read or write is one Ethernet frame after a virtio-net header
// of 10 bytes, without offloads, until the reader asks the kernel for more. There is one reader at a time; another gets EBUSY. The file is
// not blocking, and closed when a program is executed; the tap stays when it is closed, until Detach. A reader should stop before that: it
// would get EBADFD from then on.
func (n *Network) OpenTap(id cloud.InterfaceID) (*os.File, error) {
	n.mu.Lock()
	i, ok := n.interfaces[id]
	v := n.vpcs[i.VPC]
	n.mu.Unlock()
	if !ok || !i.Tap || v == nil {
		return nil, fmt.Errorf("interface %s: no tap of it is plugged on this node", id)
	}
	queue, err := openTap(v.ns, linkOf(id), true)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", id, err)
	}
	return queue, nil
}

// OpenSpareTap opens a tap like those of interfaces that leads nowhere: it is in a network namespace of its own, and gone with
// the file.
func OpenSpareTap() (*os.File, error) {
	ns, err := newNetNS()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return openTap(ns, "spare", false)
}

// openTap opens the queue of a tap that stays, or makes one that goes with it.
func openTap(ns *os.File, name string, stays bool) (queue *os.File, err error) {
	err = within(ns, func() error {
		fd, stayed, err := attachTap(name)
		if err != nil {
			return err
		}
		if stays && !stayed { // attaching has just made it
			err = errors.New("its tap is gone")
		} else {
			// What a former reader asked for is the tap's, not the reader's.
			err = errors.Join(unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHeader), unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0))
		}
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		queue = os.NewFile(uintptr(fd), name)
		return nil
	})
	return queue, err
}

// MTU is the largest packet that the interfaces' links carry, in bytes.
func (n *Network) MTU() int { return n.mtu }
