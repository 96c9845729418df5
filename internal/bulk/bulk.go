// Package bulk puts many images into the queue: it finds them, uploads them and
// enqueues a job for each, with bounded memory however many there are.
package bulk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"sync"
	"time"

	"github.com/meshmill/meshmill/internal/picture"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// Template is what all requests of one call share.
type Template struct {
	Provider string
	Options  map[string]any
	Formats  []string
	Batch    string
	Labels   map[string]string
	Lane     jobs.Lane
	// Force buys again what has been bought before: every job gets a new id.
	Force bool
	// Mode is what is bought, in the provider's words, for people.
	Mode string
	// Cost is the price of one job in millionths of a dollar, and Priced says
	// that it is known. They are no part of the request.
	Cost   int64
	Priced bool
}

// derive returns the id that the image has without Force.
func (t *Template) derive(image jobs.Image) (string, error) {
	return jobs.DeriveID(image, t.Provider, t.Options)
}

// request returns a request for an image under an id.
func (t *Template) request(image jobs.Image, id string) (*jobs.Request, error) {
	r := &jobs.Request{
		Schema: jobs.RequestSchema, ID: id, Provider: t.Provider, Image: image,
		Options: maps.Clone(t.Options), Formats: t.Formats, Batch: t.Batch,
		Labels: maps.Clone(t.Labels), EnqueuedAt: time.Now().UTC().Truncate(time.Millisecond),
	}
	return r, r.Validate()
}

// Check reports what is wrong with the template, before any image is looked at.
func (t *Template) Check() error {
	_, err := t.request(jobs.Image{URL: "https://example.com/image.png"}, "check")
	return err
}

// Store keeps the images. *storage.Bucket is one.
type Store interface {
	// PutInput stores an image under the hash of its content, once.
	PutInput(ctx context.Context, data io.ReadSeeker, ext, mediaType string) (key string, created bool, err error)
}

// Queue takes the jobs. *jobs.Client is one.
type Queue interface {
	EnqueueMany(ctx context.Context, items []jobs.Item) ([]jobs.Result, error)
}

// Outcome is what became of one source.
type Outcome struct {
	Source Source
	// ID is the job's; empty if there is none.
	ID string
	// Image is the image as the job names it.
	Image jobs.Image
	// SameAs is the name of an earlier source of this call with the same image.
	SameAs string
	// Template is the one that the job was made of.
	Template *Template
	// Result is the queue's answer, if the source got that far.
	Result jobs.Result
	// Err is set if the source was refused: it is no image, cannot be read, or
	// the queue refused the job.
	Err error
}

// Pipeline enqueues images. Queue and Store may be nil: then nothing is
// uploaded or enqueued, and the outcomes tell what would be.
type Pipeline struct {
	// Template is that of sources which have none of their own.
	Template Template
	Store    Store
	Queue    Queue
	// Lookup, without a Queue, tells the states of those jobs that exist. It
	// may be nil: then every job is taken for a new one.
	Lookup func(ctx context.Context, ids []string) (map[string]jobs.State, error)
	Limits picture.Limits
	// MaxJobs and MaxCost bound the jobs that are enqueued, not those that are
	// skipped. Zero is no bound.
	MaxJobs int
	MaxCost int64
	// Found and Uploaded are called as images pass, from several goroutines.
	Found, Uploaded func()
	// Done is called once for each source, in the order of the sources and
	// never concurrently.
	Done func(Outcome)
}

const (
	// uploads is how many images are read and uploaded at a time. Each holds at
	// most Limits.MaxBytes.
	uploads = 8
	// chunk is how many jobs go into the queue at a time.
	chunk = 500
	// linger is how long jobs wait for a chunk to become full.
	linger = 200 * time.Millisecond
)

// prepared is a source on its way into the queue.
type prepared struct {
	out   Outcome
	image jobs.Image
	fatal error // the pipeline cannot go on
}

// ErrMaxJobs and ErrMaxCost are returned by Run when one more job would be too
// many or too dear. Those before it are in the queue.
var (
	ErrMaxJobs = errors.New("the limit of jobs is reached")
	ErrMaxCost = errors.New("the limit of costs is reached")
)

// Run takes every source. A source that is refused does not stop the others;
// a store or queue that fails does, and what is in the queue by then stays
// there: running again goes on from there.
func (p *Pipeline) Run(ctx context.Context, sources iter.Seq[Source]) error {
	ctx, cancel := context.WithCancelCause(ctx)
	futures := make(chan chan prepared, uploads)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel(nil)
	work.Go(func() {
		defer close(futures)
		for s := range sources {
			future := make(chan prepared, 1)
			select {
			case futures <- future: // waits while too many are in work
			case <-ctx.Done():
				return
			}
			if p.Found != nil && s.Err == nil {
				p.Found()
			}
			work.Go(func() { future <- p.prepare(ctx, s) })
		}
	})
	c := collector{p: p, run: jobs.FreshID()}
	err := c.collect(ctx, futures)
	if err != nil {
		cancel(err)
	}
	return err
}

// collector is the single goroutine that enqueues.
type collector struct {
	p    *Pipeline
	run  string // makes the ids of Force different from those of other runs
	seen seen
	outs []Outcome
	reqs []*jobs.Request // parallel to outs; nil needs no job
	jobs int             // in reqs
	cost int64           // of these
	// enqueued and spent are what has been put into the queue.
	enqueued int
	spent    int64
}

func (c *collector) collect(ctx context.Context, futures <-chan chan prepared) error {
	late := time.NewTimer(linger)
	defer late.Stop()
	for {
		var future chan prepared
		select {
		case f, ok := <-futures:
			if !ok {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				return c.flush(ctx)
			}
			future = f
		case <-late.C:
			if err := c.flush(ctx); err != nil {
				return err
			}
			late.Reset(linger)
			continue
		}
		for future != nil {
			select {
			case p := <-future:
				future = nil
				if p.fatal != nil {
					if ctx.Err() == nil {
						p.fatal = errors.Join(p.fatal, c.flush(ctx))
					}
					return p.fatal
				}
				if err := c.add(ctx, p); err != nil {
					return err
				}
			case <-late.C:
				if err := c.flush(ctx); err != nil {
					return err
				}
				late.Reset(linger)
			}
		}
	}
}

func (c *collector) add(ctx context.Context, p prepared) error {
	out := p.out
	var req *jobs.Request
	if out.Err == nil {
		t := out.Template
		id, err := out.Source.ID, error(nil)
		if id == "" {
			if id, err = t.derive(p.image); err != nil {
				return err
			}
		}
		if first, again := c.seen.add(id, out.Source.Name); again {
			out.ID, out.SameAs = id, first
			out.Result = jobs.Result{ID: id, Outcome: jobs.Skipped, Reason: "the same image as " + first}
		} else {
			if t.Force {
				id = c.fresh(id)
			}
			req, out.Err = t.request(p.image, id)
			out.ID = id
		}
		if out.Err != nil {
			req, out.ID = nil, ""
		}
	}
	if req != nil {
		if err := c.room(ctx, out.Template.Cost); err != nil {
			return err
		}
		c.jobs++
		c.cost += out.Template.Cost
	}
	c.outs, c.reqs = append(c.outs, out), append(c.reqs, req)
	if c.jobs >= chunk || len(c.outs) >= 4*chunk {
		return c.flush(ctx)
	}
	return nil
}

// fresh is an id that no other run gives, and this one gives to one image only.
func (c *collector) fresh(id string) string {
	sum := sha256.Sum256([]byte(c.run + id))
	return hex.EncodeToString(sum[:16])
}

// room reports whether one more job may be enqueued. Only the queue knows how
// many of those at hand are new, so it is asked before anything is refused.
func (c *collector) room(ctx context.Context, cost int64) error {
	over := func() error {
		switch {
		case c.p.MaxJobs > 0 && c.enqueued+c.jobs+1 > c.p.MaxJobs:
			return ErrMaxJobs
		case c.p.MaxCost > 0 && c.spent+c.cost+cost > c.p.MaxCost:
			return ErrMaxCost
		}
		return nil
	}
	if over() == nil {
		return nil
	}
	if err := c.flush(ctx); err != nil {
		return err
	}
	return over()
}

// flush enqueues what has been collected.
func (c *collector) flush(ctx context.Context) error {
	results, err := c.enqueue(ctx)
	if err != nil {
		return err
	}
	next := 0
	for i, out := range c.outs {
		if c.reqs[i] != nil {
			out.Result = results[next]
			out.Err = out.Result.Err
			next++
			if out.Result.Outcome == jobs.Enqueued {
				c.enqueued++
				c.spent += out.Template.Cost
			}
		}
		if c.p.Done != nil {
			c.p.Done(out)
		}
	}
	clear(c.outs)
	clear(c.reqs)
	c.outs, c.reqs, c.jobs, c.cost = c.outs[:0], c.reqs[:0], 0, 0
	return nil
}

// enqueue returns a result for each request that has been collected.
func (c *collector) enqueue(ctx context.Context) ([]jobs.Result, error) {
	if c.jobs == 0 {
		return nil, nil
	}
	if c.p.Queue == nil {
		return c.wouldEnqueue(ctx)
	}
	items := make([]jobs.Item, 0, c.jobs)
	for i, r := range c.reqs {
		if r != nil {
			items = append(items, jobs.Item{Request: *r, Lane: c.outs[i].Template.Lane})
		}
	}
	results, err := c.p.Queue.EnqueueMany(ctx, items)
	if err == nil && len(results) != len(items) {
		err = fmt.Errorf("the queue answered %d of %d jobs", len(results), len(items))
	}
	return results, err
}

// wouldEnqueue tells what the queue would answer.
func (c *collector) wouldEnqueue(ctx context.Context) ([]jobs.Result, error) {
	ids := make([]string, 0, c.jobs)
	for _, r := range c.reqs {
		if r != nil {
			ids = append(ids, r.ID)
		}
	}
	var states map[string]jobs.State
	if c.p.Lookup != nil {
		var err error
		if states, err = c.p.Lookup(ctx, ids); err != nil {
			return nil, err
		}
	}
	results := make([]jobs.Result, len(ids))
	for i, id := range ids {
		results[i] = jobs.Result{ID: id, Outcome: jobs.Enqueued, State: jobs.Queued}
		if s, ok := states[id]; ok {
			results[i].Outcome, results[i].State = jobs.Skipped, s
		}
	}
	return results, nil
}
