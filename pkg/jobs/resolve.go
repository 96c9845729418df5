package jobs

import (
	"cmp"
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
	// Resubmit: buy. For a job that is parked because of a call in doubt it makes
	// that call again, and so pays a second time if the first did go through. A
	// job whose session is done, that failed or was cancelled starts afresh.
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

// Resolve carries out what a person decided about a parked job, or retries one
// that failed or was cancelled. The record returned is the job as it stands
// afterwards. Its message is back in the queue; that of a job which has been
// given up only if a worker has to free its slot.
//
// A job that comes back gets the next attempt number, so that what becomes of
// it then is announced by an event of its own. Resolve may be repeated: a job
// that the same resolution has already moved is only put back in the queue.
func (c *Client) Resolve(ctx context.Context, id string, how Resolution) (*Record, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	if err := how.check(); err != nil {
		return nil, err
	}
	moved := false // or may have been, if an answer was lost
	r, err := c.change(ctx, id, func(r *Record) (bool, error) {
		must, err := how.apply(r)
		moved = moved || must
		return must, err
	})
	if errors.Is(err, ErrNotFound) {
		if q, err := c.Get(ctx, id); err == nil && q.State == Queued {
			return q, fmt.Errorf("job %s is queued: there is nothing to resolve, start a worker for provider %s", id, q.Provider)
		}
	}
	if err != nil {
		return r, err
	}
	if how.Fail {
		return c.conclude(ctx, r, moved)
	}
	if !moved {
		return r, c.Requeue(ctx, r)
	}
	body, err := requeued(r)
	if err != nil {
		return r, err
	}
	return r, c.putBack(ctx, r, body)
}

// conclude announces the end that a person has given a job. If that is news,
// nobody else may know of it, so its message goes back first: should this
// process end before the event is out, a worker that meets the job announces it.
// A worker also has to give back the slot of a job that has one; otherwise the
// message is taken out again.
func (c *Client) conclude(ctx context.Context, r *Record, news bool) (*Record, error) {
	var unqueued error
	if news || r.Slot > 0 {
		// The end must not wait for workers to make room in a full queue.
		call, cancel := context.WithTimeout(ctx, c.callTimeout)
		unqueued = c.Requeue(call, r)
		cancel()
	}
	if err := c.Announce(ctx, r); err != nil {
		return r, err
	}
	if r.Slot > 0 {
		return r, unqueued
	}
	return c.purge(ctx, r)
}

// putBack puts the message of a job that has just been revived in the queue. A
// message that lies there is of the job's past: a worker may hold it still,
// about to acknowledge the job's end, and would take the new life with it.
func (c *Client) putBack(ctx context.Context, r *Record, body []byte) error {
	subject := c.subject(r)
	_, err := c.publishOne(ctx, subject, body)
	if errors.Is(err, errQueued) {
		if err = c.purgeMessages(ctx, r.ID); err == nil {
			_, err = c.publishOne(ctx, subject, body)
		}
	}
	if err != nil && !errors.Is(err, errQueued) {
		return fmt.Errorf("job %s: it is %s, but not back in the queue; do the same again: %w", r.ID, r.State, err)
	}
	return nil
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
	case how.Resubmit && r.State == Cancelled && r.Session != "" && r.Slot > 0:
		// Two sessions on one slot would exceed the account's limit.
		return false, fmt.Errorf("job %s is cancelled, but its session still runs at the provider: go on with it (session %s), or buy again when it has ended", r.ID, r.Session)
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
		r.Slot = 0 // it was given back
	}
	// Each attempt is parked, or ends, with one event at most: also a job that
	// was parked may be so again.
	r.Attempt++
	if r.Session != session || r.SubmittedAt.IsZero() {
		r.SubmittedAt = now()
	}
	r.State, r.Session = Running, session
	r.StageInput = nil
	reopen(r)
}

// resubmit makes a job buy: the call of its stage if that is in doubt, and
// everything from the first stage if there is nothing left to go on with.
func resubmit(r *Record) {
	if r.State.Final() {
		r.Slot = 0 // it was given back
	}
	if r.State.Final() || !r.StoringAt.IsZero() {
		r.Session, r.Stage, r.StageInput = "", "", nil
		r.SubmittedAt = time.Time{}
	}
	r.State = Submitting
	r.Attempt++
	reopen(r)
}

// reopen clears what a worker finds out anew.
func reopen(r *Record) {
	r.SubmitDeadline, r.SubmittingAt, r.SessionDeadline = time.Time{}, time.Time{}, time.Time{}
	r.Refusals, r.RefusedSince = 0, time.Time{}
	r.Error, r.CancelRequested, r.KeepResult = nil, false, false
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
	body, err := requeued(r)
	if err != nil {
		return err
	}
	_, err = c.publishOne(ctx, c.subject(r), body)
	if err != nil && !errors.Is(err, errQueued) {
		return fmt.Errorf("job %s: %w", r.ID, err)
	}
	return nil
}

// subject is that of a record's message.
func (c *Client) subject(r *Record) string {
	return c.names.JobSubject(r.Provider, cmp.Or(r.Lane, Bulk), r.ID)
}

// requeued is the message of a record.
func requeued(r *Record) ([]byte, error) {
	err := r.Request.Validate()
	if _, bad := ParseLane(string(r.Lane)); bad != nil {
		err = errors.Join(err, bad)
	}
	if r.ID != r.Request.ID || r.Provider != r.Request.Provider {
		err = errors.Join(err, errors.New("record and request have different ids or providers"))
	}
	if err != nil {
		return nil, fmt.Errorf("job %s: it cannot be queued again: %w", r.ID, err)
	}
	body, err := encodeRequest(&r.Request)
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", r.ID, err)
	}
	return body, nil
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
