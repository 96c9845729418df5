package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

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
	parked := false // and so without a message
	r, err := c.cancelRecord(ctx, id, &parked)
	if errors.Is(err, ErrNotFound) {
		r, err = c.cancelQueued(ctx, id, &parked)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case r.Keeping():
		return r, c.keep(ctx, r)
	case r.State == Cancelled:
		// A worker may hold it, and wait for a slot.
		_ = c.nc.Publish(c.names.CancelSubject(id), nil) // best effort
		return c.conclude(ctx, r, parked)
	case r.CancelRequested && !r.State.Final():
		// Best effort: the worker sees the mark in the record too.
		if err := c.nc.Publish(c.names.CancelSubject(id), nil); err != nil {
			return r, fmt.Errorf("job %s: it is marked to be cancelled, but its worker could not be told: %w", id, err)
		}
	}
	return r, nil
}

// cancelRecord cancels or marks a job that has a record. It sets parked if the
// job was, and has just been cancelled.
func (c *Client) cancelRecord(ctx context.Context, id string, parked *bool) (*Record, error) {
	return c.change(ctx, id, func(r *Record) (bool, error) {
		switch r.State {
		case Queued, Parked:
			*parked = *parked || r.State == Parked
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
func (c *Client) cancelQueued(ctx context.Context, id string, parked *bool) (*Record, error) {
	for range maxConflicts {
		r, revision, err := c.record(ctx, id) // of a deleted key, if there was one
		if err != nil {
			return nil, err
		}
		if r != nil { // a worker was faster
			return c.cancelRecord(ctx, id, parked)
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
			return c.cancelRecord(ctx, id, parked)
		}
		r.State, r.FinishedAt, r.UpdatedAt = Cancelled, now(), now()
		r.Attempt = max(r.Attempt, 1)
		r.Request.Image = r.Request.Image.Public()
		err = c.save(ctx, r, revision)
		if !errors.Is(err, errConflict) {
			return r, err
		}
		if r, err := c.cancelRecord(ctx, id, parked); !errors.Is(err, ErrNotFound) {
			return r, err
		}
	}
	return nil, fmt.Errorf("job %s: its record keeps changing, try again", id)
}

// purge takes the message of an ended job out of the queue. If the job has
// been retried meanwhile, the message was the retry's, and is put back.
func (c *Client) purge(ctx context.Context, r *Record) (*Record, error) {
	if err := c.purgeMessages(ctx, r.ID); err != nil {
		return r, err
	}
	after, _, err := c.record(ctx, r.ID)
	if err != nil || after == nil || after.State.Final() {
		return r, err
	}
	return after, c.Requeue(ctx, after)
}

func (c *Client) purgeMessages(ctx context.Context, id string) error {
	return c.retry(ctx, "take job "+id+" out of the queue", func(ctx context.Context) error {
		s, err := c.js.Stream(ctx, c.names.JobsStream())
		if err != nil {
			return err
		}
		return s.Purge(ctx, jetstream.WithPurgeSubject(c.names.JobAnywhere(id)))
	})
}
