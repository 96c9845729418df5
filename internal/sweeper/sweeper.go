// Package sweeper puts right what no single job can: jobs that are not at their
// end but have no message in the queue, slots that belong to no job, and the
// leftovers of broken uploads. One worker of the fleet does it at a time.
package sweeper

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"time"

	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// Jobs is what the sweeper needs of jobs.Client.
type Jobs interface {
	Get(ctx context.Context, id string) (*jobs.Record, error)
	List(ctx context.Context, f jobs.Filter) iter.Seq2[*jobs.Record, error]
	Requeue(ctx context.Context, r *jobs.Record) error
}

// Fleet is what the sweeper needs of broker.Fleet.
type Fleet interface {
	// TakeTurn reports whether it is the worker's turn at a task, and if so
	// keeps others from it for d.
	TakeTurn(ctx context.Context, task, worker string, d time.Duration) (bool, error)
	// Holders returns the jobs that hold slots, by provider and slot.
	Holders() map[string]map[int]string
	Release(ctx context.Context, provider string, slot int, id string) error
}

// Config configures Run.
type Config struct {
	Worker string
	// Lease is the queue's: what was written less than two leases ago is left
	// alone.
	Lease time.Duration
	// Every is how often a sweep takes place, which reads all records; zero is
	// every ten leases.
	Every time.Duration
	Jobs  Jobs
	Fleet Fleet
	// AbortUploads gives up the bucket's uploads that are older.
	AbortUploads func(ctx context.Context, olderThan time.Duration) (int, error)
	Log          zerolog.Logger
}

const (
	// uploadAge is far more than any upload takes.
	uploadAge = 24 * time.Hour
	// uploadsEvery is how often one worker looks for old uploads.
	uploadsEvery = time.Hour
	// sweepTimeout bounds one sweep.
	sweepTimeout = 10 * time.Minute
)

// Run sweeps until ctx ends.
func Run(ctx context.Context, cfg Config) {
	every := cmp.Or(cfg.Every, 10*cfg.Lease)
	tick := time.NewTicker(every)
	defer tick.Stop()
	uploads := time.Time{}
	for {
		if mine, err := cfg.Fleet.TakeTurn(ctx, "sweeper", cfg.Worker, every+every/2); err == nil && mine {
			sctx, cancel := context.WithTimeoutCause(ctx, sweepTimeout, errors.New("the sweep took too long"))
			cfg.sweep(sctx)
			if time.Since(uploads) >= uploadsEvery {
				uploads = time.Now()
				cfg.uploads(sctx)
			}
			cancel()
		} else if err != nil && ctx.Err() == nil {
			cfg.Log.Warn().Err(err).Msg("sweeper cannot take its turn")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sweep makes one round.
func (c *Config) sweep(ctx context.Context) {
	settled := time.Now().Add(-2 * c.Lease)
	var open []*jobs.Record
	for r, err := range c.Jobs.List(ctx, jobs.Filter{States: []jobs.State{jobs.Submitting, jobs.Running, jobs.Storing}}) {
		switch {
		case err != nil:
			c.Log.Warn().Err(err).Msg("sweeper cannot read a record")
		case r.UpdatedAt.Before(settled):
			open = append(open, r)
		}
	}
	for _, r := range open {
		// A message that is there, as it is of nearly every job, is left alone.
		if err := c.Jobs.Requeue(ctx, r); err != nil {
			c.Log.Warn().Err(err).Str("job_id", r.ID).Msg("sweeper cannot queue a job")
			if ctx.Err() != nil {
				return
			}
		}
	}
	for provider, slots := range c.Fleet.Holders() {
		for n, id := range slots {
			c.slot(ctx, provider, n, id)
		}
	}
}

// slot looks after one slot that is taken.
func (c *Config) slot(ctx context.Context, provider string, n int, id string) {
	r, err := c.Jobs.Get(ctx, id)
	switch {
	case errors.Is(err, jobs.ErrNotFound):
		// Its job was purged before it bought anything.
		err = c.Fleet.Release(ctx, provider, n, id)
		c.Log.Warn().Err(err).Str("job_id", id).Str("provider", provider).Int("slot", n).Msg("slot of a job that no longer exists given back")
	case err == nil && r.State.Final() && time.Since(r.UpdatedAt) > 2*c.Lease && r.Slot != n:
		// A worker that had been replaced took it, and could not give it back:
		// the record knows nothing of it, and so nobody else will.
		err = c.Fleet.Release(ctx, provider, n, id)
		c.Log.Warn().Err(err).Str("job_id", id).Str("provider", provider).Int("slot", n).Msg("slot that an ended job left behind given back")
	case err == nil && r.State.Final() && time.Since(r.UpdatedAt) > 2*c.Lease:
		// A worker that meets the ended job gives its slot back.
		err = c.Jobs.Requeue(ctx, r)
	}
	if err != nil && !errors.Is(err, jobs.ErrNotFound) && ctx.Err() == nil {
		c.Log.Warn().Err(err).Str("job_id", id).Msg("sweeper cannot look after a slot")
	}
}

func (c *Config) uploads(ctx context.Context) {
	n, err := c.AbortUploads(ctx, uploadAge)
	if err != nil {
		c.Log.Warn().Err(err).Msg("sweeper cannot look for broken uploads")
	}
	if n > 0 {
		c.Log.Info().Int("uploads", n).Msg("broken uploads removed")
	}
}
