package broker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/internal/broker"
	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/internal/topology"
	"github.com/meshmill/meshmill/pkg/jobs"
)

var (
	shared *server.Server
	prefix atomic.Int32
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "broker")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	shared, err = server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true})
	if err != nil {
		panic(err)
	}
	go shared.Start()
	defer func() { shared.Shutdown(); shared.WaitForShutdown() }()
	if !shared.ReadyForConnections(10 * time.Second) {
		panic("the server does not start")
	}
	return m.Run()
}

// bench is one test's part of the shared server.
type bench struct {
	t     *testing.T
	nc    *nats.Conn
	js    jetstream.JetStream
	names jobs.Names
}

const lease = 2 * time.Second

func newBench(t *testing.T) *bench {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(shared))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	names, err := jobs.NewNames(fmt.Sprintf("t%d", prefix.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := topology.Ensure(t.Context(), js, names, topology.Options{Providers: []string{"csm"}, Lease: lease}); err != nil {
		t.Fatal(err)
	}
	return &bench{t, nc, js, names}
}

func (b *bench) client() *jobs.Client {
	b.t.Helper()
	c, err := jobs.NewClient(b.nc, jobs.ClientConfig{Names: b.names})
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bench) fleet(worker string) *broker.Fleet {
	b.t.Helper()
	f, err := broker.NewFleet(b.t.Context(), b.js, b.names, worker, zerolog.Nop())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(f.Close)
	return f
}

func request(id string) jobs.Request {
	return jobs.Request{
		Schema: jobs.RequestSchema, ID: id, Provider: "csm",
		Image: jobs.Image{Object: jobs.InputKey(strings.Repeat("a", 64), "png")}, EnqueuedAt: time.Now().UTC(),
	}
}

func record(id string, state jobs.State) *jobs.Record {
	return &jobs.Record{
		Schema: jobs.RecordSchema, ID: id, State: state, Attempt: 1, Provider: "csm", Lane: jobs.Bulk, Request: request(id),
		UpdatedAt: time.Now().UTC(),
	}
}

// until waits for a condition that no channel tells of.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it does not come true")
		}
	}
}

func TestJournal(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	j, err := broker.NewJournal(t.Context(), b.js, b.names)
	if err != nil {
		t.Fatal(err)
	}
	if r, rev, err := j.Load(t.Context(), "a"); r != nil || rev != 0 || err != nil {
		t.Fatalf("record of an unknown job: %v, %d, %v", r, rev, err)
	}
	first, err := j.Save(t.Context(), record("a", jobs.Submitting), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Save(t.Context(), record("a", jobs.Submitting), 0); !errors.Is(err, engine.ErrConflict) {
		t.Errorf("second create: %v, want a conflict", err)
	}
	second, err := j.Save(t.Context(), record("a", jobs.Running), first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Save(t.Context(), record("a", jobs.Failed), first); !errors.Is(err, engine.ErrConflict) {
		t.Errorf("stale update: %v, want a conflict", err)
	}
	if r, rev, err := j.Load(t.Context(), "a"); err != nil || rev != second || r.State != jobs.Running {
		t.Errorf("loaded %+v at %d: %v", r, rev, err)
	}
}

func TestQueue(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	q, err := broker.NewQueue(b.nc, b.names, b.client())
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Requeue(t.Context(), record("a", jobs.Running)); err != nil {
		t.Fatal(err)
	}
	if err := q.Requeue(t.Context(), record("a", jobs.Running)); err != nil {
		t.Errorf("queued a second time: %v", err)
	}
	fetch := func(wait time.Duration) engine.Message {
		t.Helper()
		msgs, err := q.Fetch(t.Context(), "csm", jobs.Bulk, 1, wait)
		if err != nil {
			t.Fatal(err)
		}
		if len(msgs) == 0 {
			return nil
		}
		return msgs[0]
	}
	m := fetch(5 * time.Second)
	if m == nil || m.Subject() != b.names.JobSubject("csm", jobs.Bulk, "a") {
		t.Fatalf("fetched %v", m)
	}
	if err := m.Renew(t.Context()); err != nil {
		t.Errorf("renew: %v", err)
	}
	if err := m.Release(t.Context(), 0); err != nil {
		t.Errorf("release: %v", err)
	}
	m = fetch(5 * time.Second)
	if m == nil {
		t.Fatal("the released message did not come again")
	}
	if err := q.Bury(t.Context(), "a", m.Body(), "line one\nline two"); err != nil {
		t.Errorf("bury: %v", err)
	}
	if err := m.Ack(t.Context()); err != nil {
		t.Errorf("ack: %v", err)
	}
	if err := m.Ack(t.Context()); err != nil {
		t.Errorf("second ack: %v", err)
	}
	if m := fetch(100 * time.Millisecond); m != nil {
		t.Error("the acked message came again")
	}
	s, err := b.js.Stream(t.Context(), b.names.DeadStream())
	if err != nil {
		t.Fatal(err)
	}
	dead, err := s.GetLastMsgForSubject(t.Context(), b.names.DeadSubject("a"))
	if err != nil || dead.Header.Get("Meshmill-Reason") != "line one line two" {
		t.Errorf("dead message: %+v, %v", dead, err)
	}
}

func TestQueueThatDoesNotExist(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	q, err := broker.NewQueue(b.nc, b.names, b.client())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Fetch(t.Context(), "nobody", jobs.Bulk, 1, time.Second); !errors.Is(err, engine.ErrGone) {
		t.Errorf("err = %v, want that the queue does not exist", err)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	e := broker.NewEvents(b.nc, b.names, b.client())
	retried := record("a", jobs.Failed)
	retried.Attempt = 2
	for _, r := range []*jobs.Record{record("a", jobs.Running), record("a", jobs.Failed), record("a", jobs.Failed), retried} {
		if err := e.Publish(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	s, err := b.js.Stream(t.Context(), b.names.EventsStream())
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context())
	if err != nil || info.State.Msgs != 3 {
		t.Errorf("%d events, want 3: %v", info.State.Msgs, err)
	}
	if err := e.Publish(t.Context(), record("a", jobs.Queued)); err == nil {
		t.Error("an event for a state that has none")
	}
}

func TestSlotsAreExact(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const limit, workers, each = 4, 3, 40
	var now, most atomic.Int32
	var wg sync.WaitGroup
	first := b.fleet("w0")
	if err := first.SetLimit(t.Context(), "csm", limit, true); err != nil {
		t.Fatal(err)
	}
	for w := range workers {
		f := b.fleet(fmt.Sprintf("w%d", w+1))
		for i := range each {
			wg.Go(func() {
				id := fmt.Sprintf("j%d-%d", w, i)
				n, err := f.Acquire(t.Context(), "csm", jobs.Bulk, id, time.Now().Add(time.Hour))
				if err != nil || n < 1 || n > limit {
					t.Errorf("slot %d: %v", n, err)
					return
				}
				for seen := now.Add(1); ; {
					old := most.Load()
					if seen <= old || most.CompareAndSwap(old, seen) {
						break
					}
				}
				now.Add(-1)
				if err := f.Release(t.Context(), "csm", n, id); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if most.Load() > limit {
		t.Errorf("%d slots were taken at once, the limit is %d", most.Load(), limit)
	}
}

func TestSlotBelongsToTheJob(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	f1, f2 := b.fleet("w1"), b.fleet("w2")
	if err := f1.SetLimit(t.Context(), "csm", 2, true); err != nil {
		t.Fatal(err)
	}
	hour := time.Now().Add(time.Hour)
	a, err := f1.Acquire(t.Context(), "csm", jobs.Bulk, "a", hour)
	if err != nil {
		t.Fatal(err)
	}
	// Nothing else is free for f2 to have by chance.
	if _, err := f1.Acquire(t.Context(), "csm", jobs.Bulk, "b", hour); err != nil {
		t.Fatal(err)
	}
	again, err := f2.Acquire(t.Context(), "csm", jobs.Bulk, "a", hour)
	if err != nil || again != a {
		t.Errorf("another worker got slot %d for the job, want its slot %d: %v", again, a, err)
	}
	if err := f2.Release(t.Context(), "csm", a, "somebody else"); err != nil {
		t.Fatal(err)
	}
	blocked, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if n, err := f2.Acquire(blocked, "csm", jobs.Bulk, "c", hour); err == nil {
		t.Errorf("slot %d was given although both are taken", n)
	}
	got := make(chan int, 1)
	go func() {
		n, _ := f2.Acquire(t.Context(), "csm", jobs.Bulk, "c", hour) // 0 fails below
		got <- n
	}()
	if err := f1.SetLimit(t.Context(), "csm", 3, false); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != 3 {
		t.Errorf("after the limit was raised the waiting job got slot %d, want 3", n)
	}
}

func TestSlotExpires(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	f := b.fleet("w1")
	if err := f.SetLimit(t.Context(), "csm", 1, true); err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(300 * time.Millisecond)
	if _, err := f.Acquire(t.Context(), "csm", jobs.Bulk, "dead", end); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Acquire(t.Context(), "csm", jobs.Bulk, "next", end.Add(time.Hour)); err != nil || n != 1 || time.Now().Before(end) {
		t.Errorf("slot %d: %v", n, err)
	}
}

func TestInteractiveGetsTheNextSlot(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	f := b.fleet("w1")
	if err := f.SetLimit(t.Context(), "csm", 1, true); err != nil {
		t.Fatal(err)
	}
	hour := time.Now().Add(time.Hour)
	n, err := f.Acquire(t.Context(), "csm", jobs.Bulk, "first", hour)
	if err != nil {
		t.Fatal(err)
	}
	order := make(chan string, 2)
	wait := func(id string, lane jobs.Lane) {
		n, err := f.Acquire(t.Context(), "csm", lane, id, hour)
		if err == nil {
			order <- id
			err = f.Release(t.Context(), "csm", n, id)
		}
		if err != nil {
			t.Error(err)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { wait("bulk", jobs.Bulk) })
	until(t, func() bool { return f.Waiting("csm") == 1 })
	wg.Go(func() { wait("person", jobs.Interactive) })
	until(t, func() bool { return f.Waiting("csm") == 2 })
	if err := f.Release(t.Context(), "csm", n, "first"); err != nil {
		t.Fatal(err)
	}
	if got := <-order; got != "person" {
		t.Errorf("the slot went to %s first", got)
	}
	wg.Wait()
}

func TestPauseIsShared(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	f1, f2 := b.fleet("w1"), b.fleet("w2")
	if err := f1.Pause(t.Context(), "csm", 700*time.Millisecond, "rate limited"); err != nil {
		t.Fatal(err)
	}
	end, reason := f1.Paused("csm")
	if reason != "rate limited" {
		t.Errorf("reason = %q", reason)
	}
	// The same trouble met by others is one pause.
	if err := f1.Pause(t.Context(), "csm", 100*time.Millisecond, "too"); err != nil {
		t.Fatal(err)
	}
	if now, _ := f1.Paused("csm"); !now.Equal(end) {
		t.Errorf("a second, shorter pause moved the end from %v to %v", end, now)
	}
	until(t, func() bool { _, reason := f2.Paused("csm"); return reason != "" })
	if err := f2.Await(t.Context(), "csm"); err != nil || time.Now().Before(end) {
		t.Errorf("waited until %v, want %v: %v", time.Now(), end, err)
	}
	// Trouble again at once: twice as long.
	if err := f2.Pause(t.Context(), "csm", time.Second, "again"); err != nil {
		t.Fatal(err)
	}
	if until, _ := f2.Paused("csm"); time.Until(until) < 1500*time.Millisecond {
		t.Errorf("the second pause lasts %v, want about 2s", time.Until(until))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := f2.Await(ctx, "csm"); err == nil {
		t.Error("the pause did not hold")
	}
	if err := f2.Await(t.Context(), "modelslab"); err != nil {
		t.Errorf("another provider is paused: %v", err)
	}
}

func TestLimitByDefault(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	f1, f2 := b.fleet("w1"), b.fleet("w2")
	for _, step := range []struct {
		f         *broker.Fleet
		n         int
		byDefault bool
		want      int
	}{{f1, 3, true, 3}, {f2, 5, true, 3}, {f2, 7, false, 7}, {f1, 5, true, 7}} {
		if err := step.f.SetLimit(t.Context(), "csm", step.n, step.byDefault); err != nil {
			t.Fatal(err)
		}
		kv, err := b.js.KeyValue(t.Context(), b.names.FleetBucket())
		if err != nil {
			t.Fatal(err)
		}
		e, err := kv.Get(t.Context(), "limit.csm")
		if want := fmt.Sprintf(`{"limit":%d}`, step.want); err != nil || string(e.Value()) != want {
			t.Errorf("limit = %s after setting %d (default %t), want %s: %v", e.Value(), step.n, step.byDefault, want, err)
		}
	}
}
