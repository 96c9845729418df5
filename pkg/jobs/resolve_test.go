package jobs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
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
		jobs.Queued:     {jobs.Cancelled, false, "meshmill.event.cancelled.a.0"},
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
			if n, _, _ := told.Pending(); (n > 0) != tc.requested {
				t.Errorf("%d messages to the owner, cancel requested %v", n, tc.requested)
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

func TestResolve(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	deadline := time.Date(2026, 11, 20, 11, 0, 0, 0, time.UTC)
	// A job in the midst of a later stage, with everything set that must go.
	start := func(id string, s jobs.State) *jobs.Record {
		r := record(id, s)
		r.Session, r.Stage, r.StageInput, r.SubmittedAt = "s1", "refine", json.RawMessage(`{"spin":2}`), r.CreatedAt
		r.SubmitDeadline, r.SessionDeadline, r.RefusedSince, r.Refusals = deadline, deadline, deadline, 3
		r.Percent, r.Detail, r.Slot, r.CancelRequested = 40, "stuck", 4, true
		return r
	}
	type want struct {
		state   jobs.State
		attempt int
		session string
		stage   string
		input   string
	}
	tests := []struct {
		name string
		from jobs.State
		how  jobs.Resolution
		want want // its zero value: refused
	}{
		{"parked, same session", jobs.Parked, jobs.Resolution{Session: "s1"}, want{jobs.Running, 1, "s1", "refine", ""}},
		{"parked, session", jobs.Parked, jobs.Resolution{Session: "s2"}, want{jobs.Running, 1, "s2", "refine", ""}},
		{"parked, resubmit", jobs.Parked, jobs.Resolution{Resubmit: true}, want{jobs.Submitting, 2, "s1", "refine", `{"spin":2}`}},
		{"parked, fail", jobs.Parked, jobs.Resolution{Fail: true}, want{jobs.Failed, 1, "s1", "refine", `{"spin":2}`}},
		{"failed, session", jobs.Failed, jobs.Resolution{Session: "s2"}, want{jobs.Running, 2, "s2", "refine", ""}},
		{"failed, resubmit", jobs.Failed, jobs.Resolution{Resubmit: true}, want{jobs.Submitting, 2, "", "", ""}},
		{"failed, fail", jobs.Failed, jobs.Resolution{Fail: true}, want{jobs.Failed, 1, "s1", "refine", `{"spin":2}`}},
		{"cancelled, resubmit", jobs.Cancelled, jobs.Resolution{Resubmit: true}, want{jobs.Submitting, 2, "", "", ""}},
		{"cancelled, session", jobs.Cancelled, jobs.Resolution{Session: "s2"}, want{jobs.Running, 2, "s2", "refine", ""}},
		{"cancelled, fail", jobs.Cancelled, jobs.Resolution{Fail: true}, want{}},
		{"completed, resubmit", jobs.Completed, jobs.Resolution{Resubmit: true}, want{}},
		{"completed, session", jobs.Completed, jobs.Resolution{Session: "s1"}, want{}},
		{"completed, fail", jobs.Completed, jobs.Resolution{Fail: true}, want{}},
		{"running, resubmit", jobs.Running, jobs.Resolution{Resubmit: true}, want{}},
		{"running, other session", jobs.Running, jobs.Resolution{Session: "s2"}, want{}},
		{"running, fail", jobs.Running, jobs.Resolution{Fail: true}, want{}},
		{"submitting, session", jobs.Submitting, jobs.Resolution{Session: "s2"}, want{}},
		{"nothing", jobs.Parked, jobs.Resolution{}, want{}},
		{"two", jobs.Parked, jobs.Resolution{Session: "s", Resubmit: true}, want{}},
		{"all", jobs.Parked, jobs.Resolution{Session: "s", Resubmit: true, Fail: true}, want{}},
		{"bad session", jobs.Parked, jobs.Resolution{Session: "s\n"}, want{}},
		{"long session", jobs.Parked, jobs.Resolution{Session: strings.Repeat("s", 600)}, want{}},
	}
	for i, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			id := fmt.Sprintf("job-%d", i)
			before := start(id, tc.from)
			b.put(before)
			if tc.want == (want{}) {
				if r, err := b.client.Resolve(t.Context(), id, tc.how); err == nil {
					t.Errorf("no error, record %+v", r)
				}
				if diff := cmp.Diff(before, b.stored(id)); diff != "" {
					t.Errorf("the record has changed:\n%s", diff)
				}
				return
			}
			for range 2 { // repeating it changes nothing more
				r, err := b.client.Resolve(t.Context(), id, tc.how)
				if err != nil {
					t.Fatal(err)
				}
				got := want{r.State, r.Attempt, r.Session, r.Stage, string(r.StageInput)}
				if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(want{})); diff != "" {
					t.Errorf("record (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(b.stored(id), r); diff != "" {
					t.Errorf("returned is not what is stored (-stored +returned):\n%s", diff)
				}
				q := b.queued(jobs.Bulk, id)
				if r.State == jobs.Failed {
					if q == nil {
						t.Error("no worker will hear of the job and give its slot back")
					}
					if b.events()[b.names.EventSubject(jobs.EventFailed, id, 1)] != 1 {
						t.Error("no event says that it failed")
					}
					continue
				}
				if diff := cmp.Diff(&before.Request, q); diff != "" {
					t.Errorf("in the queue (-want +got):\n%s", diff)
				}
				fresh := jobs.Record{Slot: 4, Epoch: before.Epoch + 1, SubmittedAt: r.SubmittedAt, Lane: jobs.Bulk}
				ignore := cmpopts.IgnoreFields(jobs.Record{}, "Schema", "ID", "State", "Attempt", "Provider", "Session", "Stage", "StageInput", "Request", "CreatedAt", "UpdatedAt")
				if diff := cmp.Diff(&fresh, r, ignore); diff != "" {
					t.Errorf("the rest of the record (-want +got):\n%s", diff)
				}
				if r.State == jobs.Running && r.SubmittedAt.IsZero() {
					t.Error("no time of submission")
				}
			}
		})
	}
}

// A crash between the write of the record and the message: the same command
// again puts the message in the queue.
func TestResolveAfterCrash(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	for _, how := range []jobs.Resolution{{Session: "s1"}, {Resubmit: true}} {
		b.put(record("a", jobs.Parked))
		if _, err := b.client.Resolve(t.Context(), "a", how); err != nil {
			t.Fatal(err)
		}
		if b.take(t.Context(), 1) != 1 { // as if it had never been sent
			t.Fatal("nothing in the queue")
		}
		before := b.stored("a")
		after, err := b.client.Resolve(t.Context(), "a", how)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("%+v: the record has changed:\n%s", how, diff)
		}
		if b.take(t.Context(), 1) != 1 {
			t.Errorf("%+v: the message is not back in the queue", how)
		}
	}
}

func TestResolveWithoutRecord(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	if _, err := b.client.Resolve(t.Context(), "a", jobs.Resolution{Resubmit: true}); !errors.Is(err, jobs.ErrNotFound) {
		t.Errorf("err = %v, want not found", err)
	}
	if _, err := b.client.Enqueue(t.Context(), jobs.Item{Request: request("a")}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.Resolve(t.Context(), "a", jobs.Resolution{Resubmit: true}); err == nil || !strings.Contains(err.Error(), "is queued") {
		t.Errorf("err = %v, want that it is queued", err)
	}
}

func TestRequeue(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	r := record("a", jobs.Running)
	r.Lane = jobs.Interactive
	for range 2 {
		if err := b.client.Requeue(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(&r.Request, b.queued(jobs.Interactive, "a")); diff != "" {
		t.Errorf("in the queue (-want +got):\n%s", diff)
	}
	r.Request.Image = jobs.Image{}
	if err := b.client.Requeue(t.Context(), r); err == nil {
		t.Error("a broken request was queued")
	}
}

func TestAnnounce(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	r := record("a", jobs.Completed)
	for range 2 {
		if err := b.client.Announce(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.events(); !maps.Equal(got, map[string]uint64{"meshmill.event.completed.a.1": 1}) {
		t.Errorf("events: %v", got)
	}
	if err := b.client.Announce(t.Context(), record("b", jobs.Storing)); err == nil {
		t.Error("a state without an event was announced")
	}
}
