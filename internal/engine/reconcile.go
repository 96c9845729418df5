package engine

import (
	"context"
	"errors"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

const (
	// skew is how far the clocks of two workers may be apart.
	skew = 5 * time.Second
	// settling is how long a provider's list may lag behind its purchases.
	settling = time.Minute
	// patience bounds how long a provider that does not answer is asked about a
	// call whose outcome is unknown.
	patience = 10 * time.Minute
	// leastTries is how often it may fail to answer in any case: the time may
	// have passed while this process stood still.
	leastTries = 5
)

// reconcile finds out what became of a paid call that is open in the record:
// the worker that made it died, or got no answer.
func (j *job) reconcile(ctx context.Context) error {
	j.slotted() // it has one, or needs none
	// Until its deadline the call may still be under way, even from a worker
	// that was replaced. Our own call is over when its outcome is unknown, and
	// has set the deadline to that moment.
	wait := time.Until(j.rec.SubmitDeadline)
	if j.rec.Error == nil || j.rec.Error.Kind != jobs.Unknown.String() {
		wait += skew
	}
	if wait > 0 {
		if err := j.pass(ctx, wait); err != nil {
			return err
		}
	}
	if session, err := j.findReceipt(ctx); session != nil || err != nil {
		if err != nil {
			return err
		}
		return j.bought(j.rec.Stage, j.rec.Attempt, session)
	}
	asker, ok := j.provider.(jobs.Reconciler)
	if !ok {
		return j.unknown(ctx, "whether "+j.provider.Name()+" took the paid call cannot be looked up")
	}
	call := jobs.Call{
		Stage: j.rec.Stage, Session: j.rec.Session, Marker: marker(j.id, j.rec.Attempt),
		Options: j.request.Options, Formats: j.request.Formats, Input: j.rec.StageInput,
	}
	if j.rec.Delivery == deliverPresign && j.rec.Session == "" {
		// Only the marker in it counts.
		call.Image.URL = "https://bucket.invalid/?filename=" + call.Marker
	}
	silent, failures, absent := time.Now(), 0, time.Time{}
	for n := 1; ; n++ {
		// What an answer shows is as old as its question: this process may have
		// stood still in between.
		asked := time.Now()
		rctx, cancel := context.WithTimeout(ctx, pollTimeout)
		session, err := asker.Reconcile(rctx, call, j.rec.SubmittingAt)
		cancel()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && session != nil && session.ID != "":
			j.log.Info().Str("session", session.ID).Msg("a paid call with a lost answer was found")
			return j.bought(call.Stage, j.rec.Attempt, session)
		case errors.Is(err, jobs.ErrNotBought):
			silent, failures = time.Now(), 0
			if absent.IsZero() {
				absent = silent
			}
			if asked.Sub(absent) >= settling {
				return j.again(ctx, "the provider shows no trace of the last call")
			}
		case jobs.KindOf(err) == jobs.Retryable && (failures < leastTries || time.Since(silent) < patience):
			failures++
			absent = time.Time{}
		default:
			return j.unknown(ctx, "what became of the paid call cannot be found out: "+text(err))
		}
		if err := j.pass(ctx, backoff(n, 5*time.Second, 30*time.Second)); err != nil {
			return err
		}
	}
}

func text(err error) string {
	if err == nil {
		return "no answer"
	}
	return err.Error()
}

// pass waits, and returns errAgain if the record changes meanwhile.
func (j *job) pass(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
			return j.reload(ctx)
		case <-j.nudged:
			if err := j.reload(ctx); err != nil {
				return err
			}
		}
	}
}

// mostRetries bounds how often a job buys again by itself. Each time there was a
// reason to, but whatever makes answers get lost so often needs a person.
const mostRetries = 2

// again frees the job for its next attempt: the provider has shown that the
// last call never reached it, or doubt is to be settled by buying.
func (j *job) again(ctx context.Context, why string) error {
	if j.rec.Retries >= mostRetries {
		return j.park(ctx, jobs.Unknown, "bought %d times without an answer: %s; find out why, then run: enqueue resolve %s --session ID, or --resubmit, or --fail", j.rec.Retries+1, why, j.id)
	}
	j.log.Warn().Int("attempt", j.rec.Attempt).Str("reason", why).Msg("the paid call will be made again")
	return j.save(ctx, jobs.Submitting, func(r *jobs.Record) {
		r.Attempt++
		r.Retries++
		r.SubmitDeadline, r.Error = time.Time{}, nil
	})
}

// unknown applies the policy for a paid call whose outcome cannot be known.
func (j *job) unknown(ctx context.Context, why string) error {
	if p := j.rec.Error; p != nil && p.Message != "" {
		why += " (" + p.Message + ")"
	}
	// A job that is to be cancelled is parked too: money may have been spent.
	if j.cfg.OnUnknown == Resubmit && !j.rec.CancelRequested {
		// Not in a hurry: the session may still turn up.
		if err := j.pass(ctx, settling); err != nil {
			return err
		}
		return j.again(ctx, why)
	}
	return j.park(ctx, jobs.Unknown, "%s; see the provider's own list of sessions, then run: enqueue resolve %s --session ID, or --resubmit, or --fail", why, j.id)
}
