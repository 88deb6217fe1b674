package accel

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// look is the time between looks for a kernel.
const look = 5 * time.Second

// Judge keeps a node's verdict up to date: it proves as soon as there is a kernel, and again when there is another one after a
// failure.
type Judge struct {
	cfg     Config
	kernel  func() (kernel, ramdisk string)
	changed func(Verdict)
	log     *slog.Logger

	first Verdict

	mu      sync.Mutex
	verdict Verdict
}

// NewJudge begins with what is known without booting anything. kernel gives the paths of what can be booted, "" while there is
// nothing. changed is told every other verdict, by one goroutine at a time.
func NewJudge(ctx context.Context, cfg Config, kernel func() (kernel, ramdisk string), changed func(Verdict), log *slog.Logger) (*Judge, error) {
	v, err := Prove(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &Judge{cfg: cfg, kernel: kernel, changed: changed, log: log, first: v, verdict: v}, nil
}

// First is the verdict that it began with.
func (j *Judge) First() Verdict { return j.first }

// Run looks until ctx ends.
func (j *Judge) Run(ctx context.Context) {
	for {
		if _, err := j.Verdict(ctx); err != nil && ctx.Err() == nil {
			j.log.Error("KVM can't be tried", "error", err)
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return
		}
	}
}

// Verdict is the newest one. It takes as long as a proof when there is something new to prove.
func (j *Judge) Verdict(ctx context.Context) (Verdict, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	cfg := j.cfg
	cfg.Kernel, cfg.Initrd = j.kernel()
	if cfg.Kernel == "" || j.verdict.settled(cfg) {
		return j.verdict, nil
	}
	v, err := Prove(ctx, cfg)
	if err != nil {
		return j.verdict, err
	}
	old := j.verdict
	j.verdict = v
	if old.Accelerator != v.Accelerator || old.Reason != v.Reason {
		j.log.Info("how virtual machines are executed", "accelerator", v.Accelerator, "reason", v.Reason)
		j.changed(v)
	}
	return v, nil
}

// Require waits for a proof that goes on, and tells what a machine of an architecture is executed by.
func (j *Judge) Require(ctx context.Context, architecture string) (string, error) {
	if architecture != native {
		return TCG, nil
	}
	v, err := j.Verdict(ctx)
	if err != nil {
		return "", err
	}
	return v.Require(architecture)
}
