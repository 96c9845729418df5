package bulk_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/internal/bulk"
	"github.com/meshmill/meshmill/pkg/jobs"
)

func urls(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("https://example.com/%d.png", i)
	}
	return out
}

// Limits count what is new, and a second run goes on behind the first.
func TestLimits(t *testing.T) {
	t.Parallel()
	dear := template()
	dear.Cost = 200_000
	for name, tc := range map[string]struct {
		p    bulk.Pipeline
		err  error
		want []int // jobs in the queue after each run over 20 images
	}{
		"jobs":             {bulk.Pipeline{Template: template(), MaxJobs: 8}, bulk.ErrMaxJobs, []int{8, 16, 20}},
		"cost":             {bulk.Pipeline{Template: dear, MaxCost: 1_900_000}, bulk.ErrMaxCost, []int{9, 18, 20}},
		"cost to the cent": {bulk.Pipeline{Template: dear, MaxCost: 2_000_000}, bulk.ErrMaxCost, []int{10, 20, 20}},
		"none":             {bulk.Pipeline{Template: dear}, nil, []int{20}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := &queue{}
			tc.p.Queue = q
			for _, want := range tc.want {
				_, err := run(t, tc.p, bulk.URLs(urls(20)))
				if len(q.items) != want {
					t.Fatalf("%d jobs, want %d", len(q.items), want)
				}
				if stopped := want < 20; stopped != errors.Is(err, bulk.ErrMaxJobs) && stopped != errors.Is(err, bulk.ErrMaxCost) || (err != nil && !errors.Is(err, tc.err)) {
					t.Errorf("error %v with %d jobs", err, want)
				}
			}
		})
	}
}

func TestDryRunAsksWhatIsThere(t *testing.T) {
	t.Parallel()
	p := bulk.Pipeline{Template: template(), MaxJobs: 2}
	var first string
	p.Lookup = func(_ context.Context, ids []string) (map[string]jobs.State, error) {
		if first == "" {
			first = ids[0]
		}
		return map[string]jobs.State{first: jobs.Failed}, nil
	}
	got, err := run(t, p, bulk.URLs(urls(4)))
	want := []string{
		"https://example.com/0.png skipped", "https://example.com/1.png enqueued", "https://example.com/2.png enqueued",
	}
	if diff := cmp.Diff(want, got); diff != "" || !errors.Is(err, bulk.ErrMaxJobs) {
		t.Errorf("error %v, outcomes (-want +got):\n%s", err, diff)
	}
}

// A source may bring its own template, id and object.
func TestOwnTemplates(t *testing.T) {
	t.Parallel()
	other := bulk.Template{Provider: "modelslab", Batch: "other", Lane: jobs.Bulk}
	object := jobs.InputKey(fmt.Sprintf("%064x", 7), "png")
	q := &queue{}
	sources := func(yield func(bulk.Source) bool) {
		_ = yield(bulk.Source{URL: "https://example.com/a.png", Name: "a"}) &&
			yield(bulk.Source{Object: object, MediaType: "image/png", Name: "b", ID: "mine", Template: &other}) &&
			yield(bulk.Source{URL: "https://example.com/c.png", Name: "c", ID: "mine"}) &&
			yield(bulk.Source{URL: "https://example.com/d.png", Name: "d", ID: "not an id"})
	}
	got, err := run(t, bulk.Pipeline{Template: template(), Queue: q}, sources)
	want := []string{
		"a enqueued", "b enqueued", "c skipped same as b",
		`d: id is "not an id", must be 1 to 64 letters, digits, _ or -`,
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("error %v, outcomes (-want +got):\n%s", err, diff)
	}
	r := q.items[1].Request
	if r.ID != "mine" || r.Provider != "modelslab" || r.Batch != "other" || r.Image != (jobs.Image{Object: object, MediaType: "image/png", Name: "b"}) || q.items[1].Lane != jobs.Bulk {
		t.Errorf("request %+v in lane %s", r, q.items[1].Lane)
	}
}

func TestTracker(t *testing.T) {
	t.Parallel()
	var tr bulk.Tracker
	if !tr.Add("a") || tr.Add("a") || !tr.Add("b") {
		t.Error("Add does not tell new jobs from known ones")
	}
	refused := &jobs.Record{ID: "a", State: jobs.Submitting, Error: &jobs.Problem{}}
	if before, ours := tr.Move(refused); before != jobs.Queued || !ours || tr.Open() != 2 {
		t.Errorf("before %s, ours %t, %d open", before, ours, tr.Open())
	}
	if before, _ := tr.Move(&jobs.Record{ID: "a", State: jobs.Completed}); before != bulk.Waiting || tr.Open() != 1 {
		t.Errorf("before %s, %d open", before, tr.Open())
	}
	if _, ours := tr.Move(&jobs.Record{ID: "x", State: jobs.Completed}); ours || tr.Len() != 2 {
		t.Errorf("a foreign job is ours: %t; %d jobs", ours, tr.Len())
	}
}

func BenchmarkFollowMemory(b *testing.B) {
	for b.Loop() {
		var t bulk.Tracker
		for i := range 100_000 {
			t.Add(fmt.Sprintf("%026d", i))
		}
	}
	b.ReportAllocs()
}
