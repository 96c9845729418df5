package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// Fleet shares slots, limits and pauses through the fleet bucket. It follows
// the bucket by watch, and decides by compare-and-set. It is safe for
// concurrent use.
type Fleet struct {
	nc   *nats.Conn
	kv   jetstream.KeyValue
	log  zerolog.Logger
	salt int // spreads workers over the free slots

	mu       sync.Mutex
	accounts map[string]*account
	changed  chan struct{} // closed at every change
	// born is when the bucket was made whose content is known, and newest the
	// highest revision seen of it. A bucket with another birth, or that has not
	// come as far, is another one: the broker has lost its data.
	born   time.Time
	newest uint64

	doubts chan struct{} // asks the watch whether it still follows the right bucket
	stop   context.CancelFunc
	done   chan struct{}
}

var _ engine.Fleet = (*Fleet)(nil)

// account is what the fleet knows about a provider.
type account struct {
	limit   entry[limitValue]
	pause   entry[pauseValue]
	slots   map[int]entry[slotValue]
	waiters []*waiter // interactive before bulk, then first come first served
}

// entry is the newest revision seen of a key; gone once it is deleted.
type entry[T any] struct {
	rev   uint64
	gone  bool
	value T
}

type limitValue struct {
	Limit int `json:"limit"`
}

// slotValue is the holder of a slot.
type slotValue struct {
	Job   string    `json:"job"`
	Until time.Time `json:"until"`
}

type pauseValue struct {
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
	// Streak counts pauses that followed each other closely.
	Streak int `json:"streak"`
}

type waiter struct{ lane jobs.Lane }

// NewFleet binds to the fleet bucket and returns when it has read it. Close
// ends it.
func NewFleet(ctx context.Context, js jetstream.JetStream, names jobs.Names, worker string, log zerolog.Logger) (*Fleet, error) {
	kv, err := js.KeyValue(ctx, names.FleetBucket())
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", names.FleetBucket(), err)
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(worker)) // never fails
	wctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	f := &Fleet{
		nc: js.Conn(), kv: kv, log: log, salt: int(h.Sum32() >> 1), accounts: map[string]*account{},
		changed: make(chan struct{}), doubts: make(chan struct{}, 1), stop: stop, done: make(chan struct{}),
	}
	first := make(chan error, 1)
	go func() {
		defer close(f.done)
		f.follow(wctx, first)
	}()
	select {
	case err = <-first:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read %s: %w", names.FleetBucket(), err)
	}
	return f, nil
}

// Close ends the watch and waits for it.
func (f *Fleet) Close() {
	f.stop()
	<-f.done
}

// The keys of the bucket.
func limitKey(provider string) string       { return "limit." + provider }
func pauseKey(provider string) string       { return "pause." + provider }
func slotKey(provider string, n int) string { return "slot." + provider + "." + strconv.Itoa(n) }

// account returns what is known about a provider; f.mu is held.
func (f *Fleet) account(provider string) *account {
	a := f.accounts[provider]
	if a == nil {
		a = &account{slots: map[int]entry[slotValue]{}}
		f.accounts[provider] = a
	}
	return a
}

// tell wakes everybody who waits for a change; f.mu is held.
func (f *Fleet) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// write puts a key if its revision is still rev (0: it does not exist), and
// learns the outcome either way. A conflict is engine.ErrConflict: try again
// after settle.
func (f *Fleet) write(ctx context.Context, key string, v any, rev uint64) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	wctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	f.mu.Lock()
	newest := f.newest
	f.mu.Unlock()
	var now uint64
	if rev == 0 {
		now, err = f.kv.Create(wctx, key, body)
	} else {
		now, err = f.kv.Update(wctx, key, body, rev)
	}
	switch {
	case err == nil:
		f.learn(key, now, body, false)
		if now <= newest {
			f.doubt() // revisions only grow
		}
		return nil
	case isConflict(err):
		f.refresh(ctx, key)
		return engine.ErrConflict
	}
	return fmt.Errorf("write %s: %w", key, err)
}

// refresh reads a key whose watched value was too old. What it reads may be
// older still, as a replica of the broker can lag, and is then not believed; but
// it may also be that the broker has lost its data, and counts from 1 again.
func (f *Fleet) refresh(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	learned := false
	switch e, err := f.kv.Get(ctx, key); {
	case err == nil:
		learned = f.learn(key, e.Revision(), e.Value(), false)
	case errors.Is(err, jetstream.ErrKeyNotFound):
		learned = f.learn(key, 0, nil, true)
		f.doubt()
	}
	if !learned {
		f.doubt()
	}
}

// settle waits after the n-th conflict in a row, until something changes or for
// a little while: a conflict that teaches nothing must not become a busy loop.
func settle(ctx context.Context, changed <-chan struct{}, n int) error {
	const least, most = 50 * time.Millisecond, time.Second
	d := min(least<<min(n, 5), most)
	t := time.NewTimer(max(least, d/2+rand.N(d/2)))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-changed:
	case <-t.C:
	}
	return nil
}

// SetLimit makes n the number of slots of a provider for the whole fleet. If
// only as a default, a limit that exists is left as it is.
func (f *Fleet) SetLimit(ctx context.Context, provider string, n int, byDefault bool) error {
	for tries := range 5 {
		f.mu.Lock()
		l := f.account(provider).limit
		changed := f.changed
		f.mu.Unlock()
		exists := l.rev > 0 && !l.gone
		if exists && (byDefault || l.value.Limit == n) {
			return nil
		}
		if exists {
			f.log.Info().Str("provider", provider).Int("from", l.value.Limit).Int("to", n).Msg("concurrency limit of the fleet changed")
		}
		rev := l.rev
		if l.gone {
			rev = 0
		}
		err := f.write(ctx, limitKey(provider), limitValue{n}, rev)
		if !errors.Is(err, engine.ErrConflict) {
			return err
		}
		if err := settle(ctx, changed, tries); err != nil {
			return err
		}
	}
	return errors.New("the limit is being changed by others")
}
