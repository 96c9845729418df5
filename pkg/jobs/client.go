package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrNotFound is returned for an id that is neither queued nor has a record.
var ErrNotFound = errors.New("no such job")

// ClientConfig configures a Client. Its zero value is good.
type ClientConfig struct {
	// Names are the names on the broker; the zero value is DefaultPrefix's.
	Names Names
	// OnBlocked is told why enqueuing waits: the queue is full, or the broker
	// does not answer. It is called again every few seconds while that lasts,
	// never concurrently, and must not block. It may be nil.
	OnBlocked func(reason string)
}

// Client enqueues jobs and follows them. It needs no worker to run, but what a
// worker creates on the broker at its first start (see Check).
//
// A Client is safe for concurrent use, and bounded in memory by the arguments
// and results of the calls in progress. Every request to the broker has a
// deadline of its own; a broker that does not answer is tried again for a
// minute before a call fails, or until its context ends. On a replicated broker
// reads may be answered by a replica that lags by moments; what decides is
// always checked again by compare-and-set.
type Client struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	names Names

	// patience is how long one step is tried again while the broker does not
	// answer, and callTimeout bounds each request.
	patience    time.Duration
	callTimeout time.Duration

	onBlocked func(string)
	blockedMu sync.Mutex
	blockedAt time.Time
}

const (
	defaultPatience    = time.Minute
	defaultCallTimeout = 10 * time.Second
	// blockedEvery is the least time between two calls of OnBlocked.
	blockedEvery = 3 * time.Second
	// minAPILevel is that of nats-server 2.12, the first with atomic batches.
	minAPILevel = 2
)

// NewClient returns a client that uses nc. The caller keeps nc, and closes it
// after the client's last call. NewClient does not talk to the broker; see Check.
func NewClient(nc *nats.Conn, cfg ClientConfig) (*Client, error) {
	if nc == nil {
		return nil, errors.New("the client needs a NATS connection")
	}
	names := cfg.Names
	if names == (Names{}) {
		names = Names{DefaultPrefix}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	return &Client{
		nc: nc, js: js, names: names,
		patience: defaultPatience, callTimeout: defaultCallTimeout,
		onBlocked: cfg.OnBlocked,
	}, nil
}

// Check reports whether jobs can be enqueued and followed: the broker answers,
// JetStream is on and new enough, and the streams and buckets exist. Its error
// names everything that is missing, and says what to do. It tries once.
func (c *Client) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.callTimeout)
	defer cancel()
	info, err := c.js.AccountInfo(ctx)
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return fmt.Errorf("the broker has JetStream turned off: start nats-server with -js or a jetstream block in its configuration: %w", err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("the broker has JetStream, but not for this account: enable it for the account, or use other credentials: %w", err)
	case err != nil:
		return fmt.Errorf("the broker%s does not answer: check its address (NATS_URL), and that it runs: %w", c.where(), err)
	}
	if info.API.Level < minAPILevel {
		return fmt.Errorf("the broker is nats-server %s, and Meshmill needs 2.12 or newer", c.nc.ConnectedServerVersion())
	}
	var missing, wrong []string
	for _, w := range []struct {
		what, stream string
		once         bool // the stream must refuse a second message on a subject
	}{
		{"stream " + c.names.JobsStream(), c.names.JobsStream(), true},
		{"stream " + c.names.EventsStream(), c.names.EventsStream(), true},
		{"stream " + c.names.DeadStream(), c.names.DeadStream(), false},
		{"bucket " + c.names.StateBucket(), c.stateStream(), false},
		{"bucket " + c.names.FleetBucket(), "KV_" + c.names.FleetBucket(), false},
	} {
		s, err := c.js.Stream(ctx, w.stream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			missing = append(missing, w.what)
			continue
		}
		if err != nil {
			return fmt.Errorf("look for %s: %w", w.what, err)
		}
		cfg := s.CachedInfo().Config
		if !cfg.AllowDirect {
			wrong = append(wrong, w.what+" needs allow_direct")
		}
		if w.once && !(cfg.Discard == jetstream.DiscardNew && cfg.DiscardNewPerSubject && cfg.MaxMsgsPerSubject == 1) {
			wrong = append(wrong, w.what+" needs discard new, discard_new_per_subject and max_msgs_per_subject 1")
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the broker%s has settings that Meshmill cannot work with: %s", c.where(), strings.Join(wrong, "; "))
	}
	if len(missing) > 0 {
		return fmt.Errorf("the broker%s has no %s: start a worker on it, which creates them, or check MESHMILL_PREFIX",
			c.where(), strings.Join(missing, ", "))
	}
	return nil
}

// where names the connected broker for an error text, without credentials.
func (c *Client) where() string {
	if u := c.nc.ConnectedUrlRedacted(); u != "" {
		return " at " + u
	}
	return ""
}

func (c *Client) stateStream() string           { return "KV_" + c.names.StateBucket() }
func (c *Client) stateSubject(id string) string { return "$KV." + c.names.StateBucket() + "." + id }

// blocked tells OnBlocked why a call waits, at most every few seconds.
func (c *Client) blocked(reason string) {
	if c.onBlocked == nil {
		return
	}
	c.blockedMu.Lock()
	defer c.blockedMu.Unlock()
	if now := time.Now(); now.Sub(c.blockedAt) >= blockedEvery {
		c.blockedAt = now
		c.onBlocked(reason)
	}
}

// retry calls f until it succeeds, fails for good, ctx ends, or the broker has
// not answered for c.patience. Each call of f has its own deadline.
func (c *Client) retry(ctx context.Context, what string, f func(context.Context) error) error {
	return c.retryFor(ctx, c.patience, what, f)
}

func (c *Client) retryFor(ctx context.Context, patience time.Duration, what string, f func(context.Context) error) error {
	began := time.Now()
	for wait := newBackoff(); ; {
		call, cancel := context.WithTimeout(ctx, c.callTimeout)
		err := f(call)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		case errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders):
			if missing := c.missing(ctx); missing != nil {
				return fmt.Errorf("%s: %w", what, missing)
			}
		case !transient(err):
			return fmt.Errorf("%s: %w", what, err)
		}
		if time.Since(began) > patience {
			return fmt.Errorf("%s: the broker%s did not answer for %v: %w", what, c.where(), patience, err)
		}
		c.blocked("the broker does not answer: " + err.Error())
		if !wait.sleep(ctx) {
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
	}
}

// missing finds out why nobody answers on a stream's subject: it returns an
// error if a stream does not exist, and nil if that is not the reason.
func (c *Client) missing(ctx context.Context) error {
	err := c.Check(ctx)
	if err != nil && transient(err) {
		return nil
	}
	return err
}

// transient reports whether an error is about reaching the broker, and not
// about what it was asked. After it, the request may have had its effect.
func transient(err error) bool {
	if e, ok := errors.AsType[*jetstream.APIError](err); ok {
		// 503 without a leader or during a restart; a full store has its own text.
		return e.Code == 503 && e.ErrorCode != errCodeStoreFailed &&
			e.ErrorCode != jetstream.JSErrCodeJetStreamNotEnabled && e.ErrorCode != jetstream.JSErrCodeJetStreamNotEnabledForAccount
	}
	for _, t := range []error{
		nats.ErrTimeout, context.DeadlineExceeded, nats.ErrNoResponders, jetstream.ErrNoStreamResponse,
		nats.ErrDisconnected, nats.ErrConnectionReconnecting, nats.ErrReconnectBufExceeded, nats.ErrNoServers,
		nats.ErrStaleConnection, nats.ErrSlowConsumer, jetstream.ErrNoHeartbeat, errShortReply,
	} {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

// backoff spaces out attempts: from 20 ms doubling to 1 s.
type backoff struct{ next time.Duration }

func newBackoff() *backoff { return &backoff{next: 20 * time.Millisecond} }

// sleep waits, and reports false if ctx ended first.
func (b *backoff) sleep(ctx context.Context) bool {
	t := time.NewTimer(b.next)
	defer t.Stop()
	b.next = min(2*b.next, time.Second)
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
