package reclaim

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

const mib = 1 << 20

func TestIdleMachinesLendWhatAServerLacksAndGetItAgain(t *testing.T) {
	for _, c := range []struct {
		name     string
		server   Server
		machines []Machine
		want     []Step
	}{
		{"enough for all", Server{Available: 900 * mib, Reserve: 500 * mib}, []Machine{{"a", 1024 * mib, 1024 * mib, 900 * mib}}, nil},
		{"the idle one lends, the busy one doesn't", Server{Available: 400 * mib, Reserve: 500 * mib},
			[]Machine{{"a", 1024 * mib, 1024 * mib, 100 * mib}, {"b", 1024 * mib, 1024 * mib, 900 * mib}}, []Step{{"b", 1024 * mib, 924 * mib}}},
		{"a quarter at a time", Server{Available: 0, Reserve: 500 * mib}, []Machine{{"a", 1024 * mib, 1024 * mib, 900 * mib}}, []Step{{"a", 1024 * mib, 768 * mib}}},
		{"an eighth stays available", Server{Available: 0, Reserve: 500 * mib}, []Machine{{"a", 1024 * mib, 1024 * mib, 200 * mib}}, []Step{{"a", 1024 * mib, 952 * mib}}},
		{"a quarter stays, whatever it says", Server{Available: 0, Reserve: 500 * mib}, []Machine{{"a", 1024 * mib, 300 * mib, 900 * mib}}, []Step{{"a", 300 * mib, 256 * mib}}},
		{"nobody knows what it needs", Server{Available: 0, Reserve: 500 * mib}, []Machine{{"a", 1024 * mib, 1024 * mib, -1}}, nil},
		{"it needs its own, also while the server is short", Server{Available: 100 * mib, Reserve: 500 * mib}, []Machine{{"a", 1024 * mib, 512 * mib, 30 * mib}},
			[]Step{{"a", 512 * mib, 768 * mib}}},
		{"what one needs another lends", Server{Available: 500 * mib, Reserve: 500 * mib},
			[]Machine{{"a", 1024 * mib, 512 * mib, 30 * mib}, {"b", 1024 * mib, 1024 * mib, 900 * mib}}, []Step{{"a", 512 * mib, 768 * mib}, {"b", 1024 * mib, 768 * mib}}},
		{"neither short nor calm", Server{Available: 600 * mib, Reserve: 500 * mib}, []Machine{{"a", 1024 * mib, 512 * mib, 200 * mib}}, nil},
		{"calm again", Server{Available: 2000 * mib, Reserve: 500 * mib}, []Machine{{"a", 1024 * mib, 512 * mib, 200 * mib}}, []Step{{"a", 512 * mib, 768 * mib}}},
		{"calm again, and a guest that says nothing", Server{Available: 2000 * mib, Reserve: 500 * mib}, []Machine{{"a", 1024 * mib, 1000 * mib, -1}}, []Step{{"a", 1000 * mib, 1024 * mib}}},
		{"processes wait for memory", Server{Available: 900 * mib, Reserve: 500 * mib, Stalled: 30}, []Machine{{"a", 1024 * mib, 1024 * mib, 900 * mib}}, []Step{{"a", 1024 * mib, 924 * mib}}},
		{"reclaim is off", Server{Available: 1 * mib}, []Machine{{"a", 1024 * mib, 1024 * mib, 900 * mib}}, nil},
	} {
		if got := Plan(c.server, c.machines); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, not %v", c.name, got, c.want)
		}
	}
}

// chance draws a server and its machines.
func chance(r *rand.Rand) (Server, []Machine) {
	s := Server{Available: r.Int64N(8192 * mib), Reserve: r.Int64N(4096 * mib), Stalled: 40 * r.Float64()}
	var machines []Machine
	for n := range r.IntN(6) {
		m := Machine{ID: cloud.InstanceID(fmt.Sprint("i-", n)), First: (64 + r.Int64N(4096)) * mib}
		m.Held = m.First - r.Int64N(m.First*3/4)
		m.Available = r.Int64N(m.Held+2) - 1
		machines = append(machines, m)
	}
	return s, machines
}

func TestNoPlanTakesWhatAGuestNeedsOrMoreThanTheServerLacks(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		s, machines := chance(r)
		steps := Plan(s, machines)
		byID := map[cloud.InstanceID]Machine{}
		for _, m := range machines {
			byID[m.ID] = m
		}
		var lent int64
		short := s.Reserve - s.Available
		if s.Stalled >= stalls {
			short = 2*s.Reserve - s.Available
		}
		for _, x := range steps {
			m := byID[x.ID]
			delete(byID, x.ID) // one a machine
			if m.ID == "" || x.From != m.Held || x.To == x.From || x.To > m.First {
				t.Fatalf("%+v, %+v: the step %+v", s, m, x)
			}
			if x.To > x.From {
				short += x.To - x.From
				continue
			}
			lent += x.From - x.To
			if m.Available < 0 || m.Available-(x.From-x.To) < keep(m) || x.To < m.First/floorShare {
				t.Fatalf("%+v, %+v: the step %+v takes what it needs", s, m, x)
			}
		}
		if lent > 0 && lent > short {
			t.Fatalf("%+v, %v: %d bytes are lent, %d are short: %v", s, machines, lent, short, steps)
		}
	}
}

// settle carries plans out, on guests that use as much as they did, until there is nothing more to do.
func settle(t *testing.T, s Server, machines []Machine) (Server, []Machine) {
	t.Helper()
	for range 200 {
		steps := Plan(s, machines)
		if len(steps) == 0 {
			return s, machines
		}
		for _, x := range steps {
			for k := range machines {
				if m := &machines[k]; m.ID == x.ID {
					s.Available += m.Held - x.To
					if m.Available >= 0 {
						m.Available = max(0, m.Available+x.To-m.Held)
					}
					m.Held = x.To
				}
			}
		}
	}
	t.Fatalf("plans go on and on: %+v, %v", s, machines)
	return s, nil
}

func TestPlansComeToAnEndAndPressureThatEndsGivesEverythingBack(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 5000 {
		s, machines := chance(r)
		s, machines = settle(t, s, machines)
		s.Available, s.Stalled = 1<<50, 0
		_, machines = settle(t, s, machines)
		for _, m := range machines {
			if m.Held != m.First {
				t.Fatalf("%+v was not given back what it lent", m)
			}
		}
	}
}
