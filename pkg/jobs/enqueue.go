package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Item is one request to enqueue.
type Item struct {
	// Request may leave out Schema, ID (see DeriveID) and EnqueuedAt.
	Request Request
	// Lane is Bulk if it is empty.
	Lane Lane
	// Again retries a job that has failed or was cancelled, as Client.Resolve
	// with Resubmit would, but with this request. It changes nothing for jobs in
	// any other state, and never buys a completed job again: that takes a new id
	// (FreshID).
	Again bool
}

// Outcome is what became of an Item.
type Outcome string

// The outcomes. Their text is stable.
const (
	// Enqueued: the request is in the queue, and was not before.
	Enqueued Outcome = "enqueued"
	// Skipped: there is such a job already; Result.State says how it stands.
	Skipped Outcome = "skipped"
	// Refused: the request is not in the queue, as far as is known; Result.Err
	// says why.
	Refused Outcome = "refused"
)

// Result is what became of an Item.
type Result struct {
	// ID is the job's id, empty only if the request has none and none can be
	// derived.
	ID      string
	Outcome Outcome
	// State is the state of the job now; empty if the item was refused.
	State State
	// Reason says in words why an item was skipped or refused.
	Reason string
	// Err is set if, and only if, the item was refused.
	Err error
}

// window is how many items are looked up and published together: the broker's
// limit of an atomic batch.
const window = 1000

// Enqueue puts one request in the queue. A job that exists is skipped, which is
// no error. When the queue is full, Enqueue waits for room until ctx ends.
// The error is that of a refused item. Calling it again after an error is safe.
func (c *Client) Enqueue(ctx context.Context, item Item) (Result, error) {
	results, err := c.EnqueueMany(ctx, []Item{item})
	if err == nil {
		err = results[0].Err
	}
	return results[0], err
}

// EnqueueMany puts any number of requests in the queue, and returns a result
// for each, in the order of the items. An invalid item is refused and the rest
// go on; of items with the same id the first counts and the others are skipped.
// Items are published a thousand at a time. When the queue is full, EnqueueMany
// waits for room until ctx ends (see ClientConfig.OnBlocked).
//
// The error is about the broker or ctx. Then the results tell what was done
// before; items whose fate is not known are refused. Calling it again with the
// same items is safe: what is queued already is skipped.
func (c *Client) EnqueueMany(ctx context.Context, items []Item) ([]Result, error) {
	results := make([]Result, len(items))
	first := make(map[string]int, len(items)) // id -> index of its first item
	for lo := 0; lo < len(items); lo += window {
		hi := min(lo+window, len(items))
		var todo []*entry
		for i := lo; i < hi; i++ {
			e, err := prepare(items[i])
			results[i].ID = e.req.ID
			if err != nil {
				results[i].refuse(err)
				continue
			}
			if _, dup := first[e.req.ID]; dup {
				continue // told below, when its first is done
			}
			first[e.req.ID] = i
			e.result = &results[i]
			todo = append(todo, e)
		}
		if err := c.enqueueWindow(ctx, todo); err != nil {
			for i := range results {
				if results[i].Outcome == "" {
					results[i].refuse(err)
				}
			}
			return results, err
		}
		for i := lo; i < hi; i++ {
			if results[i].Outcome == "" {
				results[i] = repeated(results[first[results[i].ID]])
			}
		}
	}
	return results, nil
}

// repeated is the result of an item whose id an earlier item of the call has.
func repeated(first Result) Result {
	if first.Outcome == Enqueued {
		first.Outcome = Skipped
		first.Reason = "an earlier item of this call is the same job"
	}
	return first
}

func (r *Result) refuse(err error) {
	r.Outcome, r.State, r.Reason, r.Err = Refused, "", err.Error(), err
}

func (r *Result) skip(s State, reason string) {
	r.Outcome, r.State, r.Reason, r.Err = Skipped, s, reason, nil
}

func (r *Result) enqueued(s State) {
	r.Outcome, r.State, r.Reason, r.Err = Enqueued, s, "", nil
}

// entry is an item on its way into the queue.
type entry struct {
	req    Request
	lane   Lane
	again  bool
	body   []byte
	result *Result
	doubt  bool // it was sent, and the answer was lost
}

// prepare completes, checks and encodes an item. The entry has the request's id
// even if it is not valid, so that its result can name it.
func prepare(item Item) (*entry, error) {
	e := &entry{req: item.Request, again: item.Again}
	var err error
	if e.lane, err = ParseLane(string(item.Lane)); err != nil {
		return e, err
	}
	if e.req.Schema == "" {
		e.req.Schema = RequestSchema
	}
	if e.req.ID == "" {
		if e.req.ID, err = DeriveID(e.req.Image, e.req.Provider, e.req.Options); err != nil {
			return e, err
		}
	}
	if e.req.EnqueuedAt.IsZero() {
		e.req.EnqueuedAt = time.Now()
	}
	e.req.EnqueuedAt = e.req.EnqueuedAt.UTC().Round(0)
	if err := e.req.Validate(); err != nil {
		return e, err
	}
	if e.body, err = encodeRequest(&e.req); err != nil {
		return e, err
	}
	return e, nil
}

func encodeRequest(r *Request) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("the request cannot be written as JSON: %w", err)
	}
	if len(body) > MaxRequestBytes {
		return nil, fmt.Errorf("the request has %d bytes, at most %d are taken", len(body), MaxRequestBytes)
	}
	return body, nil
}

// enqueueWindow looks up at most a window of entries, and publishes those that
// are new. It leaves those without an outcome whose fate it could not learn.
func (c *Client) enqueueWindow(ctx context.Context, todo []*entry) error {
	found, err := c.lookUp(ctx, todo)
	if err != nil {
		return err
	}
	fresh := make([]*entry, 0, len(todo))
	for _, e := range todo {
		f, ok := found[e.req.ID]
		switch {
		case !ok:
			fresh = append(fresh, e)
		case f.err != nil:
			e.result.refuse(f.err)
		case e.again && (f.state == Failed || f.state == Cancelled):
			if err := c.enqueueAgain(ctx, e); err != nil {
				return err
			}
		default:
			e.result.skip(f.state, skipReason(f.state))
		}
	}
	return c.publish(ctx, fresh)
}

// enqueueAgain retries a failed or cancelled job with a new request.
func (c *Client) enqueueAgain(ctx context.Context, e *entry) error {
	r, err := c.change(ctx, e.req.ID, func(r *Record) (bool, error) {
		if r.State != Failed && r.State != Cancelled {
			return false, nil
		}
		resubmit(r)
		r.Request, r.Lane = e.req, e.lane
		r.Request.Image = r.Request.Image.Public()
		return true, nil
	})
	switch {
	case errors.Is(err, ErrNotFound):
		return c.publish(ctx, []*entry{e}) // the record is gone by now
	case err != nil:
		return err
	case !r.Request.EnqueuedAt.Equal(e.req.EnqueuedAt):
		e.result.skip(r.State, skipReason(r.State)) // somebody was faster
		return nil
	}
	if err := c.putBack(ctx, r, e.body); err != nil {
		return err
	}
	e.result.enqueued(r.State)
	return nil
}

// finding is what a look at the queue and the records says about a job.
type finding struct {
	state State
	ours  bool // it comes of this very entry
	err   error
}

// lookUp finds out which of the entries exist as jobs, by id. The queue is read
// first: a message goes away only after the record is there, so that in this
// order no job is overlooked.
func (c *Client) lookUp(ctx context.Context, entries []*entry) (map[string]finding, error) {
	found := make(map[string]finding, len(entries))
	if len(entries) == 0 {
		return found, nil
	}
	byID := make(map[string]*entry, len(entries))
	queue := make([]string, len(entries))
	state := make([]string, len(entries))
	for i, e := range entries {
		byID[e.req.ID] = e
		queue[i] = c.names.JobAnywhere(e.req.ID)
		state[i] = c.stateSubject(e.req.ID)
	}
	err := c.last(ctx, c.names.JobsStream(), queue, func(m stored) {
		if _, _, id, err := c.names.ParseJobSubject(m.subject); err == nil && byID[id] != nil {
			found[id] = finding{state: Queued, ours: bytes.Equal(m.data, byID[id].body)}
		}
	})
	if err != nil {
		return nil, err
	}
	err = c.last(ctx, c.stateStream(), state, func(m stored) {
		id := m.subject[len(c.stateSubject("")):]
		if m.deleted || byID[id] == nil {
			return
		}
		r, err := DecodeRecord(m.data)
		if err != nil {
			found[id] = finding{err: fmt.Errorf("job %s: %w", id, err)}
			return
		}
		found[id] = finding{state: r.State, ours: r.Request.EnqueuedAt.Equal(byID[id].req.EnqueuedAt)}
	})
	return found, err
}

func skipReason(s State) string {
	switch s {
	case Queued:
		return "it is queued already"
	case Completed:
		return "it is completed already"
	case Failed:
		return "it has failed before, and can be retried"
	case Cancelled:
		return "it was cancelled before, and can be retried"
	case Parked:
		return "it is parked, and waits for a person to resolve it"
	default:
		return "it is in work already"
	}
}
