package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// record is what the agent itself keeps of a machine, in record.json in the machine's directory:
// enough to find and remove it without the control plane.
type record struct {
	Instance   cloud.InstanceID
	IDBase     uint32
	Interfaces []cloud.InterfaceID
	// Volumes are those that the machine has or is being given, as they are called inside.
	Volumes []agentrpc.Attachment `json:",omitempty"`
	// Digest is the image that the root file system stands on.
	Digest string
}

const recordFile = "record.json"

// machineDir is a machine's own directory, kept from launch to removal.
func (a *Agent) machineDir(id cloud.InstanceID) string {
	return filepath.Join(a.cfg.MachinesDir, string(id))
}

// readRecord finds a machine's record; ok is false when it has none.
func (a *Agent) readRecord(id cloud.InstanceID) (rec record, ok bool, err error) {
	path := filepath.Join(a.machineDir(id), recordFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return rec, false, nil
	}
	if err != nil {
		return rec, false, fmt.Errorf("machine %s: read its record: %w", id, err)
	}
	if err := json.Unmarshal(b, &rec); err != nil || rec.Instance != id {
		return rec, false, fmt.Errorf("machine %s: its record %s is damaged: %w", id, path, err)
	}
	return rec, true, nil
}

// ensureRecord returns a machine's record, making directory and record on the first launch.
func (a *Agent) ensureRecord(m *agentrpc.Machine) (record, error) {
	id := m.Instance.ID
	rec, ok, err := a.readRecord(id)
	if err != nil {
		return rec, err
	}
	if ok {
		return rec, a.recordInterfaces(&rec, m.Interfaces)
	}
	dir := a.machineDir(id)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return rec, fmt.Errorf("machine %s: make its directory: %w", id, err)
	}
	base, err := a.ids.allocate(id)
	if err != nil {
		return rec, err
	}
	rec = record{Instance: id, IDBase: base, Digest: m.Instance.ImageDigest}
	for _, i := range m.Interfaces {
		rec.Interfaces = append(rec.Interfaces, i.ID)
	}
	if err := a.writeRecord(rec); err != nil {
		a.ids.release(id, base)
		return rec, err
	}
	return rec, nil
}

func (a *Agent) writeRecord(rec record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("machine %s: encode its record: %w", rec.Instance, err)
	}
	if err := renameio.WriteFile(filepath.Join(a.machineDir(rec.Instance), recordFile), b, 0o600); err != nil {
		return fmt.Errorf("machine %s: write its record: %w", rec.Instance, err)
	}
	return nil
}

// recordInterfaces notes interfaces in a machine's record, before any of them is made.
func (a *Agent) recordInterfaces(rec *record, list []cloud.Interface) error {
	known := len(rec.Interfaces)
	for _, i := range list {
		if !slices.Contains(rec.Interfaces, i.ID) {
			rec.Interfaces = append(rec.Interfaces, i.ID)
		}
	}
	if len(rec.Interfaces) == known {
		return nil
	}
	return a.writeRecord(*rec)
}

// knownMachines lists the machines that have a directory on this server.
func (a *Agent) knownMachines() ([]cloud.InstanceID, error) {
	entries, err := os.ReadDir(a.cfg.MachinesDir)
	if err != nil {
		return nil, fmt.Errorf("list the machines of this server: %w", err)
	}
	var ids []cloud.InstanceID
	for _, e := range entries {
		if e.IsDir() && cloud.ValidID[cloud.InstanceID](e.Name()) {
			ids = append(ids, cloud.InstanceID(e.Name()))
		}
	}
	return ids, nil
}
