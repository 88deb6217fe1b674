package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/image/diskheader"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// progressEvery bounds how often an import reports.
const progressEvery = 250 * time.Millisecond

// imports runs the image imports assigned to this node, one at a time a task, and removes images
// that nobody keeps any more.
type imports struct {
	a  *Agent
	wg sync.WaitGroup

	mu     sync.Mutex
	active map[cloud.ImportTaskID]*importRun
	kept   map[string]bool // digests that the control plane wants; nil before the first word
	// fresh are digests that an import of this life brought: the control plane may not have
	// registered them yet.
	fresh map[string]bool
	// unwanted are those that nobody kept at the last look.
	unwanted map[string]bool
}

type importRun struct {
	cancel context.CancelFunc
	result *agentrpc.ImportStatus // set when it ended
}

func newImports(a *Agent) *imports {
	im := &imports{a: a, active: map[cloud.ImportTaskID]*importRun{}, fresh: map[string]bool{}}
	for _, digest := range a.keptImages() {
		im.fresh[digest] = true
	}
	return im
}

// brought notes an image that was made here, of which the control plane is about to hear.
func (im *imports) brought(made *agentrpc.Imported) {
	if made != nil {
		im.mu.Lock()
		defer im.mu.Unlock()
		im.fresh[made.Digest] = true
	}
}

func (im *imports) wait() { im.wg.Wait() }

// order starts an import, cancels it, or repeats its result.
func (im *imports) order(life context.Context, o agentrpc.Import) {
	im.mu.Lock()
	defer im.mu.Unlock()
	run := im.active[o.Task.ID]
	switch {
	case o.Cancel && run == nil:
		im.report(agentrpc.ImportStatus{Task: o.Task.ID, Done: true, Error: "cancelled"})
	case o.Cancel:
		run.cancel()
	case run != nil && run.result != nil:
		im.report(*run.result)
	case run == nil:
		ctx, cancel := context.WithCancel(life)
		run = &importRun{cancel: cancel}
		im.active[o.Task.ID] = run
		im.wg.Go(func() { im.run(ctx, run, o.Task) })
	}
}

func (im *imports) report(st agentrpc.ImportStatus) {
	im.a.out.put("import/"+string(st.Task), &agentrpc.FromAgent{Import: &st})
}

func (im *imports) run(ctx context.Context, run *importRun, task cloud.ImportTask) {
	defer run.cancel()
	log := im.a.log.With("import", task.ID, "source", task.Source)
	log.Info("import started")
	var last time.Time
	progress := func(done, total int64, what string) {
		now := im.a.cfg.Now()
		if now.Sub(last) < progressEvery {
			return
		}
		last = now
		percent := 0
		if total > 0 {
			percent = int(min(99, 100*done/total))
		}
		im.report(agentrpc.ImportStatus{Task: task.ID, Progress: percent, Message: what})
	}
	brought, err := im.bring(ctx, task, progress)
	result := agentrpc.ImportStatus{Task: task.ID, Done: true}
	switch {
	case err != nil && ctx.Err() != nil:
		result.Error = "cancelled"
	case err != nil:
		result.Error = err.Error()
	default:
		result.Progress, result.Images = 100, brought
	}
	im.mu.Lock()
	run.result = &result
	for _, brought := range result.Images {
		im.fresh[brought.Digest] = true
	}
	im.mu.Unlock()
	log.Info("import ended", "images", len(result.Images), "error", result.Error)
	im.report(result)
}

// bring gets an image from its source into the store, with what its virtual machines are started with.
func (im *imports) bring(ctx context.Context, task cloud.ImportTask, p image.Progress) ([]agentrpc.Imported, error) {
	images := im.a.cfg.Images
	scheme, rest, _ := strings.Cut(task.Source, ":")
	var img image.Image
	var err error
	switch scheme {
	case "bake":
		baked, err := images.Bake(ctx, rest, p)
		if err != nil {
			return nil, err
		}
		return bakedImages(baked), nil
	case "build":
		img, err = im.a.builds.build(ctx, task, p)
	case "docker":
		img, err = images.Pull(ctx, strings.TrimPrefix(rest, "//"), task.Architecture, p)
	case "registry": // the repository, the tag, and the digest that it meant
		img, err = images.Adopt(ctx, rest[strings.LastIndexByte(rest, '@')+1:], task.Name, task.Architecture, p)
	case "upload":
		var r io.ReadCloser
		if r, err = im.a.cfg.OpenUpload(ctx, rest); err == nil {
			img, err = im.fromUpload(ctx, r, task, p)
		}
	default:
		err = fmt.Errorf("the source %q is none that this node can import from", task.Source)
	}
	return []agentrpc.Imported{imported(img, "")}, err
}

// imported describes an image to the control plane.
func imported(img image.Image, suffix string) agentrpc.Imported {
	out := agentrpc.Imported{Suffix: suffix, Digest: img.Digest, Name: img.Name, Type: cloud.ImageMachine, Isolation: cloud.IsolationContainer, Architecture: img.Architecture,
		System: img.Config.System, LoginUser: img.Config.LoginUser, SizeMiB: (img.Size + 1<<20 - 1) >> 20}
	if foreign(img) {
		out.Isolation = cloud.IsolationVM // with the newest kernel, where it is not baked with one
	}
	switch img.Kind {
	case image.KindKernel:
		out.Type, out.Isolation, out.Hardware.Content = cloud.ImageKernel, "", cloud.ContentFile
	case image.KindRamdisk:
		out.Type, out.Isolation, out.Hardware.Content = cloud.ImageRamdisk, "", cloud.ContentFile
	case image.KindDisk:
		out.Isolation = cloud.IsolationVM
		out.SizeMiB = (img.VirtualSize + 1<<20 - 1) >> 20
		out.Hardware = cloud.Hardware{Content: cloud.ContentDisk, Firmware: img.Firmware, Devices: img.Devices}
	}
	return out
}

// foreign tells whether an image's programs are another architecture's than this server's: only virtual machines run them.
func foreign(img image.Image) bool {
	return img.Kind == image.KindLayers && img.Architecture != Architecture
}

// bakedImages are all that a recipe made: those that others refer to come first.
func bakedImages(b image.Baked) []agentrpc.Imported {
	if b.Kernel == nil {
		return []agentrpc.Imported{imported(b.Image, "")}
	}
	// The kernel remembers the RAM disk that goes with it.
	ramdisk, kernel := imported(*b.Ramdisk, "-ramdisk"), imported(*b.Kernel, "-kernel")
	kernel.Hardware.RamdiskDigest = b.Ramdisk.Digest
	if b.Image.Digest == "" {
		kernel.Suffix = ""
		return []agentrpc.Imported{ramdisk, kernel}
	}
	vm := imported(b.Image, "-vm")
	vm.Isolation = cloud.IsolationVM
	vm.Hardware = cloud.Hardware{KernelDigest: b.Kernel.Digest, RamdiskDigest: b.Ramdisk.Digest}
	if foreign(b.Image) {
		vm.Suffix = ""
		return []agentrpc.Imported{ramdisk, kernel, vm}
	}
	return []agentrpc.Imported{ramdisk, kernel, imported(b.Image, ""), vm}
}

// fromUpload brings in what was sent: an archive of layers, or a whole disk.
func (im *imports) fromUpload(ctx context.Context, r io.ReadCloser, task cloud.ImportTask, p image.Progress) (image.Image, error) {
	defer r.Close()
	in := bufio.NewReaderSize(r, diskheader.Peek)
	format, err := image.IsDisk(in)
	if err != nil {
		return image.Image{}, err
	}
	if format != diskheader.None || task.OfDisk() {
		return im.a.cfg.Images.ImportDisk(ctx, in, image.DiskOptions{Name: task.Name, Format: diskheader.Format(task.Format), Firmware: task.Firmware, Devices: task.Devices,
			Architecture: task.Architecture}, p)
	}
	found, err := im.a.cfg.Images.Import(ctx, in, task.Name, task.Architecture, p)
	if err != nil {
		return image.Image{}, err
	}
	if len(found) != 1 {
		return image.Image{}, fmt.Errorf("the archive holds %d images for the architecture; an import takes exactly one", len(found))
	}
	return found[0], nil
}

// keep notes what the control plane wants and removes the rest.
func (im *imports) keep(digests []string) {
	im.mu.Lock()
	im.kept = map[string]bool{}
	for _, d := range digests {
		im.kept[d] = true
		delete(im.fresh, d)
	}
	im.mu.Unlock()
}

// collectEvery is the time between looks for images that nobody keeps. One that nobody keeps at two looks goes.
const collectEvery = time.Minute

// tend collects until ctx ends.
func (im *imports) tend(ctx context.Context) {
	look := time.NewTicker(collectEvery)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			im.collect(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// collect removes the images that nobody keeps and nobody kept at the last look. A failure is not the machines' concern; the next
// collection tries again.
func (im *imports) collect(ctx context.Context) {
	found, err := im.a.cfg.Images.List(ctx)
	if err != nil {
		im.a.log.Error("list the images of this server", "error", err)
		return
	}
	for _, d := range im.unkept(found) {
		if err := im.a.cfg.Images.Delete(ctx, d); err != nil && !errors.Is(err, context.Canceled) {
			im.a.log.Error("remove an image that nobody keeps", "digest", d, "error", err)
		}
	}
}

// unkept notes which of the images nobody keeps, and lists those of which that was so at the last look too.
func (im *imports) unkept(found []image.Image) (drop []string) {
	im.mu.Lock()
	defer im.mu.Unlock()
	for _, run := range im.active {
		if run.result == nil {
			found = nil // it may be bringing one of these; a later look sees
		}
	}
	unwanted := map[string]bool{}
	for _, img := range found {
		if im.kept == nil || im.kept[img.Digest] || im.fresh[img.Digest] {
			continue
		}
		unwanted[img.Digest] = true
		if im.unwanted[img.Digest] {
			drop = append(drop, img.Digest)
		}
	}
	im.unwanted = unwanted
	return drop
}
