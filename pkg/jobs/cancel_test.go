package jobs_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/pkg/jobs"
)

func TestCancelInEachState(t *testing.T) {
	t.Parallel()
	tests := map[jobs.State]struct {
		want      jobs.State
		requested bool // the owner is asked to
		event     string
	}{
		jobs.Queued:     {jobs.Cancelled, false, "meshmill.event.cancelled.a.1"},
		jobs.Submitting: {jobs.Submitting, true, ""},
		jobs.Running:    {jobs.Running, true, ""},
		jobs.Storing:    {jobs.Storing, true, ""},
		jobs.Completed:  {jobs.Completed, false, ""},
		jobs.Failed:     {jobs.Failed, false, ""},
		jobs.Parked:     {jobs.Cancelled, false, "meshmill.event.cancelled.a.1"},
		jobs.Cancelled:  {jobs.Cancelled, false, "meshmill.event.cancelled.a.1"},
	}
	for state, tc := range tests {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, setup{})
			told, err := b.nc.SubscribeSync(b.names.CancelAll())
			if err != nil {
				t.Fatal(err)
			}
			if state == jobs.Queued {
				req := request("a")
				req.Image.URL += "?sig=secret"
				if _, err := b.client.Enqueue(t.Context(), jobs.Item{Request: req, Lane: jobs.Interactive}); err != nil {
					t.Fatal(err)
				}
			} else {
				b.put(record("a", state))
			}
			for range 2 { // the second time changes nothing
				got, err := b.client.Cancel(t.Context(), "a")
				if err != nil {
					t.Fatal(err)
				}
				if got.State != tc.want || got.CancelRequested != tc.requested {
					t.Errorf("state %s, cancel requested %v; want %s, %v", got.State, got.CancelRequested, tc.want, tc.requested)
				}
				if diff := cmp.Diff(b.stored("a"), got); diff != "" {
					t.Errorf("returned is not what is stored (-stored +returned):\n%s", diff)
				}
			}
			want := map[string]uint64{}
			if tc.event != "" {
				want[tc.event] = 1
			}
			if got := b.events(); !maps.Equal(got, want) {
				t.Errorf("events %v, want %v", got, want)
			}
			if b.queueLength() != 0 {
				t.Error("the message is still in the queue")
			}
			if r := b.stored("a"); strings.Contains(fmt.Sprint(r), "secret") {
				t.Errorf("the record holds a signature: %+v", r)
			}
			if err := b.nc.Flush(); err != nil {
				t.Fatal(err)
			}
			if n, _, _ := told.Pending(); (n > 0) != (tc.requested || tc.want == jobs.Cancelled) {
				t.Errorf("%d messages to the owner, cancel requested %v, state %s", n, tc.requested, tc.want)
			}
		})
	}
}

func TestCancelUnknown(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	if _, err := b.client.Cancel(t.Context(), "none"); !errors.Is(err, jobs.ErrNotFound) {
		t.Errorf("err = %v, want not found", err)
	}
	if _, err := b.client.Cancel(t.Context(), "*"); err == nil || errors.Is(err, jobs.ErrNotFound) {
		t.Errorf("err = %v, want a bad id", err)
	}
}

// An owner takes jobs from the queue and runs them to their end, by compare-and-
// set, while they are cancelled. Whoever wins, the record, the event and the
// queue agree in the end.
func TestCancelRacesOwner(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	const n = 60
	if _, err := b.client.EnqueueMany(t.Context(), items("j", n)); err != nil {
		t.Fatal(err)
	}
	consumer, err := b.js.Consumer(t.Context(), b.names.JobsStream(), b.names.JobConsumer("csm", jobs.Bulk))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { ownJobs(b, consumer) })
	}
	// One goes with the owners, who begin at the front, and one towards them.
	for _, backwards := range []bool{false, true} {
		wg.Go(func() {
			for i := range n {
				if i%3 == 0 {
					continue // left to the owners
				}
				if backwards {
					i = n - 1 - i
				}
				if _, err := b.client.Cancel(t.Context(), fmt.Sprintf("j-%d", i)); err != nil {
					t.Errorf("cancel: %v", err)
				}
			}
		})
	}
	wg.Wait()
	ended := map[jobs.State]int{}
	events := b.events()
	for i := range n {
		r := b.stored(fmt.Sprintf("j-%d", i))
		ended[r.State]++
		if !r.State.Final() {
			t.Errorf("%s is %s", r.ID, r.State)
		}
		event := b.names.EventSubject(jobs.EventKind(r.State), r.ID, r.Attempt)
		if events[event] != 1 {
			t.Errorf("no event %s", event)
		}
		delete(events, event)
	}
	if len(events) > 0 {
		t.Errorf("further events: %v", events)
	}
	if b.queueLength() != 0 {
		t.Errorf("%d messages are left in the queue", b.queueLength())
	}
	if ended[jobs.Cancelled] == 0 || ended[jobs.Completed] == 0 {
		t.Errorf("no race took place: %v", ended)
	}
}

// ownJobs is a worker in small. It ends when the queue has been empty for long.
func ownJobs(b *broker, consumer jetstream.Consumer) {
	kv, err := b.js.KeyValue(b.Context(), b.names.StateBucket())
	if err != nil {
		b.Error(err)
		return
	}
	for {
		m, err := consumer.Next(jetstream.FetchMaxWait(300 * time.Millisecond))
		if err != nil {
			if !errors.Is(err, nats.ErrTimeout) {
				b.Error(err)
			}
			return
		}
		req, err := jobs.DecodeRequest(m.Data())
		if err != nil {
			b.Error(err)
			return
		}
		for {
			r := &jobs.Record{
				Schema: jobs.RecordSchema, ID: req.ID, State: jobs.Queued, Attempt: 1,
				Provider: req.Provider, Lane: jobs.Bulk, Request: *req, Owner: "w",
			}
			var revision uint64
			if e, err := kv.Get(b.Context(), req.ID); err == nil {
				revision = e.Revision()
				if r, err = jobs.DecodeRecord(e.Value()); err != nil {
					b.Error(err)
					return
				}
			}
			switch {
			case r.State.Final():
			case r.CancelRequested:
				r.State, r.CancelRequested, r.FinishedAt = jobs.Cancelled, false, time.Now().UTC()
			default:
				r.State = map[jobs.State]jobs.State{
					jobs.Queued: jobs.Submitting, jobs.Submitting: jobs.Running, jobs.Running: jobs.Storing, jobs.Storing: jobs.Completed,
				}[r.State]
			}
			if r.State.Final() && r.Owner == "" { // cancelled by the client
				break
			}
			body, err := r.Encode()
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := kv.Update(b.Context(), r.ID, body, revision); err != nil {
				if !errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
					b.Error(err)
				}
				continue
			}
			if r.State.Final() {
				if err := b.client.Announce(b.Context(), r); err != nil {
					b.Error(err)
				}
				break
			}
		}
		if err := m.DoubleAck(b.Context()); err != nil && !errors.Is(err, nats.ErrTimeout) {
			b.Error(err)
		}
	}
}
