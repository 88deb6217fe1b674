package agent

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/volume/inside"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
)

// mountHost shows a container directories of this server, as far as the server allows them now: the control plane may know less. The host's own mounts of them go with
// those of volumes (leaveMounts).
func (w *worker) mountHost(d *agentrpc.Machine, rec *record, spec *machine.Spec) error {
	for n, m := range d.Instance.HostMounts {
		allowed, ok := m.AllowedBy(w.a.cfg.Node.HostPaths)
		if !ok || isVM(d) {
			return fmt.Errorf("machine %s: the directory %s of the server is not allowed; start nacre with --allow-host-path %s, or take the tag away", w.id, m.Source, m.Source)
		}
		below, err := filepath.Rel(allowed.Path, m.Source)
		if err != nil {
			return err
		}
		fs, err := inside.OpenBelow(allowed.Path, below, m.ReadOnly, rec.IDBase)
		if err != nil {
			return fmt.Errorf("machine %s: show it %s: %w", w.id, m.Source, err)
		}
		dir := filepath.Join(w.a.machineDir(w.id), "mounts", "host"+strconv.Itoa(n))
		if err := errors.Join(inside.Put(fs, dir), fs.Close()); err != nil {
			return fmt.Errorf("machine %s: show it %s: %w", w.id, m.Source, err)
		}
		bind := machine.Bind{Source: dir, Target: m.Target}
		if m.ReadOnly {
			spec.Binds = append(spec.Binds, bind)
		} else {
			spec.Mounts = append(spec.Mounts, bind)
		}
	}
	return nil
}
