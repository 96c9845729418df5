package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Progress is a live message about a job, on Names.ProgressSubject. It is not
// stored: whoever does not listen misses it.
type Progress struct {
	ID       string `json:"id"`
	State    State  `json:"state"`
	Provider string `json:"provider,omitempty"`
	Stage    string `json:"stage,omitempty"`
	// Detail is the provider's own word for its status.
	Detail string `json:"detail,omitempty"`
	// Percent is from 0 to 100, or negative if nobody knows.
	Percent float64 `json:"percent"`
	// Note is a remark for people, such as "waits for a slot".
	Note string `json:"note,omitempty"`
}

// filterSubjects is up to how many ids a watch asks the broker to filter by.
const filterSubjects = 64

// Watch yields the jobs that f selects, and then a record again whenever it
// changes, until ctx ends (which is its last error) or the caller stops. A job
// that is queued and has no record is yielded once at the start, as by List; one
// that is enqueued later shows up with its first record.
//
// Of changes in quick succession only the last may be seen, and after a broken
// connection, which Watch outlives, a record may be repeated. Records that stop
// matching f are not reported. As with List, an error about one record does not
// end it; nor does one that says that the broker has lost its data, after which
// it begins with the records that there are now.
func (c *Client) Watch(ctx context.Context, f Filter) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		if err := f.check(); err != nil {
			yield(nil, err)
			return
		}
		ids := idSet(f.IDs)
		// The queue first: what leaves it meanwhile has a record, which the
		// stream of records then begins with.
		if f.wants(Queued) {
			queued := f
			queued.States = []State{Queued}
			l := c.newLister(queued, func(r *Record, err error) bool {
				return err != nil || yield(r, nil) // a bad record is reported below
			})
			err := l.run(ctx)
			if l.stopped {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
		subjects := []string{c.stateSubject(">")}
		if n := len(ids); n > 0 && n <= filterSubjects {
			subjects = subjects[:0]
			for id := range ids {
				subjects = append(subjects, c.stateSubject(id))
			}
		}
		err := c.follow(ctx, c.stateStream(), subjects, jetstream.DeliverLastPerSubjectPolicy, func(m jetstream.Msg) bool {
			id := m.Subject()[len(c.stateSubject("")):]
			if isMarker(m.Headers()) || (len(ids) > 0 && !ids[id]) {
				return true
			}
			r, err := DecodeRecord(m.Data())
			if err != nil {
				return yield(nil, fmt.Errorf("job %s: %w", clip(id), err))
			}
			return !f.matches(r, ids) || yield(r, nil)
		}, func(err error) bool { return yield(nil, err) })
		if err != nil {
			yield(nil, err)
		}
	}
}

// Wait returns a job's record once it is final or parked. It returns an error
// that is ErrNotFound if there is no such job, that of ctx if it ends first, and
// another if the broker loses its data meanwhile.
func (c *Client) Wait(ctx context.Context, id string) (*Record, error) {
	if _, err := c.Get(ctx, id); err != nil {
		return nil, err
	}
	for r, err := range c.Watch(ctx, Filter{IDs: []string{id}}) {
		if err != nil {
			return nil, err
		}
		if r.State.Final() || r.State == Parked {
			return r, nil
		}
	}
	return nil, fmt.Errorf("job %s: %w", id, context.Cause(ctx)) // not reached: a watch ends with an error
}

// EventFilter selects events. Its zero value selects the new ones of all kinds.
type EventFilter struct {
	// FromStart begins with the oldest event that is kept, not with new ones.
	FromStart bool
	// Kinds are short types such as EventCompleted; empty selects all.
	Kinds []string
}

// Events yields events in the order in which they were published, until ctx
// ends (which is its last error) or the caller stops. It outlives broken
// connections without leaving anything out. An event that cannot be decoded is
// reported as an error, and does not end it; so is a broker that has lost its
// data, after which it goes on with all events that there are now. For a queue of events of your
// own, make a durable consumer on Names.EventsStream; DecodeEvent reads its
// messages.
func (c *Client) Events(ctx context.Context, f EventFilter) iter.Seq2[*cloudevents.Event, error] {
	return func(yield func(*cloudevents.Event, error) bool) {
		subjects := []string{c.names.EventAll()}
		if len(f.Kinds) > 0 {
			subjects = subjects[:0]
			for _, kind := range f.Kinds {
				if !slices.Contains(eventKinds, kind) {
					yield(nil, fieldErrorf("kind", "is %q, must be one of %v", clip(kind), eventKinds))
					return
				}
				subjects = append(subjects, c.names.eventKind(kind))
			}
		}
		policy := jetstream.DeliverNewPolicy
		if f.FromStart {
			policy = jetstream.DeliverAllPolicy
		}
		err := c.follow(ctx, c.names.EventsStream(), subjects, policy, func(m jetstream.Msg) bool {
			e, _, err := DecodeEvent(m.Data())
			if err != nil {
				err = fmt.Errorf("event %s: %w", clip(m.Subject()), err)
			}
			return yield(e, err)
		}, func(err error) bool { return yield(nil, err) })
		if err != nil {
			yield(nil, err)
		}
	}
}

// Progress yields live progress messages of all jobs, from when the range
// begins until ctx ends (which is its last error) or the caller stops. A caller
// that is too slow misses some.
func (c *Client) Progress(ctx context.Context) iter.Seq2[Progress, error] {
	return func(yield func(Progress, error) bool) {
		sub, err := c.nc.SubscribeSync(c.names.ProgressAll())
		if err != nil {
			yield(Progress{}, fmt.Errorf("progress: %w", err))
			return
		}
		defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is gone
		const pending, pendingBytes = 4096, 4 << 20
		if err := sub.SetPendingLimits(pending, pendingBytes); err != nil {
			yield(Progress{}, fmt.Errorf("progress: %w", err))
			return
		}
		for {
			m, err := sub.NextMsgWithContext(ctx)
			switch {
			case ctx.Err() != nil:
				yield(Progress{}, fmt.Errorf("progress: %w", context.Cause(ctx)))
				return
			case errors.Is(err, nats.ErrSlowConsumer):
				continue
			case err != nil:
				yield(Progress{}, fmt.Errorf("progress: %w", err))
				return
			}
			var p Progress
			if json.Unmarshal(m.Data, &p) != nil || m.Subject != c.names.ProgressSubject(p.ID) {
				continue // anyone may publish here, and nothing depends on it
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

const (
	// followBatch bounds the messages that a follower buffers.
	followBatch = 100
	// followWait is how long one request for messages stands; followBeat is how
	// often the broker shows meanwhile that it has not forgotten the request.
	followWait = 20 * time.Second
	followBeat = 2 * time.Second
)

// follow hands every message of a stream to each, in order and without gaps,
// until each returns false. It uses a consumer that lives in the broker's
// memory, and makes it again behind the last message whenever it is lost. If the
// stream itself is lost and there is another, it tells lost of it, which returns
// false to end that, and begins anew. It fails when ctx ends, or when the stream
// cannot be followed at all.
func (c *Client) follow(ctx context.Context, stream string, subjects []string, policy jetstream.DeliverPolicy, each func(jetstream.Msg) bool, lost func(error) bool) error {
	cfg := jetstream.ConsumerConfig{
		DeliverPolicy: policy, AckPolicy: jetstream.AckNonePolicy, FilterSubjects: subjects,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: 5 * time.Minute,
	}
	patience, wait := c.patience, newBackoff()
	var born time.Time // of the stream
	for {
		var consumer jetstream.Consumer
		replaced := false
		err := c.retryFor(ctx, patience, "follow "+stream, func(ctx context.Context) error {
			s, err := c.js.Stream(ctx, stream)
			if err != nil {
				return err
			}
			info := s.CachedInfo()
			if !born.IsZero() && (!info.Created.Equal(born) || info.State.LastSeq+1 < cfg.OptStartSeq) {
				// Behind the last message there is nothing, perhaps for long.
				replaced = true
				cfg.DeliverPolicy, cfg.OptStartSeq = policy, 0
				if policy == jetstream.DeliverNewPolicy {
					cfg.DeliverPolicy = jetstream.DeliverAllPolicy // all of it is new
				}
			}
			born = info.Created
			consumer, err = s.CreateConsumer(ctx, cfg)
			return err
		})
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			err = cmp.Or(c.missing(ctx), err)
		}
		if err != nil {
			return err
		}
		patience = math.MaxInt64 // it did work once
		info := consumer.CachedInfo()
		if cfg.DeliverPolicy == jetstream.DeliverNewPolicy {
			// If this consumer is lost before its first message, its successor
			// must begin where it did.
			cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, info.Delivered.Stream+1
		}
		if replaced && !lost(fmt.Errorf("follow %s: %w", stream, errReplaced)) {
			c.dropConsumer(ctx, stream, info.Name)
			return nil
		}
		f := follower{consumer: consumer, each: each}
		began := time.Now()
		err = f.run(ctx)
		c.dropConsumer(ctx, stream, info.Name)
		if f.last > 0 {
			cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, f.last+1
		}
		switch {
		case f.stopped:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("follow: %w", context.Cause(ctx))
		case c.nc.IsClosed():
			return fmt.Errorf("follow: %w", errors.Join(nats.ErrConnectionClosed, err))
		}
		if f.last > 0 || time.Since(began) > followWait {
			wait = newBackoff()
		}
		wait.sleep(ctx)
	}
}

// errReplaced is what a follower is told when the stream has begun anew.
var errReplaced = errors.New("the broker has lost its data, or another one has taken its place: jobs that it does not know any more must be enqueued again")

// A follower hands on the messages of one consumer.
type follower struct {
	consumer  jetstream.Consumer
	each      func(jetstream.Msg) bool
	delivered uint64 // the consumer's count
	last      uint64 // the stream's sequence
	stopped   bool   // each has had enough
}

var errGap = errors.New("messages were lost on the way")

// run goes on until the consumer is lost, ctx ends or each has had enough.
func (f *follower) run(ctx context.Context) error {
	for !f.stopped {
		if err := f.fetch(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fetch asks for the next messages, and hands them on as they come.
func (f *follower) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, followWait)
	defer cancel()
	batch, err := f.consumer.Fetch(followBatch, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(followBeat))
	if err != nil {
		return err
	}
	defer func() { // leave no goroutine of the fetch behind
		cancel()
		for range batch.Messages() {
		}
	}()
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Consumer != f.delivered+1 {
			return errGap // nothing acknowledges messages here, so start again behind the last
		}
		f.delivered, f.last = meta.Sequence.Consumer, meta.Sequence.Stream
		if !f.each(m) {
			f.stopped = true
			return nil
		}
	}
	if err := batch.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// dropConsumer removes a consumer. If it cannot, the broker does after a while.
func (c *Client) dropConsumer(ctx context.Context, stream, name string) {
	if !c.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = c.js.DeleteConsumer(ctx, stream, name) // see above
}
