package pulse

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

var (
	instances = prometheus.NewDesc("nacre_instances", "Instances by state and isolation.", []string{"state", "isolation"}, nil)
	unplaced  = prometheus.NewDesc("nacre_instances_unplaced", "Instances that wait for a node: the scheduler's queue.", nil, nil)
	volumes   = prometheus.NewDesc("nacre_volumes", "Volumes by state.", []string{"state"}, nil)
	imports   = prometheus.NewDesc("nacre_imports_active", "Imports of images that wait or are under way.", nil, nil)
	nodes     = prometheus.NewDesc("nacre_nodes", "Nodes that the cloud knows.", nil, nil)
	connected = prometheus.NewDesc("nacre_nodes_connected", "Nodes that have a stream to the control plane.", nil, nil)

	commits    = prometheus.NewDesc("nacre_store_commits_total", "Transactions of this process that were committed.", nil, nil)
	commitTime = prometheus.NewDesc("nacre_store_commit_seconds_total", "Time that those commits took together, until they were durable.", nil, nil)
	lostRaces  = prometheus.NewDesc("nacre_store_lost_races_total", "Transactions that ran again because another had changed what they read.", nil, nil)
)

// present tells what there is at the time of a scrape, from one view of the store.
type present struct {
	store     *store.Store
	connected func() int
}

// Describe implements prometheus.Collector.
func (p *present) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{instances, unplaced, volumes, imports, nodes, connected, commits, commitTime, lostRaces} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (p *present) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	view := p.store.View()
	type kind struct {
		state     cloud.InstanceState
		isolation cloud.Isolation
	}
	byKind, waiting := map[kind]int{}, 0
	for _, i := range store.List(view, store.Instances) {
		byKind[kind{i.State, i.Isolation}]++
		if i.State == cloud.StatePending && i.Node == "" {
			waiting++
		}
	}
	for k, n := range byKind {
		gauge(instances, n, string(k.state), string(k.isolation))
	}
	gauge(unplaced, waiting)
	byState := map[cloud.VolumeState]int{}
	for _, v := range store.List(view, store.Volumes) {
		byState[v.State]++
	}
	for state, n := range byState {
		gauge(volumes, n, string(state))
	}
	gauge(imports, len(store.ListBy(view, store.ImportTasksByState, cloud.ImportActive)))
	gauge(nodes, len(store.List(view, store.Nodes)))
	gauge(connected, p.connected())
	counter := func(d *prometheus.Desc, x float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, x)
	}
	stats := p.store.Stats()
	counter(commits, float64(stats.Commits))
	counter(commitTime, stats.CommitTime.Seconds())
	counter(lostRaces, float64(stats.LostRaces))
}
