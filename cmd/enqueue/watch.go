package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/bulk"
	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/jobs"
)

func (a *app) watchCommand() *cobra.Command {
	var f jobs.Filter
	cmd := &cobra.Command{
		Use:   "watch [JOB…] [--batch NAME]",
		Short: "Follow jobs until all have ended",
		Long: `Follows the jobs that are named, those of a batch, or all, from wherever the
broker can be reached: a live view on a terminal, plain lines elsewhere, and with
--json a line for every change. It ends when every job has ended or waits for a
person; interrupting it changes nothing. The exit status is 3 if any of them
failed or is parked, and 1 if there is no such job.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkIDs(args); err != nil {
				return err
			}
			f.IDs = args
			if len(args) > 0 {
				a.unless(&f.Batch, "batch", cmd)
			}
			return a.with(cmd, func(ctx context.Context, c *connect.Conns) error { return a.watch(ctx, c, f) })
		},
	}
	cmd.Flags().StringVar(&f.Batch, "batch", "", "only jobs of the batch `NAME`")
	cmd.Flags().StringVar(&f.Provider, "provider", "", "only jobs for the provider `NAME`")
	complete(cmd, "provider", words(providerNames))
	a.completeBatch(cmd)
	a.completeJobs(cmd)
	return cmd
}

// watching is one run of the watch command. Of each job it keeps no more than a
// Tracker does.
type watching struct {
	*observer
	conns *connect.Conns
	f     jobs.Filter
	jobs  bulk.Tracker
	print *printer
}

// watch follows jobs.
func (a *app) watch(ctx context.Context, c *connect.Conns, f jobs.Filter) error {
	v := a.view()
	defer v.Close()
	w := &watching{observer: newObserver(v), conns: c, f: f, print: a.printer(c)}
	defer w.live(ctx, c.Client)()
	v.Update(func(c *progress.Counts) { c.Follow = true })
	err := w.run(ctx)
	v.Close()
	if ctx.Err() != nil {
		v.Infof("interrupted: the jobs go on")
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	sum := newSummary(f.Batch)
	sum.take(v.Counts())
	if err := w.print.end(&sum); err != nil {
		return err
	}
	a.note("%s", sum.text())
	if c.Config.Embedded && w.jobs.Open() > 0 {
		a.note("no worker runs here: they go on with the next enqueue --embedded, or with worker --embedded")
	}
	return sum.status()
}

// run follows until every job rests. Then it looks again: a batch may have
// grown, and what is queued has no record yet that could be watched.
func (w *watching) run(ctx context.Context) error {
	for {
		for r, err := range w.conns.Client.List(ctx, w.f) {
			if err != nil {
				return err
			}
			w.take(r)
		}
		switch {
		case w.jobs.Len() == 0 && w.f.Batch != "":
			return fmt.Errorf("batch %q has no jobs; enqueue status lists what there is", progress.Clean(w.f.Batch))
		case w.jobs.Len() == 0:
			return errors.New("there are no such jobs; enqueue status lists what there is")
		case w.jobs.Open() == 0 || w.conns.Config.Embedded:
			return nil // in this process nobody works on them
		}
		if err := w.follow(ctx); err != nil {
			return err
		}
	}
}

// take takes in a record, of a job that may be new.
func (w *watching) take(r *jobs.Record) {
	fresh := w.jobs.Add(r.ID)
	if fresh {
		if bulk.Rests(r.State) {
			w.rested.Add(r.ID)
		}
		w.view.Update(func(c *progress.Counts) { c.Jobs++ })
	}
	before, _ := w.jobs.Move(r)
	w.change(before, r)
	if w.print.json != nil && (fresh || before != bulk.Shown(r)) {
		w.print.job(r, "", "")
	}
}

// follow watches until all jobs rest that are known.
func (w *watching) follow(ctx context.Context) error {
	f := w.f
	f.States = bulk.BeyondQueued()
	for r, err := range w.conns.Client.Watch(ctx, f) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		if w.take(r); w.jobs.Open() == 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}
