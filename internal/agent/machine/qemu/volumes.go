package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// VolumeDoor leads to a machine's hypervisor, for its volumes.
func (d *Driver) VolumeDoor(id cloud.InstanceID) volume.Door { return door{d, id} }

type door struct {
	d  *Driver
	id cloud.InstanceID
}

// Do implements volume.Door.
func (v door) Do(ctx context.Context, f func(m *qmp.Client) error) error {
	return v.d.withMonitor(ctx, v.id, f)
}

// Name implements volume.Door: the hypervisor opens no path, so it is sent the file's descriptors. It gets one for reading alone, too: a layer that is written to is
// opened anew when a snapshot freezes it.
func (v door) Name(ctx context.Context, m *qmp.Client, path string, writable bool) (string, error) {
	modes := []int{os.O_RDONLY}
	if writable {
		modes = append(modes, os.O_RDWR)
	}
	set := map[string]any{}
	for _, mode := range modes {
		f, err := os.OpenFile(path, mode, 0)
		if err != nil {
			return "", fmt.Errorf("open a volume's file: %w", err)
		}
		var added struct {
			Set int `json:"fdset-id"`
		}
		err = m.RunWith(ctx, "add-fd", set, &added, f)
		f.Close()
		if err != nil {
			return "", err
		}
		set["fdset-id"] = added.Set
	}
	return fmt.Sprintf("/dev/fdset/%d", set["fdset-id"]), nil
}

func volumeDevice(id cloud.VolumeID) string { return "dev-" + string(id) }

// VolumeSerial is by what a guest knows a volume: /dev/disk/by-id/virtio-vol0123456789abcdef0.
func VolumeSerial(id cloud.VolumeID) string { return strings.Replace(string(id), "-", "", 1) }

// plugVolumes gives a machine that is being started all of its volumes.
func (d *Driver) plugVolumes(ctx context.Context, m *qmp.Client, s machine.Spec) error {
	for _, v := range s.VM.Volumes {
		if err := plugVolume(ctx, m, door{d, s.ID}, s.VM, v); err != nil {
			return err
		}
	}
	return nil
}

// plugVolume gives a machine a volume.
func plugVolume(ctx context.Context, m *qmp.Client, d volume.Door, vm *machine.VM, v machine.Volume) error {
	if vm.Devices == cloud.DevicesEmulated {
		return fmt.Errorf("volume %s: a machine with emulated devices has no disk controller that takes volumes", v.Graph.ID)
	}
	if err := volume.Open(ctx, m, d, v.Graph); err != nil {
		return err
	}
	dev := map[string]any{"driver": device(vm, "disk"), "id": volumeDevice(v.Graph.ID), "drive": volume.Top(v.Graph.ID), "serial": VolumeSerial(v.Graph.ID)}
	boards[vm.Architecture].place(dev, v.Slot)
	if err := m.Run(ctx, "device_add", dev, nil); err != nil {
		return errors.Join(fmt.Errorf("volume %s: %w", v.Graph.ID, err), volume.Shut(context.WithoutCancel(ctx), m, v.Graph.ID))
	}
	return nil
}

// AttachVolume gives a running machine one more volume. One that it has already is no error.
func (d *Driver) AttachVolume(ctx context.Context, id cloud.InstanceID, g volume.Graph) error {
	err := d.withMonitor(ctx, id, func(m *qmp.Client) error {
		if _, err := d.reap(ctx, m, id); err != nil {
			return err
		}
		s, err := d.Running(id)
		if err != nil {
			return err
		}
		left := slices.ContainsFunc(s.VM.Left, func(l machine.Left) bool { return l.Device == volumeDevice(g.ID) })
		there, err := has(ctx, m, volumeDevice(g.ID))
		switch {
		case err != nil:
			return err
		case left || there && !opens(ctx, m, g.ID):
			return fmt.Errorf("volume %s was taken from the guest by force, and it holds on to the empty device; reboot it", g.ID)
		}
		vm := *s.VM
		if !hasVolume(&vm, g.ID) {
			vm.Volumes = append(slices.Clone(vm.Volumes), machine.Volume{Graph: g})
			if err := slotted(&vm); err != nil {
				return err
			}
			// Noted first: a crash between the two is found by the note.
			if err := d.noteVolumes(id, vm.Volumes); err != nil {
				return err
			}
		}
		if there {
			return nil
		}
		v := vm.Volumes[slices.IndexFunc(vm.Volumes, func(v machine.Volume) bool { return v.Graph.ID == g.ID })]
		v.Graph = g
		err = volume.Shut(ctx, m, g.ID) // what a crash left half open
		if err == nil {
			err = plugVolume(ctx, m, door{d, id}, &vm, v)
		}
		if err != nil {
			return errors.Join(err, d.noteVolumes(id, s.VM.Volumes))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("machine %s: %w", id, err)
	}
	return nil
}

func hasVolume(vm *machine.VM, id cloud.VolumeID) bool {
	return slices.ContainsFunc(vm.Volumes, func(v machine.Volume) bool { return v.Graph.ID == id })
}

func (d *Driver) noteVolumes(id cloud.InstanceID, volumes []machine.Volume) error {
	return d.Note(id, func(s *machine.Spec) {
		vm := *s.VM
		vm.Volumes = volumes
		s.VM = &vm
	})
}

// OpensVolume tells whether a running machine has a volume, as a device that its guest can use.
func (d *Driver) OpensVolume(ctx context.Context, id cloud.InstanceID, vol cloud.VolumeID) (bool, error) {
	s, err := d.Running(id)
	if err != nil || !hasVolume(s.VM, vol) && (s.VM.Root == nil || s.VM.Root.ID != vol) {
		return false, nil
	}
	has := false
	err = d.withMonitor(ctx, id, func(m *qmp.Client) error {
		has = opens(ctx, m, vol)
		var st struct{ Status string }
		if err := m.Run(ctx, "query-status", nil, &st); err != nil || st.Status != "io-error" {
			return err
		}
		// It has stood still since a write found no room on the host's disk: it tries again.
		return m.Run(ctx, "cont", nil, nil)
	})
	return has, err
}

// opens tells whether a volume's device is there with the volume behind it: one that was hollowed is not.
func opens(ctx context.Context, m *qmp.Client, vol cloud.VolumeID) bool {
	var node string
	err := m.Run(ctx, "qom-get", map[string]any{"path": "/machine/peripheral/" + volumeDevice(vol), "property": "drive"}, &node)
	return err == nil && node == volume.Top(vol)
}

// DetachVolume takes a volume from a running machine. Unless it is forced, a guest that doesn't let go of it in time keeps it, and the error
// says so; the guest goes on being asked. A forced one takes the bytes away behind the guest's back: from then on what it reads is zeros, and what
// it writes is lost.
func (d *Driver) DetachVolume(ctx context.Context, id cloud.InstanceID, vol cloud.VolumeID, force bool) error {
	if _, err := d.Running(id); err != nil {
		return nil // a machine that has ended holds no volume
	}
	err := d.withMonitor(ctx, id, func(m *qmp.Client) error {
		gone, err := release(ctx, m, volumeDevice(vol))
		switch {
		case err != nil:
			return err
		case !gone && !force:
			return fmt.Errorf("the guest does not let go of %s", vol)
		}
		if err := d.leave(id, volumeDevice(vol)); err != nil {
			return err
		}
		if !gone && opens(ctx, m, vol) {
			if err := hollow(ctx, m, vol); err != nil {
				return err
			}
		}
		if err := volume.Shut(ctx, m, vol); err != nil {
			return err
		}
		_, err = d.reap(ctx, m, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("machine %s: take %s away: %w", id, vol, err)
	}
	return nil
}

// hollow leaves a guest a device without content in the place of a volume.
func hollow(ctx context.Context, m *qmp.Client, vol cloud.VolumeID) error {
	name := volumeDevice(vol) + "-"
	_ = m.Run(ctx, "blockdev-del", map[string]any{"node-name": name}, nil) // what a crash left before the next step
	if err := m.Run(ctx, "blockdev-add", map[string]any{"driver": "null-co", "node-name": name, "size": 1 << 20, "read-zeroes": true}, nil); err != nil {
		return err
	}
	return m.Run(ctx, "qom-set", map[string]any{"path": "/machine/peripheral/" + volumeDevice(vol), "property": "drive", "value": name}, nil)
}
