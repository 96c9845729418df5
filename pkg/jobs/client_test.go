package jobs_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/internal/topology"
	"github.com/meshmill/meshmill/pkg/jobs"
)

func TestNewClient(t *testing.T) {
	t.Parallel()
	if _, err := jobs.NewClient(nil, jobs.ClientConfig{}); err == nil {
		t.Error("a client without a connection")
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	if err := b.client.Check(t.Context()); err != nil {
		t.Errorf("all is there: %v", err)
	}
	names, err := jobs.NewNames("team-a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := jobs.NewClient(b.nc, jobs.ClientConfig{Names: names})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(c *jobs.Client, want ...string) {
		t.Helper()
		err := c.Check(t.Context())
		if err == nil {
			t.Errorf("no error, want %q", want)
			return
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("err = %q, want it to name %q", err, w)
			}
		}
	}
	expect(other, "stream TEAM-A_JOBS", "stream TEAM-A_EVENTS", "stream TEAM-A_DEAD", "bucket team-a_state", "bucket team-a_fleet", "start a worker")
	if err := topology.Ensure(t.Context(), b.js, names, topology.Options{Memory: true}); err != nil {
		t.Fatal(err)
	}
	if err := other.Check(t.Context()); err != nil {
		t.Error(err)
	}

	if err := b.js.DeleteKeyValue(t.Context(), b.names.StateBucket()); err != nil {
		t.Fatal(err)
	}
	expect(b.client, "has no bucket meshmill_state")
	cfg := b.stream(b.names.JobsStream()).CachedInfo().Config
	cfg.DiscardNewPerSubject, cfg.AllowDirect = false, false
	if _, err := b.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	expect(b.client, "stream MESHMILL_JOBS needs allow_direct", "discard_new_per_subject")

	b.server.Shutdown()
	b.client.SetPatience(time.Second, 100*time.Millisecond)
	expect(b.client, "does not answer")
}

// Another prefix is another Meshmill: nothing of the one is seen by the other.
func TestPrefixes(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	names, err := jobs.NewNames("other")
	if err != nil {
		t.Fatal(err)
	}
	if err := topology.Ensure(t.Context(), b.js, names, topology.Options{Memory: true}); err != nil {
		t.Fatal(err)
	}
	other, err := jobs.NewClient(b.nc, jobs.ClientConfig{Names: names})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := other.Enqueue(t.Context(), jobs.Item{Request: request("a")}); err != nil || r.Outcome != jobs.Enqueued {
		t.Fatal(r, err)
	}
	if got := collect(t, other.List(t.Context(), jobs.Filter{})); len(got) != 1 {
		t.Errorf("jobs of the prefix: %v", got)
	}
	if got := collect(t, b.client.List(t.Context(), jobs.Filter{})); len(got) != 0 {
		t.Errorf("jobs of the default prefix: %v", got)
	}
}

func TestCheckWithoutJetStream(t *testing.T) {
	t.Parallel()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server did not start")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c, err := jobs.NewClient(nc, jobs.ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "JetStream turned off") {
		t.Errorf("Check: %v", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	names, err := jobs.NewNames("")
	if err != nil {
		t.Fatal(err)
	}
	if err := topology.Ensure(t.Context(), js, names, topology.Options{}); err == nil || !strings.Contains(err.Error(), "JetStream turned off") {
		t.Errorf("Ensure: %v", err)
	}
	if _, err := c.Enqueue(t.Context(), jobs.Item{Request: request("a")}); err == nil || !strings.Contains(err.Error(), "JetStream turned off") {
		t.Errorf("Enqueue: %v", err)
	}
}
