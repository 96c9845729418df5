//go:build chaos

package chaos

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// link is a proxy on one of the ways that a worker's bytes take.
type link struct {
	t testing.TB
	p *toxiproxy.Proxy
}

func newLink(t testing.TB, name, upstream string) *link {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	l := &link{t, toxiproxy.NewProxy(server, name, "127.0.0.1:0", upstream)}
	if err := l.p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.p.Stop)
	return l
}

func (l *link) addr() string { return l.p.Listen }

// toxic is what is done to a connection.
type toxic struct {
	name       string // of the fault in the table
	kind       string
	stream     string // "upstream" or "downstream"
	attributes map[string]any
	// pulses is how often it comes and goes, each time for as long; 0 lets it
	// stay until the jobs have ended.
	pulses int
	length time.Duration
}

func (l *link) poison(x toxic) {
	l.t.Helper()
	body, err := json.Marshal(map[string]any{"name": "toxic", "type": x.kind, "stream": x.stream, "toxicity": 1, "attributes": x.attributes})
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := l.p.Toxics.AddToxicJson(bytes.NewReader(body)); err != nil {
		l.t.Fatalf("toxic %s: %v", x.name, err)
	}
}

func (l *link) cure() {
	l.t.Helper()
	if err := l.p.Toxics.RemoveToxic(l.t.Context(), "toxic"); err != nil {
		l.t.Errorf("remove the toxic: %v", err)
	}
}

// toxics are the faults of a network. Data is limited to less than any answer
// of the providers, and to less than a mesh.
var toxics = []toxic{
	{name: "latency", kind: "latency", stream: "downstream", attributes: map[string]any{"latency": 150, "jitter": 100}},
	{name: "reset", kind: "reset_peer", stream: "downstream", attributes: map[string]any{"timeout": 0}, pulses: 4, length: 700 * time.Millisecond},
	{name: "silence", kind: "timeout", stream: "downstream", attributes: map[string]any{"timeout": 0}, pulses: 2, length: lease + lease/2},
	{name: "silence, then closed", kind: "timeout", stream: "upstream", attributes: map[string]any{"timeout": 400}, pulses: 3, length: time.Second},
	{name: "slow close", kind: "slow_close", stream: "downstream", attributes: map[string]any{"delay": 1500}},
	{name: "narrow", kind: "bandwidth", stream: "downstream", attributes: map[string]any{"rate": 20}}, // KB/s
	{name: "cut in mid-body", kind: "limit_data", stream: "downstream", attributes: map[string]any{"bytes": 450}, pulses: 4, length: 700 * time.Millisecond},
}

// networks puts every toxic on every way.
func networks(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"provider", "bucket", "broker", "broker of one worker"} {
		for _, x := range toxics {
			t.Run(way+"/"+x.name, func(t *testing.T) {
				t.Parallel()
				network(t, way, x)
			})
		}
	}
}

func network(t *testing.T, way string, x toxic) {
	// A provider that cannot fetch an image refuses the job, which would be right.
	w := newWorld(t, "network, "+way+": "+x.name, setup{labSync: 0.5, inline: way == "bucket"})
	var l *link
	switch way {
	case "provider":
		l = newLink(t, way, w.sim.Host())
		w.cfg.workerSim = l.addr()
	case "bucket":
		l = newLink(t, way, strings.TrimPrefix(w.store.Endpoint, "http://"))
		w.cfg.workerS3 = "http://" + l.addr()
	default:
		l = newLink(t, way, strings.TrimPrefix(w.cfg.broker.URL, "nats://"))
		w.cfg.workerNATS = "nats://" + l.addr()
	}
	first := w.start("first worker")
	w.untilStarted(first)
	if way == "broker of one worker" {
		w.cfg.workerNATS = ""
	}
	second := w.start("second worker")
	w.untilStarted(second)
	if x.pulses == 0 {
		l.poison(x)
	}
	w.enqueue(2, allFlows...)
	for range x.pulses {
		time.Sleep(300 * time.Millisecond)
		l.poison(x)
		w.enqueue(1, allFlows...) // to be bought meanwhile
		time.Sleep(x.length)
		l.cure()
	}
	w.settle(3 * time.Minute)
	w.stopAll()
	w.removeStreams()
}
