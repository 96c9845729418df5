package topology_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/internal/topology"
	"github.com/meshmill/meshmill/pkg/jobs"
)

func connect(t *testing.T, o *server.Options, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	o.DontListen, o.NoLog, o.NoSigs, o.StoreDir = true, true, true, t.TempDir()
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server did not start")
	}
	return dial(t, s, opts...)
}

func dial(t *testing.T, s *server.Server, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect("", append(opts, nats.InProcessServer(s))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func names(t *testing.T) jobs.Names {
	t.Helper()
	n, err := jobs.NewNames("")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func config(t *testing.T, js jetstream.JetStream, stream string) jetstream.StreamConfig {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatalf("stream %s: %v", stream, err)
	}
	return s.CachedInfo().Config
}

func TestEnsureCreates(t *testing.T) {
	t.Parallel()
	js, n := connect(t, &server.Options{JetStream: true}), names(t)
	o := topology.Options{Providers: []string{"csm", "modelslab"}, Lease: 45 * time.Second, MaxJobs: 1000, MaxJobBytes: 1 << 20, Warn: func(m string) { t.Error(m) }}
	for range 2 { // the second time finds it all, and it is right
		if err := topology.Ensure(t.Context(), js, n, o); err != nil {
			t.Fatal(err)
		}
	}
	// What the design promises of each stream, and what the broker made of it.
	type settings struct {
		Subject       string
		Retention     jetstream.RetentionPolicy
		Discard       jetstream.DiscardPolicy
		PerSubject    int64
		RefusePer     bool
		Atomic        bool
		Direct        bool
		TTL           bool
		MaxAge        time.Duration
		MaxMsgs, Size int64
		Storage       jetstream.StorageType
	}
	want := map[string]settings{
		"MESHMILL_JOBS":     {"meshmill.job.>", jetstream.WorkQueuePolicy, jetstream.DiscardNew, 1, true, true, true, false, 0, 1000, 1 << 20, jetstream.FileStorage},
		"MESHMILL_EVENTS":   {"meshmill.event.>", jetstream.LimitsPolicy, jetstream.DiscardNew, 1, true, false, true, false, 0, -1, -1, jetstream.FileStorage},
		"MESHMILL_DEAD":     {"meshmill.dead.>", jetstream.LimitsPolicy, jetstream.DiscardOld, 16, false, false, true, false, 90 * 24 * time.Hour, -1, -1, jetstream.FileStorage},
		"KV_meshmill_state": {"$KV.meshmill_state.>", jetstream.LimitsPolicy, jetstream.DiscardNew, 1, false, false, true, true, 0, -1, -1, jetstream.FileStorage},
		"KV_meshmill_fleet": {"$KV.meshmill_fleet.>", jetstream.LimitsPolicy, jetstream.DiscardNew, 1, false, false, true, true, 0, -1, -1, jetstream.FileStorage},
	}
	got := map[string]settings{}
	for name := range want {
		c := config(t, js, name)
		got[name] = settings{strings.Join(c.Subjects, " "), c.Retention, c.Discard, c.MaxMsgsPerSubject, c.DiscardNewPerSubject, c.AllowAtomicPublish, c.AllowDirect, c.AllowMsgTTL, c.MaxAge, c.MaxMsgs, c.MaxBytes, c.Storage}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("streams (-want +got):\n%s", diff)
	}
	var consumers []string
	s, err := js.Stream(t.Context(), n.JobsStream())
	if err != nil {
		t.Fatal(err)
	}
	for c := range s.ListConsumers(t.Context()).Info() {
		consumers = append(consumers, fmt.Sprint(c.Config.Durable, " ", c.Config.FilterSubject, " ", c.Config.AckPolicy, " ", c.Config.AckWait, " ", c.Config.MaxDeliver, " ", c.Config.MaxAckPending))
	}
	slices.Sort(consumers)
	wantConsumers := []string{
		"csm-bulk meshmill.job.csm.bulk.* AckExplicit 45s -1 4096",
		"csm-interactive meshmill.job.csm.interactive.* AckExplicit 45s -1 4096",
		"modelslab-bulk meshmill.job.modelslab.bulk.* AckExplicit 45s -1 4096",
		"modelslab-interactive meshmill.job.modelslab.interactive.* AckExplicit 45s -1 4096",
	}
	if diff := cmp.Diff(wantConsumers, consumers); diff != "" {
		t.Errorf("consumers (-want +got):\n%s", diff)
	}

	// It behaves, too: one message per job and one event per fact, and the state
	// bucket takes keys with a time to live.
	for _, subject := range []string{n.JobSubject("csm", jobs.Bulk, "a"), n.EventSubject(jobs.EventCompleted, "a", 1)} {
		if _, err := js.Publish(t.Context(), subject, nil); err != nil {
			t.Error(err)
		}
		if _, err := js.Publish(t.Context(), subject, nil); err == nil {
			t.Errorf("%s takes a second message", subject)
		}
	}
	kv, err := js.KeyValue(t.Context(), n.StateBucket())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(t.Context(), "a", []byte("x"), jetstream.KeyTTL(time.Hour)); err != nil {
		t.Error(err)
	}
}

func TestEnsureLeavesWhatExists(t *testing.T) {
	t.Parallel()
	js, n := connect(t, &server.Options{JetStream: true}), names(t)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: n.JobsStream(), Subjects: []string{n.JobAll()}, Retention: jetstream.WorkQueuePolicy, MaxMsgs: 77}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(t.Context(), n.JobsStream(), jetstream.ConsumerConfig{
		Durable: n.JobConsumer("csm", jobs.Bulk), FilterSubject: n.JobLane("csm", jobs.Bulk), AckPolicy: jetstream.AckExplicitPolicy, AckWait: 5 * time.Minute, MaxDeliver: 3,
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: n.FleetBucket(), History: 5}); err != nil {
		t.Fatal(err)
	}
	before := config(t, js, n.JobsStream())
	var warnings []string
	o := topology.Options{Providers: []string{"csm"}, Lease: 30 * time.Second, Warn: func(m string) { warnings = append(warnings, m) }}
	if err := topology.Ensure(t.Context(), js, n, o); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, config(t, js, n.JobsStream())); diff != "" {
		t.Errorf("the stream was changed:\n%s", diff)
	}
	c, err := js.Consumer(t.Context(), n.JobsStream(), n.JobConsumer("csm", jobs.Bulk))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.CachedInfo().Config; got.AckWait != 5*time.Minute || got.MaxDeliver != 3 {
		t.Errorf("the consumer was changed: %+v", got)
	}
	text := strings.Join(warnings, "\n")
	for _, want := range []string{
		"stream MESHMILL_JOBS exists with other settings", "discard_new_per_subject is false", "allow_direct is false", "allow_atomic is false", "max_msgs_per_subject is -1",
		"consumer csm-bulk of stream MESHMILL_JOBS has ack wait 5m0s", "the lease is 30s", "max deliver 3",
		"bucket meshmill_fleet exists with other settings", "max_msgs_per_subject is 5",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no warning says %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "csm-interactive") || strings.Contains(text, "MESHMILL_EVENTS") {
		t.Errorf("a warning about what was made just now:\n%s", text)
	}
}

func TestEnsureBind(t *testing.T) {
	t.Parallel()
	js, n := connect(t, &server.Options{JetStream: true}), names(t)
	o := topology.Options{Providers: []string{"csm"}, Bind: true, Memory: true}
	err := topology.Ensure(t.Context(), js, n, o)
	if err == nil {
		t.Fatal("nothing is there, and nothing is missing")
	}
	for _, want := range []string{"stream MESHMILL_JOBS", "stream MESHMILL_EVENTS", "stream MESHMILL_DEAD", "bucket meshmill_state", "bucket meshmill_fleet", "consumer csm-interactive", "consumer csm-bulk", "without --bind"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("err = %q, want it to name %q", err, want)
		}
	}
	for name := range js.StreamNames(t.Context()).Name() {
		t.Errorf("stream %s was created", name)
	}
	o.Bind = false
	if err := topology.Ensure(t.Context(), js, n, o); err != nil {
		t.Fatal(err)
	}
	o.Bind = true
	if err := topology.Ensure(t.Context(), js, n, o); err != nil {
		t.Errorf("all is there: %v", err)
	}
	if err := js.DeleteConsumer(t.Context(), n.JobsStream(), "csm-bulk"); err != nil {
		t.Fatal(err)
	}
	o.Providers = append(o.Providers, "modelslab")
	if err = topology.Ensure(t.Context(), js, n, o); err == nil || !strings.Contains(err.Error(), "has no consumer csm-bulk of stream MESHMILL_JOBS, consumer modelslab-interactive of stream MESHMILL_JOBS, consumer modelslab-bulk of") {
		t.Errorf("err = %v, want the three consumers named", err)
	}
}

func TestEnsureAtOnce(t *testing.T) {
	t.Parallel()
	s, err := server.NewServer(&server.Options{DontListen: true, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server did not start")
	}
	n := names(t)
	var wg sync.WaitGroup
	for i := range 8 {
		js := dial(t, s)
		wg.Go(func() {
			// Workers of two releases, which would make different consumers.
			o := topology.Options{Providers: []string{"csm", "modelslab"}, Memory: true, Lease: time.Duration(30+i%2) * time.Second}
			if err := topology.Ensure(t.Context(), js, n, o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestEnsureRefuses(t *testing.T) {
	t.Parallel()
	n := names(t)
	expect := func(t *testing.T, js jetstream.JetStream, o topology.Options, want string) {
		t.Helper()
		if err := topology.Ensure(t.Context(), js, n, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("err = %v, want %q", err, want)
		}
	}
	t.Run("no JetStream", func(t *testing.T) {
		t.Parallel()
		expect(t, connect(t, &server.Options{}), topology.Options{}, "JetStream turned off")
	})
	t.Run("no JetStream for the account", func(t *testing.T) {
		t.Parallel()
		a := server.NewAccount("plain")
		o := &server.Options{JetStream: true, Accounts: []*server.Account{a}, Users: []*server.User{{Username: "u", Password: "p", Account: a}}}
		expect(t, connect(t, o, nats.UserInfo("u", "p")), topology.Options{}, "not for this account")
	})
	t.Run("lease", func(t *testing.T) {
		t.Parallel()
		expect(t, connect(t, &server.Options{JetStream: true}), topology.Options{Lease: time.Millisecond}, "at least 1s")
	})
	t.Run("subjects taken", func(t *testing.T) {
		t.Parallel()
		js := connect(t, &server.Options{JetStream: true})
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ALL", Subjects: []string{"meshmill.>"}}); err != nil {
			t.Fatal(err)
		}
		expect(t, js, topology.Options{}, "create stream MESHMILL_JOBS: ")
	})
	t.Run("consumer in the way", func(t *testing.T) {
		t.Parallel()
		js := connect(t, &server.Options{JetStream: true})
		if err := topology.Ensure(t.Context(), js, n, topology.Options{Memory: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := js.CreateConsumer(t.Context(), n.JobsStream(), jetstream.ConsumerConfig{Durable: "mine", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
			t.Fatal(err)
		}
		expect(t, js, topology.Options{Providers: []string{"csm"}}, "create consumer csm-interactive")
	})
	t.Run("old broker", func(t *testing.T) {
		t.Parallel()
		s, err := server.NewServer(&server.Options{DontListen: true, NoLog: true, NoSigs: true})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		if !s.ReadyForConnections(20 * time.Second) {
			t.Fatal("the server did not start")
		}
		js := dial(t, s)
		// The answer of nats-server 2.11.
		sub, err := js.Conn().Subscribe("$JS.API.INFO", func(m *nats.Msg) {
			_ = m.Respond([]byte(`{"type":"io.nats.jetstream.api.v1.account_info_response","api":{"level":1,"total":1,"errors":0}}`))
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sub.Unsubscribe() })
		expect(t, js, topology.Options{}, "needs 2.12 or newer")
		c, err := jobs.NewClient(js.Conn(), jobs.ClientConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "needs 2.12 or newer") {
			t.Errorf("Check: %v", err)
		}
	})
	t.Run("context", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := topology.Ensure(ctx, connect(t, &server.Options{JetStream: true}), n, topology.Options{}); !errors.Is(err, context.Canceled) {
			t.Errorf("err = %v, want the context's end", err)
		}
	})
}

// A consumer that exists keeps its ack wait, whatever lease is configured now.
func TestLeaseIsTheConsumers(t *testing.T) {
	t.Parallel()
	js, n := connect(t, &server.Options{JetStream: true}), names(t)
	both := []string{"csm", "modelslab"}
	for _, lease := range []time.Duration{20 * time.Second, 5 * time.Minute} {
		if err := topology.Ensure(t.Context(), js, n, topology.Options{Providers: both[:1], Memory: true, Lease: lease}); err != nil {
			t.Fatal(err)
		}
		if got, err := topology.Lease(t.Context(), js, n, both[:1]); err != nil || got != 20*time.Second {
			t.Errorf("with %v configured: lease %v, want that of the first worker, 20s: %v", lease, got, err)
		}
	}
	if got, err := topology.Lease(t.Context(), js, n, both); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("without a consumer: %v, %v", got, err)
	}
	if err := topology.Ensure(t.Context(), js, n, topology.Options{Providers: both, Memory: true, Lease: 7 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if got, err := topology.Lease(t.Context(), js, n, both); err != nil || got != 7*time.Second {
		t.Errorf("lease %v, want the shortest, 7s: %v", got, err)
	}
	_, err := js.UpdateConsumer(t.Context(), n.JobsStream(), jetstream.ConsumerConfig{
		Durable: n.JobConsumer("csm", jobs.Bulk), FilterSubject: n.JobLane("csm", jobs.Bulk),
		AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, BackOff: []time.Duration{3 * time.Second, time.Minute},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := topology.Lease(t.Context(), js, n, both); err != nil || got != 3*time.Second {
		t.Errorf("lease %v, want the back-off, 3s: %v", got, err)
	}
}
