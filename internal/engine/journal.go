package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

// maxDocument bounds a manifest or receipt that is read.
const maxDocument = 4 << 20

// claim reads the record and makes this delivery its owner.
func (j *job) claim(ctx context.Context) error {
	rec, rev, err := j.ports.Journal.Load(ctx, j.id)
	switch {
	case err != nil:
		return later(ctx, 5*time.Second, fmt.Errorf("read the record: %w", err))
	case rec == nil:
		j.rev, j.epoch = rev, 1
		return j.recover(ctx)
	}
	if rec.Provider != j.provider.Name() {
		return &foreignError{rec.Provider}
	}
	j.rec, j.rev, j.epoch = rec, rev, rec.Epoch
	if rec.State.Final() || rec.State == jobs.Parked {
		return nil
	}
	j.epoch++
	if err := j.save(ctx, rec.State, func(*jobs.Record) {}); err != nil && !errors.Is(err, errAgain) {
		return err
	}
	return nil
}

// foreignError reports a message with the id of another provider's job.
type foreignError struct{ provider string }

func (f *foreignError) Error() string { return "the id belongs to a job of " + f.provider }

// recover looks into the bucket for what a lost broker had known: a manifest
// is a completed job, a receipt is a session to go on with. Without an answer
// from the bucket nothing may be bought.
func (j *job) recover(ctx context.Context) error {
	var m jobs.Manifest
	err := j.ports.Store.GetJSON(ctx, jobs.ManifestKey(j.id), &m, maxDocument)
	switch {
	case err == nil && m.ID == j.id && m.Provider == j.request.Provider:
		j.log.Info().Str("session", m.Session).Msg("result found in the bucket")
		return j.save(ctx, jobs.Completed, func(r *jobs.Record) {
			r.Session, r.Attempt, r.Outputs, r.Missing = m.Session, max(m.Attempt, 1), m.Outputs, m.Missing
			r.Manifest, r.Percent = jobs.ManifestKey(j.id), 100
			r.SubmittedAt, r.StoringAt, r.FinishedAt = m.SubmittedAt, m.StoringAt, m.StoredAt
		})
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return later(ctx, 15*time.Second, fmt.Errorf("look for an earlier result: %w", err))
	}
	var last jobs.Receipt
	for o, err := range j.ports.Store.List(ctx, jobs.ReceiptPrefix(j.id)) {
		var r jobs.Receipt
		if err == nil {
			err = j.ports.Store.GetJSON(ctx, o.Key, &r, maxDocument)
		}
		if err != nil {
			return later(ctx, 15*time.Second, fmt.Errorf("look for an earlier purchase: %w", err))
		}
		if r.ID == j.id && r.Provider == j.request.Provider && r.Attempt > last.Attempt {
			last = r
		}
	}
	if last.Session == "" {
		return nil
	}
	j.log.Info().Str("session", last.Session).Msg("purchase found in the bucket")
	return j.save(ctx, jobs.Running, func(r *jobs.Record) {
		r.Session, r.Stage, r.Attempt, r.SubmittedAt = last.Session, last.Stage, last.Attempt, last.SubmittedAt
	})
}

// save moves the record to state, with change applied, by compare-and-set.
//
// It returns errFenced if another worker owns the record now, and errAgain,
// with the newer record in j.rec, if a client has edited it. A write whose
// answer was lost is looked up and, if it did not happen, repeated, until ctx
// ends.
func (j *job) save(ctx context.Context, state jobs.State, change func(*jobs.Record)) error {
	next, err := j.draft(state, change)
	if err != nil {
		return err
	}
	want, err := next.Encode()
	if err != nil {
		return err
	}
	vanished := 0
	for n := 1; ; n++ {
		rev, err := j.ports.Journal.Save(ctx, next, j.rev)
		if err == nil {
			j.rec, j.rev = next, rev
			j.progress("")
			return nil
		}
		// Written by somebody else, written by us with a lost answer, or not
		// written: the record tells, unless it cannot be read or is stale.
		rec, rev, lerr := j.ports.Journal.Load(ctx, j.id)
		switch {
		case lerr == nil && rev > j.rev:
			return j.conflict(want, next, rec, rev)
		case lerr == nil && rec == nil && j.rev > 0 && errors.Is(err, ErrConflict):
			// One such answer may come from a replica that lags.
			if vanished++; vanished >= 10 {
				return errVanished
			}
		default:
			vanished = 0
		}
		if n%20 == 5 {
			j.log.Warn().Err(err).Int("try", n).Str("state", string(state)).Msg("record not written yet")
		}
		if !sleep(ctx, backoff(n, 50*time.Millisecond, 2*time.Second)) {
			return later(ctx, 5*time.Second, fmt.Errorf("write the record: %w", err))
		}
	}
}

// draft returns the record as save is to write it.
func (j *job) draft(state jobs.State, change func(*jobs.Record)) (*jobs.Record, error) {
	now := time.Now().UTC()
	next := jobs.Record{
		Schema: jobs.RecordSchema, ID: j.id, State: jobs.Queued, Attempt: 1, Provider: j.provider.Name(), Lane: j.lane,
		Request: j.recordedRequest(), CreatedAt: now,
	}
	if j.rec != nil {
		next = *j.rec
	}
	if !jobs.CanMove(next.State, state) {
		return nil, fmt.Errorf("a job cannot go from %s to %s", next.State, state)
	}
	next.Request.Image = j.recordedRequest().Image
	next.State, next.Owner, next.Epoch, next.UpdatedAt = state, j.cfg.Worker, j.epoch, now
	change(&next)
	if state.Final() && next.FinishedAt.IsZero() {
		next.FinishedAt = now
	}
	return &next, nil
}

// recordedRequest is the request as it may be stored for long: an image's URL
// can carry a signature, so once its content is in the bucket only that is named.
func (j *job) recordedRequest() jobs.Request {
	r := j.request
	if r.Image.Object = j.keptImage(); r.Image.Object != "" {
		r.Image.URL = ""
	}
	r.Image = r.Image.Public()
	return r
}

// conflict decides what a newer record means.
func (j *job) conflict(want []byte, next, rec *jobs.Record, rev uint64) error {
	if rec == nil {
		return errVanished
	}
	if got, err := rec.Encode(); err == nil && bytes.Equal(got, want) {
		j.rec, j.rev = next, rev
		return nil
	}
	fenced := rec.Owner != "" && (rec.Owner != j.cfg.Worker || rec.Epoch != j.epoch)
	j.rec, j.rev = rec, rev
	if fenced {
		return errFenced
	}
	j.epoch = rec.Epoch
	return errAgain
}

// reload looks whether somebody else has written the record.
func (j *job) reload(ctx context.Context) error {
	rec, rev, err := j.ports.Journal.Load(ctx, j.id)
	if err != nil || rev <= j.rev {
		return nil // the next compare-and-set will tell
	}
	return j.conflict(nil, nil, rec, rev)
}

// fail ends the job.
func (j *job) fail(ctx context.Context, kind jobs.Kind, format string, args ...any) error {
	return j.failAs(ctx, jobs.Problem{Kind: kind.String(), Message: fmt.Sprintf(format, args...)})
}

func (j *job) failAs(ctx context.Context, problem jobs.Problem) error {
	return j.save(ctx, jobs.Failed, func(r *jobs.Record) {
		r.Error, r.SubmitDeadline = &problem, time.Time{}
	})
}

// park leaves the job to a person. Its slot stays taken: the session may run.
func (j *job) park(ctx context.Context, kind jobs.Kind, format string, args ...any) error {
	problem := &jobs.Problem{Kind: kind.String(), Message: fmt.Sprintf(format, args...)}
	return j.save(ctx, jobs.Parked, func(r *jobs.Record) {
		r.Error, r.SubmitDeadline = problem, time.Time{}
	})
}

// conclude publishes the event of a job that has ended or is parked, frees the
// slot of one that has ended, and lets the message go.
func (j *job) conclude(ctx context.Context) error {
	lctx, cancel := linger(ctx)
	defer cancel()
	if err := j.publish(lctx); err != nil {
		return err
	}
	if j.rec.State == jobs.Parked {
		return errAck
	}
	if j.rec.State == jobs.Cancelled && j.rec.Session != "" && (j.rec.Slot > 0 || j.rec.Keeping()) {
		if err := j.drain(ctx); err != nil {
			return err
		}
	}
	if j.rec.Slot > 0 {
		// Fenced by the journal: the slot may have passed on to the job's next
		// life, if a person has opened it again.
		j.slot = j.rec.Slot
		if err := j.save(lctx, j.rec.State, func(r *jobs.Record) { r.Slot = 0 }); err != nil {
			return err
		}
	}
	if err := j.freeSlot(lctx); err != nil {
		return later(ctx, 5*time.Second, err)
	}
	if j.rec.Keeping() {
		return j.keepResult(ctx)
	}
	return errAck
}

func (j *job) publish(ctx context.Context) error {
	if err := j.retry(ctx, func() error { return j.ports.Events.Publish(ctx, j.rec) }); err != nil {
		return later(ctx, 5*time.Second, fmt.Errorf("publish the event: %w", err))
	}
	return nil
}

// freeSlot gives the job's slot back, if it holds one.
func (j *job) freeSlot(ctx context.Context) error {
	slot := j.slot
	if slot == 0 && j.rec != nil {
		slot = j.rec.Slot
	}
	if slot == 0 {
		return nil
	}
	err := j.retry(ctx, func() error { return j.ports.Fleet.Release(ctx, j.provider.Name(), slot, j.id) })
	if err != nil {
		return fmt.Errorf("free the slot: %w", err)
	}
	j.slot = 0
	return nil
}

// dropSlot frees the slot that this delivery took, if the job's new owner works
// with another one, or needs none any more.
func (j *job) dropSlot(ctx context.Context) {
	if j.slot == 0 || j.rec == nil {
		return
	}
	other := (j.rec.Epoch != j.epoch || j.rec.Owner != j.cfg.Worker) && j.rec.Slot > 0 && j.rec.Slot != j.slot
	over := j.rec.State == jobs.Storing || j.rec.State == jobs.Failed || j.rec.State.Final() && j.rec.Slot == 0
	if other || over {
		_ = j.ports.Fleet.Release(ctx, j.provider.Name(), j.slot, j.id) // it also ends by itself
	}
}

func (j *job) progress(note string) {
	if j.rec == nil {
		return
	}
	j.ports.Events.Progress(jobs.Progress{
		ID: j.id, State: j.rec.State, Provider: j.provider.Name(), Stage: j.rec.Stage, Detail: j.rec.Detail,
		Percent: j.rec.Percent, Note: note,
	})
}
