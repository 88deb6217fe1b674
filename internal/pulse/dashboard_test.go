package pulse_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/pulse"
	"github.com/nacre-cloud/nacre/internal/store"
)

func TestTheDashboardAsksOnlyForMetricsThatThereAreAndForAllOfNacres(t *testing.T) {
	b, err := os.ReadFile("../../contrib/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	s := store.OpenMemory()
	t.Cleanup(func() { s.Close() })
	err = s.Update(t.Context(), func(tx *store.Tx) error {
		store.Put(tx, store.Instances, &cloud.Instance{ID: "i-00000000000000001", State: cloud.StateRunning, Isolation: cloud.IsolationVM})
		store.Put(tx, store.Volumes, &cloud.Volume{ID: "vol-00000000000000001", State: cloud.VolumeInUse})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	p := pulse.New(s, func() int { return 0 })
	p.Call("ec2", "RunInstances", "", time.Millisecond)
	p.Reconciled(time.Millisecond, nil)
	got := scrape(t, p)
	name := regexp.MustCompile(`\b(nacre|process)_[a-z_]+`)
	asked := map[string]bool{}
	for _, panel := range doc.Panels {
		for _, target := range panel.Targets {
			for _, n := range name.FindAllString(target.Expr, -1) {
				asked[n] = true
				if !strings.Contains(got, "\n"+n+"{") && !strings.Contains(got, "\n"+n+" ") {
					t.Errorf("the dashboard asks for %s, which no scrape has", n)
				}
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (nacre_[a-z_]+) `).FindAllStringSubmatch(got, -1) {
		if !asked[m[1]] && !asked[m[1]+"_bucket"] && !asked[m[1]+"_count"] {
			t.Errorf("no panel of the dashboard shows %s", m[1])
		}
	}
}
