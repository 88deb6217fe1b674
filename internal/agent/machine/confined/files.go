package confined

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Bundle is the directory in a machine's own that belongs to this driver.
func (k *Keeper) Bundle(id cloud.InstanceID) string {
	return filepath.Join(k.cfg.MachinesDir, string(id), k.cfg.Name)
}

// runtimeDir holds the runtime's state of each container, socketDir the monitors' links: the two must not meet, as both are
// named after the machine.
func (k *Keeper) runtimeDir() string { return filepath.Join(k.cfg.StateDir, "state") }

func (k *Keeper) socketDir() string { return filepath.Join(k.cfg.StateDir, "monitors") }

func (k *Keeper) exitDir() string { return filepath.Join(k.cfg.Dir, "exits") }

func (k *Keeper) exitFile(id cloud.InstanceID) string { return filepath.Join(k.exitDir(), string(id)) }

// saved is what the driver keeps of a machine, in machine.json in its bundle: written before the machine is started, and
// again when it runs and when it ended.
type saved struct {
	Spec    machine.Spec
	PID     int    // the container's first process; 0 before it runs
	Ticks   uint64 // the process's start time since boot, which tells it from a later one of the same id
	Status  machine.Status
	Stopped bool // Stop was asked for
}

const savedFile = "machine.json"

func (k *Keeper) load(id cloud.InstanceID) (saved, bool, error) {
	var s saved
	path := filepath.Join(k.Bundle(id), savedFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("machine %s: read what was kept of it: %w", id, err)
	}
	if err := json.Unmarshal(b, &s); err != nil || s.Spec.ID != id {
		return s, false, fmt.Errorf("machine %s: %s is damaged: %w", id, path, err)
	}
	return s, true, nil
}

// save replaces what is kept of a machine. It survives this process and not, for certain, the host's power: without it the
// machine doesn't run either, and one whose record is damaged is undone and started anew.
func (k *Keeper) save(s saved) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("machine %s: encode what is kept of it: %w", s.Spec.ID, err)
	}
	if err := replace(filepath.Join(k.Bundle(s.Spec.ID), savedFile), b); err != nil {
		return fmt.Errorf("machine %s: keep it: %w", s.Spec.ID, err)
	}
	return nil
}

// replace puts a file whole in the place of another, without waiting for the disk.
func replace(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// startTicks is when a process started, in clock ticks since the host's boot (field 22 of /proc/PID/stat).
func startTicks(pid int) (uint64, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("read /proc/%d/stat: it has %d fields", pid, len(fields))
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// readExit reads what the monitor wrote about a container's end; ok is false while it has not.
func (k *Keeper) readExit(id cloud.InstanceID) (machine.Exit, bool) {
	path := k.exitFile(id)
	b, err := os.ReadFile(path)
	if err != nil {
		return machine.Exit{}, false
	}
	code, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return machine.Exit{}, false
	}
	exit := machine.Exit{Code: code}
	if info, err := os.Stat(path); err == nil {
		exit.At = info.ModTime().UTC()
	}
	return exit, true
}
