package build

import (
	"sync"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// keptOutput is how much of a step's output is kept: its end.
const keptOutput = 256 << 10

// Log is what a build has done so far. It is safe for concurrent use.
type Log struct {
	mu      sync.Mutex
	steps   []cloud.BuildStep
	started []time.Time
	outputs []output
}

// output is the end of what a step wrote.
type output struct {
	b    []byte
	past int64 // bytes before b that are not kept
}

// plan adds steps that are to come, and returns the number of the first.
func (l *Log) plan(steps ...cloud.BuildStep) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := len(l.steps)
	for _, s := range steps {
		s.State = cloud.BuildWaiting
		l.steps = append(l.steps, s)
		l.started, l.outputs = append(l.started, time.Time{}), append(l.outputs, output{})
	}
	return first
}

func (l *Log) begin(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.steps[n].State, l.started[n] = cloud.BuildRunning, time.Now()
}

func (l *Log) end(n int, state cloud.BuildStepState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.steps[n].State = state
	if !l.started[n].IsZero() {
		l.steps[n].Millis = time.Since(l.started[n]).Milliseconds()
	}
}

// count is how many steps are over, and how many there are.
func (l *Log) count() (done, all int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.steps {
		if s.State == cloud.BuildDone || s.State == cloud.BuildCached {
			done++
		}
	}
	return done, int64(len(l.steps))
}

// stepOutput is a step's output as a writer.
type stepOutput struct {
	l *Log
	n int
}

func (o stepOutput) Write(b []byte) (int, error) {
	o.l.mu.Lock()
	defer o.l.mu.Unlock()
	out := &o.l.outputs[o.n]
	out.b = append(out.b, b...)
	if over := len(out.b) - keptOutput; over > keptOutput/4 {
		out.b, out.past = append([]byte(nil), out.b[over:]...), out.past+int64(over)
	}
	return len(b), nil
}

// Read returns all steps, and what step wrote from offset on, most bytes at most, with the offset to go on from. Output that isn't kept is
// passed over. A step that isn't there has none.
func (l *Log) Read(step int, offset int64, most int) (steps []cloud.BuildStep, out []byte, next int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	steps = append(steps, l.steps...)
	for n, s := range steps {
		if s.State == cloud.BuildRunning {
			steps[n].Millis = time.Since(l.started[n]).Milliseconds()
		}
	}
	if step < 0 || step >= len(l.outputs) {
		return steps, nil, 0
	}
	o := l.outputs[step]
	from := min(max(offset-o.past, 0), int64(len(o.b)))
	out = append([]byte(nil), o.b[from:]...)
	out = out[:min(len(out), most)]
	return steps, out, o.past + from + int64(len(out))
}
