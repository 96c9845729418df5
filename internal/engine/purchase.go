package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// purchase makes the paid call of the job's stage: the first one, or the next
// one of a session. The record shows that no such call is open.
func (j *job) purchase(ctx context.Context) error {
	if j.rec != nil && j.rec.CancelRequested {
		return j.save(ctx, jobs.Cancelled, func(*jobs.Record) {})
	}
	plan, err := j.provider.Plan(j.request.Options, j.request.Formats)
	if err != nil {
		return j.fail(ctx, jobs.Permanent, "%v", err)
	}
	j.plan = plan
	call := jobs.Call{Stage: j.provider.Catalog().FirstStage, Options: j.request.Options, Formats: plan.Formats}
	if j.rec != nil && j.rec.Stage != "" && j.rec.Stage != call.Stage {
		call.Stage, call.Session, call.Input = j.rec.Stage, j.rec.Session, j.rec.StageInput
	}
	attempt := 1
	if j.rec != nil {
		attempt = j.rec.Attempt
	}
	call.Marker = marker(j.id, attempt)

	var img *image
	if call.Session == "" {
		if img, err = j.loadImage(ctx); err != nil {
			return j.imageFault(ctx, err)
		}
	}
	if err := j.takeTurn(ctx); err != nil {
		return err
	}
	delivery := ""
	if img != nil {
		if call.Image, delivery, err = j.deliver(ctx, img, call.Marker); err != nil {
			return j.refused(ctx, call.Stage, err)
		}
	}
	// The lease must be young when money is spent.
	rctx, cancel := context.WithTimeout(ctx, j.cfg.Lease/3)
	err = j.msg.Renew(rctx)
	cancel()
	if err != nil {
		return j.standBack(ctx, &releaseError{5 * time.Second, err})
	}

	deadline := time.Now().Add(plan.SubmitTimeout).UTC()
	jctx, cancel := linger(ctx)
	err = j.save(jctx, jobs.Submitting, func(r *jobs.Record) {
		r.Stage, r.SubmitDeadline, r.SubmittingAt, r.Slot, r.Error = call.Stage, deadline, time.Now().UTC(), j.slot, nil
		if delivery != "" {
			r.Delivery = delivery
		}
	})
	cancel()
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return j.unsent(ctx)
	}
	return j.submit(ctx, call, deadline)
}

// marker is unique to a job's attempt. No id holds a dot, so no marker is part
// of another.
func marker(id string, attempt int) string {
	return fmt.Sprintf("meshmill.%s.a%d.", id, attempt)
}

// takeTurn waits until the provider may be asked and the job has a slot.
func (j *job) takeTurn(ctx context.Context) error {
	await := func(ctx context.Context) error { return j.ports.Fleet.Await(ctx, j.provider.Name()) }
	if err := j.attend(ctx, await); err != nil {
		return err
	}
	if err := j.acquire(ctx); err != nil {
		return err
	}
	j.slotted()
	if err := j.attend(ctx, await); err != nil {
		return j.standBack(ctx, err)
	}
	return nil
}

// attend runs a wait that may be long. A nudge breaks into it, for a look at
// the record: the job may have been cancelled.
func (j *job) attend(ctx context.Context, wait func(context.Context) error) error {
	for {
		wctx, cancel := context.WithCancelCause(ctx)
		j.interruptible(func() { cancel(errAgain) })
		err := wait(wctx)
		j.interruptible(nil)
		nudged := errors.Is(context.Cause(wctx), errAgain)
		cancel(nil)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !nudged:
			return later(ctx, 5*time.Second, err)
		}
		if err := j.reload(ctx); err != nil {
			return err
		}
	}
}

// acquire takes a slot that lasts as long as the session can.
func (j *job) acquire(ctx context.Context) error {
	const margin = 5 * time.Minute // for the paid call itself
	return j.attend(ctx, func(ctx context.Context) (err error) {
		j.slot, err = j.ports.Fleet.Acquire(ctx, j.provider.Name(), j.lane, j.id, time.Now().Add(j.cfg.JobTimeout+margin))
		return err
	})
}

// standBack gives the slot of a job that has no session back before err ends
// the delivery. A job without a record, or with one that has been taken over,
// keeps it for its next delivery: another one may be about to buy with it.
func (j *job) standBack(ctx context.Context, err error) error {
	if j.rec != nil && j.rec.Session == "" && j.rec.SubmitDeadline.IsZero() {
		kctx, cancel := keep(ctx)
		defer cancel()
		if _, rev, lerr := j.ports.Journal.Load(kctx, j.id); lerr == nil && rev == j.rev {
			_ = j.freeSlot(kctx)
		}
	}
	return err
}

// unsent takes the intent to buy back: the call was certainly not made.
func (j *job) unsent(ctx context.Context) error {
	kctx, cancel := keep(ctx)
	defer cancel()
	err := j.save(kctx, jobs.Submitting, func(r *jobs.Record) {
		r.SubmitDeadline = time.Time{}
		if r.Session == "" {
			r.Slot = 0
		}
	})
	if err != nil && !errors.Is(err, errAgain) {
		return err
	}
	return j.standBack(ctx, context.Cause(ctx))
}

// submit makes the paid call and writes its outcome, however long that takes:
// neither a shutdown nor a lost lease may cut it off.
func (j *job) submit(ctx context.Context, call jobs.Call, deadline time.Time) error {
	attempt := j.rec.Attempt
	pctx, cancel := context.WithDeadlineCause(j.pay, deadline, errors.New("the provider did not answer before the submit deadline"))
	session, err := j.provider.Submit(pctx, call)
	cancel()
	if err == nil && (session == nil || session.ID == "") {
		err = jobs.Faultf(jobs.Unknown, j.provider.Name(), "the provider named no session")
	}
	outcome := "ok"
	if err != nil {
		outcome = jobs.KindOf(err).String()
	}
	j.ports.Observer.Bought(j.provider.Name(), call.Stage, outcome)
	if err == nil {
		return j.bought(call.Stage, attempt, session)
	}
	if jobs.KindOf(err) != jobs.Unknown {
		return j.refused(ctx, call.Stage, err)
	}
	j.log.Warn().Err(err).Str("stage", call.Stage).Msg("outcome of a paid call is unknown")
	j.pause(ctx, err)
	problem := &jobs.Problem{Kind: jobs.Unknown.String(), Message: err.Error()}
	err = j.settle(j.pay, call.Stage, attempt, jobs.Submitting, func(r *jobs.Record) {
		// The call is over, so nothing needs to be waited for.
		r.SubmitDeadline, r.Error = time.Now().UTC(), problem
	})
	if err != nil {
		return err
	}
	return j.reconcile(ctx)
}

// refused journals that nothing was bought, and ends the delivery: for good, or
// until the provider may be asked again.
func (j *job) refused(ctx context.Context, stage string, cause error) error {
	fault, ok := errors.AsType[*jobs.Fault](cause)
	if !ok {
		fault = &jobs.Fault{Kind: jobs.Retryable, Err: cause}
	}
	if ctx.Err() != nil && fault.Kind == jobs.Retryable && j.rec != nil && !j.rec.SubmitDeadline.IsZero() {
		return j.unsent(ctx)
	}
	refusals, since := 0, time.Now().UTC()
	if j.rec != nil && !j.rec.RefusedSince.IsZero() {
		refusals, since = j.rec.Refusals, j.rec.RefusedSince
	}
	if fault.Tries > 0 {
		refusals++ // only such refusals are counted: a busy provider may say no for long
	}
	tired := fault.Tries > 0 && refusals >= fault.Tries || time.Since(since) >= j.cfg.JobTimeout
	problem := &jobs.Problem{Kind: fault.Kind.String(), Message: cause.Error()}
	state := jobs.Submitting
	if fault.Kind == jobs.Permanent || tired {
		state = jobs.Failed
	}
	change := func(r *jobs.Record) {
		r.Stage, r.SubmitDeadline, r.Error, r.Refusals, r.RefusedSince = stage, time.Time{}, problem, refusals, since
		if r.Session == "" && state != jobs.Failed {
			r.Slot = 0
		}
	}
	var err error
	if j.rec != nil && !j.rec.SubmitDeadline.IsZero() {
		err = j.settle(j.pay, stage, j.rec.Attempt, state, change)
	} else {
		err = j.save(ctx, state, change)
	}
	if err != nil {
		return err
	}
	if state == jobs.Failed {
		return nil // concluded by the next step
	}
	j.progress(cause.Error())
	wait := max(fault.After, min(max(time.Since(since)/4, 2*time.Second), time.Minute))
	if fault.Pause {
		wait = max(wait, j.pause(ctx, cause))
	}
	return j.standBack(ctx, &releaseError{wait, cause})
}

// pause stops the fleet's purchases after a fault that concerns the provider as
// a whole, and returns for how long.
func (j *job) pause(ctx context.Context, cause error) time.Duration {
	fault, ok := errors.AsType[*jobs.Fault](cause)
	if !ok || !fault.Pause {
		return 0
	}
	d := max(fault.After, 5*time.Second)
	kctx, cancel := keep(ctx)
	defer cancel()
	if err := j.ports.Fleet.Pause(kctx, j.provider.Name(), d, cause.Error()); err != nil {
		j.log.Warn().Err(err).Msg("pause not shared with the fleet")
	}
	return d
}

// imageFault ends a delivery whose image cannot be had.
func (j *job) imageFault(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case jobs.KindOf(err) == jobs.Permanent:
		return j.fail(ctx, jobs.Permanent, "%v", err)
	}
	return j.refused(ctx, j.stage(), err)
}

func (j *job) stage() string {
	if j.rec != nil && j.rec.Stage != "" {
		return j.rec.Stage
	}
	return j.provider.Catalog().FirstStage
}
