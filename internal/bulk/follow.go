package bulk

import (
	"context"
	"iter"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// Watcher tells how jobs stand. *jobs.Client is one.
type Watcher interface {
	Watch(ctx context.Context, f jobs.Filter) iter.Seq2[*jobs.Record, error]
}

// Rests reports whether nobody works on a job in this state any more.
func Rests(s jobs.State) bool { return s.Final() || s == jobs.Parked }

// fewIDs is up to how many jobs a watch names. For more the broker sends all
// records anyway, and a filter of their ids would only take memory.
const fewIDs = 64

// BeyondQueued are the states of jobs that have a record.
func BeyondQueued() []jobs.State { return jobs.States[1:] }

// Follow watches jobs until all of them rest at the same time. It calls change
// for each record that it sees, with the state that was shown before, which is
// Queued at first; never concurrently. It fails when ctx ends, and when a record
// cannot be read, because it could then wait for ever.
func Follow(ctx context.Context, w Watcher, ids *IDs, change func(before jobs.State, r *jobs.Record)) error {
	var t Tracker
	f := jobs.Filter{States: BeyondQueued()}
	for _, id := range ids.All() {
		if t.Add(id); ids.Len() <= fewIDs {
			f.IDs = append(f.IDs, id)
		}
	}
	if t.Open() == 0 {
		return nil
	}
	for r, err := range w.Watch(ctx, f) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		before, ours := t.Move(r)
		if !ours {
			continue
		}
		change(before, r)
		if t.Open() == 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}
