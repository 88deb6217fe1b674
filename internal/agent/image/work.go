package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layer is one layer in the store: its content and, unpacked on those below it, its files.
type Layer struct {
	DiffID digest.Digest      // of its tar
	Blob   ocispec.Descriptor // the content, as it is or compressed
	Size   int64              // bytes of its files
}

// Stack is layers on one another, the lowest first. The empty stack is an empty root.
type Stack []Layer

// Chain names what a stack unpacks to, "" for the empty one.
func (s Stack) Chain() string {
	if len(s) == 0 {
		return ""
	}
	return identity.ChainID(s.diffIDs()).String()
}

func (s Stack) diffIDs() []digest.Digest {
	ids := make([]digest.Digest, len(s))
	for i, l := range s {
		ids[i] = l.DiffID
	}
	return ids
}

// Work makes layers on layers. What it brings or finds is kept while it lasts, and collected after it unless an image or the cache has it.
type Work struct{ s *Store }

// Work calls fn with the context that its calls of Work's methods take.
func (s *Store) Work(ctx context.Context, fn func(context.Context, *Work) error) error {
	return s.leased(ctx, func(ctx context.Context) error { return fn(ctx, &Work{s}) })
}

// hold keeps what is in the store while the work lasts.
func (w *Work) hold(ctx context.Context, stack Stack, blobs ...digest.Digest) error {
	id, ok := leases.FromContext(ctx)
	if !ok {
		return errors.New("this work has no lease")
	}
	lease := leases.Lease{ID: id}
	for _, l := range stack {
		blobs = append(blobs, l.Blob.Digest)
	}
	for _, b := range blobs {
		if err := w.s.held.AddResource(ctx, lease, leases.Resource{ID: b.String(), Type: "content"}); err != nil {
			return fmt.Errorf("keep %s: %w", b, err)
		}
	}
	if len(stack) == 0 {
		return nil
	}
	if err := w.s.held.AddResource(ctx, lease, leases.Resource{ID: stack.Chain(), Type: "snapshots/" + snapshotter}); err != nil {
		return fmt.Errorf("keep the layer %s: %w", stack.Chain(), err)
	}
	return nil
}

// Base finds the layers and the configuration of an image of this server's own architecture.
func (w *Work) Base(ctx context.Context, digest string) (Stack, []byte, error) {
	r, err := w.s.find(digest)
	if err == nil {
		err = runsHere(r.Image)
	}
	if err != nil {
		return nil, nil, err
	}
	if r.Image.Kind != KindLayers {
		return nil, nil, fmt.Errorf("%s is not made of layers", r.Image.Name)
	}
	record, err := w.s.imgs.Get(ctx, digest)
	if err != nil {
		return nil, nil, fmt.Errorf("find the image %s: %w", digest, err)
	}
	_, m, err := w.s.manifest(ctx, record.Target, native, 0)
	if err != nil {
		return nil, nil, err
	}
	config, err := w.s.readSmall(ctx, m.Config)
	if err != nil {
		return nil, nil, err
	}
	var known ocispec.Image
	if err := json.Unmarshal(config, &known); err != nil {
		return nil, nil, fmt.Errorf("read the configuration of %s: %w", digest, err)
	}
	if len(known.RootFS.DiffIDs) != len(m.Layers) {
		return nil, nil, fmt.Errorf("the configuration of %s names %d layers and its manifest %d", digest, len(known.RootFS.DiffIDs), len(m.Layers))
	}
	var stack Stack
	for i, l := range m.Layers {
		if oci, ok := ociTypes[l.MediaType]; ok {
			l.MediaType = oci
		}
		stack = append(stack, Layer{DiffID: known.RootFS.DiffIDs[i], Blob: ocispec.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size}})
	}
	if err := w.hold(ctx, stack); err != nil {
		return nil, nil, err
	}
	return stack, config, nil
}

// Add puts a layer on a stack: write writes its tar, which the store trusts no more than one from outside.
func (w *Work) Add(ctx context.Context, on Stack, write func(io.Writer) error) (Stack, error) {
	cw, err := content.OpenWriter(ctx, w.s.db.ContentStore(), content.WithRef("layer-"+newKey()))
	if err != nil {
		return nil, fmt.Errorf("write a layer: %w", err)
	}
	defer cw.Close()
	out := &roomy{s: w.s, w: cw}
	if err := write(out); err != nil {
		return nil, err
	}
	blob := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: cw.Digest(), Size: out.n}
	if err := cw.Commit(ctx, out.n, blob.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return nil, fmt.Errorf("write a layer: %w", err)
	}
	return w.put(ctx, on, blob)
}

// put unpacks a layer whose content is in the store, as a plain tar.
func (w *Work) put(ctx context.Context, on Stack, blob ocispec.Descriptor) (Stack, error) {
	if len(on) >= maxLayers {
		return nil, invalid("an image has %d layers at most", maxLayers)
	}
	stack := append(slices.Clone(on), Layer{DiffID: blob.Digest, Blob: blob})
	size, err := w.s.unpack(ctx, stack.diffIDs(), blob)
	if err != nil {
		return nil, err
	}
	stack[len(stack)-1].Size = size
	return stack, w.hold(ctx, stack)
}

// View shows fn the files of a stack, read-only.
func (w *Work) View(ctx context.Context, stack Stack, fn func(root string) error) error {
	return w.s.view(ctx, stack.Chain(), fn)
}

// Root is a writable root on a stack, for one command.
type Root struct {
	w      *Work
	on     Stack
	key    string
	dir    string
	idBase uint32
}

// Root mounts a writable root on a stack, of one layer at least, at dir, an existing directory. Its files belong to the ids that userns maps, from
// idBase on.
func (w *Work) Root(ctx context.Context, on Stack, dir string, idBase uint32, userns *os.File) (*Root, error) {
	if len(on) == 0 {
		return nil, errors.New("there is nothing to run in an empty root")
	}
	mapping := fmt.Sprintf("0:%d:%d", idBase, idCount)
	r := &Root{w: w, on: on, key: "step-" + newKey(), dir: dir, idBase: idBase}
	mounts, err := w.s.snap.Prepare(ctx, r.key, on.Chain(), snapshots.WithLabels(map[string]string{
		snapshots.LabelSnapshotUIDMapping: mapping, snapshots.LabelSnapshotGIDMapping: mapping}))
	if err != nil {
		return nil, fmt.Errorf("make a writable root: %w", err)
	}
	// What a layer says must stand in it: references to the layers below would be lost.
	if err := w.s.mountMapped(withOptions(mounts, "redirect_dir=off", "metacopy=off"), userns, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("mount a writable root: %w", err), r.drop(ctx))
	}
	return r, nil
}

// Layer takes the root from its directory and makes a layer of what was written there: all files dated alike, those left out that leaveOut names
// by their path below the root. Nothing may run in it any more.
func (r *Root) Layer(ctx context.Context, date time.Time, leaveOut func(name string) bool) (Stack, error) {
	if err := r.unmount(); err != nil {
		return nil, err
	}
	mounts, err := r.w.s.snap.Mounts(ctx, r.key)
	if err != nil {
		return nil, fmt.Errorf("find what was written: %w", err)
	}
	upper := ""
	for _, m := range mounts {
		for _, o := range m.Options {
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
				upper = dir
			}
		}
	}
	if upper == "" {
		return nil, fmt.Errorf("find what was written: %v is no overlay", mounts)
	}
	blob, err := r.w.s.putUpper(ctx, upper, r.idBase, layerRules{leaveOut: leaveOut, date: &date})
	if err != nil {
		return nil, err
	}
	return r.w.put(ctx, r.on, blob)
}

func (r *Root) unmount() error {
	if !isMounted(r.dir) {
		return nil
	}
	return unmountDetached(r.dir)
}

// Remove takes the root away, with what was written.
func (r *Root) Remove(ctx context.Context) error {
	return errors.Join(r.unmount(), r.drop(context.WithoutCancel(ctx)))
}

func (r *Root) drop(ctx context.Context) error {
	if err := r.w.s.snap.Remove(ctx, r.key); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove a root: %w", err)
	}
	return nil
}

// Finish makes an image of a stack and a configuration, whose layers and history are those of the stack.
func (w *Work) Finish(ctx context.Context, stack Stack, config []byte, name string, p Progress) (Image, error) {
	configDesc, err := w.s.putBlob(ctx, ocispec.MediaTypeImageConfig, config)
	if err != nil {
		return Image{}, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: configDesc}
	for _, l := range stack {
		m.Layers = append(m.Layers, l.Blob)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return Image{}, fmt.Errorf("encode the manifest: %w", err)
	}
	desc, err := w.s.putBlob(ctx, ocispec.MediaTypeImageManifest, b)
	if err != nil {
		return Image{}, err
	}
	if err := w.hold(ctx, stack, configDesc.Digest, desc.Digest); err != nil {
		return Image{}, err
	}
	return w.s.add(ctx, desc, name, native, p)
}
