package qemu

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	balloonPath = "/machine/peripheral/balloon"
	// statsEvery is how often a guest tells of its memory, in seconds, and statsOld the age from which on that counts for nothing.
	statsEvery = 5
	statsOld   = 20 * time.Second
	// roomToGoOn is how much must be free where a disk is, in bytes, for a machine to go on that ran out of it.
	roomToGoOn = 64 << 20
)

// Tend tells how a running machine is, and asks its guest again for devices that it holds on to. One that was paused because the server had no room for what it wrote goes on when there is.
func (d *Driver) Tend(ctx context.Context, id cloud.InstanceID) (c machine.Condition, err error) {
	s, err := d.Running(id)
	if err != nil {
		return c, err
	}
	err = d.withMonitor(ctx, id, func(m *qmp.Client) error {
		if c.Stalled, err = d.unstall(ctx, m, s); err != nil {
			return err
		}
		if err := d.askAgain(ctx, m, id); err != nil {
			return err
		}
		if s.VM.Devices == cloud.DevicesEmulated || s.VM.Mapped {
			return nil // it has no memory to lend
		}
		now, err := look(ctx, m)
		if err != nil {
			return err
		}
		c.First = min(s.VM.Memory, s.Resources.Memory)
		c.Held = min(now.first, c.First)
		says, err := guestMemory(ctx, m, statsEvery)
		if c.Available = says.available; time.Since(says.at) > statsOld {
			c.Available = -1
		}
		return err
	})
	if err != nil {
		return c, fmt.Errorf("machine %s: %w", id, err)
	}
	return c, nil
}

// unstall lets a machine go on whose disk had no room and has it again, and tells why one does not go on.
func (d *Driver) unstall(ctx context.Context, m *qmp.Client, s machine.Spec) (why string, err error) {
	var st struct{ Status string }
	if err := m.Run(ctx, "query-status", nil, &st); err != nil || st.Status != "io-error" {
		return "", err
	}
	var dirs []string
	if r := s.VM.Root; r != nil {
		dirs = append(dirs, filepath.Dir(r.Layers[len(r.Layers)-1].Path))
	}
	for _, disk := range s.VM.Disks {
		dirs = append(dirs, filepath.Dir(disk.Path))
	}
	for _, dir := range dirs {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			return "", fmt.Errorf("how much room is in %s: %w", dir, err)
		}
		if free := int64(fs.Bavail) * fs.Bsize; free < roomToGoOn {
			return fmt.Sprintf("the server has no room for what it writes: %d MiB are free; it goes on by itself when there are %d", free>>20, roomToGoOn>>20), nil
		}
	}
	d.log.Info("there is room for the machine's disk again; it goes on", "instance", s.ID)
	return "", m.Run(ctx, "cont", nil, nil)
}

// told is what a guest told of its memory.
type told struct {
	available int64 // bytes that it could use without giving anything up; negative when it did not tell
	at        time.Time
}

// guestMemory has a guest tell of its memory every so many seconds, and returns what it told last.
func guestMemory(ctx context.Context, m *qmp.Client, every int) (told, error) {
	property := func(command, name string, value, result any) error {
		arguments := map[string]any{"path": balloonPath, "property": name}
		if value != nil {
			arguments["value"] = value
		}
		return m.Run(ctx, command, arguments, result)
	}
	var now int
	if err := property("qom-get", "guest-stats-polling-interval", nil, &now); err != nil {
		return told{}, err
	}
	if now != every {
		if err := property("qom-set", "guest-stats-polling-interval", every, nil); err != nil {
			return told{}, err
		}
	}
	var stats struct {
		Stats struct {
			Available uint64 `json:"stat-available-memory"`
		}
		Updated int64 `json:"last-update"`
	}
	if err := property("qom-get", "guest-stats", nil, &stats); err != nil {
		return told{}, err
	}
	if stats.Stats.Available > math.MaxInt64 {
		return told{available: -1}, nil
	}
	return told{int64(stats.Stats.Available), time.Unix(stats.Updated, 0)}, nil
}

// LeaveMemory has a machine's guest lend what it has of its first memory beyond first bytes, or gives it back. It returns when that is asked for.
func (d *Driver) LeaveMemory(ctx context.Context, id cloud.InstanceID, first int64) error {
	s, err := d.Running(id)
	if err != nil {
		return err
	}
	err = d.withMonitor(ctx, id, func(m *qmp.Client) error {
		return setBalloon(ctx, m, min(first, s.VM.Memory, s.Resources.Memory))
	})
	if err != nil {
		return fmt.Errorf("machine %s: move its memory: %w", id, err)
	}
	return nil
}
