// Package broker is the engine's queue, journal, fleet and events on NATS
// JetStream.
package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// Queue is the work queue. It is safe for concurrent use.
type Queue struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	names  jobs.Names
	client *jobs.Client

	mu        sync.Mutex
	consumers map[string]jetstream.Consumer
}

var _ engine.Queue = (*Queue)(nil)

// NewQueue returns the queue. Its stream and consumers must exist.
func NewQueue(nc *nats.Conn, names jobs.Names, client *jobs.Client) (*Queue, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	return &Queue{nc: nc, js: js, names: names, client: client, consumers: map[string]jetstream.Consumer{}}, nil
}

// Fetch implements engine.Queue.
func (q *Queue) Fetch(ctx context.Context, provider string, lane jobs.Lane, n int, wait time.Duration) ([]engine.Message, error) {
	c, err := q.consumer(ctx, provider, lane)
	if err != nil {
		return nil, err
	}
	fctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	batch, err := c.Fetch(n, jetstream.FetchContext(fctx))
	if err != nil {
		return nil, fmt.Errorf("fetch jobs: %w", err)
	}
	var out []engine.Message
	for m := range batch.Messages() {
		out = append(out, &message{q.nc, m})
	}
	switch err := batch.Error(); {
	case err == nil, len(out) > 0, ctx.Err() != nil,
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return out, nil
	case errors.Is(err, jetstream.ErrConsumerDeleted), errors.Is(err, jetstream.ErrConsumerNotFound),
		errors.Is(err, jetstream.ErrConsumerDoesNotExist), errors.Is(err, nats.ErrNoResponders):
		// The next call looks whether there is a consumer still, and a stream:
		// asking one that is gone, nobody responds.
		q.mu.Lock()
		delete(q.consumers, q.names.JobConsumer(provider, lane))
		q.mu.Unlock()
		return nil, fmt.Errorf("fetch jobs: %w", err)
	default:
		return nil, fmt.Errorf("fetch jobs: %w", err)
	}
}

func (q *Queue) consumer(ctx context.Context, provider string, lane jobs.Lane) (jetstream.Consumer, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	name := q.names.JobConsumer(provider, lane)
	if c := q.consumers[name]; c != nil {
		return c, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c, err := q.js.Consumer(ctx, q.names.JobsStream(), name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrConsumerNotFound):
		return nil, fmt.Errorf("%w: stream %s, consumer %s: the broker has lost its data or is another one, see NATS_URL; a worker that starts without --bind creates them, and jobs that were queued must be enqueued again", engine.ErrGone, q.names.JobsStream(), name)
	case err != nil:
		return nil, fmt.Errorf("consumer %s: %w", name, err)
	}
	q.consumers[name] = c
	return c, nil
}

// callTimeout bounds one request to the broker.
const callTimeout = 5 * time.Second

// Requeue implements engine.Queue.
func (q *Queue) Requeue(ctx context.Context, r *jobs.Record) error { return q.client.Requeue(ctx, r) }

// maxReason bounds the reason that goes into a header.
const maxReason = 500

// Bury implements engine.Queue.
func (q *Queue) Bury(ctx context.Context, id string, body []byte, reason string) error {
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	m := nats.NewMsg(q.names.DeadSubject(id))
	m.Data = body
	m.Header.Set("Meshmill-Reason", oneLine(reason))
	if _, err := q.js.PublishMsg(ctx, m); err != nil {
		return fmt.Errorf("store the dead message: %w", err)
	}
	return nil
}

// oneLine makes text fit for a header.
func oneLine(s string) string {
	out := []rune(s)
	for i, r := range out {
		if r < ' ' {
			out[i] = ' '
		}
	}
	return string(out)
}

// message is one delivery.
type message struct {
	nc *nats.Conn
	m  jetstream.Msg
}

func (m *message) Subject() string { return m.m.Subject() }
func (m *message) Body() []byte    { return m.m.Data() }

// Renew asks for an answer, which the client library's InProgress does not.
func (m *message) Renew(ctx context.Context) error {
	if _, err := m.nc.RequestWithContext(ctx, m.m.Reply(), []byte("+WPI")); err != nil {
		return fmt.Errorf("renew the lease: %w", err)
	}
	return nil
}

func (m *message) Release(ctx context.Context, delay time.Duration) error {
	nak := m.m.Nak
	if delay > 0 {
		nak = func() error { return m.m.NakWithDelay(delay) }
	}
	if err := nak(); err != nil {
		return fmt.Errorf("hand the job back: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := m.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("hand the job back: %w", err)
	}
	return nil
}

func (m *message) Ack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// A repeated ack finds its first one done.
	if err := m.m.DoubleAck(ctx); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		return fmt.Errorf("ack: %w", err)
	}
	return nil
}
