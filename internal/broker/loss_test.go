package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
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

var csmOnly = topology.Options{Providers: []string{"csm"}, Lease: lease}

// fragile is a broker of its own, that can be replaced by an empty one.
type fragile struct {
	*bench
	s    *server.Server
	port int
}

func newFragile(t *testing.T) *fragile {
	t.Helper()
	f := &fragile{bench: &bench{t: t}, port: -1}
	f.start()
	nc, err := nats.Connect(f.s.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	f.nc, f.js = nc, js
	if f.names, err = jobs.NewNames(""); err != nil {
		t.Fatal(err)
	}
	f.setUp()
	return f
}

func (f *fragile) start() {
	f.t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: f.port, JetStream: true, StoreDir: filepath.Join(f.t.TempDir(), "js"), NoSigs: true, NoLog: true,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		f.t.Fatal("the server does not start")
	}
	f.t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	f.s, f.port = s, s.Addr().(*net.TCPAddr).Port
}

// replace puts an empty broker at the same address.
func (f *fragile) replace() {
	f.t.Helper()
	f.s.Shutdown()
	f.s.WaitForShutdown()
	f.start()
	until(f.t, f.nc.IsConnected)
}

// setUp does what a worker does when it starts.
func (f *fragile) setUp() {
	f.t.Helper()
	if err := topology.Ensure(f.t.Context(), f.js, f.names, csmOnly); err != nil {
		f.t.Fatal(err)
	}
}

func (b *bench) put(key, value string) {
	b.t.Helper()
	kv, err := b.js.KeyValue(b.t.Context(), b.names.FleetBucket())
	if err == nil {
		_, err = kv.Put(b.t.Context(), key, []byte(value))
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// grow makes the revisions of the fleet bucket larger than those that a test
// writes to its successor.
func (b *bench) grow(f *broker.Fleet) {
	b.t.Helper()
	for i := range 20 {
		id := fmt.Sprintf("old%d", i)
		n, err := f.Acquire(b.t.Context(), "csm", jobs.Bulk, id, time.Now().Add(time.Hour))
		if err == nil {
			err = f.Release(b.t.Context(), "csm", n, id)
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

func TestFleetOnAReplacedBroker(t *testing.T) {
	t.Parallel()
	b := newFragile(t)
	f := b.fleet("w1")
	if err := f.SetLimit(t.Context(), "csm", 1, false); err != nil {
		t.Fatal(err)
	}
	b.grow(f)
	b.replace()
	b.setUp()
	b.put("limit.csm", `{"limit":1}`)
	b.put("slot.csm.1", `{"job":"other","until":"2099-01-01T00:00:00Z"}`)

	before := stat(t, b.s).InMsgs
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if n, err := f.Acquire(ctx, "csm", jobs.Bulk, "mine", time.Now().Add(time.Hour)); err == nil {
		t.Errorf("slot %d was given, but another job has the only one", n)
	}
	if n := stat(t, b.s).InMsgs - before; n > 200 {
		t.Errorf("%d messages to the broker while waiting for a slot", n)
	}
	until(t, func() bool { return f.Holders()["csm"][1] == "other" })
	b.put("limit.csm", `{"limit":2}`)
	if n, err := f.Acquire(t.Context(), "csm", jobs.Bulk, "mine", time.Now().Add(time.Hour)); err != nil || n != 2 {
		t.Errorf("slot %d, want 2: %v", n, err)
	}
}

func stat(t *testing.T, s *server.Server) *server.Varz {
	t.Helper()
	v, err := s.Varz(nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The bucket of a fleet that has lost it may never come back: that must not
// become a busy loop either.
func TestFleetWithoutItsBucket(t *testing.T) {
	t.Parallel()
	b := newFragile(t)
	f := b.fleet("w1")
	if err := f.SetLimit(t.Context(), "csm", 1, false); err != nil {
		t.Fatal(err)
	}
	b.grow(f)
	b.replace()
	before := stat(t, b.s).InMsgs
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if n, err := f.Acquire(ctx, "csm", jobs.Bulk, "mine", time.Now().Add(time.Hour)); err == nil {
		t.Errorf("slot %d was given without a bucket", n)
	}
	<-ctx.Done()
	if n := stat(t, b.s).InMsgs - before; n > 100 {
		t.Errorf("%d messages to the broker in a second", n)
	}
	b.setUp()
	b.put("limit.csm", `{"limit":3}`)
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := f.Acquire(ctx, "csm", jobs.Bulk, "mine", time.Now().Add(time.Hour)); err != nil {
		t.Errorf("with a new bucket: %v", err)
	}
}

// A bucket that is made anew under a connection that lives on.
func TestFleetFollowsANewBucket(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	f := b.fleet("w1")
	if err := f.SetLimit(t.Context(), "csm", 1, false); err != nil {
		t.Fatal(err)
	}
	b.grow(f)
	if err := b.js.DeleteKeyValue(t.Context(), b.names.FleetBucket()); err != nil {
		t.Fatal(err)
	}
	if err := topology.Ensure(t.Context(), b.js, b.names, csmOnly); err != nil {
		t.Fatal(err)
	}
	b.put("limit.csm", `{"limit":2}`)
	b.put("slot.csm.2", `{"job":"other","until":"2099-01-01T00:00:00Z"}`)
	b.put("pause.csm", `{"until":"2099-01-01T00:00:00Z","reason":"new"}`)
	// Whatever slot it gets or does not get, it learns that the bucket is another.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if n, err := f.Acquire(ctx, "csm", jobs.Bulk, "mine", time.Now().Add(time.Hour)); err != nil || n != 1 {
		t.Errorf("slot %d, want 1: %v", n, err)
	}
	until(t, func() bool {
		_, reason := f.Paused("csm")
		return reason == "new" && f.Holders()["csm"][2] == "other"
	})
}

func TestQueueOnAReplacedBroker(t *testing.T) {
	t.Parallel()
	b := newFragile(t)
	q, err := broker.NewQueue(b.nc, b.names, b.client())
	if err != nil {
		t.Fatal(err)
	}
	fetch := func() error {
		_, err := q.Fetch(t.Context(), "csm", jobs.Bulk, 1, 100*time.Millisecond)
		return err
	}
	if err := fetch(); err != nil {
		t.Fatal(err)
	}
	b.replace()
	if err = fetch(); !errors.Is(err, engine.ErrGone) { // the first may only find that nobody responds
		err = fetch()
	}
	if !errors.Is(err, engine.ErrGone) {
		t.Errorf("on an empty broker: %v, want that the queue is gone", err)
	}
	b.setUp()
	if err := fetch(); err != nil {
		t.Errorf("after another worker made the queue: %v", err)
	}
}

func TestLoweredLimitCountsTheSlotsAboveIt(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	f := b.fleet("w1")
	hour := time.Now().Add(time.Hour)
	limit := func(n int) {
		t.Helper()
		if err := f.SetLimit(t.Context(), "csm", n, false); err != nil {
			t.Fatal(err)
		}
	}
	limit(4)
	holder := map[int]string{}
	for i := range 4 {
		id := fmt.Sprintf("j%d", i)
		n, err := f.Acquire(t.Context(), "csm", jobs.Bulk, id, hour)
		if err != nil {
			t.Fatal(err)
		}
		holder[n] = id
	}
	limit(2)
	release := func(n int) {
		t.Helper()
		if err := f.Release(t.Context(), "csm", n, holder[n]); err != nil {
			t.Fatal(err)
		}
		until(t, func() bool { return f.Holders()["csm"][n] == "" })
	}
	release(1)
	release(2)
	try := func(id string) int {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		n, _ := f.Acquire(ctx, "csm", jobs.Bulk, id, hour) // 0 tells
		return n
	}
	if n := try("early"); n != 0 {
		t.Errorf("slot %d was given: with slots 3 and 4 taken two sessions run, which is the limit", n)
	}
	release(4)
	if n := try("next"); n < 1 || n > 2 {
		t.Errorf("slot %d, want 1 or 2: only slot 3 is taken", n)
	}
	if n := try("more"); n != 0 {
		t.Errorf("slot %d was given beyond the limit", n)
	}
	if n := try(holder[3]); n != 3 {
		t.Errorf("a job that holds slot 3 got %d", n)
	}
}

// A pause that a worker with a wrong clock has written must end.
func TestNoPauseIsForLong(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	f := b.fleet("w1")
	b.put("pause.csm", `{"until":"2099-01-01T00:00:00Z","reason":"wrong clock"}`)
	until(t, func() bool { _, reason := f.Paused("csm"); return reason != "" })
	if end, _ := f.Paused("csm"); time.Until(end) > jobs.MaxAfter {
		t.Errorf("paused until %v, want at most %v from now", end, jobs.MaxAfter)
	}
}

// stubborn is a broker on which a compare-and-set always finds something newer,
// which cannot be read.
type stubborn struct {
	jetstream.JetStream
	writes *atomic.Int32
}

type stubbornBucket struct {
	jetstream.KeyValue
	writes *atomic.Int32
}

func (s stubborn) KeyValue(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	kv, err := s.JetStream.KeyValue(ctx, bucket)
	return stubbornBucket{kv, s.writes}, err
}

func (s stubbornBucket) Create(context.Context, string, []byte, ...jetstream.KVCreateOpt) (uint64, error) {
	s.writes.Add(1)
	return 0, jetstream.ErrKeyExists
}

func (s stubbornBucket) Get(context.Context, string) (jetstream.KeyValueEntry, error) {
	return nil, jetstream.ErrKeyNotFound
}

func TestConflictsAreNoBusyLoop(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put("limit.csm", `{"limit":2}`)
	var writes atomic.Int32
	f, err := broker.NewFleet(t.Context(), stubborn{b.js, &writes}, b.names, "w1", zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, do := range map[string]func(context.Context) error{
		"slot": func(ctx context.Context) error {
			_, err := f.Acquire(ctx, "csm", jobs.Bulk, "a", time.Now().Add(time.Hour))
			return err
		},
		"pause": func(ctx context.Context) error { return f.Pause(ctx, "csm", time.Minute, "overload") },
	} {
		writes.Store(0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := do(ctx)
		cancel()
		if n := writes.Load(); err == nil || n < 2 || n > 20 {
			t.Errorf("%s: %d writes in a second, want a few: %v", name, n, err)
		}
	}
}
