package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// Fleet shares slots, limits and pauses through the fleet bucket. It follows
// the bucket by watch, and decides by compare-and-set. It is safe for
// concurrent use.
type Fleet struct {
	kv   jetstream.KeyValue
	log  zerolog.Logger
	salt int // spreads workers over the free slots

	mu       sync.Mutex
	accounts map[string]*account
	changed  chan struct{} // closed at every change

	stop context.CancelFunc
	done chan struct{}
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
		kv: kv, log: log, salt: int(h.Sum32() >> 1), accounts: map[string]*account{}, changed: make(chan struct{}),
		stop: stop, done: make(chan struct{}),
	}
	w, err := kv.WatchAll(wctx)
	if err != nil {
		stop()
		return nil, fmt.Errorf("watch %s: %w", names.FleetBucket(), err)
	}
	ready := make(chan struct{})
	go func() {
		defer close(f.done)
		defer func() { _ = w.Stop() }() // ends with its context anyway
		initial := sync.OnceFunc(func() { close(ready) })
		for {
			select {
			case <-wctx.Done():
				return
			case e, ok := <-w.Updates():
				switch {
				case !ok:
					return
				case e == nil:
					initial()
				default:
					f.learn(e.Key(), e.Revision(), e.Value(), e.Operation() != jetstream.KeyValuePut)
				}
			}
		}
	}()
	select {
	case <-ready:
		return f, nil
	case <-ctx.Done():
		f.Close()
		return nil, fmt.Errorf("read %s: %w", names.FleetBucket(), context.Cause(ctx))
	}
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

// learn takes in one revision of a key.
func (f *Fleet) learn(key string, rev uint64, value []byte, gone bool) {
	parts := strings.Split(key, ".")
	if len(parts) < 2 || !slices.Contains([]string{"limit", "pause", "slot"}, parts[0]) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.account(parts[1])
	var err error
	switch {
	case parts[0] == "limit":
		err = update(&a.limit, rev, value, gone)
	case parts[0] == "pause":
		err = update(&a.pause, rev, value, gone)
	case parts[0] == "slot" && len(parts) == 3:
		n, aerr := strconv.Atoi(parts[2])
		if aerr != nil || n < 1 {
			return
		}
		s := a.slots[n]
		err = update(&s, rev, value, gone)
		a.slots[n] = s
	}
	if err != nil {
		f.log.Warn().Err(err).Str("key", key).Msg("fleet bucket holds something else than expected")
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

func update[T any](e *entry[T], rev uint64, value []byte, gone bool) error {
	if rev <= e.rev {
		return nil
	}
	next := entry[T]{rev: rev, gone: gone}
	if !gone {
		if err := json.Unmarshal(value, &next.value); err != nil {
			return err
		}
	}
	*e = next
	return nil
}

// account returns what is known about a provider; f.mu is held.
func (f *Fleet) account(provider string) *account {
	a := f.accounts[provider]
	if a == nil {
		a = &account{slots: map[int]entry[slotValue]{}}
		f.accounts[provider] = a
	}
	return a
}

// write puts a key if its revision is still rev (0: it does not exist), and
// learns the outcome either way. A conflict is engine.ErrConflict.
func (f *Fleet) write(ctx context.Context, key string, v any, rev uint64) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	wctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var now uint64
	if rev == 0 {
		now, err = f.kv.Create(wctx, key, body)
	} else {
		now, err = f.kv.Update(wctx, key, body, rev)
	}
	switch {
	case err == nil:
		f.learn(key, now, body, false)
		return nil
	case isConflict(err):
		f.refresh(ctx, key)
		return engine.ErrConflict
	}
	return fmt.Errorf("write %s: %w", key, err)
}

// refresh reads a key whose watched value was too old.
func (f *Fleet) refresh(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if e, err := f.kv.Get(ctx, key); err == nil {
		f.learn(key, e.Revision(), e.Value(), false)
	}
}

// SetLimit makes n the number of slots of a provider for the whole fleet. If
// only as a default, a limit that exists is left as it is.
func (f *Fleet) SetLimit(ctx context.Context, provider string, n int, byDefault bool) error {
	for range 5 {
		f.mu.Lock()
		l := f.account(provider).limit
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
	}
	return errors.New("the limit is being changed by others")
}

// Acquire implements engine.Fleet.
func (f *Fleet) Acquire(ctx context.Context, provider string, lane jobs.Lane, id string, until time.Time) (int, error) {
	hold := time.Until(until) // from when the slot is had: waiting takes nothing off it
	w := f.enter(provider, lane)
	defer f.leave(provider, w)
	for {
		f.mu.Lock()
		a := f.account(provider)
		now := time.Now()
		held, free, expiry := a.look(id, now)
		turn := slices.Index(a.waiters, w)
		changed := f.changed
		f.mu.Unlock()
		if held.n > 0 {
			if held.until.Sub(now) >= hold-time.Minute {
				return held.n, nil
			}
			// What is bought with it now must not outlast it.
			err := f.write(ctx, slotKey(provider, held.n), slotValue{id, now.Add(hold).UTC()}, held.rev)
			if err == nil {
				return held.n, nil
			}
			if !errors.Is(err, engine.ErrConflict) {
				return 0, err
			}
			continue
		}
		if turn < len(free) {
			s := free[(turn+f.salt)%len(free)]
			err := f.write(ctx, slotKey(provider, s.n), slotValue{id, time.Now().Add(hold).UTC()}, s.rev)
			if err == nil {
				return s.n, nil
			}
			if !errors.Is(err, engine.ErrConflict) {
				return 0, err
			}
			continue
		}
		timer := time.NewTimer(max(expiry.Sub(now), time.Second))
		select {
		case <-ctx.Done():
			timer.Stop()
			return 0, context.Cause(ctx)
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// freeSlot is a slot to be had, and the revision to take it over from.
type freeSlot struct {
	n   int
	rev uint64
}

// heldSlot is a slot that a job has until then; without one, n is 0.
type heldSlot struct {
	freeSlot
	until time.Time
}

// look returns the slot that the job holds, the free ones, and when the first
// taken one expires; f.mu is held.
func (a *account) look(id string, now time.Time) (held heldSlot, free []freeSlot, expiry time.Time) {
	expiry = now.Add(time.Minute)
	for n, s := range a.slots {
		if s.rev > 0 && !s.gone && s.value.Job == id && now.Before(s.value.Until) {
			return heldSlot{freeSlot{n, s.rev}, s.value.Until}, nil, expiry
		}
	}
	for n := 1; n <= a.limit.value.Limit; n++ {
		s := a.slots[n]
		switch {
		case s.rev == 0 || s.gone:
			free = append(free, freeSlot{n, 0})
		case !now.Before(s.value.Until):
			free = append(free, freeSlot{n, s.rev})
		case s.value.Until.Before(expiry):
			expiry = s.value.Until
		}
	}
	return heldSlot{}, free, expiry
}

func (f *Fleet) enter(provider string, lane jobs.Lane) *waiter {
	w := &waiter{lane}
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.account(provider)
	at := len(a.waiters)
	if lane == jobs.Interactive {
		if i := slices.IndexFunc(a.waiters, func(o *waiter) bool { return o.lane != jobs.Interactive }); i >= 0 {
			at = i
		}
	}
	a.waiters = slices.Insert(a.waiters, at, w)
	return w
}

func (f *Fleet) leave(provider string, w *waiter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.account(provider)
	a.waiters = slices.DeleteFunc(a.waiters, func(o *waiter) bool { return o == w })
	close(f.changed) // the others move up
	f.changed = make(chan struct{})
}

// Release implements engine.Fleet.
func (f *Fleet) Release(ctx context.Context, provider string, slot int, id string) error {
	key := slotKey(provider, slot)
	for range 3 {
		gctx, cancel := context.WithTimeout(ctx, callTimeout)
		e, err := f.kv.Get(gctx, key)
		cancel()
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			return nil
		case err != nil:
			return fmt.Errorf("read %s: %w", key, err)
		}
		var s slotValue
		if err := json.Unmarshal(e.Value(), &s); err != nil || s.Job != id {
			return nil // it is another's by now
		}
		dctx, cancel := context.WithTimeout(ctx, callTimeout)
		err = f.kv.Delete(dctx, key, jetstream.LastRevision(e.Revision()))
		cancel()
		if err == nil {
			return nil
		}
		if !isConflict(err) {
			return fmt.Errorf("delete %s: %w", key, err)
		}
	}
	return nil // it keeps changing hands, so it is not ours
}

// Waiting returns how many callers wait for a slot of a provider.
func (f *Fleet) Waiting(provider string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.account(provider).waiters)
}

// Holders returns the jobs that hold slots, by provider and slot.
func (f *Fleet) Holders() map[string]map[int]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]map[int]string{}
	for provider, a := range f.accounts {
		out[provider] = map[int]string{}
		for n, s := range a.slots {
			if s.rev > 0 && !s.gone {
				out[provider][n] = s.value.Job
			}
		}
	}
	return out
}
