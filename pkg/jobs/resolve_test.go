package jobs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/pkg/jobs"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	deadline := time.Date(2026, 11, 20, 11, 0, 0, 0, time.UTC)
	// A job in the midst of a later stage, with everything set that must go.
	start := func(id string, s jobs.State) *jobs.Record {
		r := record(id, s)
		r.Session, r.Stage, r.StageInput, r.SubmittedAt = "s1", "refine", json.RawMessage(`{"spin":2}`), r.CreatedAt
		r.SubmittingAt, r.SubmitDeadline, r.SessionDeadline, r.RefusedSince, r.Refusals = deadline, deadline, deadline, deadline, 3
		r.Percent, r.Detail, r.Slot, r.CancelRequested = 40, "stuck", 4, true
		if s == jobs.Cancelled {
			r.Slot = 0 // a cancelled job has given it back, unless its session still runs
		}
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
		{"parked, same session", jobs.Parked, jobs.Resolution{Session: "s1"}, want{jobs.Running, 2, "s1", "refine", ""}},
		{"parked, session", jobs.Parked, jobs.Resolution{Session: "s2"}, want{jobs.Running, 2, "s2", "refine", ""}},
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
				slot := 0
				if tc.from == jobs.Parked { // its session may still run
					slot = 4
				}
				fresh := jobs.Record{Slot: slot, Epoch: before.Epoch + 1, SubmittedAt: r.SubmittedAt, Lane: jobs.Bulk}
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

// What was parked because its result could not be stored has no call in doubt:
// buying means starting afresh.
func TestResubmitAfterStoring(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	r := record("a", jobs.Parked)
	r.Session, r.Stage, r.Slot, r.StoringAt = "s1", "create", 2, r.CreatedAt
	b.put(r)
	got, err := b.client.Resolve(t.Context(), "a", jobs.Resolution{Resubmit: true})
	if err != nil {
		t.Fatal(err)
	}
	if got.Session != "" || got.Stage != "" || got.Attempt != 2 || got.Slot != 2 {
		t.Errorf("record = %+v, want it without session and stage", got)
	}
}

// A worker that has written a job's end still holds its message when the job is
// revived. Its late acknowledgement must not take the new life away.
func TestReviveWhileTheOldMessageIsHeld(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	consumer, err := b.js.Consumer(t.Context(), b.names.JobsStream(), b.names.JobConsumer("csm", jobs.Bulk))
	if err != nil {
		t.Fatal(err)
	}
	revive := map[string]func(id string) error{
		"resolve": func(id string) error {
			_, err := b.client.Resolve(t.Context(), id, jobs.Resolution{Resubmit: true})
			return err
		},
		"again": func(id string) error {
			_, err := b.client.Enqueue(t.Context(), jobs.Item{Request: request(id), Again: true})
			return err
		},
	}
	for id, do := range revive {
		if _, err := b.client.Enqueue(t.Context(), jobs.Item{Request: request(id)}); err != nil {
			t.Fatal(err)
		}
		old, err := consumer.Next(jetstream.FetchMaxWait(10 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		b.put(record(id, jobs.Failed))
		if err := do(id); err != nil {
			t.Fatal(err)
		}
		_ = old.DoubleAck(t.Context()) // of a message that is gone
		next, err := consumer.Next(jetstream.FetchMaxWait(10 * time.Second))
		if err != nil {
			t.Fatalf("%s: the job is %s, and its message is gone: %v", id, b.stored(id).State, err)
		}
		if err := next.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
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
	for name, spoil := range map[string]func(*jobs.Record){
		"image":    func(r *jobs.Record) { r.Request.Image = jobs.Image{} },
		"lane":     func(r *jobs.Record) { r.Lane = "*" },
		"provider": func(r *jobs.Record) { r.Provider = "modelslab" },
		"id":       func(r *jobs.Record) { r.ID = "b" },
	} {
		r := record("a", jobs.Running)
		spoil(r)
		if err := b.client.Requeue(t.Context(), r); err == nil {
			t.Errorf("a record with a broken %s was queued", name)
		}
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
