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
// at first; never concurrently. A record that cannot be read is reported as bad
// and is not waited for.
func Follow(ctx context.Context, w Watcher, ids []string, change func(before jobs.State, r *jobs.Record), bad func(error)) error {
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	states := make(map[string]jobs.State, len(ids))
	for _, id := range ids {
		states[id] = jobs.Queued
	}
	open := len(states)
	for r, err := range w.Watch(ctx, jobs.Filter{IDs: ids}) {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && r == nil:
			if jobs.KindOf(err) == jobs.Unknown { // kept simple: see below
				bad(err)
			}
			continue
		}
		before, ours := states[r.ID]
		if !ours {
			continue
		}
		states[r.ID] = r.State
		if Rests(r.State) != Rests(before) {
			if Rests(r.State) {
				open--
			} else {
				open++
			}
		}
		change(before, r)
		if open == 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}
