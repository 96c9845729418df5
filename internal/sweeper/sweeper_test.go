package sweeper_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/internal/sweeper"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// fleet is a broker with some records and slots. The sweeper is alone with it.
type fleet struct {
	records  []*jobs.Record
	slots    map[int]string
	turn     atomic.Bool
	requeued []string
	released []string
	lists    int
}

func (f *fleet) Get(_ context.Context, id string) (*jobs.Record, error) {
	for _, r := range f.records {
		if r.ID == id {
			return r, nil
		}
	}
	return nil, fmt.Errorf("job %s: %w", id, jobs.ErrNotFound)
}

func (f *fleet) List(_ context.Context, filter jobs.Filter) iter.Seq2[*jobs.Record, error] {
	f.lists++
	return func(yield func(*jobs.Record, error) bool) {
		for _, r := range f.records {
			if slices.Contains(filter.States, r.State) && !yield(r, nil) {
				return
			}
		}
	}
}

func (f *fleet) Requeue(_ context.Context, r *jobs.Record) error {
	f.requeued = append(f.requeued, r.ID)
	return nil
}

func (f *fleet) TakeTurn(context.Context, string, string, time.Duration) (bool, error) {
	return f.turn.Load(), nil
}
func (f *fleet) Holders() map[string]map[int]string {
	return map[string]map[int]string{"csm": f.slots}
}
func (f *fleet) Release(_ context.Context, provider string, slot int, id string) error {
	f.released = append(f.released, fmt.Sprint(provider, " ", slot, " ", id))
	return nil
}

func TestSweep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		old := time.Now().Add(-time.Hour)
		record := func(id string, s jobs.State, at time.Time) *jobs.Record {
			return &jobs.Record{ID: id, State: s, Provider: "csm", UpdatedAt: at}
		}
		f := &fleet{
			records: []*jobs.Record{
				record("running", jobs.Running, old), record("storing", jobs.Storing, old),
				record("submitting", jobs.Submitting, old), record("fresh", jobs.Running, time.Now()),
				record("parked", jobs.Parked, old), record("done", jobs.Completed, old), record("ended", jobs.Failed, old),
				record("just ended", jobs.Failed, time.Now()),
			},
			// Slot 5 is one of two that "ended" held, 7 one that its end forgot.
			slots: map[int]string{1: "running", 2: "ended", 3: "purged", 4: "parked", 5: "ended", 6: "just ended", 7: "done"},
		}
		f.records[6].Slot = 2
		f.turn.Store(true)
		aborted := 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			sweeper.Run(ctx, sweeper.Config{
				Worker: "w", Lease: 30 * time.Second, Jobs: f, Fleet: f,
				AbortUploads: func(context.Context, time.Duration) (int, error) { aborted++; return 0, nil },
			})
		}()
		synctest.Wait()
		slices.Sort(f.requeued)
		if diff := cmp.Diff([]string{"ended", "running", "storing", "submitting"}, f.requeued); diff != "" {
			t.Errorf("queued again (-want +got):\n%s", diff)
		}
		slices.Sort(f.released)
		if diff := cmp.Diff([]string{"csm 3 purged", "csm 5 ended", "csm 7 done"}, f.released); diff != "" {
			t.Errorf("slots given back (-want +got):\n%s", diff)
		}
		f.turn.Store(false) // from now on another worker sweeps
		time.Sleep(2 * time.Hour)
		if f.lists != 1 || aborted != 1 {
			t.Errorf("%d sweeps, %d looks at uploads without the turn, want 1 and 1", f.lists, aborted)
		}
		cancel()
		<-done
	})
}

func TestSweepsAreAsFarApartAsTold(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		lease, every time.Duration
		want         int // sweeps in the first hour
	}{{30 * time.Second, 0, 12}, {30 * time.Second, 20 * time.Minute, 3}, {time.Second, time.Minute, 60}} {
		synctest.Test(t, func(t *testing.T) {
			f := &fleet{}
			f.turn.Store(true)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			sweeper.Run(ctx, sweeper.Config{
				Worker: "w", Lease: tc.lease, Every: tc.every, Jobs: f, Fleet: f,
				AbortUploads: func(context.Context, time.Duration) (int, error) { return 0, nil },
			})
			if f.lists < tc.want || f.lists > tc.want+1 { // the hour's end may bring one
				t.Errorf("lease %v, every %v: %d sweeps, want %d", tc.lease, tc.every, f.lists, tc.want)
			}
		})
	}
}
