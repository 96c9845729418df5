package engine

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// pollTimeout bounds one poll.
const pollTimeout = time.Minute

// poll follows the session until the provider is done, or needs the next paid
// stage.
func (j *job) poll(ctx context.Context) error {
	if err := j.resume(ctx); err != nil {
		return err
	}
	j.slotted()
	began := j.rec.SubmittingAt
	if began.IsZero() {
		began = j.rec.SubmittedAt
	}
	var failures int
	var lost insistence
	announced := false
	looked := time.Now()
	for {
		if j.rec.CancelRequested {
			return j.save(ctx, jobs.Cancelled, func(*jobs.Record) {})
		}
		if !announced {
			announced = j.ports.Events.Publish(ctx, j.rec) == nil
		}
		_ = j.ensureReceipt() // again at the next poll, and before the end
		status, err := j.ask(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && jobs.KindOf(err) == jobs.Permanent:
			if lost.again(patience) {
				return j.park(ctx, jobs.Permanent, "%s; the session was bought, look for it at the provider, then run: enqueue resolve %s --session %s", err, j.id, j.rec.Session)
			}
			failures++
		case err != nil:
			failures, lost = failures+1, insistence{}
		default:
			failures, lost = 0, insistence{}
			if next, err := j.take(ctx, status); next || err != nil {
				return err
			}
		}
		if !time.Now().Before(j.rec.SessionDeadline) {
			return j.fail(ctx, jobs.Permanent, "the session still runs after %v; if it ends later, run: enqueue resolve %s --session %s", j.cfg.JobTimeout, j.id, j.rec.Session)
		}
		wait := j.interval(status, err, failures, time.Since(began))
		if err := j.rest(ctx, wait, &looked); err != nil {
			return err
		}
	}
}

// insistence counts how often, and for how long, the same bad news has come
// without a break. What was paid for is given up only after both.
type insistence struct {
	times int
	since time.Time
}

// again counts once more, and reports whether it is enough.
func (i *insistence) again(long time.Duration) bool {
	if i.times++; i.times == 1 {
		i.since = time.Now()
	}
	return i.times >= leastTries && time.Since(i.since) >= long
}

// resume gives a session that came without them a deadline and a slot: one
// from a receipt, or from a person.
func (j *job) resume(ctx context.Context) error {
	j.planAnyway()
	if !j.rec.SessionDeadline.IsZero() && j.rec.Slot > 0 {
		return nil
	}
	if err := j.acquire(ctx); err != nil {
		return err
	}
	return j.save(ctx, jobs.Running, func(r *jobs.Record) {
		r.Slot = j.slot
		if r.Stage == "" { // a person named the session
			r.Stage = j.provider.Catalog().FirstStage
		}
		if r.SessionDeadline.IsZero() {
			r.SessionDeadline = time.Now().Add(j.cfg.JobTimeout).UTC()
		}
		if r.SubmittedAt.IsZero() {
			r.SubmittedAt = time.Now().UTC()
		}
	})
}

// planAnyway makes a plan for a session that has been bought. It was planned
// before; should a newer version of this program think otherwise, the result is
// fetched all the same.
func (j *job) planAnyway() {
	if j.plan != nil {
		return
	}
	plan, err := j.provider.Plan(j.request.Options, j.request.Formats)
	if err != nil {
		plan = &jobs.Plan{Formats: j.request.Formats}
	}
	j.plan = plan
}

// ask returns the session's status, which the paid call may have told already.
func (j *job) ask(ctx context.Context) (*jobs.Status, error) {
	if s := j.status; s != nil {
		j.status = nil
		return s, nil
	}
	pctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	status, err := j.provider.Poll(pctx, jobs.Ref{
		Session: j.rec.Session, Stage: j.rec.Stage, Options: j.request.Options, Formats: j.plan.Formats,
	})
	if ctx.Err() == nil {
		j.ports.Observer.Polled(j.provider.Name(), err)
	}
	if err == nil && status == nil {
		err = jobs.Faultf(jobs.Retryable, j.provider.Name(), "no status")
	}
	if err != nil {
		j.log.Debug().Err(err).Msg("poll failed")
	}
	return status, err
}

// take acts on a status, and reports whether the state is done with.
func (j *job) take(ctx context.Context, s *jobs.Status) (bool, error) {
	switch s.Phase {
	case jobs.Done:
		j.files = s.Files
		return true, j.save(ctx, jobs.Storing, func(r *jobs.Record) {
			r.Percent, r.Detail, r.StoringAt = 100, s.Detail, time.Now().UTC()
		})
	case jobs.Broken:
		message := s.Message
		if message == "" {
			message = s.Detail
		}
		return true, j.failAs(ctx, jobs.Problem{
			Kind: jobs.Permanent.String(), Reason: jobs.ReasonProvider,
			Message: fmt.Sprintf("%s could not convert the image: %s", j.provider.Name(), message),
		})
	case jobs.NeedsStage:
		if s.Next != j.rec.Stage { // the stage at hand has been bought: it lags
			return true, j.save(ctx, jobs.Submitting, func(r *jobs.Record) {
				r.Stage, r.StageInput, r.SubmitDeadline, r.Detail = s.Next, s.NextInput, time.Time{}, s.Detail
			})
		}
	}
	return false, j.note(ctx, s)
}

// note tells the world of progress. The record learns only of a new word of
// the provider's: it is not worth a write for each percent.
func (j *job) note(ctx context.Context, s *jobs.Status) error {
	percent := j.rec.Percent
	if s.Percent >= 0 {
		percent = min(s.Percent, 100)
	}
	if s.Detail != j.rec.Detail {
		return j.save(ctx, jobs.Running, func(r *jobs.Record) { r.Percent, r.Detail = percent, s.Detail })
	}
	j.ports.Events.Progress(jobs.Progress{
		ID: j.id, State: j.rec.State, Provider: j.provider.Name(), Stage: j.rec.Stage, Detail: s.Detail, Percent: percent,
	})
	return nil
}

// interval is the time to the next poll: an eighth of the time the session has
// run, so that a result waits little compared with what it took, or the
// provider's own estimate if that is sooner to be over; within the configured
// bounds, and up to a tenth to either side so that a fleet does not poll in
// step. The spread depends on the job alone, so that a run can be repeated.
func (j *job) interval(s *jobs.Status, err error, failures int, elapsed time.Duration) time.Duration {
	d := elapsed / 8
	if err == nil && s.ETA > 0 {
		d = min(s.ETA, max(d, j.cfg.PollMin)*4)
	}
	d = min(max(d, j.cfg.PollMin), j.cfg.PollMax)
	if err != nil {
		d = max(d, backoff(failures, j.cfg.PollMin, j.cfg.PollMax), after(err))
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(j.id)) // never fails
	return d - d/10 + d/5*time.Duration(h.Sum32()%1000)/1000
}

// rest waits for the next poll. It looks at the record when nudged, and now
// and then, so that neither a cancel nor a take-over stays unseen for long.
func (j *job) rest(ctx context.Context, d time.Duration, looked *time.Time) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-j.nudged:
	case <-t.C:
		if time.Since(*looked) < j.cfg.Lease {
			return nil
		}
	}
	*looked = time.Now()
	return j.reload(ctx)
}

// drain follows a cancelled session to its end, because it keeps its place on
// the account until then.
func (j *job) drain(ctx context.Context) error {
	j.slotted()
	j.planAnyway()
	for n := 1; time.Now().Before(j.rec.SessionDeadline); n++ {
		s, err := j.ask(ctx)
		if err == nil && s.Phase != jobs.InProgress || err != nil && jobs.KindOf(err) == jobs.Permanent {
			break
		}
		if err := j.pass(ctx, backoff(n, j.cfg.PollMin, j.cfg.PollMax)); err != nil {
			return err
		}
	}
	return nil
}

// after is the provider's advice in err on when to try again.
func after(err error) time.Duration {
	if f, ok := errors.AsType[*jobs.Fault](err); ok {
		return f.After
	}
	return 0
}
