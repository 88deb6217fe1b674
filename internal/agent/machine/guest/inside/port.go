package inside

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
)

const (
	powerOffSignal = syscall.Signal(guestinit.SignalPowerOff)
	rebootSignal   = syscall.Signal(guestinit.SignalReboot)
)

// OpenPort opens the agent's port: by its name in sysfs, since there may be nobody who makes links to it. The file blocks:
// reading ends with io.EOF while the agent is gone.
func OpenPort() (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil || strings.TrimSpace(string(b)) != wire.Port {
			continue
		}
		path := "/dev/" + filepath.Base(filepath.Dir(n))
		fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
		return os.NewFile(uintptr(fd), path), nil
	}
	return nil, fmt.Errorf("there is no serial port %s", wire.Port)
}
