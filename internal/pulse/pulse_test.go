package pulse_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/pulse"
	"github.com/nacre-cloud/nacre/internal/store"
)

func scrape(t *testing.T, p *pulse.Pulse) string {
	t.Helper()
	w := httptest.NewRecorder()
	p.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestAScrapeTellsWhatThereIsAndWhatWaits(t *testing.T) {
	s := store.OpenMemory()
	t.Cleanup(func() { s.Close() })
	err := s.Update(context.Background(), func(tx *store.Tx) error {
		store.Put(tx, store.Nodes, &cloud.Node{ID: "node-1"})
		store.Put(tx, store.Instances, &cloud.Instance{ID: "i-00000000000000001", State: cloud.StatePending, Isolation: cloud.IsolationVM})
		store.Put(tx, store.Instances, &cloud.Instance{ID: "i-00000000000000002", State: cloud.StateRunning, Isolation: cloud.IsolationContainer, Node: "node-1"})
		store.Put(tx, store.Instances, &cloud.Instance{ID: "i-00000000000000003", State: cloud.StateRunning, Isolation: cloud.IsolationContainer, Node: "node-1"})
		store.Put(tx, store.Volumes, &cloud.Volume{ID: "vol-00000000000000001", State: cloud.VolumeAvailable})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got := scrape(t, pulse.New(s, func() int { return 1 }))
	for _, line := range []string{
		`nacre_instances{isolation="container",state="running"} 2`,
		`nacre_instances{isolation="vm",state="pending"} 1`,
		`nacre_instances_unplaced 1`,
		`nacre_volumes{state="available"} 1`,
		`nacre_imports_active 0`,
		`nacre_nodes 1`,
		`nacre_nodes_connected 1`,
		`nacre_store_commits_total 1`,
		`nacre_store_lost_races_total 0`,
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("the scrape lacks %s", line)
		}
	}
	if strings.Contains(got, "i-0000") {
		t.Error("the scrape names an instance")
	}
}

func TestCallsAndReconciliationsAreCounted(t *testing.T) {
	s := store.OpenMemory()
	t.Cleanup(func() { s.Close() })
	p := pulse.New(s, func() int { return 0 })
	p.Call("ec2", "RunInstances", "", time.Millisecond)
	p.Call("ec2", "RunInstances", "InvalidAMIID.NotFound", time.Millisecond)
	p.Call("", "", "InvalidAction", time.Millisecond)
	p.Reconciled(time.Millisecond, nil)
	p.Reconciled(time.Millisecond, errors.New("the store is full"))
	got := scrape(t, p)
	for _, line := range []string{
		`nacre_api_call_duration_seconds_count{action="RunInstances",service="ec2"} 2`,
		`nacre_api_answers_total{action="RunInstances",code="OK",service="ec2"} 1`,
		`nacre_api_answers_total{action="RunInstances",code="InvalidAMIID.NotFound",service="ec2"} 1`,
		`nacre_api_answers_total{action="unknown",code="InvalidAction",service="unknown"} 1`,
		`nacre_reconcile_duration_seconds_count{outcome="done"} 1`,
		`nacre_reconcile_duration_seconds_count{outcome="failed"} 1`,
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("the scrape lacks %s", line)
		}
	}
}
