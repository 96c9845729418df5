package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/internal/topology"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// Between the record and the event the client may die. Then somebody else must
// hear of the end: a worker, by the job's message.
func TestEndSurvivesTheDeathOfTheClient(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		end   func(c *jobs.Client) error
		slot  int
		event string
	}{
		"fail":                {func(c *jobs.Client) error { return failed(c.Resolve(t.Context(), "a", jobs.Resolution{Fail: true})) }, 0, "failed"},
		"fail, with a slot":   {func(c *jobs.Client) error { return failed(c.Resolve(t.Context(), "a", jobs.Resolution{Fail: true})) }, 3, "failed"},
		"cancel":              {func(c *jobs.Client) error { return failed(c.Cancel(t.Context(), "a")) }, 0, "cancelled"},
		"cancel, with a slot": {func(c *jobs.Client) error { return failed(c.Cancel(t.Context(), "a")) }, 3, "cancelled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, setup{})
			b.client.SetPatience(100*time.Millisecond, time.Second)
			r := record("a", jobs.Parked)
			r.Session, r.Slot = "s1", tc.slot
			b.put(r)
			if err := b.js.DeleteStream(t.Context(), b.names.EventsStream()); err != nil {
				t.Fatal(err)
			}
			if err := tc.end(b.client); err == nil {
				t.Fatal("the event went out without its stream")
			}
			if b.queued(jobs.Bulk, "a") == nil {
				t.Errorf("the job is %s, and no worker will hear of it", b.stored("a").State)
			}
			if err := topology.Ensure(t.Context(), b.js, b.names, topology.Options{Memory: true}); err != nil {
				t.Fatal(err)
			}
			if err := tc.end(b.client); err != nil {
				t.Fatal(err)
			}
			if n := b.events()["meshmill.event."+tc.event+".a.1"]; n != 1 {
				t.Errorf("%d events, want 1: %v", n, b.events())
			}
			if q := b.queued(jobs.Bulk, "a"); (q != nil) != (tc.slot > 0) {
				t.Errorf("in the queue: %v; a worker is needed for slot %d", q, tc.slot)
			}
		})
	}
}

func failed(_ *jobs.Record, err error) error { return err }

// A full queue must not keep a person from giving a job up.
func TestFailWhileTheQueueIsFull(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{topology: topology.Options{MaxJobs: 1}})
	b.client.SetPatience(time.Minute, 200*time.Millisecond)
	if _, err := b.client.Enqueue(t.Context(), jobs.Item{Request: request("other")}); err != nil {
		t.Fatal(err)
	}
	b.put(record("a", jobs.Parked))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := b.client.Resolve(ctx, "a", jobs.Resolution{Fail: true})
	if err != nil || r.State != jobs.Failed || b.events()["meshmill.event.failed.a.1"] != 1 {
		t.Errorf("%+v, %v, events %v", r, err, b.events())
	}
}

// A cancelled job whose session still runs holds its slot: buying again would
// be one session more than the account allows.
func TestResubmitWhileTheSessionRuns(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	r := record("a", jobs.Cancelled)
	r.Session, r.Slot = "s1", 2
	b.put(r)
	if _, err := b.client.Resolve(t.Context(), "a", jobs.Resolution{Resubmit: true}); err == nil || !strings.Contains(err.Error(), "s1") {
		t.Errorf("err = %v, want that session s1 still runs", err)
	}
}

// gate is a network that can be shut.
type gate struct{ shut atomic.Bool }

func (g *gate) Dial(network, address string) (net.Conn, error) {
	if g.shut.Load() {
		return nil, errors.New("the gate is shut")
	}
	return net.Dial(network, address)
}

// gated returns a client that cannot connect while the gate is shut.
func (b *broker) gated() (*jobs.Client, *gate) {
	b.Helper()
	g := &gate{}
	nc, err := nats.Connect(b.server.ClientURL(), nats.SetCustomDialer(g), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	c, err := jobs.NewClient(nc, jobs.ClientConfig{})
	if err != nil {
		b.Fatal(err)
	}
	c.SetPatience(time.Minute, time.Second)
	return c, g
}

// The broker is replaced by an empty one, which gets data of its own before the
// followers are back: their place in the old streams means nothing there.
func TestFollowersNoticeAReplacedBroker(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{onDisk: true})
	client, g := b.gated()
	for i := range 50 {
		b.put(record(fmt.Sprintf("j-%d", i), jobs.Running))
		if err := b.client.Announce(t.Context(), record(fmt.Sprintf("j-%d", i), jobs.Parked)); err != nil {
			t.Fatal(err)
		}
	}
	records := newWatch(&broker{T: t, client: client}, jobs.Filter{})
	records.until("j-49 running")
	events := make(chan string, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for e, err := range client.Events(ctx, jobs.EventFilter{}) {
			if err != nil {
				events <- "error: " + err.Error()
			} else {
				events <- e.Subject()
			}
		}
	}()
	waited := make(chan error, 1)
	go func() {
		_, err := client.Wait(ctx, "j-7")
		waited <- err
	}()
	for len(b.consumers("KV_"+b.names.StateBucket())) < 2 || len(b.consumers(b.names.EventsStream())) < 1 { // until they have begun
	}

	g.shut.Store(true)
	b.restart(func() {
		if err := os.RemoveAll(b.dir); err != nil {
			t.Error(err)
		}
	})
	for !b.nc.IsConnected() {
	}
	if err := topology.Ensure(t.Context(), b.js, b.names, topology.Options{Providers: []string{"csm"}}); err != nil {
		t.Fatal(err)
	}
	b.put(record("new", jobs.Storing))
	if err := b.client.Announce(t.Context(), record("new", jobs.Parked)); err != nil {
		t.Fatal(err)
	}
	g.shut.Store(false)

	if got := records.next(); !strings.Contains(got, "error: ") || !strings.Contains(got, "lost its data") {
		t.Errorf("the watch yields %q, want that the broker has lost its data", got)
	}
	records.expect("new storing")
	for _, want := range []string{"lost its data", "new"} {
		select {
		case got := <-events:
			if !strings.Contains(got, want) {
				t.Errorf("events yield %q, want %q", got, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("events yield nothing, want %q", want)
		}
	}
	select {
	case err := <-waited:
		if err == nil || !strings.Contains(err.Error(), "lost its data") {
			t.Errorf("Wait: %v, want that the broker has lost its data", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("Wait hangs")
	}
}

// A stream whose messages cannot be fetched is made less and less often.
func TestFollowersBackOff(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	b.put(record("a", jobs.Running))
	var made atomic.Int32
	spoiler, err := nats.Connect(b.server.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer spoiler.Close()
	js, err := jetstream.New(spoiler)
	if err != nil {
		t.Fatal(err)
	}
	// Each consumer is gone as soon as it is there.
	_, err = spoiler.Subscribe("$JS.EVENT.ADVISORY.CONSUMER.CREATED.>", func(m *nats.Msg) {
		made.Add(1)
		at := strings.Split(m.Subject, ".")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_ = js.DeleteConsumer(ctx, at[5], at[6]) // or its owner was faster
	})
	if err == nil {
		err = spoiler.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for range b.client.Watch(ctx, jobs.Filter{IDs: []string{"none"}}) {
		// Nothing comes but the end.
	}
	if n := made.Load(); n < 2 || n > 15 {
		t.Errorf("%d consumers were made in 2 s, want a few", n)
	}
}
