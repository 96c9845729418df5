package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Resolution says what a person decides about a job. Exactly one field is set.
type Resolution struct {
	// Session: what was bought is this session of the provider; go on with it.
	Session string
	// Resubmit: buy. For a parked job it makes the call in doubt again, which
	// may pay a second time if the first call did go through; a job that failed
	// or was cancelled starts afresh.
	Resubmit bool
	// Fail: give a parked job up.
	Fail bool
}

const maxSession = 512

func (r *Resolution) check() error {
	set := 0
	for _, is := range []bool{r.Session != "", r.Resubmit, r.Fail} {
		if is {
			set++
		}
	}
	if set != 1 {
		return fmt.Errorf("%d of session, resubmit and fail are set, set exactly one", set)
	}
	if err := checkText(r.Session, maxSession); err != "" {
		return fieldErrorf("session", "%s", err)
	}
	return nil
}

// maxConflicts bounds how often a change is tried again because a worker wrote
// the record meanwhile. Workers write seconds apart.
const maxConflicts = 50

// change reads a job's record, lets edit alter it, and writes it by compare-and-
// set, again from the start if somebody else wrote it meanwhile. Edit returns
// false to leave it alone. The result is the record as it stands then.
// Without a record it fails with ErrNotFound.
func (c *Client) change(ctx context.Context, id string, edit func(*Record) (bool, error)) (*Record, error) {
	for range maxConflicts {
		r, revision, err := c.record(ctx, id)
		if err != nil {
			return nil, err
		}
		if r == nil {
			return nil, fmt.Errorf("job %s: %w", id, ErrNotFound)
		}
		if changed, err := edit(r); err != nil || !changed {
			return r, err
		}
		r.UpdatedAt = now()
		if err := c.save(ctx, r, revision); !errors.Is(err, errConflict) {
			return r, err
		}
	}
	return nil, fmt.Errorf("job %s: its record keeps changing, try again", id)
}

// now is the time as records hold it.
func now() time.Time { return time.Now().UTC().Round(0) }

// Cancel ends a job. A queued or parked job is cancelled at once. A job in work
// is only marked, and its worker told; it ends at the worker's next step, and
// what was bought until then is paid. A job that has ended is returned as it
// is. The record returned is the job as it stands afterwards.
//
// If Cancel fails half-way, call it again: it finishes what is left.
func (c *Client) Cancel(ctx context.Context, id string) (*Record, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	r, err := c.cancelRecord(ctx, id)
	if errors.Is(err, ErrNotFound) {
		r, err = c.cancelQueued(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case r.State == Cancelled:
		if err := c.Announce(ctx, r); err != nil {
			return r, err
		}
		return c.purge(ctx, r)
	case r.CancelRequested && !r.State.Final():
		// Best effort: the worker sees the mark in the record too.
		if err := c.nc.Publish(c.names.CancelSubject(id), nil); err != nil {
			return r, fmt.Errorf("job %s: it is marked to be cancelled, but its worker could not be told: %w", id, err)
		}
	}
	return r, nil
}

// cancelRecord cancels or marks a job that has a record.
func (c *Client) cancelRecord(ctx context.Context, id string) (*Record, error) {
	return c.change(ctx, id, func(r *Record) (bool, error) {
		switch r.State {
		case Queued, Parked:
			r.State, r.FinishedAt = Cancelled, now()
			r.Owner, r.Epoch = "", r.Epoch+1
			r.CancelRequested = false
			return true, nil
		case Submitting, Running, Storing:
			marked := r.CancelRequested
			r.CancelRequested = true
			return !marked, nil
		}
		return false, nil
	})
}

// cancelQueued creates the cancelled record of a job that has none, from its
// message. If a worker creates the record first, that one is cancelled.
func (c *Client) cancelQueued(ctx context.Context, id string) (*Record, error) {
	for range maxConflicts {
		r, revision, err := c.record(ctx, id) // of a deleted key, if there was one
		if err != nil {
			return nil, err
		}
		if r != nil { // a worker was faster
			return c.cancelRecord(ctx, id)
		}
		err = c.last(ctx, c.names.JobsStream(), []string{c.names.JobAnywhere(id)}, func(m stored) {
			if q := c.queuedRecord(m); q != nil {
				r = q
			}
		})
		if err != nil {
			return nil, err
		}
		if r == nil { // or taken, done and acknowledged since
			return c.cancelRecord(ctx, id)
		}
		r.State, r.FinishedAt, r.UpdatedAt = Cancelled, now(), now()
		r.Request.Image = r.Request.Image.Public()
		err = c.save(ctx, r, revision)
		if !errors.Is(err, errConflict) {
			return r, err
		}
		if r, err := c.cancelRecord(ctx, id); !errors.Is(err, ErrNotFound) {
			return r, err
		}
	}
	return nil, fmt.Errorf("job %s: its record keeps changing, try again", id)
}

// purge takes the message of a cancelled job out of the queue. If the job has
// been retried meanwhile, the message was the retry's, and is put back.
func (c *Client) purge(ctx context.Context, r *Record) (*Record, error) {
	err := c.retry(ctx, "take job "+r.ID+" out of the queue", func(ctx context.Context) error {
		s, err := c.js.Stream(ctx, c.names.JobsStream())
		if err != nil {
			return err
		}
		return s.Purge(ctx, jetstream.WithPurgeSubject(c.names.JobAnywhere(r.ID)))
	})
	if err != nil {
		return r, err
	}
	after, _, err := c.record(ctx, r.ID)
	if err != nil || after == nil || after.State.Final() {
		return r, err
	}
	return after, c.Requeue(ctx, after)
}

// Resolve carries out what a person decided about a parked job, or retries one
// that failed or was cancelled. The record returned is the job as it stands
// afterwards. Its message is back in the queue; that of a job which has been
// given up only if a worker has to free its slot.
//
// A job that comes back from its end gets the next attempt number, so that its
// new end is announced by an event of its own. Resolve may be repeated: a job
// that the same resolution has already moved is only put back in the queue.
func (c *Client) Resolve(ctx context.Context, id string, how Resolution) (*Record, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	if err := how.check(); err != nil {
		return nil, err
	}
	r, err := c.change(ctx, id, func(r *Record) (bool, error) { return how.apply(r) })
	if errors.Is(err, ErrNotFound) {
		if q, err := c.Get(ctx, id); err == nil && q.State == Queued {
			return q, fmt.Errorf("job %s is queued: there is nothing to resolve, start a worker for provider %s", id, q.Provider)
		}
	}
	if err != nil {
		return r, err
	}
	if how.Fail {
		if err := c.Announce(ctx, r); err != nil || r.Slot == 0 {
			return r, err
		}
		// A worker gives the slot back when it meets the ended job.
	}
	return r, c.Requeue(ctx, r)
}

// apply moves a record, and reports whether it had to.
func (how *Resolution) apply(r *Record) (bool, error) {
	mayRevive := r.State == Parked || r.State == Failed || r.State == Cancelled
	switch {
	case how.Fail && r.State == Parked:
		giveUp(r)
	case how.Fail && r.State == Failed:
		return false, nil
	case how.Session != "" && mayRevive:
		adopt(r, how.Session)
	case how.Session != "" && (r.State == Running || r.State == Storing) && r.Session == how.Session:
		return false, nil
	case how.Resubmit && mayRevive:
		resubmit(r)
	case how.Resubmit && r.State == Submitting:
		return false, nil
	default:
		return false, fmt.Errorf("job %s is %s: only a job that is parked can be resolved, and one that failed or was cancelled can be retried", r.ID, r.State)
	}
	return true, nil
}

// giveUp fails a parked job.
func giveUp(r *Record) {
	text := "given up by a person"
	if r.Error != nil {
		text += ", it was parked because: " + r.Error.Message
	}
	r.State, r.FinishedAt = Failed, now()
	r.Error = &Problem{Kind: Permanent.String(), Message: text}
	r.Owner, r.Epoch = "", r.Epoch+1
	r.CancelRequested = false
}

// adopt makes a job run on with a session. The stage is kept; if it is empty,
// the worker takes the provider's first.
func adopt(r *Record, session string) {
	if r.State.Final() {
		r.Attempt++
	}
	r.Attempt = max(r.Attempt, 1)
	if r.Session != session || r.SubmittedAt.IsZero() {
		r.SubmittedAt = now()
	}
	r.State, r.Session = Running, session
	r.StageInput = nil
	reopen(r)
}

// resubmit makes a job buy: the call of its stage if it was parked, and
// everything from the first stage if it had ended.
func resubmit(r *Record) {
	if r.State.Final() {
		r.Session, r.Stage, r.StageInput = "", "", nil
		r.SubmittedAt = time.Time{}
	}
	r.State = Submitting
	r.Attempt++
	reopen(r)
}

// reopen clears what a worker finds out anew.
func reopen(r *Record) {
	r.SubmitDeadline, r.SessionDeadline = time.Time{}, time.Time{}
	r.Refusals, r.RefusedSince = 0, time.Time{}
	r.Error, r.CancelRequested = nil, false
	r.Percent, r.Detail = 0, ""
	r.Outputs, r.Missing, r.Manifest = nil, nil, ""
	r.StoringAt, r.FinishedAt = time.Time{}, time.Time{}
	r.Owner, r.Epoch = "", r.Epoch+1
}

// Requeue puts the message of a record back in the queue, from its request and
// lane. A message that is there already is fine. It waits while the queue is
// full, until ctx ends. A record holds no query of an image URL: a worker that
// needs the image, and cannot read it without one, will fail the job and say so.
func (c *Client) Requeue(ctx context.Context, r *Record) error {
	lane, err := ParseLane(string(r.Lane))
	if err != nil {
		return fmt.Errorf("job %s: %w", r.ID, err)
	}
	if err := r.Request.Validate(); err != nil {
		return fmt.Errorf("job %s: its request cannot be queued again: %w", r.ID, err)
	}
	body, err := encodeRequest(&r.Request)
	if err != nil {
		return fmt.Errorf("job %s: %w", r.ID, err)
	}
	_, err = c.publishOne(ctx, c.names.JobSubject(r.Provider, lane, r.ID), body)
	if err != nil && !errors.Is(err, errQueued) {
		return fmt.Errorf("job %s: %w", r.ID, err)
	}
	return nil
}

// Announce publishes the event of a record's state. An event that is published
// already is fine: the stream takes each once.
func (c *Client) Announce(ctx context.Context, r *Record) error {
	e, err := NewEvent(r)
	if err != nil {
		return fmt.Errorf("job %s: %w", r.ID, err)
	}
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("job %s: %w", r.ID, err)
	}
	return c.retry(ctx, "announce job "+r.ID, func(ctx context.Context) error {
		m := nats.NewMsg(c.names.EventSubject(EventKind(r.State), r.ID, r.Attempt))
		m.Header.Set("Content-Type", "application/cloudevents+json")
		m.Data = body
		_, err := c.js.PublishMsg(ctx, m, jetstream.WithExpectStream(c.names.EventsStream()))
		if twice, _ := refusal(err); twice {
			return nil
		}
		return err
	})
}
