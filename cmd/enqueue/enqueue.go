package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/meshmill/meshmill/internal/bulk"
	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/cost"
	"github.com/meshmill/meshmill/internal/picture"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// call is one run of a command that creates jobs. What it keeps of each job is
// little more than the text of its id: there may be a hundred thousand.
type call struct {
	*creation
	conns *connect.Conns
	watch *observer
	print *printer

	ids      bulk.IDs // the jobs, in the order of their images
	enqueued []bool   // parallel to ids; false is skipped
	twins    []twin
	troubled bulk.IDs // that failed, or need a person
	fresh    []ended  // jobs that have ended just now
	sum      summary
	cost     cost.Sum
}

// twin is an image that has the job of an earlier one.
type twin struct {
	after    int // jobs that come before it
	id, name string
	sameAs   string
}

type ended struct {
	id string
	at time.Time
}

// mostRows is up to how many jobs a table shows all of them, and screenRows on a
// terminal. Beyond it shows those that nobody wants to miss, and the counts.
const (
	mostRows   = 2000
	screenRows = 200
)

// enqueue uploads and enqueues the images, waits if that is wanted, and prints
// what became of them.
func (c *creation) enqueue(ctx context.Context, args []string) (err error) {
	cfg, t := c.cfg, &c.terms.template
	c.view = c.a.view()
	k := &call{creation: c, sum: newSummary(t.Batch)}
	k.watch = newObserver(k.view)
	defer k.view.Close()
	if cfg.Embedded && !cfg.Simulate && c.terms.noOffer == nil {
		if err := reachable(ctx, c.terms.offer.Name(), c.terms.offer.account(&cfg).BaseURL); err != nil {
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
	k.print = c.a.printer(k.conns)
	if !cfg.Embedded {
		err = k.work(ctx, args, c.wait)
	} else {
		err = withWorker(ctx, k.conns, log, func(ctx context.Context) error { return k.work(ctx, args, true) })
	}
	k.view.Close()
	if ctx.Err() != nil {
		k.interrupted()
		return context.Cause(ctx)
	}
	if err != nil {
		if k.ids.Len() > 0 && !c.force {
			c.a.note("%d images are in the queue already; the same command goes on from there", k.ids.Len())
		}
		return err
	}
	return k.finish(ctx, cfg.Embedded || c.wait)
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
	k.view.Infof("batch %s", progress.Clean(k.terms.template.Batch))
	update := func(f func(*progress.Counts)) func() { return func() { k.view.Update(f) } }
	p := bulk.Pipeline{
		Template: k.terms.template, Store: k.conns.Bucket, Queue: k.conns.Client, Limits: picture.DefaultLimits,
		MaxJobs: k.maxJobs, MaxCost: int64(k.terms.maxCost),
		Found:    update(func(c *progress.Counts) { c.Found++ }),
		Uploaded: update(func(c *progress.Counts) { c.Uploaded++ }),
		Done:     k.done,
	}
	if err := k.feed(ctx, &p, args, &k.sum.Stopped); err != nil {
		return err
	}
	k.view.Update(func(c *progress.Counts) { c.FoundAll = k.sum.Stopped == "" })
	if !wait {
		return nil
	}
	return k.follow(ctx)
}

// feed runs the pipeline. That a limit is reached is no error: stopped says
// which one.
func (c *creation) feed(ctx context.Context, p *bulk.Pipeline, args []string, stopped *string) error {
	err := p.Run(ctx, c.sources(args))
	switch {
	case errors.Is(err, bulk.ErrMaxJobs):
		*stopped = "max_jobs"
		return nil
	case errors.Is(err, bulk.ErrMaxCost):
		*stopped = "max_cost"
		return nil
	case err == nil && c.failed != nil:
		err = c.failed()
	}
	return err
}

// stopNote tells that a limit was reached.
func (c *creation) stopNote(stopped string) {
	switch {
	case stopped == "":
		return
	case c.force:
		c.a.note("stopped at --%s: the rest was left out", flagName(stopped))
	default:
		c.a.note("stopped at --%s: the rest was left out, and the same command goes on from there", flagName(stopped))
	}
}

// refusal tells why an image is no job, and where it was found.
func refusal(o bulk.Outcome) string {
	parts := []string{progress.Clean(o.Err.Error())}
	if o.Source.Name != "" {
		parts = append([]string{progress.Clean(o.Source.Name)}, parts...)
	}
	if o.Source.Place != "" {
		parts = append([]string{o.Source.Place + ":"}, parts...)
	}
	return strings.Join(parts, " ")
}

// done notes what became of one image.
func (k *call) done(o bulk.Outcome) {
	name := progress.Clean(o.Source.Name)
	if o.Err != nil {
		k.sum.Refused++
		k.view.Update(func(c *progress.Counts) { c.Refused++ })
		k.view.Failf("%s", refusal(o))
		if k.print.json != nil {
			k.print.line(refusedLine{"refused", lineSchema, o.Source.Name, o.Source.Place, o.Err.Error()})
		}
		return
	}
	isNew := o.Result.Outcome == jobs.Enqueued
	if isNew {
		k.sum.Enqueued++
		k.cost.Add(cost.Amount(o.Template.Cost), o.Template.Priced)
		k.view.Update(func(c *progress.Counts) { c.Queued++ })
	} else {
		k.sum.Skipped++
		k.view.Update(func(c *progress.Counts) { c.Skipped++ })
	}
	if o.SameAs != "" {
		if len(k.twins) < mostRows {
			k.twins = append(k.twins, twin{k.ids.Len(), o.ID, o.Source.Name, o.SameAs})
		}
		return
	}
	if o.Result.State == jobs.Failed {
		k.view.Failf("%s: %s; enqueue retry %s goes on with it, and --force buys it anew", name, progress.Clean(o.Result.Reason), o.ID)
	}
	if o.Result.State == jobs.Failed || o.Result.State == jobs.Parked {
		k.troubled.Add(o.ID)
	}
	if bulk.Rests(o.Result.State) {
		k.watch.rested.Add(o.ID)
	}
	k.ids.Add(o.ID)
	k.enqueued = append(k.enqueued, isNew)
	k.sum.countState(o.Result.State)
}

// follow waits until the jobs of the call have ended.
func (k *call) follow(ctx context.Context) error {
	k.view.Update(func(c *progress.Counts) { c.Follow, c.Jobs = true, k.ids.Len() })
	k.troubled = bulk.IDs{}
	defer k.watch.live(ctx, k.conns.Client)()
	err := bulk.Follow(ctx, k.conns.Client, &k.ids, func(before jobs.State, r *jobs.Record) {
		k.watch.change(before, r)
		if (r.State == jobs.Failed || r.State == jobs.Parked) && before != r.State {
			k.troubled.Add(r.ID)
		}
		if bulk.Rests(r.State) && (before != jobs.Queued || !k.watch.rested.Has(r.ID)) {
			k.justEnded(r.ID)
		}
	})
	k.sum.take(k.view.Counts())
	if err != nil || !k.conns.Config.Embedded {
		return err
	}
	// The worker ends with this call: let it announce the jobs that have ended
	// just now.
	var fresh []string
	for _, e := range k.fresh {
		if time.Since(e.at) < announcing {
			fresh = append(fresh, e.id)
		}
	}
	if err := k.conns.Settle(ctx, fresh); err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil // what was not announced is, by the next run
}

// announcing is more than a worker takes from a job's last record to its event.
const announcing = 10 * time.Second

// justEnded remembers a job for as long as its event may be on the way.
func (k *call) justEnded(id string) {
	now := time.Now()
	old := 0
	for old < len(k.fresh) && now.Sub(k.fresh[old].at) >= announcing {
		old++
	}
	k.fresh = append(k.fresh[old:], ended{id, now})
}

// interrupted tells what becomes of the jobs now that nobody waits for them.
func (k *call) interrupted() {
	embedded := k.cfg.Embedded
	switch {
	case embedded && k.force:
		// The same command would buy again.
		k.view.Infof("interrupted: nothing is lost, and what is bought stays bought; worker --embedded goes on from here")
		return
	case embedded:
		k.view.Infof("interrupted: nothing is lost, and what is bought stays bought; the same command goes on from here")
		return
	}
	k.view.Infof("interrupted: the jobs in the queue go on; follow them with: enqueue watch --batch %s", word(k.terms.template.Batch))
}

// finish prints the jobs in the order of the images, and the summary.
func (k *call) finish(ctx context.Context, followed bool) error {
	batch := word(k.terms.template.Batch)
	k.sum.CostUSD, k.sum.CostUnknown = float64(k.cost.Known)/1e6, k.cost.Unknown
	all := k.ids.Len() <= mostRows && (k.ids.Len() <= screenRows || !isTerminal(k.a.stdout))
	var err error
	if all || k.print.json != nil {
		err = k.print.all(ctx, k)
	} else {
		err = k.print.some(ctx, k.conns.Client, &k.troubled)
	}
	if err = errors.Join(err, k.print.end(&k.sum)); err != nil {
		return err
	}
	k.a.note("batch %s: %s", progress.Clean(k.terms.template.Batch), k.sum.text())
	if !all && k.print.json == nil {
		k.a.note("%d jobs are too many for a table; see them with: enqueue status --batch %s", k.ids.Len(), batch)
	}
	if k.sum.Enqueued > 0 && k.cost.Unknown < k.sum.Enqueued {
		k.a.note("the %d new jobs cost %s by estimate", k.sum.Enqueued, &k.cost)
	}
	k.stopNote(k.sum.Stopped)
	if k.sum.Parked > 0 {
		k.a.note("parked jobs wait for a person: see enqueue status, then enqueue resolve JOB")
	}
	if k.sum.Queued+k.sum.Working > 0 && !followed {
		k.a.note("follow them with: enqueue watch --batch %s", batch)
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
