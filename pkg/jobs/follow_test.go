package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// watch runs a watch until next has seen all that a test wants.
type watch struct {
	*testing.T
	seen   chan string // "id state", or "error: …"
	cancel context.CancelFunc
	done   chan struct{}
}

func newWatch(b *broker, f jobs.Filter) *watch {
	ctx, cancel := context.WithCancel(b.Context())
	w := &watch{T: b.T, seen: make(chan string, 10_000), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for r, err := range b.client.Watch(ctx, f) {
			if err != nil {
				w.seen <- "error: " + err.Error()
			} else {
				w.seen <- r.ID + " " + string(r.State)
			}
		}
	}()
	b.Cleanup(w.stop)
	return w
}

func (w *watch) stop() { w.cancel(); <-w.done }

func (w *watch) next() string {
	w.Helper()
	select {
	case s := <-w.seen:
		return s
	case <-time.After(30 * time.Second):
		w.Fatal("the watch yields nothing")
		return ""
	}
}

// until reads on to a yield.
func (w *watch) until(want string) {
	w.Helper()
	var before []string
	for range 10_000 {
		s := w.next()
		if s == want {
			return
		}
		before = append(before, s)
	}
	w.Fatalf("no %q in %v", want, before)
}

// nothing checks that all that was yielded has been read.
func (w *watch) nothing() {
	w.Helper()
	w.stop()
	for {
		select {
		case s := <-w.seen:
			if !strings.Contains(s, context.Canceled.Error()) {
				w.Errorf("the watch yields %q too", s)
			}
		default:
			return
		}
	}
}

func (w *watch) expect(want ...string) {
	w.Helper()
	for i, s := range want {
		if got := w.next(); got != s {
			w.Fatalf("yield %d is %q, want %q", i, got, s)
		}
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	if _, err := b.client.Enqueue(t.Context(), jobs.Item{Request: request("q")}); err != nil {
		t.Fatal(err)
	}
	b.put(record("a", jobs.Running))
	b.put(record("gone", jobs.Running))
	if err := b.bucket().Delete(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	w := newWatch(b, jobs.Filter{})
	w.expect("q queued", "a running")
	b.put(record("q", jobs.Submitting))
	w.expect("q submitting")
	if _, err := b.bucket().PutString(t.Context(), "bad", "{}"); err != nil {
		t.Fatal(err)
	}
	if got := w.next(); !strings.HasPrefix(got, "error: job bad") {
		t.Errorf("%q, want an error about the bad record", got)
	}
	b.put(record("a", jobs.Storing))
	b.put(record("new", jobs.Completed))
	w.expect("a storing", "new completed")
	w.nothing()
}

func TestWatchFilter(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	if _, err := b.client.EnqueueMany(t.Context(), items("q", 3)); err != nil {
		t.Fatal(err)
	}
	many := []string{"a", "q-1"}
	for i := range 200 { // too many to filter by on the broker
		many = append(many, fmt.Sprintf("x-%d", i))
	}
	ids := newWatch(b, jobs.Filter{IDs: []string{"a", "q-1"}})
	lots := newWatch(b, jobs.Filter{IDs: many})
	state := newWatch(b, jobs.Filter{States: []jobs.State{jobs.Completed, jobs.Queued}, Provider: "csm", Batch: "spring"})
	ids.expect("q-1 queued")
	lots.expect("q-1 queued")
	for _, id := range []string{"z", "a", "b"} {
		for _, s := range []jobs.State{jobs.Running, jobs.Completed} {
			b.put(record(id, s))
			// Seen before it changes again, as quick changes may be passed over.
			if id == "a" {
				ids.expect("a " + string(s))
				lots.expect("a " + string(s))
			}
			if s == jobs.Completed {
				state.expect(id + " completed")
			}
		}
	}
	ids.nothing()
	lots.nothing()
	state.nothing()
	for r, err := range b.client.Watch(t.Context(), jobs.Filter{IDs: []string{"*"}}) {
		if err == nil {
			t.Errorf("a bad id yields %+v", r)
		}
	}
}

func TestWatchSurvivesRestart(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{onDisk: true})
	b.client.SetPatience(time.Minute, time.Second)
	for i := range 300 {
		b.put(record(fmt.Sprintf("j-%d", i), jobs.Running))
	}
	w := newWatch(b, jobs.Filter{})
	w.until("j-299 running")
	for i, s := range []jobs.State{jobs.Storing, jobs.Completed} {
		b.restart(func() {})
		for b.queueLength() != 0 { // until it answers
		}
		b.put(record(fmt.Sprintf("j-%d", i), s))
		w.until(fmt.Sprintf("j-%d %s", i, s))
	}
	w.nothing()
}

func TestWatchWithoutBucket(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	b.client.SetPatience(200*time.Millisecond, 200*time.Millisecond)
	if err := b.js.DeleteKeyValue(t.Context(), b.names.StateBucket()); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range b.client.Watch(t.Context(), jobs.Filter{States: []jobs.State{jobs.Running}}) {
		n++
		if err == nil || !strings.Contains(err.Error(), "bucket meshmill_state") {
			t.Errorf("err = %v, want that the bucket is missing", err)
		}
	}
	if n != 1 {
		t.Errorf("%d yields, want 1", n)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	if _, err := b.client.Wait(t.Context(), "none"); !errors.Is(err, jobs.ErrNotFound) {
		t.Errorf("unknown: err = %v", err)
	}
	for _, end := range []jobs.State{jobs.Completed, jobs.Failed, jobs.Cancelled, jobs.Parked} {
		id := "j-" + string(end)
		if _, err := b.client.Enqueue(t.Context(), jobs.Item{Request: request(id)}); err != nil {
			t.Fatal(err)
		}
		type result struct {
			r   *jobs.Record
			err error
		}
		got := make(chan result)
		go func() {
			r, err := b.client.Wait(t.Context(), id)
			got <- result{r, err}
		}()
		b.put(record(id, jobs.Submitting))
		b.put(record(id, jobs.Running))
		b.put(record(id, end))
		if res := <-got; res.err != nil || res.r.State != end {
			t.Errorf("%s: %+v, %v", end, res.r, res.err)
		}
		if r, err := b.client.Wait(t.Context(), id); err != nil || r.State != end { // it has ended already
			t.Errorf("%s, again: %+v, %v", end, r, err)
		}
	}
	b.put(record("slow", jobs.Running))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := b.client.Wait(ctx, "slow"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v, want the deadline", err)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{onDisk: true})
	b.client.SetPatience(time.Minute, time.Second)
	for i := range 3 {
		if err := b.client.Announce(t.Context(), record(fmt.Sprintf("old-%d", i), jobs.Completed)); err != nil {
			t.Fatal(err)
		}
	}
	follow := func(f jobs.EventFilter) (next func() string) {
		ctx, cancel := context.WithCancel(t.Context())
		got, done := make(chan string, 1000), make(chan struct{})
		go func() {
			defer close(done)
			for e, err := range b.client.Events(ctx, f) {
				if err != nil {
					got <- "error: " + err.Error()
				} else {
					got <- e.Type() + " " + e.Subject()
				}
			}
		}()
		t.Cleanup(func() { cancel(); <-done })
		return func() string {
			select {
			case s := <-got:
				return s
			case <-time.After(30 * time.Second):
				return "nothing"
			}
		}
	}
	all := follow(jobs.EventFilter{FromStart: true})
	failed := follow(jobs.EventFilter{FromStart: true, Kinds: []string{jobs.EventFailed, jobs.EventParked}})
	for i := range 3 {
		if got, want := all(), fmt.Sprintf("meshmill.job.completed.v1 old-%d", i); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	fresh := follow(jobs.EventFilter{})
	for len(b.consumers(b.names.EventsStream())) < 3 { // until it has begun
	}
	b.restart(func() {})
	for b.queueLength() != 0 { // until it answers
	}
	b.publish("meshmill.event.completed.bad.1", []byte(`{"specversion":"1.0"}`))
	if err := b.client.Announce(t.Context(), record("late", jobs.Failed)); err != nil {
		t.Fatal(err)
	}
	want := "meshmill.job.failed.v1 late"
	for name, next := range map[string]func() string{"all": all, "fresh": fresh} {
		if got := next(); !strings.HasPrefix(got, "error: event meshmill.event.completed.bad.1") {
			t.Errorf("%s: %q, want an error about the bad event", name, got)
		}
		if got := next(); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := failed(); got != want {
		t.Errorf("failed: %q, want %q", got, want)
	}
	for _, err := range b.client.Events(t.Context(), jobs.EventFilter{Kinds: []string{"lost"}}) {
		if err == nil {
			t.Error("an unknown kind is followed")
		}
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	want := jobs.Progress{ID: "a", State: jobs.Running, Provider: "csm", Stage: "create", Detail: "training", Percent: 42.5, Note: "waits"}
	body, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() { // again and again, as nothing tells when the subscription stands
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = b.nc.Publish(b.names.ProgressSubject("a"), []byte("junk"))
				_ = b.nc.Publish(b.names.ProgressSubject("b"), body) // of another job
				_ = b.nc.Publish(b.names.ProgressSubject("a"), body)
				_ = b.nc.Flush()
			}
		}
	}()
	n := 0
	var last error
	for p, err := range b.client.Progress(ctx) {
		if last = err; err != nil {
			continue
		}
		if diff := cmp.Diff(want, p); diff != "" {
			t.Errorf("progress (-want +got):\n%s", diff)
		}
		if n++; n == 3 {
			cancel()
		}
	}
	close(stop)
	<-stopped
	if n < 3 || !errors.Is(last, context.Canceled) {
		t.Errorf("%d messages, then %v", n, last)
	}
}
