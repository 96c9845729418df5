// Package bulk puts many images into the queue: it finds them, uploads them and
// enqueues a job for each, with bounded memory however many there are.
package bulk

import (
	"bytes"
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
	// Result is the queue's answer, if the source got that far.
	Result jobs.Result
	// Err is set if the source was refused: it is no image, cannot be read, or
	// the queue refused the job.
	Err error
}

// Pipeline enqueues images. Queue and Store may be nil: then nothing is
// uploaded or enqueued, and the outcomes tell what would be.
type Pipeline struct {
	Template Template
	Store    Store
	Queue    Queue
	Limits   picture.Limits
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
	c := collector{p: p, seen: map[string]string{}}
	err := c.collect(ctx, futures)
	if err != nil {
		cancel(err)
	}
	return err
}

// collector is the single goroutine that enqueues.
type collector struct {
	p    *Pipeline
	seen map[string]string // derived id → name
	outs []Outcome
	reqs []*jobs.Request // parallel to outs; nil needs no job
	jobs int
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
		id, err := c.p.Template.derive(p.image)
		if err != nil {
			return err
		}
		if first, again := c.seen[id]; again {
			out.ID, out.SameAs = id, first
			out.Result = jobs.Result{ID: id, Outcome: jobs.Skipped, Reason: "the same image as " + first}
		} else {
			c.seen[id] = out.Source.Name
			if c.p.Template.Force {
				id = jobs.FreshID()
			}
			req, out.Err = c.p.Template.request(p.image, id)
			out.ID = id
		}
		if out.Err != nil {
			req, out.ID = nil, ""
		}
	}
	c.outs, c.reqs = append(c.outs, out), append(c.reqs, req)
	if req != nil {
		c.jobs++
	}
	if c.jobs >= chunk || len(c.outs) >= 4*chunk {
		return c.flush(ctx)
	}
	return nil
}

// flush enqueues what has been collected.
func (c *collector) flush(ctx context.Context) error {
	items := make([]jobs.Item, 0, c.jobs)
	for _, r := range c.reqs {
		if r != nil {
			items = append(items, jobs.Item{Request: *r, Lane: c.p.Template.Lane})
		}
	}
	var results []jobs.Result
	if c.p.Queue != nil && len(items) > 0 {
		var err error
		if results, err = c.p.Queue.EnqueueMany(ctx, items); err != nil {
			return err
		}
		if len(results) != len(items) {
			return fmt.Errorf("the queue answered %d of %d jobs", len(results), len(items))
		}
	}
	next := 0
	for i, out := range c.outs {
		if c.reqs[i] != nil && results != nil {
			out.Result = results[next]
			out.Err = out.Result.Err
			next++
		}
		if c.p.Done != nil {
			c.p.Done(out)
		}
	}
	c.outs, c.reqs, c.jobs = nil, nil, 0
	return nil
}

// prepare reads and uploads one source.
func (p *Pipeline) prepare(ctx context.Context, s Source) prepared {
	refused := func(err error) prepared { return prepared{out: Outcome{Source: s, Err: err}} }
	switch {
	case s.Err != nil:
		return refused(s.Err)
	case ctx.Err() != nil:
		return prepared{fatal: context.Cause(ctx)}
	case s.URL != "":
		return taken(s, jobs.Image{URL: s.URL, Name: s.Name})
	}
	data, info, err := picture.Read(s.Path, p.Limits)
	if err != nil {
		return refused(err)
	}
	image := jobs.Image{MediaType: info.MediaType, Name: s.Name}
	if p.Store == nil {
		sum := sha256.Sum256(data)
		image.Object = jobs.InputKey(hex.EncodeToString(sum[:]), info.Ext)
		return taken(s, image)
	}
	image.Object, _, err = p.Store.PutInput(ctx, bytes.NewReader(data), info.Ext, info.MediaType)
	switch {
	case ctx.Err() != nil:
		return prepared{fatal: context.Cause(ctx)}
	case err != nil && jobs.KindOf(err) == jobs.Permanent:
		return refused(err)
	case err != nil:
		return prepared{fatal: err}
	}
	if p.Uploaded != nil {
		p.Uploaded()
	}
	return taken(s, image)
}

func taken(s Source, image jobs.Image) prepared {
	return prepared{out: Outcome{Source: s, Image: image.Public()}, image: image}
}
