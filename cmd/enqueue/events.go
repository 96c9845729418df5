package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/jobs"
)

func (a *app) eventsCommand() *cobra.Command {
	var f jobs.EventFilter
	var max int
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Follow the events of all jobs, as JSON lines",
		Long: `Prints every event as one line of JSON, a CloudEvent 1.0, as it happens, until it
is interrupted.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("events takes no arguments; see: %s --help", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if max < 0 {
				return usagef("--max is %d, must be 0 for no limit, or more", max)
			}
			return a.with(cmd, func(ctx context.Context, c *connect.Conns) error { return a.events(ctx, c, f, max) })
		},
	}
	cmd.Flags().BoolVar(&f.FromStart, "from-start", false, "begin with the oldest event that is kept")
	cmd.Flags().StringSliceVar(&f.Kinds, "kind", nil, "only events of these kinds, such as completed,failed,parked")
	cmd.Flags().IntVar(&max, "max", 0, "end after this many events")
	return cmd
}

func (a *app) events(ctx context.Context, c *connect.Conns, f jobs.EventFilter, max int) error {
	enc := json.NewEncoder(a.stdout)
	n := 0
	for e, err := range c.Client.Events(ctx, f) {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && e == nil:
			// One that cannot be read does not end the others; if the broker
			// ended them, the range ends by itself.
			a.note("%s", progress.Clean(err.Error()))
			continue
		}
		if err := enc.Encode(e); err != nil {
			return err
		}
		if n++; n == max {
			return nil
		}
	}
	return context.Cause(ctx)
}
