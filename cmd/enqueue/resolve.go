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
	a.completeJobs(cmd)
	cmd.Flags().StringVar(&how.Session, "session", "", "the provider's session `S` that was bought")
	cmd.Flags().BoolVar(&how.Resubmit, "resubmit", false, "buy, at the risk of paying twice")
	cmd.Flags().BoolVar(&how.Fail, "fail", false, "give the job up")
	return cmd
}

// changed prints a job that a command has changed.
func (a *app) changed(c *connect.Conns, r *jobs.Record) error {
	p := a.printer(c)
	sum := newSummary("")
	sum.count(r)
	p.job(r, "", "")
	return p.end(&sum)
}

func notFound(err error, id string) error {
	if errors.Is(err, jobs.ErrNotFound) {
		return fmt.Errorf("there is no job %s; enqueue status lists them", progress.Clean(id))
	}
	return err
}
