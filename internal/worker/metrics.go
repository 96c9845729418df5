package worker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/meshmill/meshmill/internal/broker"
	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// metrics is the engine's observer, and the registry that is scraped.
type metrics struct {
	registry *prometheus.Registry
	held     *prometheus.GaugeVec
	calls    *prometheus.CounterVec
	polls    *prometheus.CounterVec
	ended    *prometheus.CounterVec
	took     *prometheus.HistogramVec
	stored   *prometheus.CounterVec
}

var _ engine.Observer = (*metrics)(nil)

func newMetrics(fleet *broker.Fleet, providers []jobs.Provider) *metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "meshmill", Name: name, Help: help}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "meshmill", Name: name, Help: help}, labels)
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		held:     gauge("jobs_held", "Jobs that this worker holds.", "provider"),
		calls:    counter("paid_calls_total", "Paid calls by their outcome: ok, retryable, permanent or unknown.", "provider", "stage", "outcome"),
		polls:    counter("polls_total", "Polls of provider sessions; result is ok or error.", "provider", "result"),
		ended:    counter("jobs_ended_total", "Jobs that this worker brought to an end, or parked, by state.", "provider", "state"),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "meshmill", Name: "job_seconds", Help: "Time from purchase to the end of a job.",
			Buckets: prometheus.ExponentialBuckets(5, 2, 12), // 5 s to 2.8 h
		}, []string{"provider", "state"}),
		stored: counter("stored_bytes_total", "Bytes of result files that were stored.", "provider"),
	}
	m.registry.MustRegister(m.held, m.calls, m.polls, m.ended, m.took, m.stored,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, p := range providers {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "meshmill", Name: "jobs_waiting", ConstLabels: prometheus.Labels{"provider": p.Name()},
			Help: "Jobs that this worker holds and that wait for a slot.",
		}, func() float64 { return float64(fleet.Waiting(p.Name())) }))
		m.held.WithLabelValues(p.Name())
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "meshmill", Name: "provider_paused", ConstLabels: prometheus.Labels{"provider": p.Name()},
			Help: "1 while purchases from the provider are paused for the whole fleet.",
		}, func() float64 {
			if until, _ := fleet.Paused(p.Name()); time.Now().Before(until) {
				return 1
			}
			return 0
		}))
	}
	return m
}

func (m *metrics) Held(provider string, delta int) {
	m.held.WithLabelValues(provider).Add(float64(delta))
}

func (m *metrics) Bought(provider, stage, outcome string) {
	m.calls.WithLabelValues(provider, stage, outcome).Inc()
}

func (m *metrics) Polled(provider string, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.polls.WithLabelValues(provider, result).Inc()
}

func (m *metrics) Ended(provider string, state jobs.State, took time.Duration) {
	m.ended.WithLabelValues(provider, string(state)).Inc()
	if took > 0 {
		m.took.WithLabelValues(provider, string(state)).Observe(took.Seconds())
	}
}

func (m *metrics) Stored(provider string, bytes int64) {
	m.stored.WithLabelValues(provider).Add(float64(bytes))
}
