package jobs

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
)

// Filter selects jobs. Its zero value selects all; a job must match every
// field that is set.
type Filter struct {
	IDs      []string
	Batch    string
	States   []State
	Provider string
}

// matches reports whether r is selected. ids are f.IDs.
func (f *Filter) matches(r *Record, ids map[string]bool) bool {
	return (len(f.IDs) == 0 || ids[r.ID]) &&
		(f.Batch == "" || r.Request.Batch == f.Batch) &&
		(len(f.States) == 0 || slices.Contains(f.States, r.State)) &&
		(f.Provider == "" || r.Provider == f.Provider)
}

func (f *Filter) wants(s State) bool { return len(f.States) == 0 || slices.Contains(f.States, s) }

func (f *Filter) check() error {
	for _, id := range f.IDs {
		if err := CheckID(id); err != nil {
			return err
		}
	}
	if f.Provider != "" && !providerPattern.MatchString(f.Provider) {
		return fieldErrorf("provider", "is %q, must be a provider's name such as csm", clip(f.Provider))
	}
	for _, s := range f.States {
		if !slices.Contains(States, s) {
			return fieldErrorf("state", "is %q, must be one of %v", clip(string(s)), States)
		}
	}
	return nil
}

func idSet(ids []string) map[string]bool {
	set := make(map[string]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// Get returns a job's record. For a job that is queued and has none, it makes
// one up of the request, with State Queued. Without either it returns an error
// that is ErrNotFound.
func (c *Client) Get(ctx context.Context, id string) (*Record, error) {
	for range 2 { // a look can miss a record at the moment in which it is replaced
		for r, err := range c.List(ctx, Filter{IDs: []string{id}}) {
			return r, err
		}
	}
	return nil, fmt.Errorf("job %s: %w", clip(id), ErrNotFound)
}

// List yields the jobs that f selects, each once, in no particular order: those
// with a record as it stands when it is read, and those that are queued and
// have none (see Get). An id in f.IDs that does not exist is left out. An error
// about one record, such as one written by a newer program, does not end the
// list; any other error does.
//
// It reads in pages, and remembers of what it has yielded only the ids of jobs
// that are not completed.
func (c *Client) List(ctx context.Context, f Filter) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		if err := f.check(); err != nil {
			yield(nil, err)
			return
		}
		l := c.newLister(f, yield)
		if err := l.run(ctx); err != nil && !l.stopped {
			yield(nil, err)
		}
	}
}

// A lister does one List.
type lister struct {
	c       *Client
	f       Filter
	ids     map[string]bool
	yield   func(*Record, error) bool
	seen    map[string]bool
	stopped bool
}

func (c *Client) newLister(f Filter, yield func(*Record, error) bool) *lister {
	return &lister{c: c, f: f, ids: idSet(f.IDs), yield: yield, seen: map[string]bool{}}
}

// run yields everything, and returns what ended it early.
func (l *lister) run(ctx context.Context) error {
	if len(l.f.IDs) > 0 {
		return l.byID(ctx)
	}
	return l.all(ctx)
}

// give yields a record if it is selected and new, and reports whether to go on.
func (l *lister) give(r *Record, err error) bool {
	switch {
	case l.stopped:
	case err != nil:
		l.stopped = !l.yield(nil, err)
	case l.seen[r.ID] || !l.f.matches(r, l.ids):
	default:
		if r.State != Completed { // completed records do not change any more
			l.seen[r.ID] = true
		}
		l.stopped = !l.yield(r, nil)
	}
	return !l.stopped
}

func (l *lister) all(ctx context.Context) error {
	if l.f.wants(Queued) {
		filter := l.c.names.JobAll()
		if l.f.Provider != "" {
			filter = l.c.names.JobLane(l.f.Provider, "*")
		}
		var inner error
		err := l.c.scan(ctx, l.c.names.JobsStream(), filter, func(page []stored) bool {
			inner = l.queued(ctx, page)
			return inner == nil && !l.stopped
		})
		if err = firstError(inner, err); err != nil || l.stopped {
			return err
		}
	}
	if len(l.f.States) == 1 && l.f.States[0] == Queued {
		return nil
	}
	return l.c.scan(ctx, l.c.stateStream(), l.c.stateSubject(">"), func(page []stored) bool {
		for _, m := range page {
			if !l.giveStored(m) {
				return false
			}
		}
		return true
	})
}

// queued gives those messages of a page of the queue that have no record.
func (l *lister) queued(ctx context.Context, page []stored) error {
	waiting := make(map[string]*Record, len(page))
	subjects := make([]string, 0, len(page))
	for _, m := range page {
		r := l.c.queuedRecord(m)
		if r == nil || l.seen[r.ID] || !l.f.matches(r, l.ids) {
			continue
		}
		waiting[r.ID] = r
		subjects = append(subjects, l.c.stateSubject(r.ID))
	}
	err := l.c.last(ctx, l.c.stateStream(), subjects, func(m stored) {
		if !m.deleted {
			delete(waiting, m.subject[len(l.c.stateSubject("")):])
		}
	})
	if err != nil {
		return err
	}
	for _, r := range waiting {
		if !l.give(r, nil) {
			return nil
		}
	}
	return nil
}

func (l *lister) giveStored(m stored) bool {
	if m.deleted {
		return true
	}
	r, err := DecodeRecord(m.data)
	if err != nil {
		id := m.subject[len(l.c.stateSubject("")):]
		if len(l.ids) > 0 && !l.ids[id] {
			return true
		}
		return l.give(nil, fmt.Errorf("job %s: %w", clip(id), err))
	}
	return l.give(r, nil)
}

// byID looks up the ids of the filter. As in Client.lookUp, the queue comes first.
func (l *lister) byID(ctx context.Context) error {
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(l.ids)), pageMessages) {
		queue := make([]string, len(chunk))
		state := make([]string, len(chunk))
		for i, id := range chunk {
			queue[i], state[i] = l.c.names.JobAnywhere(id), l.c.stateSubject(id)
		}
		var waiting, records []stored
		if err := l.c.last(ctx, l.c.names.JobsStream(), queue, func(m stored) { waiting = append(waiting, m) }); err != nil {
			return err
		}
		if err := l.c.last(ctx, l.c.stateStream(), state, func(m stored) { records = append(records, m) }); err != nil {
			return err
		}
		recorded := make(map[string]bool, len(records))
		for _, m := range records {
			if recorded[m.subject[len(l.c.stateSubject("")):]] = !m.deleted; !l.giveStored(m) {
				return nil
			}
		}
		for _, m := range waiting {
			if r := l.c.queuedRecord(m); r != nil && !recorded[r.ID] && !l.give(r, nil) {
				return nil
			}
		}
	}
	return nil
}

// queuedRecord makes a record up for a queued request. It returns nil for what
// is not a job: a worker will move that out of the way.
func (c *Client) queuedRecord(m stored) *Record {
	provider, lane, id, err := c.names.ParseJobSubject(m.subject)
	if err != nil {
		return nil
	}
	req, err := DecodeRequest(m.data)
	if err != nil || req.ID != id || req.Provider != provider {
		return nil
	}
	return &Record{
		Schema: RecordSchema, ID: id, State: Queued, Provider: provider, Lane: lane,
		Request: *req, CreatedAt: m.at, UpdatedAt: m.at,
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
