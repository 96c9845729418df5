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

// Follow watches jobs until all of them rest at the same time. It calls change
// for each record that it sees, with the state it saw before, which is Queued
// at first; never concurrently. It fails when ctx ends, and when a record
// cannot be read, because it could then wait for ever.
func Follow(ctx context.Context, w Watcher, ids []string, change func(before jobs.State, r *jobs.Record)) error {
	states := make(map[string]jobs.State, len(ids))
	for _, id := range ids {
		states[id] = jobs.Queued
	}
	open := len(states)
	if open == 0 {
		return nil
	}
	for r, err := range w.Watch(ctx, jobs.Filter{IDs: ids}) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		before, ours := states[r.ID]
		if !ours {
			continue
		}
		states[r.ID] = r.State
		switch {
		case Rests(r.State) && !Rests(before):
			open--
		case !Rests(r.State) && Rests(before):
			open++
		}
		change(before, r)
		if open == 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}
