package jobs

import (
	"context"
	"errors"
	"fmt"
)

// Remedy is what retrying a job takes.
type Remedy string

// The remedies. Their text is stable.
const (
	// NoRemedy: the job has not failed, and was not cancelled.
	NoRemedy Remedy = ""
	// Fetch goes on with the session that was bought, and costs nothing.
	Fetch Remedy = "fetch"
	// BuyStage makes a paid call for a further stage of that session, which the
	// provider had refused.
	BuyStage Remedy = "buy-stage"
	// Buy buys the conversion anew: nothing was bought, or the provider has
	// failed it.
	Buy Remedy = "buy"
)

// RemedyFor returns what retrying a job takes. What may still be fetched is
// never bought again: a session is given up only when its provider said that it
// failed.
func RemedyFor(r *Record) Remedy {
	switch {
	case r.State != Failed && r.State != Cancelled:
		return NoRemedy
	case r.Session == "" || r.Error != nil && r.Error.Reason == ReasonProvider:
		return Buy
	case len(r.StageInput) > 0: // of a stage that has not been bought
		return BuyStage
	}
	return Fetch
}

// ErrMustBuy is returned by Retry for a job that only a purchase can complete.
var ErrMustBuy = errors.New("it can only be bought anew")

// Retry puts a job that has failed or was cancelled back in the queue, by the
// remedy that RemedyFor names. One that would buy is left alone, with ErrMustBuy,
// unless buy is set. A job in another state is returned as it is, with
// NoRemedy. If Retry fails half-way, Client.Requeue finishes what is left.
func (c *Client) Retry(ctx context.Context, id string, buy bool) (*Record, Remedy, error) {
	if err := CheckID(id); err != nil {
		return nil, NoRemedy, err
	}
	remedy := NoRemedy
	r, err := c.change(ctx, id, func(r *Record) (bool, error) {
		switch remedy = RemedyFor(r); {
		case remedy == NoRemedy:
			return false, nil
		case remedy == Fetch:
			adopt(r, r.Session)
			return true, nil
		case !buy:
			return false, fmt.Errorf("job %s: %w", id, ErrMustBuy)
		case remedy == BuyStage:
			r.State, r.Slot = Submitting, 0
			r.Attempt++
			reopen(r)
			return true, nil
		}
		resubmit(r)
		return true, nil
	})
	if errors.Is(err, ErrNotFound) {
		if q, err := c.Get(ctx, id); err == nil && q.State == Queued {
			return q, NoRemedy, nil
		}
	}
	if err != nil || remedy == NoRemedy {
		return r, remedy, err
	}
	body, err := requeued(r)
	if err != nil {
		return r, remedy, err
	}
	return r, remedy, c.putBack(ctx, r, body)
}
