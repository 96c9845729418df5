package main

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// chosenJobs are the jobs that a command is to change: those that are named, or
// those of a batch in some states.
type chosenJobs struct {
	ids   []string
	batch string
}

// choose checks that either jobs or a batch are given.
func (j *chosenJobs) choose(a *app, cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		a.unless(&j.batch, "batch", cmd)
	}
	if (len(args) == 0) == (j.batch == "") {
		return usagef("either jobs or --batch must be given; see: %s --help", cmd.CommandPath())
	}
	j.ids = args
	return checkIDs(args)
}

// each yields the ids. Those of a batch are listed first, and then changed, so
// that a change does not meet the list.
func (j *chosenJobs) each(ctx context.Context, c *connect.Conns, states ...jobs.State) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		ids := j.ids
		if j.batch != "" {
			for r, err := range c.Client.List(ctx, jobs.Filter{Batch: j.batch, States: states}) {
				if err != nil {
					yield("", err)
					return
				}
				ids = append(ids, r.ID)
			}
		}
		for _, id := range ids {
			if !yield(id, nil) {
				return
			}
		}
	}
}

func (a *app) cancelCommand() *cobra.Command {
	var j chosenJobs
	var keep bool
	cmd := &cobra.Command{
		Use:   "cancel JOB… | --batch NAME",
		Short: "Cancel jobs that have not ended",
		Long: `Cancels jobs. One that waits is cancelled at once, and nothing is bought for it.
One in work ends at its worker's next step; what was bought until then is paid,
and its result is given up unless --keep-result is given: then it is stored when
the provider is done, although the job stays cancelled. Further paid stages are
not bought. A job that is being stored is completed, and one that has ended stays
as it is; enqueue retry goes on with a cancelled one.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := j.choose(a, cmd, args); err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *connect.Conns) error { return a.cancel(ctx, c, &j, keep) })
		},
	}
	cmd.Flags().StringVar(&j.batch, "batch", "", "cancel every job of the batch `NAME`")
	cmd.Flags().BoolVar(&keep, "keep-result", false, "store what has been bought when it arrives")
	a.completeBatch(cmd)
	a.completeJobs(cmd)
	return cmd
}

func (a *app) cancel(ctx context.Context, c *connect.Conns, j *chosenJobs, keep bool) error {
	cancel := c.Client.Cancel
	if keep {
		cancel = c.Client.CancelKeeping
	}
	states := []jobs.State{jobs.Queued, jobs.Submitting, jobs.Running, jobs.Storing, jobs.Parked}
	if keep {
		states = append(states, jobs.Cancelled)
	}
	var errs []error
	p := a.printer(c)
	sum := newSummary(j.batch)
	n := 0
	for id, err := range j.each(ctx, c, states...) {
		if err != nil {
			return errors.Join(err, p.flush())
		}
		n++
		r, err := cancel(ctx, id)
		if err != nil {
			errs = append(errs, notFound(err, id))
			continue
		}
		sum.count(r)
		p.job(r, "", cancelRemark(r))
	}
	if n == 0 {
		return fmt.Errorf("batch %q has no job that could be cancelled", j.batch)
	}
	return errors.Join(append(errs, p.end(&sum))...)
}

// cancelRemark says what becomes of a job that was to be cancelled, and of what
// was paid for it.
func cancelRemark(r *jobs.Record) string {
	bought := r.Session != ""
	switch {
	case r.Keeping():
		return "cancelled; its result will be stored when the provider is done"
	case r.State == jobs.Cancelled && r.Manifest != "":
		return "cancelled; its result is stored"
	case r.State == jobs.Cancelled && bought:
		return "cancelled; session " + r.Session + " was bought, and its result is given up: enqueue retry would fetch it"
	case r.State == jobs.Cancelled:
		return "cancelled; nothing was bought"
	case r.State.Final():
		return "has ended before"
	case r.State == jobs.Storing:
		return "is paid and being stored: it will be completed"
	case r.KeepResult:
		return "will be cancelled at its worker's next step, and what is bought will be stored"
	case bought:
		return "will be cancelled at its worker's next step; what is bought is paid, and its result given up: --keep-result would store it"
	}
	return "will be cancelled at its worker's next step; if the purchase is under way it is paid"
}
