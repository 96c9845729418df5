package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/pkg/jobs"
)

const (
	// checkEvery is how often the watch looks whether the bucket is still the
	// one it follows. It also looks after each reconnect, and when in doubt.
	checkEvery = 15 * time.Second
	// rewatchMax is the longest wait before a broken watch is begun again.
	rewatchMax = 5 * time.Second
)

var (
	errReplaced = errors.New("the bucket has been replaced by another one, so the broker has lost its data")
	errWatch    = errors.New("the broker ended the watch")
)

// follow watches the bucket until ctx ends, however often the watch breaks:
// without one the fleet would be blind, and not know it. What became of the
// first try goes to first, and if that failed, follow returns.
func (f *Fleet) follow(ctx context.Context, first chan<- error) {
	began := false
	for n := 0; ; n++ {
		err := f.watch(ctx, func() {
			n = 0
			if !began {
				began = true
				first <- nil
			}
		})
		switch {
		case ctx.Err() != nil:
			return
		case !began:
			first <- err
			return
		}
		wait := min(100*time.Millisecond<<min(n, 10), rewatchMax)
		f.log.Warn().Err(err).Msg("the watch of limits, slots and pauses broke; it is begun again")
		t := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// watch follows the bucket until the watch breaks, and calls ready when it has
// read what is there.
func (f *Fleet) watch(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := f.recognise(ctx, true); err != nil {
		return err
	}
	// The watch lives as long as its context, so that cannot have a deadline.
	slow := time.AfterFunc(callTimeout, cancel)
	w, err := f.kv.WatchAll(ctx)
	slow.Stop()
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer unwatch(w)
	connected := f.nc.StatusChanged(nats.CONNECTED)
	defer f.nc.RemoveStatusListener(connected)
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return errWatch
			case e == nil:
				ready()
			default:
				f.learn(e.Key(), e.Revision(), e.Value(), e.Operation() != jetstream.KeyValuePut)
			}
			continue
		case <-connected:
		case <-f.doubts:
		case <-tick.C:
		}
		err := f.recognise(ctx, false)
		if errors.Is(err, errReplaced) || errors.Is(err, jetstream.ErrStreamNotFound) {
			return err // any other error says nothing about the bucket
		}
	}
}

// unwatch ends a watch. Its callback may be blocked on an update that nobody
// reads any more.
func unwatch(w jetstream.KeyWatcher) {
	_ = w.Stop() // fails only if it has ended
	limit := time.After(100 * time.Millisecond)
	for {
		select {
		case _, ok := <-w.Updates():
			if !ok {
				return
			}
		case <-limit:
			return
		}
	}
}

// doubt makes the watch look whether the bucket is still the same.
func (f *Fleet) doubt() {
	select {
	case f.doubts <- struct{}{}:
	default: // it is about to
	}
}

// recognise fails with errReplaced if the bucket is not the one whose content
// is known. To begin anew with it, everything known is forgotten instead.
func (f *Fleet) recognise(ctx context.Context, anew bool) error {
	f.mu.Lock()
	newest := f.newest // before the question, as the answer is not newer
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	status, err := f.kv.Status(ctx)
	if err != nil {
		return fmt.Errorf("look at the bucket: %w", err)
	}
	b, ok := status.(*jetstream.KeyValueBucketStatus)
	if !ok {
		return fmt.Errorf("the status of the bucket is a %T", status)
	}
	info := b.StreamInfo()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.born.IsZero():
	case info.Created.Equal(f.born) && info.State.LastSeq >= newest:
		return nil
	case !anew:
		return errReplaced
	}
	f.born, f.newest = info.Created, 0
	for _, a := range f.accounts {
		// Whoever waits goes on waiting, for slots of the new bucket.
		a.limit, a.pause = entry[limitValue]{}, entry[pauseValue]{}
		clear(a.slots)
	}
	f.tell()
	return nil
}

// learn takes in one revision of a key, and reports whether it was news.
// Revision 0 is a key that is not there, whatever its revision was.
func (f *Fleet) learn(key string, rev uint64, value []byte, gone bool) bool {
	parts := strings.Split(key, ".")
	if len(parts) < 2 || !slices.Contains([]string{"limit", "pause", "slot"}, parts[0]) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newest = max(f.newest, rev)
	a := f.account(parts[1])
	news := false
	var err error
	switch {
	case parts[0] == "limit":
		news, err = update(&a.limit, rev, value, gone)
	case parts[0] == "pause":
		news, err = update(&a.pause, rev, value, gone)
		// The clock of the worker that wrote it may be wrong, or its version
		// another: no pause lasts longer.
		if most := time.Now().Add(jobs.MaxAfter); news && a.pause.value.Until.After(most) {
			a.pause.value.Until = most
		}
	case parts[0] == "slot" && len(parts) == 3:
		n, aerr := strconv.Atoi(parts[2])
		if aerr != nil || n < 1 {
			return false
		}
		s := a.slots[n]
		news, err = update(&s, rev, value, gone)
		a.slots[n] = s
	}
	if err != nil {
		f.log.Warn().Err(err).Str("key", key).Msg("fleet bucket holds something else than expected")
	}
	if news {
		f.tell()
	}
	return news
}

// update reports whether e has changed. A value that cannot be read leaves the
// one before it, but its revision counts, so that it can be overwritten.
func update[T any](e *entry[T], rev uint64, value []byte, gone bool) (bool, error) {
	switch {
	case rev == 0:
		if e.rev == 0 || e.gone {
			return false, nil
		}
		*e = entry[T]{rev: e.rev, gone: true}
		return true, nil
	case rev == e.rev && e.gone && !gone: // that it is not there was said by a replica that lags
	case rev <= e.rev:
		return false, nil
	}
	next := entry[T]{rev: rev, gone: gone}
	if !gone {
		if err := json.Unmarshal(value, &next.value); err != nil {
			e.rev, e.gone = rev, false
			return true, err
		}
	}
	*e = next
	return true, nil
}
