package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

// bought writes a session down, in the journal and in the bucket, for as long
// as this process may live: until one of them has it, nobody else can know what
// was paid for.
func (j *job) bought(stage string, attempt int, session *jobs.Session) error {
	j.log.Info().Str("session", session.ID).Str("stage", stage).Int("attempt", attempt).Msg("bought")
	now := time.Now().UTC()
	var err error
	for wait := bookkeeping; ; wait = min(2*wait, time.Minute) {
		ctx, cancel := context.WithTimeout(j.pay, wait)
		err = j.settle(ctx, stage, attempt, jobs.Running, func(r *jobs.Record) {
			adopt(r, session.ID, now)
			if r.SessionDeadline.IsZero() {
				r.SessionDeadline = now.Add(j.cfg.JobTimeout)
			}
		})
		cancel()
		if name := purchaseName(stage, attempt, session.ID); j.receipted != name && j.receipt(stage, attempt, session.ID, now) == nil {
			j.receipted = name
		}
		if err == nil || errors.Is(err, errFenced) || errors.Is(err, errVanished) || j.pay.Err() != nil {
			break
		}
		j.log.Warn().Err(err).Str("session", session.ID).Msg("session not journalled yet")
	}
	switch {
	case errors.Is(err, errFenced):
		j.late(stage, attempt, session.ID)
	case err != nil:
		// The receipt is found by whoever looks for the session.
		j.log.Error().Err(err).Str("session", session.ID).Msg("session could not be journalled")
	default:
		j.status = session.Status
	}
	return err
}

// adopt writes a session into a record.
func adopt(r *jobs.Record, session string, now time.Time) {
	r.Session, r.SubmitDeadline, r.StageInput, r.Error = session, time.Time{}, nil, nil
	r.RefusedSince, r.Refusals, r.Retries = time.Time{}, 0, 0
	if r.SubmittedAt.IsZero() {
		r.SubmittedAt = now
	}
}

// settle saves the outcome of a paid call, over any edit by a client.
func (j *job) settle(ctx context.Context, stage string, attempt int, state jobs.State, change func(*jobs.Record)) error {
	for {
		err := j.save(ctx, state, change)
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
// never thrown away: it turns a parked job into a running one, and takes the
// place of a purchase that has not been made yet.
func (j *job) late(stage string, attempt int, session string) {
	for n := 1; sleep(j.pay, backoff(n, 50*time.Millisecond, 5*time.Second)); n++ {
		rec, rev, err := j.ports.Journal.Load(j.pay, j.id)
		if err != nil {
			continue
		}
		if rec == nil || rec.Session == session {
			return // its receipt is in the bucket
		}
		next := *rec
		switch now := time.Now().UTC(); {
		case wants(rec, stage, attempt, session):
			adopt(&next, session, now)
			// Without a session deadline its next owner gives it one, and its slot.
			next.State, next.UpdatedAt, next.SessionDeadline = jobs.Running, now, time.Time{}
		case rec.State.Final() && rec.Session == "" && rec.Attempt == attempt:
			next.Session, next.UpdatedAt = session, now // for a person to see
		default:
			j.log.Error().Str("session", session).Str("stage", stage).Int("attempt", attempt).
				Msg("a paid session arrived too late for its job; its receipt is in the bucket")
			return
		}
		if _, err := j.ports.Journal.Save(j.pay, &next, rev); err != nil {
			continue
		}
		j.log.Warn().Str("session", session).Str("was", string(rec.State)).Msg("a late session was handed to its job")
		if rec.State == jobs.Parked {
			if err := j.retry(j.pay, func() error { return j.ports.Queue.Requeue(j.pay, &next) }); err != nil {
				j.log.Error().Err(err).Msg("job with a late session could not be queued again")
			}
		}
		return
	}
}

// wants reports whether a job still needs the session that a stage of an
// attempt has bought: it does not know what became of that call, or it is about
// to make another one and has not yet.
func wants(r *jobs.Record, stage string, attempt int, session string) bool {
	if r.Stage != stage {
		return false
	}
	doubts := (r.State == jobs.Submitting || r.State == jobs.Parked) && r.Attempt == attempt
	plans := r.State == jobs.Submitting && r.SubmitDeadline.IsZero() && r.Attempt > attempt && r.Session == ""
	return doubts || plans
}

func purchaseName(stage string, attempt int, session string) string {
	return fmt.Sprintf("%d/%s/%s", attempt, stage, session)
}

// ensureReceipt stores the receipt of the record's session, if this delivery
// does not know that it is there: the worker that bought may have died before.
func (j *job) ensureReceipt() error {
	name := purchaseName(j.rec.Stage, j.rec.Attempt, j.rec.Session)
	if j.receipted == name {
		return nil
	}
	err := j.receipt(j.rec.Stage, j.rec.Attempt, j.rec.Session, j.rec.SubmittedAt)
	if err == nil {
		j.receipted = name
	}
	return err
}

// receipt mirrors a purchase to the bucket. Nothing cuts it off: where the
// broker is lost, it is all that is left.
func (j *job) receipt(stage string, attempt int, session string, at time.Time) error {
	ctx, cancel := keep(j.pay)
	defer cancel()
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

// findReceipt looks into the bucket for the session of the open call: the worker
// that made it may have reached the bucket, but not the journal.
func (j *job) findReceipt(ctx context.Context) (*jobs.Session, error) {
	var r jobs.Receipt
	err := j.ports.Store.GetJSON(ctx, jobs.ReceiptKey(j.id, j.rec.Attempt), &r, maxDocument)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, later(ctx, 15*time.Second, fmt.Errorf("look for a receipt: %w", err))
	case r.ID != j.id || r.Provider != j.provider.Name() || r.Stage != j.rec.Stage || r.Session == "":
		return nil, nil
	}
	return &jobs.Session{ID: r.Session}, nil
}
