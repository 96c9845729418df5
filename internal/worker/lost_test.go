package worker_test

import (
	"bytes"
	"context"
	"errors"
	"image/color"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/internal/simulator"
	"github.com/meshmill/meshmill/internal/topology"
	"github.com/meshmill/meshmill/internal/worker"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// The queue was made with a short ack wait, and MESHMILL_LEASE raised since: a
// job that is held must not be delivered again and again.
func TestWorkerKeepsToTheConsumersLease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	slow, err := simulator.Start(t.Context(), simulator.Config{Durations: simulator.Each(3*time.Second, 3*time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slow.Shutdown(context.Background()) })
	cfg := &b.opts.Config
	cfg.CSM.BaseURL, cfg.ModelsLab.APIKey, cfg.Lease, b.opts.Simulated = slow.CSMBaseURL(), "", time.Minute, slow.Host()
	js, err := jetstream.New(b.opts.NATS)
	if err == nil {
		err = topology.Ensure(t.Context(), js, cfg.Names, topology.Options{Providers: []string{"csm"}, Lease: time.Second})
	}
	if err != nil {
		t.Fatal(err)
	}
	var log syncBuffer
	b.opts.Log = zerolog.New(&log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx, b.opts) }()
	defer func() { cancel(); <-done }()

	object, _, err := b.opts.Storage.PutInput(t.Context(), bytes.NewReader(picture(t, color.White)), "png", "image/png")
	if err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { status, _ := b.get("/readyz"); return status == http.StatusOK })
	if _, err := b.client.Enqueue(t.Context(), jobs.Item{Request: jobs.Request{ID: "a", Provider: "csm", Image: jobs.Image{Object: object}}}); err != nil {
		t.Fatal(err)
	}
	consumer, err := js.Consumer(t.Context(), cfg.Names.JobsStream(), cfg.Names.JobConsumer("csm", jobs.Bulk))
	if err != nil {
		t.Fatal(err)
	}
	redelivered := 0
	until(t, func() bool {
		info, err := consumer.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		redelivered = max(redelivered, info.NumRedelivered)
		r, err := b.client.Get(t.Context(), "a")
		return err == nil && r.State == jobs.Completed
	})
	if redelivered > 0 {
		t.Error("the job was delivered again while its worker held it")
	}
	if !strings.Contains(log.String(), "a shorter time than MESHMILL_LEASE") {
		t.Errorf("nothing was said about it:\n%s", log.String())
	}
}

// Without its queue a worker is of no use: it ends, and says what is the matter.
func TestWorkerEndsWhenItsQueueIsGone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	done := make(chan error, 1)
	go func() { done <- worker.Run(t.Context(), b.opts) }()
	until(t, func() bool { status, _ := b.get("/readyz"); return status == http.StatusOK })
	js, err := jetstream.New(b.opts.NATS)
	if err == nil {
		err = js.DeleteStream(t.Context(), b.opts.Config.Names.JobsStream())
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, engine.ErrGone) || !strings.Contains(err.Error(), "NATS_URL") {
			t.Errorf("Run = %v, want that the queue is gone and what to look at", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the worker goes on without its queue")
	}
}
