package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"

	"github.com/nacre-cloud/nacre/internal/agent/access"
	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/network"
	"github.com/nacre-cloud/nacre/internal/agent/reclaim"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// terminateGrace is from the stop signal to the kill when the instance is terminated.
const terminateGrace = 10 * time.Second

// Config is what an agent works with. The parts are opened, and closed, by the caller.
type Config struct {
	// Node carries the node's identity: id, zone, engines and over-commitment. The rest is read
	// from the server.
	Node        cloud.Node
	MachinesDir string         // a directory a machine
	FlowLogsDir string         // where flow logs are written
	VolumesDir  string         // where volumes and snapshots are, for weighing them
	Driver      machine.Driver // of all machines
	VMs         Hypervisor     // the one among them that runs virtual machines; nil where there is none
	// Accelerator tells by what virtual machines of an architecture are executed, "kvm" or "tcg". It may take as long as a proof
	// of KVM; the error says that what is demanded is not to be had.
	Accelerator func(ctx context.Context, architecture string) (string, error)
	// TemplateMiB is the memory that frozen machines may have together: 0 makes none, less is an eighth of the server's.
	TemplateMiB int64
	// Memory looks at the server's memory, for which idle virtual machines lend theirs; nil for never.
	Memory     func() (reclaim.Server, error)
	Network    *network.Network
	Images     *image.Store
	Volumes    *Volumes // nil where the node keeps none
	Access     *access.Server
	SFTPServer string // the file of nacre's own, shown to every machine
	// MetadataSecret signs metadata tokens, so that they outlive the agent.
	MetadataSecret []byte
	// OpenUpload opens an archive that was sent to the endpoint, by its digest "sha256:…".
	OpenUpload func(ctx context.Context, digest string) (io.ReadCloser, error)
	// Builds builds images; nil where the node doesn't.
	Builds  *Builds
	Control grpc.ClientConnInterface
	Now     func() time.Time
	Logger  *slog.Logger
}

// Agent converges one server. Make it with New, run it with Run.
type Agent struct {
	cfg       Config
	node      cloud.Node
	log       *slog.Logger
	ids       *idRanges
	out       *outbox
	vpcs      *vpcs
	imports   *imports
	builds    *imageBuilds
	volumes   *volumes
	templates *templates
	life      context.Context     // of Run
	launches  *semaphore.Weighted // bounds machines being started at a time
	looks     *semaphore.Weighted // bounds looks inside

	mu       sync.Mutex
	region   cloud.Region
	workers  map[cloud.InstanceID]*worker
	statuses map[cloud.InstanceID]agentrpc.MachineStatus // the last fact about each, for the next hello
	wg       sync.WaitGroup
}

// New adopts the machines that are on this server. Nothing is started or removed before the control plane
// has spoken.
func New(ctx context.Context, cfg Config) (*Agent, error) {
	node, err := facts(cfg.Node)
	if err != nil {
		return nil, err
	}
	node.IPv6 = cfg.Network.IPv6()
	if err := os.MkdirAll(cfg.MachinesDir, 0o711); err != nil {
		return nil, fmt.Errorf("make the machines' directory: %w", err)
	}
	a := &Agent{
		cfg: cfg, node: node, log: cfg.Logger, ids: newIDRanges(), out: newOutbox(),
		launches: semaphore.NewWeighted(int64(max(4, 2*runtime.NumCPU()))), looks: semaphore.NewWeighted(inspectAtOnce),
		workers: map[cloud.InstanceID]*worker{}, statuses: map[cloud.InstanceID]agentrpc.MachineStatus{},
	}
	a.vpcs = newVPCs(a)
	a.imports = newImports(a)
	if a.builds, err = newBuilds(ctx, a); err != nil {
		return nil, err
	}
	a.volumes = newVolumes(a)
	if a.node.VolumeGiB, err = a.volumes.recover(ctx); err != nil {
		return nil, fmt.Errorf("recover the volumes of this server: %w", err)
	}
	budget := cfg.TemplateMiB
	if budget < 0 {
		budget = node.MemoryMiB / templateShare
	}
	a.templates = newTemplates(a, budget<<20)
	known, err := a.knownMachines()
	if err != nil {
		return nil, err
	}
	for _, id := range known {
		rec, ok, err := a.readRecord(id)
		if err == nil && ok {
			err = a.ids.adopt(id, rec.IDBase)
		}
		if err != nil {
			a.log.Error("a machine's record can't be used; the machine will be removed unless it is wanted", "instance", id, "error", err)
		}
	}
	found, err := cfg.Driver.Recover(ctx)
	if err != nil {
		return nil, fmt.Errorf("recover the machines of this server: %w", err)
	}
	for _, st := range found {
		a.adopt(st)
	}
	return a, nil
}

// adopt notes what the driver found, so that the first hello tells it.
func (a *Agent) adopt(st machine.Status) {
	switch {
	case st.State == machine.Running:
		s := runningStatus(st)
		s.Instance = st.ID
		a.statuses[st.ID] = s
	case st.State == machine.Exited && !st.Exit.Requested && !st.Exit.Reboot:
		a.statuses[st.ID] = agentrpc.MachineStatus{Instance: st.ID, Boot: st.Boot, Phase: agentrpc.PhaseExited,
			At: st.Exit.At, ExitCode: st.Exit.Code, OOMKilled: st.Exit.OOMKilled, Engine: st.Engine}
	}
	a.log.Info("machine adopted", "instance", st.ID, "state", st.State, "boot", st.Boot)
}

// Run works until ctx ends. Machines go on.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	a.life = ctx
	defer func() {
		cancel()
		a.wg.Wait()
		a.vpcs.close()
		a.imports.wait()
	}()
	a.wg.Go(func() { a.forwardExits(ctx) })
	a.wg.Go(func() { a.logFlows(ctx) })
	a.wg.Go(func() { a.volumes.watchDaemons(ctx) })
	a.wg.Go(func() { a.volumes.watchIdle(ctx) })
	a.wg.Go(func() { a.templates.tend(ctx) })
	a.wg.Go(func() { a.imports.tend(ctx) })
	if a.cfg.VMs != nil {
		a.wg.Go(func() { a.tend(ctx) })
	}
	return a.stayConnected(ctx)
}

// forwardExits hands the driver's events to the machines' workers.
func (a *Agent) forwardExits(ctx context.Context) {
	for {
		select {
		case st, ok := <-a.cfg.Driver.Events():
			if !ok {
				return
			}
			a.mu.Lock()
			w := a.workers[st.ID]
			a.mu.Unlock()
			if w == nil {
				a.mu.Lock()
				a.adopt(st)
				a.mu.Unlock()
				continue
			}
			w.ended(st)
		case <-ctx.Done():
			return
		}
	}
}

func (a *Agent) newWorker(id cloud.InstanceID) *worker {
	return &worker{a: a, id: id, log: a.log.With("instance", id), wake: make(chan struct{}, 1),
		attached: map[cloud.InterfaceID]cloud.Interface{}, noVolumes: map[cloud.VolumeID]refusal{}}
}

// assign gives a machine's worker its newest wish, nil for none.
func (a *Agent) assign(ctx context.Context, id cloud.InstanceID, m *agentrpc.Machine) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.workers[id]
	if w == nil {
		w = a.newWorker(id)
		a.workers[id] = w
		w.set(m)
		a.wg.Go(func() { w.run(ctx) })
		return
	}
	w.set(m)
}

// dropWorker forgets a worker whose machine is gone, unless a new wish came meanwhile.
func (a *Agent) dropWorker(w *worker) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.desired != nil {
		return false
	}
	delete(a.workers, w.id)
	delete(a.statuses, w.id)
	return true
}

// remember keeps the last fact about a machine for the next hello.
func (a *Agent) remember(st agentrpc.MachineStatus) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.statuses[st.Instance] = st
}
