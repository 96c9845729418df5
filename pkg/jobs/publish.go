package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// batchBytes bounds an atomic batch, which the broker stages as a whole.
	batchBytes = 4 << 20
	// inFlight bounds the single messages that wait for an answer at once.
	inFlight = 32
)

// publish puts entries in the queue and sets their results: in atomic batches,
// and one by one where a batch is refused. Its error is about the broker or ctx.
func (c *Client) publish(ctx context.Context, entries []*entry) error {
	for len(entries) > 0 {
		n, size := 0, 0
		for n < len(entries) && n < window && (n == 0 || size+len(entries[n].body) <= batchBytes) {
			size += len(entries[n].body)
			n++
		}
		if err := c.publishBatch(ctx, entries[:n]); err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// publishBatch publishes one batch. A batch is all or nothing, and the broker
// refuses one that holds a single queued job, or that does not fit a queue
// that is nearly full. So any refusal sends its entries one by one, each of
// which then meets its own fate.
func (c *Client) publishBatch(ctx context.Context, entries []*entry) error {
	if len(entries) == 1 {
		return c.publishSingles(ctx, entries)
	}
	call, cancel := context.WithTimeout(ctx, c.callTimeout)
	err := c.sendBatch(call, entries)
	cancel()
	switch {
	case err == nil:
		for _, e := range entries {
			e.result.enqueued(Queued)
		}
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("enqueue: %w", context.Cause(ctx))
	case !transient(err):
		return c.publishSingles(ctx, entries)
	}
	// The answer is lost: the batch is in the queue, or it is not, or workers
	// have taken some of it already. One subject takes one message, so sending
	// again does no harm; looking first tells what came of this call.
	c.blocked("the broker does not answer: " + err.Error())
	found, err := c.lookUp(ctx, entries)
	if err != nil {
		return err
	}
	var rest []*entry
	for _, e := range entries {
		if f, ok := found[e.req.ID]; ok {
			e.settle(f)
		} else {
			e.doubt = true
			rest = append(rest, e)
		}
	}
	return c.publishSingles(ctx, rest)
}

// settle sets the result of an entry that was sent, from what was found.
func (e *entry) settle(f finding) {
	switch {
	case f.err != nil:
		e.result.refuse(f.err)
	case f.ours:
		e.result.enqueued(f.state)
	default:
		e.result.skip(f.state, skipReason(f.state))
	}
}

// batchAck is the broker's answer to the last message of a batch.
type batchAck struct {
	Stream string              `json:"stream"`
	Batch  string              `json:"batch"`
	Count  int                 `json:"count"`
	Error  *jetstream.APIError `json:"error"`
}

// sendBatch sends entries as one atomic batch (NATS ADR-50): numbered messages
// under one id, of which the last commits them all.
func (c *Client) sendBatch(ctx context.Context, entries []*entry) error {
	id := FreshID()
	for i, e := range entries {
		m := nats.NewMsg(c.names.JobSubject(e.req.Provider, e.lane, e.req.ID))
		m.Data = e.body
		m.Header.Set("Nats-Batch-Id", id)
		m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		if i == len(entries)-1 {
			m.Header.Set("Nats-Batch-Commit", "1")
			return c.commitBatch(ctx, m, id, len(entries))
		}
		if i > 0 {
			if err := c.nc.PublishMsg(m); err != nil {
				return err
			}
			continue
		}
		// The answer to the first says whether a batch may be opened at all. The
		// commit's would only say that the batch is incomplete.
		reply, err := c.nc.RequestMsgWithContext(ctx, m)
		if err != nil {
			return err
		}
		if len(reply.Data) > 0 {
			var ack batchAck
			if err := json.Unmarshal(reply.Data, &ack); err != nil || ack.Error == nil {
				return fmt.Errorf("the broker gave an answer to a batch that is not understood: %w", errShortReply)
			}
			return ack.Error
		}
	}
	return nil
}

func (c *Client) commitBatch(ctx context.Context, m *nats.Msg, id string, count int) error {
	reply, err := c.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return err
	}
	var ack batchAck
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return fmt.Errorf("the broker's answer to a batch: %w", errShortReply)
	}
	if ack.Error != nil {
		return ack.Error
	}
	if ack.Stream != c.names.JobsStream() || ack.Batch != id || ack.Count != count {
		return fmt.Errorf("the broker took %d of %d messages of a batch: %w", ack.Count, count, errShortReply)
	}
	return nil
}

// publishSingles publishes entries one by one, a bounded number at a time.
func (c *Client) publishSingles(ctx context.Context, entries []*entry) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	todo := make(chan *entry)
	for range min(inFlight, len(entries)) {
		wg.Go(func() {
			for e := range todo {
				if err := c.publishSingle(ctx, e); err != nil {
					cancel(err) // the first one counts
				}
			}
		})
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			break
		}
		todo <- e
	}
	close(todo)
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// publishSingle publishes one entry and sets its result.
func (c *Client) publishSingle(ctx context.Context, e *entry) error {
	tries, err := c.publishOne(ctx, c.names.JobSubject(e.req.Provider, e.lane, e.req.ID), e.body)
	switch {
	case err == nil:
		e.result.enqueued(Queued)
		return nil
	case errors.Is(err, errQueued) && tries == 1 && !e.doubt:
		e.result.skip(Queued, skipReason(Queued))
		return nil
	case errors.Is(err, errQueued):
		// An answer was lost on the way: it may be this call that queued it.
		found, err := c.lookUp(ctx, []*entry{e})
		if err != nil {
			return err
		}
		f, ok := found[e.req.ID]
		if !ok { // taken, done, and its record deleted: it was in the queue
			f = finding{state: Queued}
		}
		e.settle(f)
		return nil
	case errors.Is(err, errRefused):
		e.result.refuse(err)
		return nil
	default:
		return err
	}
}

var (
	// errQueued is returned for a subject that has its one message.
	errQueued = errors.New("it is in the queue already")
	// errRefused is returned for a message that the broker will never take.
	errRefused = errors.New("the broker refuses the message")
)

// publishOne publishes a message to the queue, and waits while that is full. It
// returns how often it sent the message.
func (c *Client) publishOne(ctx context.Context, subject string, body []byte) (tries int, err error) {
	for wait := newBackoff(); ; {
		err = c.retry(ctx, "enqueue", func(ctx context.Context) error {
			tries++
			_, err := c.js.Publish(ctx, subject, body, jetstream.WithExpectStream(c.names.JobsStream()))
			if twice, full := refusal(err); twice {
				return errQueued
			} else if full != "" {
				return &fullError{full}
			}
			if _, ok := errors.AsType[*jetstream.APIError](err); (ok && !transient(err)) || errors.Is(err, nats.ErrMaxPayload) {
				return fmt.Errorf("%w: %w", errRefused, err)
			}
			return err
		})
		full, ok := errors.AsType[*fullError](err)
		if !ok {
			return tries, err
		}
		tries-- // it was answered, and certainly not stored
		c.blocked("the queue is full (" + full.reason + "), waiting for workers to make room")
		if !wait.sleep(ctx) {
			return tries, fmt.Errorf("enqueue: the queue is full (%s): %w", full.reason, context.Cause(ctx))
		}
	}
}

// fullError reports a queue without room.
type fullError struct{ reason string }

func (e *fullError) Error() string { return "the queue is full: " + e.reason }
