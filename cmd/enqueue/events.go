package main

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/pkg/jobs"
)

func (a *app) eventsCommand() *cobra.Command {
	var f jobs.EventFilter
	var limit int
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Follow the events of all jobs, as JSON lines",
		Long: `Prints every event as one line of JSON, a CloudEvent 1.0, as it happens, until it
is interrupted.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usagef("--max is %d, must be 0 for no limit, or more", limit)
			}
			return a.with(cmd, func(ctx context.Context, c *connect.Conns) error { return a.events(ctx, c, f, limit) })
		},
	}
	cmd.Flags().BoolVar(&f.FromStart, "from-start", false, "begin with the oldest event that is kept")
	cmd.Flags().StringSliceVar(&f.Kinds, "kind", nil, "only events of these kinds, such as completed,failed,parked")
	cmd.Flags().IntVar(&limit, "max", 0, "end after this many events")
	complete(cmd, "kind", fixed(jobs.EventSubmitted, jobs.EventCompleted, jobs.EventFailed, jobs.EventParked, jobs.EventCancelled))
	return cmd
}

func (a *app) events(ctx context.Context, c *connect.Conns, f jobs.EventFilter, limit int) error {
	enc := json.NewEncoder(a.stdout)
	n := 0
	var last error
	for e, err := range c.Client.Events(ctx, f) {
		switch last = err; {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			// One that cannot be read does not end the others. If this is about
			// all of them, the range ends, and it is the last.
			continue
		}
		if err := enc.Encode(e); err != nil {
			return err
		}
		if n++; n == limit {
			return nil
		}
	}
	if _, ok := errors.AsType[*jobs.FieldError](last); ok {
		return usagef("--%w", last)
	}
	return last
}
