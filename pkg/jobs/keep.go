package jobs

import (
	"context"
	"errors"
)

// Keeping reports whether the job is cancelled, and its result is still to be
// fetched, see Client.CancelKeeping.
func (r *Record) Keeping() bool {
	return r.State == Cancelled && r.KeepResult && r.Session != "" && r.Manifest == "" && r.Error == nil
}

// CancelKeeping cancels like Cancel, but what has been bought is stored when the
// provider is done with it: the record, which stays cancelled, then names the
// files, or says why there are none. Nothing more is bought for the job, so that
// a session which needs a further paid stage has no result. It also takes jobs
// that are cancelled already.
func (c *Client) CancelKeeping(ctx context.Context, id string) (*Record, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	// The wish comes first: a worker that finds the job cancelled knows it then.
	_, err := c.change(ctx, id, func(r *Record) (bool, error) {
		switch {
		case r.KeepResult || r.State == Completed || r.State == Failed:
			return false, nil
		case r.Session == "" && r.State != Submitting: // nothing was bought
			return false, nil
		}
		r.KeepResult, r.Error = true, nil
		return true, nil
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	return c.Cancel(ctx, id)
}

// keep announces a cancelled job, and leaves its message to the worker that
// fetches the result.
func (c *Client) keep(ctx context.Context, r *Record) error {
	if err := c.Announce(ctx, r); err != nil {
		return err
	}
	return c.Requeue(ctx, r)
}
