package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// limiter is a driver of which only the changes of limits are asked for. It refuses less than 256 MiB.
type limiter struct {
	machine.Driver
	given []int64 // MiB, in the order of the calls
}

func (l *limiter) Update(_ context.Context, _ cloud.InstanceID, r machine.Resources) error {
	l.given = append(l.given, r.Memory>>20)
	if r.Memory < 256<<20 {
		return errors.New("its processes hold 256 MiB")
	}
	return nil
}

func TestAMachineGetsTheSizeOfItsWishOnceAndSaysWhatWasRefused(t *testing.T) {
	l := &limiter{}
	w := &worker{a: &Agent{cfg: Config{Driver: l}}, id: "i-1", log: slog.New(slog.DiscardHandler), limits: machine.Resources{VCPUs: 2, Weight: 200, Memory: 1 << 30, PIDs: 2 * pidsPerVCPU}}
	// step gives a wish, and returns what a report of the running machine would say.
	step := func(sized int, memory int64) string {
		w.resize(t.Context(), &agentrpc.Machine{Instance: cloud.Instance{ID: "i-1", Type: "t3.micro", MemoryMiB: memory, Sized: sized}})
		if w.sizeFailed == sized {
			return w.sizeError
		}
		return ""
	}
	given := func(want ...int64) {
		t.Helper()
		if !slices.Equal(l.given, want) {
			t.Errorf("the driver was given %v MiB, not %v", l.given, want)
		}
	}
	step(0, 0)
	given()
	if e := step(1, 2048); e != "" {
		t.Error(e)
	}
	step(1, 2048)
	given(2048)
	for range 3 {
		if e := step(2, 128); e != "its processes hold 256 MiB" {
			t.Errorf("what was refused is told as %q", e)
		}
	}
	given(2048, 128)
	if e := step(2, 2048); e != "" { // the control plane takes the wish back
		t.Error(e)
	}
	given(2048, 128, 2048)
	if e := step(3, 128); e == "" { // and somebody has it again
		t.Error("a second try is not told of")
	}
	given(2048, 128, 2048, 128)
	if e := step(4, 128); e == "" {
		t.Error("a newer wish for the same is not tried")
	}
	given(2048, 128, 2048, 128, 128)
}
