package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/cost"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// retrying is one run of the retry command.
type retrying struct {
	a                *app
	jobs             chosenJobs
	cancelled        bool
	yes, dry, noBuys bool

	fetch, buy int // how many jobs go on with what was bought, and how many buy
	cost       cost.Sum
}

func (a *app) retryCommand() *cobra.Command {
	r := &retrying{a: a}
	cmd := &cobra.Command{
		Use:   "retry JOB… | --batch NAME",
		Short: "Queue jobs again that have failed",
		Long: `Puts failed jobs back in the queue; of a batch all of them, and with --cancelled
those that were cancelled too. What was bought is not bought again while it can
be fetched: a job with a session goes on with it, and costs nothing. A job is
bought anew only if nothing was bought, or if the provider itself has failed it;
retry says how many these are, and --no-buy leaves them out. A parked job waits
for enqueue resolve.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := r.jobs.choose(a, cmd, args); err != nil {
				return err
			}
			return a.with(cmd, r.run)
		},
	}
	cmd.Flags().StringVar(&r.jobs.batch, "batch", "", "every failed job of the batch `NAME`")
	cmd.Flags().BoolVar(&r.cancelled, "cancelled", false, "with --batch: jobs that were cancelled too")
	cmd.Flags().BoolVar(&r.noBuys, "no-buy", false, "leave out jobs that would have to be bought anew")
	cmd.Flags().BoolVar(&r.dry, "dry-run", false, "say what would be done; change nothing")
	cmd.Flags().BoolVarP(&r.yes, "yes", "y", false, "do not ask before jobs are bought anew")
	a.completeBatch(cmd)
	a.completeJobs(cmd)
	return cmd
}

func (r *retrying) states() []jobs.State {
	if r.cancelled {
		return []jobs.State{jobs.Failed, jobs.Cancelled}
	}
	return []jobs.State{jobs.Failed}
}

// count finds out what it takes. Jobs that do not exist are told later.
func (r *retrying) count(ctx context.Context, c *connect.Conns) error {
	f := jobs.Filter{IDs: r.jobs.ids, Batch: r.jobs.batch}
	if r.jobs.batch != "" {
		f.States = r.states()
	}
	for rec, err := range c.Client.List(ctx, f) {
		if err != nil {
			return err
		}
		switch jobs.RemedyFor(rec) {
		case jobs.Fetch:
			r.fetch++
		case jobs.Buy, jobs.BuyStage:
			r.buy++
			amount, known := price(rec, &c.Config)
			r.cost.Add(amount, known)
		}
	}
	return nil
}

// price is what a job costs that is bought anew.
func price(rec *jobs.Record, cfg *config.Config) (cost.Amount, bool) {
	o, err := findOffer(rec.Provider)
	if err != nil {
		return 0, false
	}
	plan, err := o.Plan(rec.Request.Options, rec.Request.Formats)
	if err != nil {
		return 0, false
	}
	return o.prices(cfg).Of(plan.Mode)
}

func (r *retrying) run(ctx context.Context, c *connect.Conns) error {
	if err := r.count(ctx, c); err != nil {
		return err
	}
	if r.fetch+r.buy == 0 && r.jobs.batch != "" {
		return fmt.Errorf("batch %q has no job to be retried", r.jobs.batch)
	}
	text := fmt.Sprintf("%d jobs go on with what was bought; %d are bought anew, for %s by estimate", r.fetch, r.buy, &r.cost)
	if r.noBuys {
		text = fmt.Sprintf("%d jobs go on with what was bought; %d would be bought anew, and are left out", r.fetch, r.buy)
	}
	r.a.note("%s", text)
	if r.buy > 0 && !r.noBuys && !r.yes && !r.dry && r.a.interactive() {
		if err := r.a.confirm(ctx, "Buying anew costs money."); err != nil {
			return err
		}
	}
	return r.each(ctx, c)
}

func (r *retrying) each(ctx context.Context, c *connect.Conns) error {
	var errs []error
	p := r.a.printer(c)
	sum := newSummary(r.jobs.batch)
	for id, err := range r.jobs.each(ctx, c, r.states()...) {
		if err != nil {
			return errors.Join(err, p.flush())
		}
		rec, remedy, err := r.one(ctx, c, id)
		switch {
		case errors.Is(err, jobs.ErrMustBuy):
			sum.Skipped++
			continue
		case err != nil:
			errs = append(errs, notFound(err, id))
			continue
		}
		outcome := jobs.Enqueued
		if sum.Enqueued++; remedy == jobs.NoRemedy || r.dry {
			outcome = jobs.Skipped
			sum.Enqueued--
			sum.Skipped++
		}
		sum.count(rec)
		p.job(rec, outcome, retryRemark(rec, remedy, r.dry))
	}
	if err := errors.Join(append(errs, p.end(&sum))...); err != nil {
		return err
	}
	if c.Config.Embedded && sum.Enqueued > 0 {
		r.a.note("no worker runs here: they go on with the next enqueue --embedded, or with worker --embedded")
	} else if sum.Enqueued > 0 && r.jobs.batch != "" {
		r.a.note("follow them with: enqueue watch --batch %s", word(r.jobs.batch))
	}
	return nil
}

func (r *retrying) one(ctx context.Context, c *connect.Conns, id string) (*jobs.Record, jobs.Remedy, error) {
	if !r.dry {
		return c.Client.Retry(ctx, id, !r.noBuys)
	}
	rec, err := c.Client.Get(ctx, id)
	if err != nil {
		return nil, jobs.NoRemedy, err
	}
	return rec, jobs.RemedyFor(rec), nil
}

func retryRemark(r *jobs.Record, remedy jobs.Remedy, dry bool) string {
	will := ""
	if dry {
		will = "would: "
	}
	switch remedy {
	case jobs.Fetch:
		return will + "go on with session " + r.Session
	case jobs.BuyStage:
		return will + "buy the next stage, " + r.Stage + ", of session " + r.Session
	case jobs.Buy:
		return will + "buy anew"
	}
	switch r.State {
	case jobs.Parked:
		return "is parked: decide with enqueue resolve"
	case jobs.Completed:
		return "is completed: --force buys another"
	}
	return "has not failed"
}
