// Package engine runs jobs: it takes a request from the queue, journals it,
// buys the conversion, polls it to the end, stores the meshes and announces the
// result. It meets queue, journal, provider and bucket through small
// interfaces, and takes the time from package time, so that all of it can run
// against models on a fake clock.
//
// The journal is what keeps a job from being bought twice. Every step of a job
// is one compare-and-set, acknowledged before the next step; a worker whose
// compare-and-set fails has been replaced, and stops without touching the
// message.
package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// OnUnknown is what to do when it cannot be found out whether a paid call
// went through.
type OnUnknown string

// The policies.
const (
	Park     OnUnknown = "park"     // wait for a person; the default
	Resubmit OnUnknown = "resubmit" // buy again, perhaps a second time
)

// Config configures an Engine. Every duration must be positive.
type Config struct {
	// Worker names this process in records. It must be unique in the fleet and
	// new with every start.
	Worker string
	// Lease is how long a message stays with a silent worker.
	Lease time.Duration
	// PollMin and PollMax bound the time between two polls of a session.
	PollMin, PollMax time.Duration
	// JobTimeout is the longest a session may run, and the longest a provider
	// may refuse a job, before the job fails.
	JobTimeout time.Duration
	// Grace is the longest wait, on shutdown, for paid calls in flight.
	Grace time.Duration
	// OnUnknown is Park if empty.
	OnUnknown OnUnknown
	// Presign hands images over as presigned URLs of the bucket, instead of
	// inline.
	Presign bool
	// MaxMeshBytes bounds one result file, MaxImageBytes one image.
	MaxMeshBytes, MaxImageBytes int64
	// MaxHeld bounds the jobs in hand for each provider.
	MaxHeld int
	// Log may be the zero value, which logs nothing.
	Log zerolog.Logger
}

// Ports are what an Engine works with. Providers are taken by their names.
type Ports struct {
	Queue     Queue
	Journal   Journal
	Fleet     Fleet
	Events    Events
	Store     Store
	Fetcher   Fetcher
	Content   Content
	Providers []jobs.Provider
	Observer  Observer // nil is NoObserver
}

// Engine runs jobs. Its methods are safe for concurrent use.
type Engine struct {
	cfg       Config
	ports     Ports
	providers map[string]jobs.Provider
	mu        sync.Mutex
	held      map[string]*job // by id
}

// waiting is how many jobs of a lane a worker holds that have no slot yet. A
// few keep the slots busy; more would only keep them from other workers.
const waiting = 2

// fetchWait is how long one fetch waits for a message.
const fetchWait = 20 * time.Second

// The causes with which a job's context ends.
var (
	errDraining  = errors.New("the worker is shutting down")
	errLeaseLost = errors.New("the broker has not confirmed the lease in time")
	errGrace     = errors.New("the worker had to leave before the provider answered")
)

// New checks the configuration and returns an Engine.
func New(cfg Config, ports Ports) (*Engine, error) {
	if cfg.OnUnknown == "" {
		cfg.OnUnknown = Park
	}
	if cfg.Worker == "" || cfg.Lease <= 0 || cfg.PollMin <= 0 || cfg.PollMax < cfg.PollMin || cfg.JobTimeout <= 0 ||
		cfg.Grace <= 0 || cfg.MaxMeshBytes <= 0 || cfg.MaxImageBytes <= 0 || cfg.MaxHeld <= 0 {
		return nil, fmt.Errorf("engine: incomplete configuration: %+v", cfg)
	}
	if ports.Observer == nil {
		ports.Observer = NoObserver{}
	}
	e := &Engine{cfg: cfg, ports: ports, providers: map[string]jobs.Provider{}, held: map[string]*job{}}
	for _, p := range ports.Providers {
		e.providers[p.Name()] = p
	}
	if len(e.providers) == 0 {
		return nil, errors.New("engine: no provider is configured")
	}
	return e, nil
}

// Run takes jobs until ctx ends, and returns when every job in hand has ended
// or has been handed back. Jobs that are not in a paid call are handed back at
// once; those that are stay until its outcome is written, at most Grace. The
// error is never nil: it is the cause of ctx, or what made going on impossible.
func (e *Engine) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// hold outlives ctx: a job decides itself what it can still finish.
	hold, release := context.WithCancelCause(context.WithoutCancel(ctx))
	defer release(nil)
	pay, abandon := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abandon(nil)

	var fetchers, running sync.WaitGroup
	for _, name := range slices.Sorted(maps.Keys(e.providers)) {
		capacity := make(chan struct{}, e.cfg.MaxHeld)
		for _, lane := range jobs.Lanes {
			fetchers.Go(func() {
				if err := e.fetch(ctx, hold, pay, name, lane, capacity, &running); err != nil {
					stop(err)
				}
			})
		}
	}
	fetchers.Wait()
	// Not before: a job that is handed back while a fetch of this worker waits at
	// the broker would come back to it.
	release(errDraining)
	grace := time.AfterFunc(e.cfg.Grace, func() { abandon(errGrace) })
	defer grace.Stop()
	running.Wait()
	return context.Cause(ctx)
}

// fetch feeds one lane's messages to jobs. Only waiting of them have no slot
// at a time.
func (e *Engine) fetch(ctx, hold, pay context.Context, provider string, lane jobs.Lane, capacity chan struct{}, running *sync.WaitGroup) error {
	room := make(chan struct{}, waiting)
	failures := 0
	for {
		for _, c := range []chan struct{}{room, capacity} {
			select {
			case c <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
		}
		free := sync.OnceFunc(func() { <-room })
		msgs, err := e.ports.Queue.Fetch(ctx, provider, lane, 1, fetchWait)
		if len(msgs) == 0 {
			free()
			<-capacity
		}
		switch {
		case ctx.Err() != nil && len(msgs) == 0:
			return nil
		case errors.Is(err, ErrGone):
			return err
		case err != nil:
			failures++
			e.cfg.Log.Warn().Err(err).Str("provider", provider).Str("lane", string(lane)).Msg("fetch failed")
			if !sleep(ctx, backoff(failures, time.Second, 15*time.Second)) {
				return nil
			}
		default:
			failures = 0
		}
		for _, m := range msgs {
			running.Go(func() {
				defer func() { free(); <-capacity }()
				e.handle(hold, pay, m, provider, lane, free)
			})
		}
	}
}

// ErrGone is returned by Queue.Fetch when the stream or consumer no longer
// exists, so that going on is pointless.
var ErrGone = errors.New("the job queue does not exist")

// Nudge makes the job look at its record at once, if this engine holds it.
func (e *Engine) Nudge(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	j := e.held[id]
	switch {
	case j == nil:
	case j.interrupt != nil:
		j.interrupt()
	default:
		select {
		case j.nudged <- struct{}{}:
		default:
		}
	}
}

// interruptible has f called, which must not block, for a nudge; nil ends that.
func (j *job) interruptible(f func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.interrupt = f
}

// hold registers the job under its id. It reports false if this worker has an
// earlier delivery of it in hand, as a pause or the broker can cause: owner and
// epoch tell workers apart, but not two deliveries to one of them.
func (e *Engine) hold(j *job) (unhold func(), ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.held[j.id] != nil {
		return nil, false
	}
	e.held[j.id] = j
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.held, j.id)
	}, true
}

// sleep waits for d and reports whether ctx lives on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// backoff doubles from first at the first failure to most.
func backoff(failures int, first, most time.Duration) time.Duration {
	d := first << min(max(failures-1, 0), 20)
	if d <= 0 || d > most {
		d = most
	}
	return d
}
