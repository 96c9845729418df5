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
		r.Stage, r.SubmitDeadline, r.SubmittingAt, r.Slot = call.Stage, deadline, time.Now().UTC(), j.slot
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

// marker is unique to a job's attempt, and ends where no digit can follow.
func marker(id string, attempt int) string {
	return fmt.Sprintf("meshmill-%s-a%d.", id, attempt)
}

// takeTurn waits until the provider may be asked and the job has a slot.
func (j *job) takeTurn(ctx context.Context) error {
	name := j.provider.Name()
	if err := j.ports.Fleet.Await(ctx, name); err != nil {
		return j.waitError(ctx, err)
	}
	if err := j.acquire(ctx); err != nil {
		return err
	}
	j.slotted()
	if err := j.ports.Fleet.Await(ctx, name); err != nil {
		return j.standBack(ctx, j.waitError(ctx, err))
	}
	return nil
}

// acquire takes a slot that lasts as long as the session can.
func (j *job) acquire(ctx context.Context) error {
	const margin = 5 * time.Minute // for the paid call itself
	slot, err := j.ports.Fleet.Acquire(ctx, j.provider.Name(), j.lane, j.id, time.Now().Add(j.cfg.JobTimeout+margin))
	if err != nil {
		return j.waitError(ctx, err)
	}
	j.slot = slot
	return nil
}

func (j *job) waitError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return later(ctx, 5*time.Second, err)
}

// standBack gives the slot of a job that has no session back before err ends
// the delivery. A job without a record keeps it for its next delivery: another
// one may be about to buy with it.
func (j *job) standBack(ctx context.Context, err error) error {
	if j.rec != nil && j.rec.Session == "" && j.rec.SubmitDeadline.IsZero() {
		kctx, cancel := keep(ctx)
		defer cancel()
		_ = j.freeSlot(kctx) // the job's next delivery finds it again
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
		return j.bought(ctx, call.Stage, attempt, session)
	}
	if jobs.KindOf(err) != jobs.Unknown {
		return j.refused(ctx, call.Stage, err)
	}
	j.log.Warn().Err(err).Str("stage", call.Stage).Msg("outcome of a paid call is unknown")
	j.pause(ctx, err)
	problem := &jobs.Problem{Kind: jobs.Unknown.String(), Message: err.Error()}
	err = j.settle(call.Stage, attempt, jobs.Submitting, func(r *jobs.Record) {
		// The call is over, so nothing needs to be waited for.
		r.SubmitDeadline, r.Error = time.Now().UTC(), problem
	})
	if err != nil {
		return err
	}
	return j.reconcile(ctx)
}

// bought journals a session, and mirrors it to the bucket.
func (j *job) bought(ctx context.Context, stage string, attempt int, session *jobs.Session) error {
	j.log.Info().Str("session", session.ID).Str("stage", stage).Int("attempt", attempt).Msg("bought")
	now := time.Now().UTC()
	err := j.settle(stage, attempt, jobs.Running, func(r *jobs.Record) {
		adopt(r, session.ID, now)
		if r.SessionDeadline.IsZero() {
			r.SessionDeadline = now.Add(j.cfg.JobTimeout)
		}
	})
	switch {
	case errors.Is(err, errFenced):
		j.late(stage, attempt, session.ID)
		return err
	case err != nil:
		// The journal cannot be reached. The bucket may be: a receipt there is
		// found by whoever looks for the session.
		_ = j.receipt(j.pay, stage, attempt, session.ID)
		j.log.Error().Err(err).Str("session", session.ID).Msg("session could not be journalled")
		return err
	}
	if j.receipt(j.pay, stage, attempt, session.ID) == nil {
		j.receipted = purchaseName(stage, attempt, session.ID)
	}
	j.status = session.Status
	return nil
}

// adopt writes a session into a record.
func adopt(r *jobs.Record, session string, now time.Time) {
	r.Session, r.SubmitDeadline, r.StageInput, r.Error = session, time.Time{}, nil, nil
	r.RefusedSince, r.Refusals = time.Time{}, 0
	if r.SubmittedAt.IsZero() {
		r.SubmittedAt = now
	}
}

// settle saves the outcome of a paid call, over any edit by a client, for as
// long as this process may live.
func (j *job) settle(stage string, attempt int, state jobs.State, change func(*jobs.Record)) error {
	for {
		err := j.save(j.pay, state, change)
		if errors.Is(err, errAgain) && j.rec.State == jobs.Submitting && j.rec.Stage == stage && j.rec.Attempt == attempt {
			continue
		}
		if errors.Is(err, errAgain) {
			return errFenced // a person has decided otherwise meanwhile
		}
		return err
	}
}

// late hands a session over to whoever owns the record now. A session id is
// never thrown away: it turns a parked job into a running one.
func (j *job) late(stage string, attempt int, session string) {
	_ = j.receipt(j.pay, stage, attempt, session)
	for n := 1; sleep(j.pay, backoff(n, 50*time.Millisecond, 5*time.Second)); n++ {
		rec, rev, err := j.ports.Journal.Load(j.pay, j.id)
		if err != nil {
			continue
		}
		if rec != nil && rec.Session == session {
			return
		}
		waits := rec != nil && (rec.State == jobs.Submitting || rec.State == jobs.Parked)
		if !waits || rec.Attempt != attempt || rec.Stage != stage {
			j.log.Error().Str("session", session).Str("stage", stage).Int("attempt", attempt).
				Msg("a paid session arrived too late for its job; its receipt is in the bucket")
			return
		}
		parked := rec.State == jobs.Parked
		next := *rec
		now := time.Now().UTC()
		adopt(&next, session, now)
		next.State, next.UpdatedAt, next.SessionDeadline = jobs.Running, now, now.Add(j.cfg.JobTimeout)
		if _, err := j.ports.Journal.Save(j.pay, &next, rev); err != nil {
			continue
		}
		j.log.Warn().Str("session", session).Bool("was_parked", parked).Msg("a late session was handed to its job")
		if parked {
			if err := j.retry(j.pay, func() error { return j.ports.Queue.Requeue(j.pay, &next) }); err != nil {
				j.log.Error().Err(err).Msg("job with a late session could not be queued again")
			}
		}
		return
	}
}

func purchaseName(stage string, attempt int, session string) string {
	return fmt.Sprintf("%d/%s/%s", attempt, stage, session)
}

// ensureReceipt stores the receipt of the record's session, if this delivery
// does not know that it is there.
func (j *job) ensureReceipt(ctx context.Context) error {
	name := purchaseName(j.rec.Stage, j.rec.Attempt, j.rec.Session)
	if j.receipted == name {
		return nil
	}
	err := j.receipt(ctx, j.rec.Stage, j.rec.Attempt, j.rec.Session)
	if err == nil {
		j.receipted = name
	}
	return err
}

// receipt mirrors a purchase to the bucket.
func (j *job) receipt(ctx context.Context, stage string, attempt int, session string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*bookkeeping)
	defer cancel()
	at := time.Now().UTC()
	if j.rec != nil && j.rec.Session == session && !j.rec.SubmittedAt.IsZero() {
		at = j.rec.SubmittedAt
	}
	err := j.ports.Store.PutJSON(ctx, jobs.ReceiptKey(j.id, attempt), jobs.Receipt{
		Schema: jobs.ReceiptSchema, ID: j.id, Provider: j.provider.Name(), Session: session, Stage: stage,
		Attempt: attempt, Request: j.recordedRequest(), SubmittedAt: at,
	})
	if err != nil {
		j.log.Warn().Err(err).Str("session", session).Msg("receipt not stored yet")
		return fmt.Errorf("store the receipt: %w", err)
	}
	return nil
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
	refusals, since := 1, time.Now().UTC()
	if j.rec != nil && !j.rec.RefusedSince.IsZero() {
		refusals, since = j.rec.Refusals+1, j.rec.RefusedSince
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
		err = j.settle(stage, j.rec.Attempt, state, change)
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
	wait := max(fault.After, backoff(refusals, 2*time.Second, time.Minute))
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
