// Package pulse is nacre's own health as Prometheus reads it: how long calls, reconciliations and the store take, and what waits to be done.
// Beside its own metrics, all called nacre_…, it shows those of the embedded etcd (etcd_…), of the Go runtime and of the process.
//
// It measures the cloud as a whole and never names an account, an instance or an address. Labels take their values from what
// nacre was built with, never from what a client sent, so that nobody outside can make series.
package pulse

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/nacre-cloud/nacre/internal/store"
)

// atOnce bounds the scrapes that are answered at a time; others get 503.
const atOnce = 4

// Pulse collects. It may be used by many at once.
type Pulse struct {
	registry   *prometheus.Registry
	calls      *prometheus.HistogramVec
	answers    *prometheus.CounterVec
	reconciles *prometheus.HistogramVec
}

// New returns a pulse of the cloud in s; connected tells how many nodes have a stream.
func New(s *store.Store, connected func() int) *Pulse {
	p := &Pulse{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "nacre_api_call_duration_seconds",
			Help:    "How long calls of the API took, from their first byte read to the answer written, by service and action.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}, []string{"service", "action"}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nacre_api_answers_total",
			Help: "Answers of the API by service, action and error code, OK for success."}, []string{"service", "action", "code"}),
		reconciles: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "nacre_reconcile_duration_seconds",
			Help:    "How long the control plane's reconciliations took, by their outcome.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18)}, []string{"outcome"}),
	}
	p.registry.MustRegister(p.calls, p.answers, p.reconciles, &present{store: s, connected: connected})
	return p
}

// Call notes a call that was answered. Service and action are "" where the call named none that nacre has; code is "" for success.
func (p *Pulse) Call(service, action, code string, took time.Duration) {
	if service == "" || action == "" {
		service, action = "unknown", "unknown"
	}
	if code == "" {
		code = "OK"
	}
	p.calls.WithLabelValues(service, action).Observe(took.Seconds())
	p.answers.WithLabelValues(service, action, code).Inc()
}

// Reconciled notes a reconciliation of the control plane that ended.
func (p *Pulse) Reconciled(took time.Duration, err error) {
	outcome := "done"
	if err != nil {
		outcome = "failed"
	}
	p.reconciles.WithLabelValues(outcome).Observe(took.Seconds())
}

// Handler answers scrapes, at whatever path.
func (p *Pulse) Handler() http.Handler {
	return promhttp.HandlerFor(prometheus.Gatherers{p.registry, prometheus.DefaultGatherer}, promhttp.HandlerOpts{MaxRequestsInFlight: atOnce})
}
