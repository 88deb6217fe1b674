package volume

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/agent/volume/keyring"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Graph is a volume as QEMU's block layer opens it: files laid over one another, and above them what holds the limits.
type Graph struct {
	ID     cloud.VolumeID
	Layers []Layer // the lowest first; the last is written to, the others only read
	Limits cloud.VolumeLimits
}

// Layer is one file. What its header says of other files is never looked at.
type Layer struct {
	// Name tells the layer from the volume's others, for good; at most 6 characters, as block nodes' names have 31.
	Name string
	Path string // on the host, absolute
	Raw  bool   // it is no qcow2; only the lowest may be
	// Key opens an encrypted layer, which holds a LUKS header; none for others. It is in no record: who opens the layer again asks the backend again.
	Key keyring.Key `json:"-"`
}

// nodes are the two of the block layer by which a process reads a layer that it knows as file, over the node below.
func (l Layer) nodes(id cloud.VolumeID, file, below string, writable bool) (protocol, format map[string]any) {
	// Locks are of no use here: the holder is the lock.
	protocol = map[string]any{"driver": "file", "node-name": fileNode(id, l.Name), "filename": file, "locking": "off", "discard": "unmap", "read-only": !writable}
	format = map[string]any{"driver": "qcow2", "node-name": Node(id, l.Name), "file": fileNode(id, l.Name), "backing": nil, "discard": "unmap", "read-only": !writable}
	if below != "" {
		format["backing"] = below
	}
	if l.Raw {
		format["driver"] = "raw"
		delete(format, "backing")
	}
	if !l.Key.IsZero() {
		format["encrypt"] = map[string]any{"format": "luks", "key-secret": secret(id, l.Name)}
	}
	return protocol, format
}

// limited is what holds a volume's limits over its uppermost layer.
func (g Graph) limited() (object, node map[string]any) {
	return map[string]any{"qom-type": "throttle-group", "id": group(g.ID), "limits": throttle(g.Limits)},
		map[string]any{"driver": "throttle", "node-name": Top(g.ID), "file": Node(g.ID, g.Layers[len(g.Layers)-1].Name), "throttle-group": group(g.ID), "discard": "unmap"}
}

// Arguments is Open for a process that is still to be started: what its command line says, objects before the nodes that stand on them. name opens a layer's file for it,
// and tells what it is called there; conceal does so with a file that holds a key, as a command line is no place for one.
func Arguments(g Graph, name func(path string, writable bool) (string, error), conceal func(keyring.Key) (string, error)) (objects, nodes []map[string]any, err error) {
	below := ""
	for i, l := range g.Layers {
		writable := i == len(g.Layers)-1
		file, err := name(l.Path, writable)
		if err != nil {
			return nil, nil, err
		}
		if !l.Key.IsZero() {
			key, err := conceal(l.Key)
			if err != nil {
				return nil, nil, err
			}
			objects = append(objects, map[string]any{"qom-type": "secret", "id": secret(g.ID, l.Name), "file": key})
		}
		protocol, format := l.nodes(g.ID, file, below, writable)
		nodes = append(nodes, protocol, format)
		below = Node(g.ID, l.Name)
	}
	limits, top := g.limited()
	return append(objects, limits), append(nodes, top), nil
}

// Top is the node that devices and exports of the volume stand on.
func Top(id cloud.VolumeID) string { return string(id) + "-top" }

// Node is a layer's node.
func Node(id cloud.VolumeID, layer string) string { return string(id) + "-" + layer }

func fileNode(id cloud.VolumeID, layer string) string { return Node(id, layer) + "f" }

func group(id cloud.VolumeID) string { return string(id) + "-lim" }

// secret is the object that holds a layer's key.
func secret(id cloud.VolumeID, layer string) string { return Node(id, layer) + "k" }

// Open has a process open a volume. After an error it has opened nothing of it.
func Open(ctx context.Context, m *qmp.Client, d Door, g Graph) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open volume %s: %w", g.ID, err), Shut(context.WithoutCancel(ctx), m, g.ID))
		}
	}()
	if len(g.Layers) == 0 {
		return errors.New("it has no layers")
	}
	below := ""
	for i, l := range g.Layers {
		if err := AddLayer(ctx, m, d, g.ID, l, below, i == len(g.Layers)-1); err != nil {
			return err
		}
		below = Node(g.ID, l.Name)
	}
	limits, top := g.limited()
	if err := m.Run(ctx, "object-add", limits, nil); err != nil {
		return err
	}
	return m.Run(ctx, "blockdev-add", top, nil)
}

// AddLayer has a process open one more layer of a volume, over the node below, "" for none.
func AddLayer(ctx context.Context, m *qmp.Client, d Door, id cloud.VolumeID, l Layer, below string, writable bool) error {
	name, err := d.Name(ctx, m, l.Path, writable)
	if err != nil {
		return err
	}
	if err := giveKey(ctx, m, secret(id, l.Name), l.Key); err != nil {
		return err
	}
	protocol, format := l.nodes(id, name, below, writable)
	if err := m.Run(ctx, "blockdev-add", protocol, nil); err != nil {
		return err
	}
	if err := m.Run(ctx, "blockdev-add", format, nil); err != nil {
		return errors.Join(err, m.Run(ctx, "blockdev-del", map[string]any{"node-name": fileNode(id, l.Name)}, nil))
	}
	return nil
}

// giveKey tells a process a layer's key, by its monitor. It keeps it as long as the layer is open: a layer that is frozen is opened anew.
func giveKey(ctx context.Context, m *qmp.Client, name string, key keyring.Key) error {
	if key.IsZero() {
		return nil
	}
	if err := drop(ctx, m, name); err != nil { // what a call that was cut off left
		return err
	}
	return m.Run(ctx, "object-add", map[string]any{"qom-type": "secret", "id": name, "data": key.Text()}, nil)
}

// drop has a process let go of an object. What it hasn't is no error.
func drop(ctx context.Context, m *qmp.Client, name string) error {
	err := m.Run(ctx, "object-del", map[string]any{"id": name}, nil)
	var refused *qmp.Error
	if errors.As(err, &refused) {
		return nil
	}
	return err
}

// Shut has a process close all that it has of a volume, from the top down. What it hasn't is no error.
func Shut(ctx context.Context, m *qmp.Client, id cloud.VolumeID) error {
	for {
		nodes, err := nodesOf(ctx, m, id)
		if err != nil {
			return err
		}
		if len(nodes) == 0 {
			break
		}
		var problems []error
		closed := false
		for _, n := range nodes {
			if err := m.Run(ctx, "blockdev-del", map[string]any{"node-name": n}, nil); err != nil {
				problems = append(problems, err) // another stands on it still
				continue
			}
			closed = true
		}
		if !closed {
			return fmt.Errorf("close volume %s: %w", id, errors.Join(problems...))
		}
	}
	// There is no group when it never got to one.
	if err := drop(ctx, m, group(id)); err != nil {
		return err
	}
	keys, err := keysOf(ctx, m, id)
	for _, name := range keys {
		err = errors.Join(err, drop(ctx, m, name))
	}
	return err
}

// keysOf are the objects by which a process keeps a volume's keys.
func keysOf(ctx context.Context, m *qmp.Client, id cloud.VolumeID) ([]string, error) {
	var all []struct{ Name, Type string }
	if err := m.Run(ctx, "qom-list", map[string]any{"path": "/objects"}, &all); err != nil {
		return nil, err
	}
	var names []string
	for _, o := range all {
		if o.Type == "child<secret>" && strings.HasPrefix(o.Name, string(id)+"-") {
			names = append(names, o.Name)
		}
	}
	return names, nil
}

// nodesOf are the nodes that a process has of a volume.
func nodesOf(ctx context.Context, m *qmp.Client, id cloud.VolumeID) ([]string, error) {
	var all []struct {
		Name string `json:"node-name"`
	}
	if err := m.Run(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &all); err != nil {
		return nil, err
	}
	var nodes []string
	for _, n := range all {
		if strings.HasPrefix(n.Name, string(id)+"-") {
			nodes = append(nodes, n.Name)
		}
	}
	return nodes, nil
}

// SetLimits changes an open volume's limits.
func SetLimits(ctx context.Context, m *qmp.Client, id cloud.VolumeID, l cloud.VolumeLimits) error {
	return m.Run(ctx, "qom-set", map[string]any{"path": "/objects/" + group(id), "property": "limits", "value": throttle(l)}, nil)
}

// throttle is limits in QEMU's terms. All are said, so that none is left of earlier ones.
func throttle(l cloud.VolumeLimits) map[string]any {
	t := map[string]any{"iops-total": l.IOPS, "iops-total-max": 0, "iops-total-max-length": 1, "bps-total": l.Bytes, "bps-total-max": 0, "bps-total-max-length": 1, "iops-size": 0}
	if l.IOPS > 0 {
		t["iops-size"] = l.Unit
	}
	if l.BurstIOPS > l.IOPS {
		t["iops-total-max"], t["iops-total-max-length"] = l.BurstIOPS, max(1, l.BurstSeconds)
	}
	if l.BurstBytes > l.Bytes {
		t["bps-total-max"], t["bps-total-max-length"] = l.BurstBytes, max(1, l.BurstSeconds)
	}
	return t
}

// LayerName is the name of a volume's n-th layer, from 0.
func LayerName(n int) string { return "l" + strconv.Itoa(n) }
