package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// job is one delivery of one job's message. Its methods run on one goroutine.
type job struct {
	*Engine
	id       string
	msg      Message
	provider jobs.Provider
	lane     jobs.Lane
	request  jobs.Request // as it came, the image's URL included
	plan     *jobs.Plan
	rec      *jobs.Record // nil while there is none
	rev      uint64
	epoch    uint64 // of this delivery; the record's while it is ours
	slot     int    // the slot this delivery has acquired
	pay      context.Context
	slotted  func() // tells the fetcher that the job waits no more
	nudged   chan struct{}
	// interrupt is what a nudge calls while the job waits; under Engine.mu.
	interrupt func()
	status    *jobs.Status // that came with the paid call's answer
	files     []jobs.File  // of a session that is done; never recorded
	// receipted is the purchase whose receipt this delivery knows to be in the
	// bucket. The worker that bought may have died before it could store one.
	receipted string
	log       zerolog.Logger
}

// What a step returns to end the delivery. Any other error releases the
// message for another try.
var (
	errAck    = errors.New("the job has ended")                // ack it
	errFenced = errors.New("another worker has the job")       // touch nothing
	errAgain  = errors.New("the record was changed by others") // look again
	// errVanished: the next delivery starts over, from what the bucket knows.
	errVanished = errors.New("the record is gone: it was deleted, or the broker has lost it")
)

// releaseError hands the message back for a later try.
type releaseError struct {
	after time.Duration
	err   error
}

func (r *releaseError) Error() string { return r.err.Error() }
func (r *releaseError) Unwrap() error { return r.err }

// later hands the message back after d; at once if ctx is what made err.
func later(ctx context.Context, d time.Duration, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &releaseError{d, err}
}

// bookkeeping bounds every write that must not be cut off by a shutdown.
const bookkeeping = 5 * time.Second

// keep returns a context for such a write.
func keep(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.WithoutCancel(ctx), bookkeeping, errors.New("bookkeeping took too long"))
}

// linger returns a context for a write that a shutdown must not cut in half: it
// lasts a little longer than ctx.
func linger(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if sleep(out, bookkeeping) {
			cancel(context.Cause(ctx))
		}
	})
	return out, func() { stop(); cancel(nil) }
}

// handle runs one delivery from claim to ack.
func (e *Engine) handle(hold, pay context.Context, m Message, provider string, lane jobs.Lane, slotted func()) {
	e.ports.Observer.Held(provider, 1)
	defer e.ports.Observer.Held(provider, -1)
	req, err := jobs.DecodeRequest(m.Body())
	if err != nil {
		e.bury(hold, m, err)
		return
	}
	if id := subjectID(m); req.Provider != provider || req.ID != id {
		e.bury(hold, m, fmt.Errorf("the request is for job %s of %s, its subject for %s of %s", req.ID, req.Provider, id, provider))
		return
	}
	j := &job{
		Engine: e, id: req.ID, msg: m, provider: e.providers[provider], lane: lane, request: *req,
		pay: pay, slotted: slotted, nudged: make(chan struct{}, 1),
		log: e.cfg.Log.With().Str("job_id", req.ID).Str("provider", provider).Logger(),
	}
	unhold, ok := e.hold(j)
	if !ok {
		// The earlier delivery answers the message. Should it not, this one has
		// to come again.
		kctx, cancel := keep(hold)
		defer cancel()
		_ = m.Release(kctx, e.cfg.Lease) // or it comes again by itself
		return
	}
	defer unhold()
	ctx, cancel := context.WithCancelCause(hold)
	defer cancel(nil)
	// The lease is kept for as long as the job runs here: a shutdown ends ctx,
	// but not a paid call.
	leaseCtx, endLease := context.WithCancel(context.WithoutCancel(hold))
	leaseDone := make(chan struct{})
	go func() {
		defer close(leaseDone)
		j.keepLease(leaseCtx, cancel)
	}()
	err = j.run(ctx)
	endLease()
	<-leaseDone
	if foreign, ok := errors.AsType[*foreignError](err); ok {
		e.bury(hold, m, foreign)
		return
	}
	j.finish(hold, err)
}

// bury puts a message that is no request aside, so that it blocks nothing.
func (e *Engine) bury(ctx context.Context, m Message, reason error) {
	ctx, cancel := keep(ctx)
	defer cancel()
	id := subjectID(m)
	e.cfg.Log.Error().Err(reason).Str("subject", m.Subject()).Msg("message is not a request")
	if err := e.ports.Queue.Bury(ctx, id, m.Body(), reason.Error()); err != nil {
		e.cfg.Log.Warn().Err(err).Msg("dead message not stored")
		_ = m.Release(ctx, 30*time.Second) // comes back by itself if this fails
		return
	}
	if err := m.Ack(ctx); err != nil {
		e.cfg.Log.Warn().Err(err).Msg("dead message not acked")
	}
}

// subjectID is the id in a message's subject: its last token.
func subjectID(m Message) string {
	s := m.Subject()
	return s[strings.LastIndexByte(s, '.')+1:]
}

// keepLease renews the lease every third of it, until ctx ends. When the broker
// has not confirmed for a whole lease, it ends the job's context with cancel:
// never work on past what the broker honours.
func (j *job) keepLease(ctx context.Context, cancel context.CancelCauseFunc) {
	every := j.cfg.Lease / 3
	tick := time.NewTicker(every)
	defer tick.Stop()
	confirmed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked := time.Now()
		rctx, done := context.WithTimeout(ctx, every)
		err := j.msg.Renew(rctx)
		done()
		switch {
		case err == nil:
			confirmed = asked
		case ctx.Err() != nil:
			return
		case time.Since(confirmed) >= j.cfg.Lease:
			cancel(errLeaseLost)
			return
		}
	}
}

// run steps through the job's states until the delivery ends.
func (j *job) run(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			// The record says how far the job came; whoever gets it next goes on there.
			j.log.Error().Str("panic", fmt.Sprint(p)).Bytes("stack", debug.Stack()).Msg("job panicked")
			err = &releaseError{time.Minute, fmt.Errorf("panic: %v", p)}
		}
	}()
	if err := j.claim(ctx); err != nil {
		return err
	}
	for {
		err := j.step(ctx)
		if err != nil && !errors.Is(err, errAgain) {
			return err
		}
	}
}

// step does what the job's state asks for.
func (j *job) step(ctx context.Context) error {
	if j.rec != nil && (j.rec.State.Final() || j.rec.State == jobs.Parked) {
		return j.conclude(ctx) // a shutdown lets a job finish its last words
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if j.rec == nil {
		return j.purchase(ctx)
	}
	switch j.rec.State {
	case jobs.Submitting:
		if j.rec.SubmitDeadline.IsZero() {
			return j.purchase(ctx)
		}
		return j.reconcile(ctx)
	case jobs.Running:
		return j.poll(ctx)
	default:
		return j.store(ctx)
	}
}

// finish answers the message as the delivery's outcome asks for.
func (j *job) finish(ctx context.Context, err error) {
	ctx, cancel := keep(ctx)
	defer cancel()
	state := jobs.Queued
	if j.rec != nil {
		state = j.rec.State
	}
	release, isRelease := errors.AsType[*releaseError](err)
	switch {
	case errors.Is(err, errAck):
		// Not acked is not lost: the message comes again and finds a final record.
		if err := j.retry(ctx, func() error { return j.msg.Ack(ctx) }); err != nil {
			j.log.Warn().Err(err).Msg("ack failed")
		}
		j.reopened(ctx)
		j.logEnd(state)
	case errors.Is(err, errFenced), errors.Is(err, errLeaseLost):
		j.dropSlot(ctx)
		j.log.Warn().Err(err).Str("state", string(state)).Msg("job left to another worker")
	case isRelease:
		j.log.Warn().Err(err).Str("state", string(state)).Int64("after_ms", release.after.Milliseconds()).Msg("job handed back")
		_ = j.msg.Release(ctx, release.after) // otherwise the lease runs out
	case errors.Is(err, errDraining):
		j.log.Info().Str("state", string(state)).Msg("job handed over")
		_ = j.msg.Release(ctx, 0)
	default:
		j.log.Warn().Err(err).Str("state", string(state)).Msg("job will be tried again")
		_ = j.msg.Release(ctx, 10*time.Second)
	}
}

// reopened puts the message back if the job was opened again just before it was
// acked, by a person or by a session that came late: whoever opened it found
// the message in the queue, and left it at that. It may even have ended again,
// with nobody left to announce that.
func (j *job) reopened(ctx context.Context) {
	if j.rec == nil || j.rec.State == jobs.Completed {
		return
	}
	ctx, cancel := keep(ctx) // the ack may have used up its own time
	defer cancel()
	rec, rev, err := j.ports.Journal.Load(ctx, j.id)
	if err != nil || rec == nil || rev <= j.rev || rec.State == j.rec.State && rec.Attempt == j.rec.Attempt {
		return // if it was opened all the same, the sweeper will see
	}
	if err := j.retry(ctx, func() error { return j.ports.Queue.Requeue(ctx, rec) }); err != nil {
		j.log.Error().Err(err).Msg("a job that was opened again could not be queued again")
	}
}

// retry tries f a few times while ctx lives.
func (j *job) retry(ctx context.Context, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		if err == nil || n == 3 || !sleep(ctx, backoff(n, 200*time.Millisecond, time.Second)) {
			return err
		}
	}
}

// logEnd writes the one line that tells how a job ended.
func (j *job) logEnd(state jobs.State) {
	level := zerolog.InfoLevel
	if state == jobs.Failed || state == jobs.Parked {
		level = zerolog.ErrorLevel
	}
	e := j.log.WithLevel(level)
	var took time.Duration
	if j.rec != nil {
		if j.rec.Error != nil {
			e = e.Str("fault", j.rec.Error.Kind).Str("reason", j.rec.Error.Message)
		}
		if !j.rec.SubmittedAt.IsZero() {
			took = time.Since(j.rec.SubmittedAt)
		}
		e = e.Str("session", j.rec.Session).Int("attempt", j.rec.Attempt)
	}
	j.ports.Observer.Ended(j.provider.Name(), state, took)
	e.Str("state", string(state)).Int64("took_ms", took.Milliseconds()).Msg("job finished")
}
