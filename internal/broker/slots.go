package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// Acquire implements engine.Fleet.
func (f *Fleet) Acquire(ctx context.Context, provider string, lane jobs.Lane, id string, until time.Time) (int, error) {
	hold := time.Until(until) // from when the slot is had: waiting takes nothing off it
	w := f.enter(provider, lane)
	defer f.leave(provider, w)
	for conflicts := 0; ; {
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
			if err := settle(ctx, changed, conflicts); err != nil {
				return 0, err
			}
			conflicts++
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
			if err := settle(ctx, changed, conflicts); err != nil {
				return 0, err
			}
			conflicts++
			continue
		}
		conflicts = 0
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
// taken one expires; f.mu is held. Slots above a limit that was lowered count
// until they are given back, so there may be fewer free than lie under it.
func (a *account) look(id string, now time.Time) (held heldSlot, free []freeSlot, expiry time.Time) {
	expiry = now.Add(time.Minute)
	limit, taken := a.limit.value.Limit, 0
	for n, s := range a.slots {
		if s.rev == 0 || s.gone || !now.Before(s.value.Until) {
			continue
		}
		if s.value.Job == id {
			return heldSlot{freeSlot{n, s.rev}, s.value.Until}, nil, expiry
		}
		taken++
		if s.value.Until.Before(expiry) {
			expiry = s.value.Until
		}
	}
	for n := 1; n <= limit && len(free) < limit-taken; n++ {
		s := a.slots[n]
		switch {
		case s.rev == 0 || s.gone:
			free = append(free, freeSlot{n, 0})
		case !now.Before(s.value.Until):
			free = append(free, freeSlot{n, s.rev})
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
	f.tell() // the others move up
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
