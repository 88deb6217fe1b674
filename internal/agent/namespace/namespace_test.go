package namespace_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/namespace"
)

func TestTheNetworkNamespaceBelongsToTheUserNamespace(t *testing.T) {
	user, net, err := namespace.Pair(0x20000000)
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	defer net.Close()
	fd, err := unix.IoctlRetInt(int(net.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	owner := os.NewFile(uintptr(fd), "owner")
	defer owner.Close()
	var a, b unix.Stat_t
	if err := unix.Fstat(int(owner.Fd()), &a); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fstat(int(user.Fd()), &b); err != nil {
		t.Fatal(err)
	}
	if a.Ino != b.Ino {
		t.Error("another user namespace owns it")
	}
}

func BenchmarkPair(b *testing.B) {
	for b.Loop() {
		user, net, err := namespace.Pair(0x20000000)
		if err != nil {
			b.Fatal(err)
		}
		user.Close()
		net.Close()
	}
}
