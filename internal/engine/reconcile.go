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
	// leastTries is how often it is asked at least: the time may have passed
	// while this process stood still.
	leastTries = 5
)

// reconcile finds out what became of a paid call that is open in the record:
// the worker that made it died, or got no answer.
func (j *job) reconcile(ctx context.Context) error {
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
	began, absent := time.Now(), time.Time{}
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
			return j.bought(ctx, call.Stage, j.rec.Attempt, session)
		case errors.Is(err, jobs.ErrNotBought):
			if absent.IsZero() {
				absent = time.Now()
			}
			if asked.Sub(absent) >= settling {
				return j.again(ctx)
			}
		case jobs.KindOf(err) == jobs.Retryable && (n < leastTries || time.Since(began) < patience):
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

// again frees the job for its next attempt, after the provider has shown that
// the last call never reached it.
func (j *job) again(ctx context.Context) error {
	j.log.Warn().Int("attempt", j.rec.Attempt).Msg("the provider never got the paid call; it will be made again")
	return j.save(ctx, jobs.Submitting, func(r *jobs.Record) {
		r.Attempt++
		r.SubmitDeadline, r.Error = time.Time{}, nil
	})
}

// unknown applies the policy for a paid call whose outcome cannot be known.
func (j *job) unknown(ctx context.Context, why string) error {
	if p := j.rec.Error; p != nil && p.Message != "" {
		why += " (" + p.Message + ")"
	}
	if j.cfg.OnUnknown == Resubmit {
		j.log.Warn().Str("reason", why).Msg("buying again, as configured")
		return j.again(ctx)
	}
	return j.park(ctx, jobs.Unknown, "%s; see the provider's own list of sessions, then run: enqueue resolve %s --session ID, or --resubmit, or --fail", why, j.id)
}
