package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/jobs"
)

func (a *app) resolveCommand() *cobra.Command {
	var how jobs.Resolution
	cmd := &cobra.Command{
		Use:   "resolve JOB",
		Short: "Decide about a parked job, whose purchase has an unknown outcome",
		Long: `A job is parked when it cannot be found out whether its paid call went through.
Look into the provider's own list of sessions, then say what is true:

  --session S   it did: go on with this session, and buy nothing
  --resubmit    it did not, or paying twice is all right: buy
  --fail        give the job up`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%d jobs are given, must be one; see: %s --help", len(args), cmd.CommandPath())
			}
			return checkIDs(args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			set := 0
			for _, name := range []string{"session", "resubmit", "fail"} {
				if cmd.Flags().Changed(name) {
					set++
				}
			}
			if set != 1 || (how.Session == "" && !how.Resubmit && !how.Fail) {
				return usagef("exactly one of --session S, --resubmit and --fail must be given")
			}
			return a.with(cmd, func(ctx context.Context, c *connect.Conns) error {
				r, err := c.Client.Resolve(ctx, args[0], how)
				if err != nil {
					return notFound(err, args[0])
				}
				return a.changed(c, r)
			})
		},
	}
	cmd.Flags().StringVar(&how.Session, "session", "", "the provider's session `S` that was bought")
	cmd.Flags().BoolVar(&how.Resubmit, "resubmit", false, "buy, at the risk of paying twice")
	cmd.Flags().BoolVar(&how.Fail, "fail", false, "give the job up")
	return cmd
}

func (a *app) cancelCommand() *cobra.Command {
	var batch string
	cmd := &cobra.Command{
		Use:   "cancel JOB… | --batch NAME",
		Short: "Cancel jobs that have not ended",
		Long: `Cancels jobs. One that waits is cancelled at once; one in work ends at its
worker's next step, and what was bought until then is paid. Jobs that have
ended stay as they are.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) == (batch == "") {
				return usagef("either jobs or --batch must be given; see: %s --help", cmd.CommandPath())
			}
			if err := checkIDs(args); err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *connect.Conns) error { return a.cancel(ctx, c, args, batch) })
		},
	}
	cmd.Flags().StringVar(&batch, "batch", "", "cancel every job of the batch `NAME`")
	return cmd
}

func (a *app) cancel(ctx context.Context, c *connect.Conns, ids []string, batch string) error {
	if batch != "" {
		open := []jobs.State{jobs.Queued, jobs.Submitting, jobs.Running, jobs.Storing, jobs.Parked}
		for r, err := range c.Client.List(ctx, jobs.Filter{Batch: batch, States: open}) {
			if err != nil {
				return err
			}
			ids = append(ids, r.ID)
		}
		if len(ids) == 0 {
			return fmt.Errorf("batch %q has no job that could be cancelled", batch)
		}
	}
	var errs []error
	p := a.printer(c)
	for _, id := range ids {
		r, err := c.Client.Cancel(ctx, id)
		if err != nil {
			errs = append(errs, notFound(err, id))
			continue
		}
		p.job(r, "", cancelRemark(r))
	}
	return errors.Join(append(errs, p.flush())...)
}

func cancelRemark(r *jobs.Record) string {
	switch {
	case r.State == jobs.Cancelled:
		return "cancelled"
	case r.State.Final():
		return "has ended before"
	}
	return "will be cancelled at its worker's next step"
}

// changed prints a job that a command has changed.
func (a *app) changed(c *connect.Conns, r *jobs.Record) error {
	p := a.printer(c)
	p.job(r, "", "")
	return p.flush()
}

func notFound(err error, id string) error {
	if errors.Is(err, jobs.ErrNotFound) {
		return fmt.Errorf("there is no job %s; enqueue status lists them", progress.Clean(id))
	}
	return err
}
