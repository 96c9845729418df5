package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/internal/topology"
	"github.com/meshmill/meshmill/pkg/jobs"
)

func items(prefix string, n int) []jobs.Item {
	out := make([]jobs.Item, n)
	for i := range out {
		out[i].Request = request(fmt.Sprintf("%s-%d", prefix, i))
	}
	return out
}

// tally counts results by outcome and state.
func tally(results []jobs.Result) map[string]int {
	out := map[string]int{}
	for _, r := range results {
		out[strings.TrimSpace(string(r.Outcome)+" "+string(r.State))]++
	}
	return out
}

func TestEnqueueFillsIn(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	before := time.Now().Add(-time.Second)
	item := jobs.Item{Lane: jobs.Interactive, Request: jobs.Request{
		Provider: "csm", Image: jobs.Image{URL: "https://example.com/a.png"}, Options: map[string]any{"resolution": 128},
	}}
	got, err := b.client.Enqueue(t.Context(), item)
	if err != nil {
		t.Fatal(err)
	}
	id, err := jobs.DeriveID(item.Request.Image, "csm", item.Request.Options)
	if err != nil {
		t.Fatal(err)
	}
	want := jobs.Result{ID: id, Outcome: jobs.Enqueued, State: jobs.Queued}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	r := b.queued(jobs.Interactive, id)
	if r == nil {
		t.Fatal("the request is not in the interactive lane")
	}
	if r.Schema != jobs.RequestSchema || r.ID != id || r.EnqueuedAt.Before(before) || r.EnqueuedAt.After(time.Now().Add(time.Second)) {
		t.Errorf("request in the queue = %+v", r)
	}

	got, err = b.client.Enqueue(t.Context(), item)
	if err != nil || got.Outcome != jobs.Skipped || got.State != jobs.Queued || got.Reason == "" {
		t.Errorf("second time: %+v, %v; want skipped, queued, with a reason", got, err)
	}
}

func TestEnqueueOtherLaneIsSameJob(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	for i, lane := range []jobs.Lane{jobs.Bulk, jobs.Interactive} {
		r, err := b.client.Enqueue(t.Context(), jobs.Item{Request: request("a"), Lane: lane})
		if err != nil {
			t.Fatal(err)
		}
		if want := []jobs.Outcome{jobs.Enqueued, jobs.Skipped}[i]; r.Outcome != want {
			t.Errorf("lane %s: %s, want %s", lane, r.Outcome, want)
		}
	}
}

func TestEnqueueManyMixed(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	all := items("j", 2500)
	// Some are queued already, some have got further, some had a record that
	// was deleted, and some are broken or repeated.
	if res, err := b.client.EnqueueMany(t.Context(), all[100:150]); err != nil || tally(res)["enqueued queued"] != 50 {
		t.Fatal(tally(res), err)
	}
	states := []jobs.State{jobs.Submitting, jobs.Running, jobs.Storing, jobs.Completed, jobs.Failed, jobs.Parked, jobs.Cancelled}
	for i, s := range states {
		b.put(record(fmt.Sprintf("j-%d", 1100+i), s))
	}
	b.put(record("j-2000", jobs.Completed))
	if err := b.bucket().Delete(t.Context(), "j-2000"); err != nil {
		t.Fatal(err)
	}
	all[7].Request.Provider = "CSM!"
	all[1200].Request.Image = jobs.Image{}
	all[1201].Lane = "fast"
	all[1202].Request.Options = map[string]any{"f": func() {}}
	all[1203].Request.Options = map[string]any{"big": strings.Repeat("x", jobs.MaxRequestBytes)}
	all[20] = all[10]          // in the same window
	all[2100] = all[11]        // in another
	all[2101] = all[1103]      // of one that is skipped
	all[2102] = all[1200]      // of one that is refused
	all[2499].Lane = jobs.Bulk // spelt out
	all[2498].Request.EnqueuedAt = time.Date(2026, 1, 1, 0, 0, 0, 0, time.FixedZone("x", 3600))

	results, err := b.client.EnqueueMany(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{
		"refused": 6, "skipped queued": 50 + 2, "skipped completed": 2,
		"skipped submitting": 1, "skipped running": 1, "skipped storing": 1, "skipped failed": 1, "skipped parked": 1, "skipped cancelled": 1,
	}
	rest := len(all)
	for _, n := range want {
		rest -= n
	}
	want["enqueued queued"] = rest
	if diff := cmp.Diff(want, tally(results)); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	for i, r := range results {
		if r.ID != all[i].Request.ID {
			t.Fatalf("result %d is of %q, want %q", i, r.ID, all[i].Request.ID)
		}
		if (r.Err != nil) != (r.Outcome == jobs.Refused) || (r.Reason == "") != (r.Outcome == jobs.Enqueued) {
			t.Errorf("result %d = %+v", i, r)
		}
	}
	for _, i := range []int{20, 2100} {
		if !strings.Contains(results[i].Reason, "earlier item") {
			t.Errorf("result %d: reason %q", i, results[i].Reason)
		}
	}
	if _, ok := errors.AsType[*jobs.FieldError](results[1200].Err); !ok {
		t.Errorf("an image that is empty: %v, want a field error", results[1200].Err)
	}
	if got, want := b.queueLength(), uint64(rest+50); got != want {
		t.Errorf("%d messages in the queue, want %d", got, want)
	}
	if got := b.queued(jobs.Bulk, "j-2498").EnqueuedAt; got.Location() != time.UTC {
		t.Errorf("enqueued_at = %v, want UTC", got)
	}

	// And all over again: nothing is new.
	results, err = b.client.EnqueueMany(t.Context(), all)
	if err != nil || tally(results)["enqueued queued"] != 0 {
		t.Errorf("second time: %v, %v", tally(results), err)
	}
}

func TestEnqueueManyNothing(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	if got, err := b.client.EnqueueMany(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	r, err := b.client.Enqueue(t.Context(), jobs.Item{})
	if err == nil || r.Outcome != jobs.Refused || r.Err == nil {
		t.Errorf("an empty item: %+v, %v; want refused", r, err)
	}
}

// Several producers enqueue the same jobs at once: each job is enqueued by
// exactly one of them, though their batches refuse each other.
func TestEnqueueManyAtOnce(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	const producers, n = 4, 1500
	var enqueued, skipped atomic.Int64
	var wg sync.WaitGroup
	for range producers {
		wg.Go(func() {
			results, err := b.client.EnqueueMany(t.Context(), items("j", n))
			if err != nil {
				t.Error(err)
			}
			enqueued.Add(int64(tally(results)["enqueued queued"]))
			skipped.Add(int64(tally(results)["skipped queued"]))
		})
	}
	wg.Wait()
	if enqueued.Load() != n || skipped.Load() != (producers-1)*n || b.queueLength() != n {
		t.Errorf("enqueued %d, skipped %d, queue %d; want %d, %d, %d", enqueued.Load(), skipped.Load(), b.queueLength(), n, (producers-1)*n, n)
	}
}

// Batches are bounded in bytes too, and a broker without batches is served.
func TestEnqueueManyLargeAndWithoutBatches(t *testing.T) {
	t.Parallel()
	for _, batches := range []bool{true, false} {
		t.Run(fmt.Sprintf("batches=%v", batches), func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, setup{})
			if !batches {
				cfg := b.stream(b.names.JobsStream()).CachedInfo().Config
				cfg.AllowAtomicPublish = false
				if _, err := b.js.UpdateStream(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
			}
			all := items("j", 300)
			for i := range all {
				all[i].Request.Labels = map[string]string{}
				for k := range 60 {
					all[i].Request.Labels[fmt.Sprint(k)] = strings.Repeat("x", 256)
				}
			}
			wire, err := b.nc.SubscribeSync(b.names.JobAll())
			if err != nil {
				t.Fatal(err)
			}
			results, err := b.client.EnqueueMany(t.Context(), all)
			if err != nil || tally(results)["enqueued queued"] != 300 || b.queueLength() != 300 {
				t.Errorf("%v, %v, queue %d", tally(results), err, b.queueLength())
			}
			size := map[string]int{} // of each batch, as seen on the wire
			for range 300 {
				m, err := wire.NextMsgWithContext(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if id := m.Header.Get("Nats-Batch-Id"); id != "" {
					size[id] += len(m.Data)
				}
			}
			if batches && len(size) < 2 {
				t.Errorf("%d batches, want some", len(size))
			}
			for _, n := range size {
				if n > 4<<20 {
					t.Errorf("a batch of %d bytes", n)
				}
			}
		})
	}
}

func TestEnqueueBackPressure(t *testing.T) {
	t.Parallel()
	blocked := make(chan string, 100)
	b := newBroker(t, setup{
		topology: topology.Options{MaxJobs: 40},
		client:   jobs.ClientConfig{OnBlocked: func(reason string) { blocked <- reason }},
	})
	const n = 130
	done := make(chan []jobs.Result, 1)
	go func() {
		results, err := b.client.EnqueueMany(t.Context(), items("j", n))
		if err != nil {
			t.Error(err)
		}
		done <- results
	}()
	select {
	case reason := <-blocked:
		if !strings.Contains(reason, "full") {
			t.Errorf("reason = %q", reason)
		}
	case r := <-done:
		t.Fatalf("not blocked by a queue of 40: %v", tally(r))
	}
	if got := b.queueLength(); got > 40 {
		t.Errorf("%d messages in a queue of 40", got)
	}
	taken := 0
	for taken < n {
		taken += b.take(t.Context(), n)
	}
	if got := tally(<-done); !maps.Equal(got, map[string]int{"enqueued queued": n}) {
		t.Errorf("results: %v", got)
	}

	// A full queue that nobody empties ends with the context.
	if _, err := b.client.EnqueueMany(t.Context(), items("fill", 40)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	results, err := b.client.EnqueueMany(ctx, items("more", 3))
	if !errors.Is(err, context.DeadlineExceeded) || tally(results)["refused"] != 3 {
		t.Errorf("full for good: %v, %v; want refused and a deadline error", tally(results), err)
	}
}

func TestEnqueueAgain(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	for _, s := range jobs.States {
		id := "j-" + string(s)
		if s == jobs.Queued {
			if _, err := b.client.Enqueue(t.Context(), jobs.Item{Request: request(id)}); err != nil {
				t.Fatal(err)
			}
		} else {
			r := record(id, s)
			r.Session, r.Stage = "old", "refine"
			b.put(r)
		}
		item := jobs.Item{Request: request(id), Lane: jobs.Interactive, Again: true}
		item.Request.Image.URL += "?sig=fresh"
		got, err := b.client.Enqueue(t.Context(), item)
		if err != nil {
			t.Fatal(err)
		}
		if s != jobs.Failed && s != jobs.Cancelled {
			if got.Outcome != jobs.Skipped || got.State != s {
				t.Errorf("%s: %+v, want skipped", s, got)
			}
			continue
		}
		if got.Outcome != jobs.Enqueued || got.State != jobs.Submitting {
			t.Errorf("%s: %+v, want enqueued, submitting", s, got)
		}
		r := b.stored(id)
		if r.State != jobs.Submitting || r.Attempt != 2 || r.Session != "" || r.Stage != "" || r.Error != nil || !r.FinishedAt.IsZero() || r.Lane != jobs.Interactive {
			t.Errorf("%s: record = %+v", s, r)
		}
		if strings.Contains(r.Request.Image.URL, "sig") {
			t.Errorf("%s: the record holds a signature: %s", s, r.Request.Image.URL)
		}
		if q := b.queued(jobs.Interactive, id); q == nil || !strings.HasSuffix(q.Image.URL, "?sig=fresh") {
			t.Errorf("%s: in the queue: %+v, want the new request", s, q)
		}
	}
}
