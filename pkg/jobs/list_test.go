package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// collect returns the state of each job that a list yields, and fails on
// errors and repetitions.
func collect(t *testing.T, list iter.Seq2[*jobs.Record, error]) map[string]jobs.State {
	t.Helper()
	out := map[string]jobs.State{}
	for r, err := range list {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := out[r.ID]; twice {
			t.Errorf("%s was listed twice", r.ID)
		}
		out[r.ID] = r.State
	}
	return out
}

func TestGet(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	if _, err := b.client.Get(t.Context(), "a"); !errors.Is(err, jobs.ErrNotFound) {
		t.Errorf("unknown: err = %v, want not found", err)
	}
	if _, err := b.client.Get(t.Context(), "a.b"); err == nil || errors.Is(err, jobs.ErrNotFound) {
		t.Errorf("bad id: err = %v", err)
	}
	if _, err := b.client.Enqueue(t.Context(), jobs.Item{Request: request("a"), Lane: jobs.Interactive}); err != nil {
		t.Fatal(err)
	}
	r, err := b.client.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	want := &jobs.Record{
		Schema: jobs.RecordSchema, ID: "a", State: jobs.Queued, Provider: "csm", Lane: jobs.Interactive,
		Request: *b.queued(jobs.Interactive, "a"), CreatedAt: r.CreatedAt, UpdatedAt: r.CreatedAt,
	}
	if diff := cmp.Diff(want, r); diff != "" || r.CreatedAt.IsZero() {
		t.Errorf("queued (-want +got):\n%s", diff)
	}
	b.put(record("a", jobs.Running)) // its message is still there
	if r, err = b.client.Get(t.Context(), "a"); err != nil || r.State != jobs.Running {
		t.Errorf("with a record: %+v, %v", r, err)
	}
	if _, err := b.bucket().PutString(t.Context(), "new", `{"schema":"meshmill.state.v9"}`); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.Get(t.Context(), "new"); err == nil || !strings.Contains(err.Error(), "meshmill.state.v9") {
		t.Errorf("a newer record: err = %v", err)
	}
	if err := b.bucket().Delete(t.Context(), "new"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.Get(t.Context(), "new"); !errors.Is(err, jobs.ErrNotFound) {
		t.Errorf("deleted: err = %v, want not found", err)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	all := map[string]jobs.State{}
	for _, s := range jobs.States {
		if s == jobs.Queued {
			continue
		}
		for i := range 3 {
			r := record(fmt.Sprintf("%s-%d", s, i), s)
			if i == 2 {
				r.Provider, r.Request.Provider, r.Request.Batch = "modelslab", "modelslab", "autumn"
			}
			b.put(r)
			all[r.ID] = s
		}
	}
	var queue []jobs.Item
	for i := range 3 {
		item := jobs.Item{Request: request(fmt.Sprintf("queued-%d", i))}
		item.Request.Batch = "spring"
		if i == 2 {
			item.Request.Provider, item.Request.Batch = "modelslab", "autumn"
		}
		queue = append(queue, item)
		all[item.Request.ID] = jobs.Queued
	}
	if _, err := b.client.EnqueueMany(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	// In hand: a record, and a message.
	held := record("running-0", jobs.Running)
	if err := b.client.Requeue(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	// What is no job is nobody's business here.
	b.publish("meshmill.job.csm.bulk.junk", []byte("not JSON"))
	b.publish("meshmill.job.csm.bulk.other", []byte(`{"schema":"meshmill.job.v1","id":"someone","provider":"csm","image":{"url":"https://example.com/"}}`))
	b.publish("meshmill.job.csm.fast.lane", []byte(`{}`))
	b.put(record("gone", jobs.Failed))
	if err := b.bucket().Purge(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}

	only := func(keep func(id string, s jobs.State) bool) map[string]jobs.State {
		out := maps.Clone(all)
		maps.DeleteFunc(out, func(id string, s jobs.State) bool { return !keep(id, s) })
		return out
	}
	tests := []struct {
		name   string
		filter jobs.Filter
		want   map[string]jobs.State
	}{
		{"all", jobs.Filter{}, all},
		{"batch", jobs.Filter{Batch: "autumn"}, only(func(id string, _ jobs.State) bool { return strings.HasSuffix(id, "-2") })},
		{"provider", jobs.Filter{Provider: "modelslab"}, only(func(id string, _ jobs.State) bool { return strings.HasSuffix(id, "-2") })},
		{"unknown provider", jobs.Filter{Provider: "acme"}, map[string]jobs.State{}},
		{"queued", jobs.Filter{States: []jobs.State{jobs.Queued}}, only(func(_ string, s jobs.State) bool { return s == jobs.Queued })},
		{"completed or failed", jobs.Filter{States: []jobs.State{jobs.Completed, jobs.Failed}}, only(func(_ string, s jobs.State) bool { return s == jobs.Completed || s == jobs.Failed })},
		{"ids", jobs.Filter{IDs: []string{"queued-1", "running-0", "none", "queued-1", "completed-2", "completed-2", "gone", "junk"}}, map[string]jobs.State{"queued-1": jobs.Queued, "running-0": jobs.Running, "completed-2": jobs.Completed}},
		{"ids and state", jobs.Filter{IDs: []string{"queued-1", "running-0"}, States: []jobs.State{jobs.Queued}}, map[string]jobs.State{"queued-1": jobs.Queued}},
		{"ids and batch", jobs.Filter{IDs: []string{"queued-1", "running-2"}, Batch: "autumn"}, map[string]jobs.State{"running-2": jobs.Running}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, collect(t, b.client.List(t.Context(), tc.filter))); diff != "" {
				t.Errorf("jobs (-want +got):\n%s", diff)
			}
		})
	}
	for _, f := range []jobs.Filter{{IDs: []string{"a b"}}, {Provider: "*"}, {States: []jobs.State{"lost"}}} {
		for r, err := range b.client.List(t.Context(), f) {
			if err == nil {
				t.Errorf("%+v yields %+v", f, r)
			}
		}
	}
	n := 0
	for range b.client.List(t.Context(), jobs.Filter{}) {
		if n++; n == 5 {
			break
		}
	}
	if n != 5 {
		t.Errorf("a list that is left goes on to %d", n)
	}
}

// One record that cannot be read does not hide the others.
func TestListBadRecord(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	b.put(record("a", jobs.Running))
	if _, err := b.bucket().PutString(t.Context(), "b", "{}"); err != nil {
		t.Fatal(err)
	}
	b.put(record("c", jobs.Running))
	for name, f := range map[string]jobs.Filter{"all": {}, "ids": {IDs: []string{"a", "b", "c"}}} {
		var got []string
		for r, err := range b.client.List(t.Context(), f) {
			if err != nil {
				got = append(got, strings.SplitN(err.Error(), ":", 2)[0])
			} else {
				got = append(got, r.ID)
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff([]string{"a", "c", "job b"}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Many jobs, more than a page of each kind, are listed while workers change
// them: each is yielded once.
func TestListManyInMotion(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	const n = 1500
	if _, err := b.client.EnqueueMany(t.Context(), items("j", n)); err != nil {
		t.Fatal(err)
	}
	for i := range n / 2 {
		b.put(record(fmt.Sprintf("j-%d", i), jobs.Running))
	}
	seen := map[string]bool{}
	next := 0
	for r, err := range b.client.List(t.Context(), jobs.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if seen[r.ID] {
			t.Fatalf("%s was listed twice", r.ID)
		}
		seen[r.ID] = true
		if len(seen)%3 == 0 && next < n { // a worker moves on meanwhile
			b.put(record(fmt.Sprintf("j-%d", next), jobs.Storing))
			next++
		}
	}
	if len(seen) != n {
		t.Errorf("%d jobs, want %d", len(seen), n)
	}
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("j-%d", i)
	}
	if got := collect(t, b.client.List(t.Context(), jobs.Filter{IDs: ids})); len(got) != n {
		t.Errorf("%d jobs by id, want %d", len(got), n)
	}
}

// The memory of a list does not grow with the size of the records.
func TestListMemory(t *testing.T) {
	b := newBroker(t, setup{onDisk: true})
	const n, size = 1000, 60 << 10
	for i := range n {
		r := record(fmt.Sprintf("j-%d", i), jobs.Completed)
		r.Request.Labels = map[string]string{"x": strings.Repeat("x", size)}
		b.put(r)
	}
	var base, most, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&base)
	count := 0
	for _, err := range b.client.List(t.Context(), jobs.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if count++; count%200 == 0 {
			runtime.GC()
			if runtime.ReadMemStats(&now); now.HeapAlloc > most.HeapAlloc {
				most = now
			}
		}
	}
	if count != n {
		t.Errorf("%d jobs, want %d", count, n)
	}
	// The server is in the same heap, and caches a few blocks of 8 MB.
	grown := int64(most.HeapAlloc) - int64(base.HeapAlloc)
	if limit := int64(n * size / 2); grown > limit {
		t.Errorf("the heap grew by %d MiB while %d MiB of records were listed", grown>>20, n*size>>20)
	}
}

func TestListEndsWithContext(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	if _, err := b.client.EnqueueMany(t.Context(), items("j", 700)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	n := 0
	for _, err := range b.client.List(ctx, jobs.Filter{}) {
		cancel()
		n++
		last = err
	}
	if !errors.Is(last, context.Canceled) || n > 300 {
		t.Errorf("after %d jobs: %v, want the context's end", n, last)
	}
}
