package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// worker brings one machine to its desired state. It is level-triggered: it acts on the
// newest wish only, and does the whole comparison again after every wake-up.
type worker struct {
	a   *Agent
	id  cloud.InstanceID
	log *slog.Logger

	mu      sync.Mutex
	desired *agentrpc.Machine // nil: nobody wants the machine
	exited  *machine.Status   // an end that the driver told of and that was not handled yet
	stalled string            // why the running machine does not go on
	wake    chan struct{}

	// Only the worker's goroutine touches what follows.
	attached   map[cloud.InterfaceID]cloud.Interface // what the network was last told
	sshStop    func()                                // ends the SSH listener, nil when there is none
	failed     int                                   // the boot whose start failed, for not trying it again
	limits     machine.Resources                     // what the running machine was last given, zero when that isn't known
	refused    machine.Resources                     // what the driver refused to give it, and why
	sizeError  string
	sizeFailed int                        // the number of the wish for it
	noVolumes  map[cloud.VolumeID]refusal // that were not attached
	backoff    time.Duration
}

const (
	stopGrace  = 30 * time.Second // from the stop signal to the kill, as long as EC2's guests get at least
	diskGrace  = time.Minute      // the same from the power button, for systems that nobody here has made
	retryFirst = 200 * time.Millisecond
	retryLast  = 30 * time.Second
	resync     = time.Minute
)

func (w *worker) set(m *agentrpc.Machine) {
	w.mu.Lock()
	w.desired = m
	w.mu.Unlock()
	w.kick()
}

func (w *worker) ended(st machine.Status) {
	w.mu.Lock()
	w.exited = &st
	w.mu.Unlock()
	w.kick()
}

func (w *worker) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run works until the machine is gone or ctx ends; the machine itself goes on in the second case.
func (w *worker) run(ctx context.Context) {
	defer w.closeSSH()
	timer := time.NewTimer(resync)
	defer timer.Stop()
	for {
		gone, err := w.step(ctx)
		if ctx.Err() != nil {
			return
		}
		next := resync
		switch {
		case err != nil:
			w.backoff = min(max(2*w.backoff, retryFirst), retryLast)
			next = w.backoff
			w.log.Error("machine did not reach its desired state, trying again", "error", err, "in", next)
		case gone && w.a.dropWorker(w):
			return
		default:
			w.backoff = 0
		}
		timer.Reset(next)
		select {
		case <-w.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// step does what the newest wish asks for. gone says that nothing of the machine is left and
// nobody wants it.
func (w *worker) step(ctx context.Context) (gone bool, err error) {
	w.mu.Lock()
	d, exited := w.desired, w.exited
	w.exited = nil
	w.mu.Unlock()

	switch {
	case d == nil || d.Instance.Desired == cloud.DesiredTerminated:
		ended := w.endedAt(ctx)
		if err := errors.Join(w.thaw(ctx), w.remove(ctx)); err != nil {
			return false, err
		}
		if d != nil {
			w.report(agentrpc.MachineStatus{Boot: d.Instance.Boot, Phase: agentrpc.PhaseGone, At: ended})
		}
		return d == nil, nil
	case d.Instance.Desired == cloud.DesiredStopped:
		grace := graceOf(d)
		if d.Instance.ForceStop {
			grace = 0
		}
		if err := w.thaw(ctx); err != nil {
			return false, err
		}
		stopped := agentrpc.MachineStatus{Boot: d.Instance.Boot, Phase: agentrpc.PhaseStopped}
		if d.Instance.Hibernate && !d.Instance.ForceStop {
			stopped.Error = w.hibernate(ctx, d)
			stopped.Hibernated = stopped.Error == ""
		}
		if err := w.stop(ctx, grace); err != nil {
			return false, err
		}
		stopped.At = w.endedAt(ctx)
		w.report(stopped)
		return false, w.capture(ctx, d, nil)
	default:
		return false, w.ensureRunning(ctx, d, exited)
	}
}

// endedAt is when the machine stopped, zero when it hasn't or isn't known: what it is paid for ends there.
func (w *worker) endedAt(ctx context.Context) time.Time {
	st, err := w.a.cfg.Driver.Status(ctx, w.id)
	if err != nil || st.State != machine.Exited {
		return time.Time{}
	}
	return st.Exit.At
}

// graceOf is how long a machine may take to shut down.
func graceOf(d *agentrpc.Machine) time.Duration {
	if d.Instance.Hardware.Content == cloud.ContentDisk {
		return diskGrace
	}
	return stopGrace
}

func (w *worker) ensureRunning(ctx context.Context, d *agentrpc.Machine, exited *machine.Status) error {
	boot := d.Instance.Boot
	st, err := w.a.cfg.Driver.Status(ctx, w.id)
	absent := errors.Is(err, machine.ErrNotFound)
	if err != nil && !absent {
		return err
	}
	if exited != nil && (absent || st.State == machine.Exited) {
		st, absent = *exited, false
	}
	switch {
	case !absent && st.State == machine.Running && st.Boot >= boot:
		if err := errors.Join(w.capture(ctx, d, &st), w.thaw(ctx)); err != nil {
			return err
		}
		// What one of them can't do keeps nobody from the others: a guest may hold on to a device for long.
		unwired := w.updateNetwork(ctx, d)
		have, problems, err := w.updateVolumes(ctx, d, st)
		if err != nil {
			return errors.Join(unwired, err)
		}
		w.resize(ctx, d)
		w.openSSH(ctx, d)
		if unwired != nil {
			return unwired
		}
		w.reportRunning(d, st, have, problems)
		for id := range problems {
			if no, told := w.noVolumes[id]; !told || no.wiring != d.Instance.Wiring {
				return fmt.Errorf("machine %s: volume %s is not as it should be: %s", w.id, id, problems[id])
			}
		}
		return nil
	case !absent && st.State == machine.Running: // an older boot: reboot
		if err := w.thaw(ctx); err != nil {
			return err
		}
		if err := w.a.cfg.Driver.Stop(ctx, w.id, graceOf(d)); err != nil {
			return err
		}
	case !absent && st.Boot >= boot && !st.Exit.Reboot && !st.Exit.Requested:
		// It ended by itself. What follows, stop or terminate, is the control plane's to say.
		w.report(agentrpc.MachineStatus{Boot: st.Boot, Phase: agentrpc.PhaseExited, At: st.Exit.At,
			ExitCode: st.Exit.Code, OOMKilled: st.Exit.OOMKilled, Engine: st.Engine})
		return nil
	}
	if err := w.capture(ctx, d, nil); err != nil { // while it is at rest
		return err
	}
	if w.failed == boot && boot > 0 {
		return nil // told already; a new start has a new boot number
	}
	st, err = w.start(ctx, d)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		w.log.Error("machine did not start", "boot", boot, "error", err)
		if err := w.stop(ctx, 0); err != nil {
			return err
		}
		w.failed = boot
		w.report(agentrpc.MachineStatus{Boot: boot, Phase: agentrpc.PhaseFailed, Error: err.Error()})
		return nil
	}
	if w.limits, err = resourcesOf(&d.Instance); err != nil {
		return err
	}
	w.sizeError = ""
	w.mu.Lock()
	w.stalled = "" // the last boot may have
	w.mu.Unlock()
	var have []cloud.VolumeID
	if d.Root != nil {
		have = append(have, d.Root.ID)
	}
	for _, v := range d.Volumes {
		have = append(have, v.Volume)
	}
	w.reportRunning(d, st, have, nil)
	w.openSSH(ctx, d)
	return nil
}

// resize gives a running machine the limits of its wish. What the driver refuses is told, and not tried again for the same
// wish: the control plane then wishes for the earlier size.
func (w *worker) resize(ctx context.Context, d *agentrpc.Machine) {
	want, err := resourcesOf(&d.Instance)
	if err == nil {
		told := w.sizeError != "" && w.sizeFailed == d.Instance.Sized && w.refused == want
		if want == w.limits || told {
			return
		}
		err = w.a.cfg.Driver.Update(ctx, w.id, want)
	}
	if err == nil {
		w.limits, w.sizeError = want, ""
		return
	}
	w.limits = machine.Resources{} // a part of it may have been done
	if ctx.Err() == nil {
		w.log.Warn("the machine's size was not changed", "error", err)
		w.refused, w.sizeError, w.sizeFailed = want, err.Error(), d.Instance.Sized
	}
}

// reportRunning tells that a machine runs with the interfaces of a wish, and no others, and which volumes it has of that wish and why not the others.
func (w *worker) reportRunning(d *agentrpc.Machine, st machine.Status, have []cloud.VolumeID, problems map[cloud.VolumeID]string) {
	status := runningStatus(st)
	status.Volumes, status.VolumeErrors = have, problems
	status.Wiring, status.Sized = d.Instance.Wiring, d.Instance.Sized
	if w.sizeFailed == status.Sized {
		status.SizeError = w.sizeError
	}
	w.mu.Lock()
	status.Stalled = w.stalled
	w.mu.Unlock()
	w.report(status)
}

func runningStatus(st machine.Status) agentrpc.MachineStatus {
	return agentrpc.MachineStatus{Boot: st.Boot, Phase: agentrpc.PhaseRunning, At: st.Started, Engine: st.Engine, Launch: st.Launch}
}

func (w *worker) report(st agentrpc.MachineStatus) {
	st.Instance = w.id
	if st.At.IsZero() {
		st.At = w.a.cfg.Now()
	}
	w.a.remember(st)
	w.a.out.put("machine/"+string(w.id), &agentrpc.FromAgent{Machine: &st})
}

// updateNetwork tells the network what changed on a running machine's interfaces.
func (w *worker) updateNetwork(ctx context.Context, d *agentrpc.Machine) error {
	rec, ok, err := w.a.readRecord(w.id)
	if err != nil || !ok {
		return fmt.Errorf("machine %s runs and has no record: %w", w.id, err)
	}
	if err := w.a.recordInterfaces(&rec, d.Interfaces); err != nil {
		return err
	}
	if err := w.unplugLeft(ctx, d, &rec); err != nil {
		return err
	}
	var problems []error
	for _, i := range d.Interfaces {
		if old, ok := w.attached[i.ID]; ok && reflect.DeepEqual(old, i) {
			continue
		}
		if err := w.a.vpcs.settled(ctx, i.VPC); err != nil {
			return err
		}
		if _, err := w.a.cfg.Network.Attach(ctx, networkInterface(w.id, i, rec.IDBase, isVM(d))); err != nil {
			return fmt.Errorf("attach %s to %s: %w", i.ID, w.id, err)
		}
		if isVM(d) && w.a.cfg.VMs != nil {
			if err := w.a.cfg.VMs.AttachNIC(ctx, w.id, w.nic(d, i)); err != nil {
				problems = append(problems, err)
				continue
			}
		}
		w.attached[i.ID] = i
	}
	return errors.Join(problems...)
}

// unplugLeft takes away the interfaces that a machine has and its wish doesn't.
func (w *worker) unplugLeft(ctx context.Context, d *agentrpc.Machine, rec *record) error {
	left := slices.DeleteFunc(slices.Clone(rec.Interfaces), func(id cloud.InterfaceID) bool {
		return slices.ContainsFunc(d.Interfaces, func(i cloud.Interface) bool { return i.ID == id })
	})
	if len(left) == 0 {
		return nil
	}
	if err := w.a.vpcs.allSettled(ctx); err != nil {
		return err
	}
	for _, id := range left {
		if isVM(d) && w.a.cfg.VMs != nil {
			if err := w.a.cfg.VMs.DetachNIC(ctx, w.id, id); err != nil {
				return err
			}
		}
		if err := w.a.cfg.Network.Detach(ctx, w.id, id); err != nil {
			return fmt.Errorf("machine %s: detach %s: %w", w.id, id, err)
		}
		delete(w.attached, id)
		rec.Interfaces = slices.DeleteFunc(rec.Interfaces, func(x cloud.InterfaceID) bool { return x == id })
	}
	return w.a.writeRecord(*rec)
}
