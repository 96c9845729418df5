package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/meshmill/meshmill/internal/bulk"
	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/picture"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// call is one run of a command that creates jobs.
type call struct {
	*creation
	template bulk.Template
	conns    *connect.Conns
	view     *progress.View
	entries  []entry
	refused  []refusedLine
	sum      summary
}

// enqueue uploads and enqueues the images, waits if that is wanted, and prints
// what became of them.
func (c *creation) enqueue(ctx context.Context, cfg config.Config, o offer, t bulk.Template, args []string) (err error) {
	k := &call{creation: c, template: t, view: c.a.view(), sum: summary{Type: "summary", Batch: t.Batch}}
	defer k.view.Close()
	if cfg.Embedded && !cfg.Simulate {
		if err := reachable(ctx, o.Name(), o.account(&cfg).BaseURL); err != nil {
			return err
		}
	}
	log := logger(&cfg, k.view)
	k.conns, err = connect.Open(ctx, connect.Options{
		Config: cfg, Name: "meshmill-enqueue", Worker: cfg.Embedded, Simulation: c.a.simulation, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.conns.Close(context.WithoutCancel(ctx))) }()
	if err := k.ready(ctx); err != nil {
		return err
	}
	if !cfg.Embedded {
		err = k.work(ctx, args, c.wait)
	} else {
		err = withWorker(ctx, k.conns, log, func(ctx context.Context) error { return k.work(ctx, args, true) })
	}
	k.view.Close()
	if ctx.Err() != nil {
		k.interrupted(cfg.Embedded)
		return context.Cause(ctx)
	}
	if err != nil {
		if len(k.entries) > 0 && !c.force {
			c.a.note("%d images are in the queue already; the same command goes on from there", len(k.entries))
		}
		return err
	}
	return k.print(ctx)
}

// ready checks that jobs can be enqueued, before anything is uploaded.
func (k *call) ready(ctx context.Context) error {
	if k.conns.Simulated != "" {
		// Not a note: nobody may take these meshes for real ones.
		k.view.Failf("the providers are SIMULATED, on this machine: nothing is bought, and the meshes are made up from the images")
	}
	if k.conns.Config.Embedded {
		return nil
	}
	return errors.Join(k.conns.Client.Check(ctx), k.conns.Bucket.Check(ctx))
}

// work enqueues everything and follows it if wait is set.
func (k *call) work(ctx context.Context, args []string, wait bool) error {
	k.view.Infof("batch %s", progress.Clean(k.template.Batch))
	update := func(f func(*progress.Counts)) func() { return func() { k.view.Update(f) } }
	p := bulk.Pipeline{
		Template: k.template, Store: k.conns.Bucket, Queue: k.conns.Client, Limits: picture.DefaultLimits,
		Found:    update(func(c *progress.Counts) { c.Found++ }),
		Uploaded: update(func(c *progress.Counts) { c.Uploaded++ }),
		Done:     k.done,
	}
	if err := p.Run(ctx, k.sources(args)); err != nil {
		return err
	}
	k.view.Update(func(c *progress.Counts) { c.FoundAll = true })
	if !wait {
		return nil
	}
	return k.follow(ctx)
}

// done notes what became of one image.
func (k *call) done(o bulk.Outcome) {
	name := progress.Clean(o.Source.Name)
	if o.Err != nil {
		k.sum.Refused++
		k.refused = append(k.refused, refusedLine{"refused", o.Source.Name, o.Err.Error()})
		k.view.Failf("%s %s", name, progress.Clean(o.Err.Error()))
		return
	}
	if o.Result.Outcome == jobs.Enqueued {
		k.sum.Enqueued++
		k.view.Update(func(c *progress.Counts) { c.Queued++ })
	} else {
		k.sum.Skipped++
		k.view.Update(func(c *progress.Counts) { c.Skipped++ })
	}
	if o.Result.State == jobs.Failed {
		k.view.Failf("%s: %s; --force buys it anew", name, progress.Clean(o.Result.Reason))
	}
	k.entries = append(k.entries, entry{o.ID, o.Source.Name, o.Result.Outcome, o.SameAs})
}

// follow waits until the jobs of the call have ended.
func (k *call) follow(ctx context.Context) error {
	ids := make([]string, 0, len(k.entries))
	for _, e := range k.entries {
		if e.sameAs == "" {
			ids = append(ids, e.id)
		}
	}
	k.view.Update(func(c *progress.Counts) { c.Follow, c.Jobs = true, len(ids) })
	began := time.Now()
	ended := map[string]time.Time{}
	states := map[string]jobs.State{}
	told := map[string]bool{}
	err := bulk.Follow(ctx, k.conns.Client, ids, func(before jobs.State, r *jobs.Record) {
		k.view.Update(func(c *progress.Counts) {
			if n := counter(c, states[r.ID]); n != nil {
				*n--
			}
			states[r.ID] = shown(r)
			if n := counter(c, shown(r)); n != nil {
				*n++
			}
			if bulk.Rests(r.State) && r.UpdatedAt.Before(began) {
				c.Before++
			}
		})
		if (r.State == jobs.Failed || r.State == jobs.Parked) && before != r.State && r.UpdatedAt.After(began) {
			k.view.Failf("%s: %s: %s", progress.Clean(imageName(r)), r.State, problem(r))
		}
		if reason := problem(r); r.Waiting() && !told[reason] && len(told) < tellMost {
			told[reason] = true
			k.view.Failf("waiting, nothing bought yet: %s", reason)
		}
		if bulk.Rests(r.State) && r.UpdatedAt.After(began) {
			ended[r.ID] = time.Now()
		}
	})
	if err != nil || !k.conns.Config.Embedded {
		return err
	}
	// The worker ends with this call: let it announce the jobs that have ended
	// just now.
	var fresh []string
	for id, at := range ended {
		if time.Since(at) < announcing {
			fresh = append(fresh, id)
		}
	}
	if err := k.conns.Settle(ctx, fresh); err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil // what was not announced is, by the next run
}

// announcing is more than a worker takes from a job's last record to its event.
const announcing = 10 * time.Second

// tellMost bounds how many different reasons for waiting are told.
const tellMost = 20

// counter is where the view counts a state; nil if it does not.
func counter(c *progress.Counts, s jobs.State) *int {
	switch s {
	case jobs.Submitting, jobs.Running:
		return &c.Converting
	case jobs.Storing:
		return &c.Storing
	case jobs.Completed:
		return &c.Stored
	case jobs.Failed:
		return &c.Failed
	case jobs.Parked:
		return &c.Parked
	case jobs.Cancelled:
		return &c.Cancelled
	}
	return nil
}

func problem(r *jobs.Record) string {
	if r.Error == nil {
		return "no reason is known"
	}
	return progress.Clean(r.Error.Message)
}

// interrupted tells what becomes of the jobs now that nobody waits for them.
func (k *call) interrupted(embedded bool) {
	switch {
	case embedded && k.force:
		// The same command would buy again.
		k.view.Infof("interrupted: nothing is lost, and what is bought stays bought; worker --embedded goes on from here")
		return
	case embedded:
		k.view.Infof("interrupted: nothing is lost, and what is bought stays bought; the same command goes on from here")
		return
	}
	k.view.Infof("interrupted: the jobs in the queue go on; follow them with: enqueue status --batch %s", progress.Clean(k.template.Batch))
}

// print prints the jobs in the order of the images, and the summary.
func (k *call) print(ctx context.Context) error {
	p := k.a.printer(k.a.stdout, k.conns)
	if err := p.printAll(ctx, k.conns.Client, k.entries, &k.sum); err != nil {
		return errors.Join(err, p.flush())
	}
	if p.json != nil {
		for _, r := range k.refused {
			p.line(r)
		}
		p.line(k.sum)
	}
	if err := p.flush(); err != nil {
		return err
	}
	k.a.note("batch %s: %s", progress.Clean(k.template.Batch), k.sum.text())
	if k.sum.Parked > 0 {
		k.a.note("parked jobs wait for a person: see enqueue status, then enqueue resolve JOB")
	}
	if k.sum.Queued+k.sum.Working > 0 {
		k.a.note("follow them with: enqueue status --batch %s", progress.Clean(k.template.Batch))
	}
	return k.sum.status()
}

// reachable checks that the name of a provider's host can be resolved, so that
// a provider that has gone away is told in one line. Behind a proxy that is the
// proxy's business.
func reachable(ctx context.Context, name, base string) error {
	u, err := url.Parse(base)
	if err != nil {
		return usage(err)
	}
	if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err != nil || proxy != nil {
		return nil
	}
	const limit = 10 * time.Second
	lookup, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if _, err := net.DefaultResolver.LookupHost(lookup, u.Hostname()); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%s: %s cannot be reached: its name cannot be resolved; nothing was bought", name, u.Hostname())
	}
	return nil
}
