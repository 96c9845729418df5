package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/internal/worker"
)

// logger is where the worker and the servers in this process write: above the
// view, and only what a person may care about unless more was asked for.
func logger(c *config.Config, v *progress.View) zerolog.Logger {
	level := c.LogLevel
	if !c.IsSet("MESHMILL_LOG_LEVEL") {
		level = zerolog.WarnLevel
	}
	var w io.Writer = zerolog.ConsoleWriter{Out: v, NoColor: true, TimeFormat: time.TimeOnly}
	if c.LogFormat == config.LogJSON {
		w = v
	}
	log := zerolog.New(w).Level(level).With().Timestamp().Logger()
	if !c.IsSet("MESHMILL_LOG_LEVEL") {
		log = log.Hook(endsOfJobs{})
	}
	return log
}

// endsOfJobs keeps the worker's line about each job that failed out of the log:
// the view tells it already.
type endsOfJobs struct{}

func (endsOfJobs) Run(e *zerolog.Event, _ zerolog.Level, message string) {
	if message == "job finished" {
		e.Discard()
	}
}

// withWorker runs f beside a worker, and returns once both have ended: f by
// itself, the worker when f has and its jobs are handed back.
func withWorker(ctx context.Context, c *connect.Conns, log zerolog.Logger, f func(context.Context) error) error {
	cfg := c.Config
	if !cfg.IsSet("MESHMILL_LISTEN") {
		cfg.Listen = "" // a command for one person needs no metrics
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopped := make(chan error, 1)
	go func() {
		err := worker.Run(ctx, worker.Options{
			Config: cfg, NATS: c.NATS, Storage: c.Bucket, Simulated: c.Simulated, Log: log,
		})
		switch {
		case err == nil && ctx.Err() == nil:
			err = errors.New("it ended by itself")
		case ctx.Err() != nil && (errors.Is(err, context.Cause(ctx)) || errors.Is(err, context.Canceled)):
			err = nil // told to stop before it had started
		}
		if err != nil {
			err = fmt.Errorf("the worker in this process: %w", err)
			cancel(err)
		}
		stopped <- err
	}()
	err := f(ctx)
	cancel(errJobsEnded)
	var workerErr error
	select {
	case workerErr = <-stopped:
	case <-time.After(time.Second):
		log.Warn().Str("at_most", cfg.Grace.String()).Msg("waiting for paid calls in flight; interrupt again to leave at once")
		workerErr = <-stopped
	}
	if workerErr != nil && errors.Is(err, workerErr) {
		return workerErr
	}
	return errors.Join(err, workerErr)
}

var errJobsEnded = errors.New("the jobs of this call have ended")
