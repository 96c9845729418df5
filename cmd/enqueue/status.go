package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// open connects a command that only looks at jobs or changes records. No
// worker runs, and no provider is called.
func (a *app) open(cmd *cobra.Command) (*connect.Conns, error) {
	cfg, err := a.load(cmd, config.NeedBroker)
	if err != nil {
		return nil, err
	}
	if cfg.Embedded {
		if _, err := os.Stat(cfg.Data); err != nil {
			return nil, usagef("there is no data folder %q: enqueue something with --embedded first, or set MESHMILL_DATA", cfg.Data)
		}
	}
	return a.connect(cmd.Context(), cfg)
}

// connect opens the connections of such a command.
func (a *app) connect(ctx context.Context, cfg config.Config) (*connect.Conns, error) {
	v := progress.New(progress.Options{Out: a.stderr, Off: true, Quiet: a.quiet})
	c, err := connect.Open(ctx, connect.Options{Config: cfg, Name: "meshmill-enqueue", Log: logger(&cfg, v)})
	if err != nil {
		return nil, err
	}
	if err := c.Client.Check(ctx); err != nil {
		return nil, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// with opens the connections, calls f and closes them.
func (a *app) with(cmd *cobra.Command, f func(ctx context.Context, c *connect.Conns) error) error {
	c, err := a.open(cmd)
	if err != nil {
		return err
	}
	return errors.Join(f(cmd.Context(), c), c.Close(context.WithoutCancel(cmd.Context())))
}

// checkIDs reports every argument that cannot be a job's id.
func checkIDs(ids []string) error {
	var errs []error
	for _, id := range ids {
		errs = append(errs, jobs.CheckID(id))
	}
	return usage(errors.Join(errs...))
}

func (a *app) statusCommand() *cobra.Command {
	var f jobs.Filter
	var states []string
	cmd := &cobra.Command{
		Use:   "status [JOB…]",
		Short: "Show jobs, and how many there are in each state",
		Long: `Shows the jobs that are named, those of a batch, or all. The exit status is 3
if any of them failed or is parked, and 1 if a named job does not exist.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkIDs(args); err != nil {
				return err
			}
			f.IDs = args
			if len(args) > 0 {
				a.unless(&f.Batch, "batch", cmd)
			}
			for _, s := range states {
				if !slices.Contains(jobs.States, jobs.State(s)) {
					return usagef("--state is %q, must be one of %v", s, jobs.States)
				}
				f.States = append(f.States, jobs.State(s))
			}
			return a.with(cmd, func(ctx context.Context, c *connect.Conns) error { return a.status(ctx, c, f) })
		},
	}
	a.completeJobs(cmd)
	cmd.Flags().StringVar(&f.Batch, "batch", "", "only jobs of the batch `NAME`")
	cmd.Flags().StringVar(&f.Provider, "provider", "", "only jobs for the provider `NAME`")
	complete(cmd, "provider", words(providerNames))
	a.completeBatch(cmd)
	cmd.Flags().StringSliceVar(&states, "state", nil, "only jobs in these states, such as failed,parked")
	complete(cmd, "state", words(func(*cobra.Command, string) (out []string) {
		for _, s := range jobs.States {
			out = append(out, string(s))
		}
		return out
	}))
	return cmd
}

func (a *app) status(ctx context.Context, c *connect.Conns, f jobs.Filter) error {
	p := a.printer(c)
	p.whole = len(f.IDs) > 0
	sum := newSummary(f.Batch)
	found := map[string]bool{}
	for r, err := range c.Client.List(ctx, f) {
		if err != nil {
			return errors.Join(p.flush(), err)
		}
		sum.count(r)
		if len(f.IDs) > 0 {
			found[r.ID] = true
		}
		p.job(r, "", "")
	}
	if err := p.end(&sum); err != nil {
		return err
	}
	a.note("%s", sum.text())
	var missing []error
	for _, id := range f.IDs {
		if !found[id] && f.Batch == "" && f.Provider == "" && len(f.States) == 0 {
			missing = append(missing, fmt.Errorf("there is no job %s: it was never enqueued here, or its record has expired", id))
		}
	}
	if err := errors.Join(missing...); err != nil {
		return err
	}
	return sum.status()
}
