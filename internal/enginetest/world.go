// Package enginetest has in-memory models of everything the engine works with:
// queue, journal, fleet, events, bucket, downloads and providers. They behave
// as the real ones were measured to, for better and worse: a message comes
// again when its lease has run out, though its holder may live; a late ack
// counts; an answer can be lost after its effect. They take their time from
// package time, so that a testing/synctest bubble runs hours in moments.
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// World is one broker, bucket and set of provider accounts, shared by any
// number of engines. Its methods are safe for concurrent use.
type World struct {
	// Lease is the queue's ack wait.
	Lease time.Duration
	// Hook, if set, is asked before every call to the world, which is named
	// by its operation, such as "journal.save". It may not call the world.
	Hook func(op, worker, id string) Action

	mu       sync.Mutex
	changed  chan struct{}
	seq      uint64
	queue    map[string]*queued
	records  map[string]stored
	events   map[string]int // by subject: how often it was published
	limits   map[string]int
	slots    map[string]map[int]slot
	most     map[string]int
	pauses   map[string]time.Time
	objects  map[string]object
	dead     map[string]string
	progress int
	violated []string
}

// Action is what becomes of a call.
type Action uint8

const (
	// Pass lets the call through.
	Pass Action = iota
	// Fail refuses it without effect.
	Fail
	// Lose lets it have its effect and loses the answer.
	Lose
)

// ErrInjected is the error of a call that failed by injection.
var ErrInjected = errors.New("injected failure")

type queued struct {
	subject string
	body    []byte
	order   uint64
	expires time.Time // of the lease; zero if nobody holds it
	visible time.Time
	holders int
}

type stored struct {
	body []byte
	rev  uint64
}

type slot struct {
	job   string
	until time.Time
}

// NewWorld returns an empty world.
func NewWorld(lease time.Duration) *World {
	return &World{
		Lease: lease, changed: make(chan struct{}), queue: map[string]*queued{}, records: map[string]stored{},
		events: map[string]int{}, limits: map[string]int{}, slots: map[string]map[int]slot{}, most: map[string]int{},
		pauses: map[string]time.Time{}, objects: map[string]object{}, dead: map[string]string{},
	}
}

// act asks the hook what becomes of a call.
func (w *World) act(op, worker, id string) Action {
	if w.Hook == nil {
		return Pass
	}
	return w.Hook(op, worker, id)
}

// do runs effect under the lock, as the hook allows.
func (w *World) do(ctx context.Context, op, worker, id string, effect func() error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	action := w.act(op, worker, id)
	if action == Fail {
		return fmt.Errorf("%s: %w", op, ErrInjected)
	}
	w.mu.Lock()
	err := effect()
	w.notify()
	w.mu.Unlock()
	if action == Lose {
		return fmt.Errorf("%s: answer lost: %w", op, ErrInjected)
	}
	return err
}

// notify wakes everybody who waits; w.mu is held.
func (w *World) notify() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// wait blocks until ready returns a negative duration, asking again after the
// duration it returns and whenever the world changes.
func (w *World) wait(ctx context.Context, ready func() time.Duration) error {
	for {
		w.mu.Lock()
		d := ready()
		changed := w.changed
		w.mu.Unlock()
		if d < 0 {
			return nil
		}
		t := time.NewTimer(d)
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// Put queues a request, unless its id is queued.
func (w *World) Put(r jobs.Request, lane jobs.Lane) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.put(r, lane)
	w.notify()
}

func (w *World) put(r jobs.Request, lane jobs.Lane) {
	names, _ := jobs.NewNames("") // the default is valid
	if w.queue[r.ID] != nil {
		return
	}
	w.seq++
	w.queue[r.ID] = &queued{subject: names.JobSubject(r.Provider, lane, r.ID), body: encode(r), order: w.seq}
}

// PutRaw queues any bytes under a job's subject.
func (w *World) PutRaw(provider string, lane jobs.Lane, id string, body []byte) {
	names, _ := jobs.NewNames("")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seq++
	w.queue[id] = &queued{subject: names.JobSubject(provider, lane, id), body: body, order: w.seq}
	w.notify()
}

// Drop loses everything the broker has: queue, journal, events and fleet.
func (w *World) Drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.queue)
	clear(w.records)
	clear(w.events)
	clear(w.slots)
	clear(w.pauses)
	w.notify()
}

// SetLimit sets a provider's slots; without it there are 5.
func (w *World) SetLimit(provider string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limits[provider] = n
	w.notify()
}

// Record returns a job's record, or nil.
func (w *World) Record(id string) *jobs.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record(id)
}

func (w *World) record(id string) *jobs.Record {
	s, ok := w.records[id]
	if !ok {
		return nil
	}
	r, err := jobs.DecodeRecord(s.body)
	if err != nil {
		panic(err) // only the engine writes here
	}
	return r
}

// Edit changes a record as a client does, by compare-and-set.
func (w *World) Edit(id string, change func(*jobs.Record)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.record(id)
	change(r)
	w.seq++
	w.records[id] = stored{encode(r), w.seq}
	w.notify()
}

// WaitFor waits until the job is in one of the states and, for those that end
// a job, until its message is gone.
func (w *World) WaitFor(ctx context.Context, id string, states ...jobs.State) (*jobs.Record, error) {
	err := w.wait(ctx, func() time.Duration {
		r := w.record(id)
		if r != nil && slices.Contains(states, r.State) && (w.queue[id] == nil || !r.State.Final() && r.State != jobs.Parked) {
			return -1
		}
		return time.Hour
	})
	return w.Record(id), err
}

// Queued returns the number of messages in the queue.
func (w *World) Queued() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue)
}

// Events returns the subjects that have an event, sorted.
func (w *World) Events() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.events))
}

// Slots returns how many slots of a provider are taken now, and the most that
// ever were at once.
func (w *World) Slots(provider string) (now, most int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.slots[provider]), w.most[provider]
}

// Dead returns the reason for which a message was buried.
func (w *World) Dead(id string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead[id]
}

// Ports returns the ports of one worker.
func (w *World) Ports(worker string, providers ...jobs.Provider) engine.Ports {
	v := view{w, worker}
	return engine.Ports{
		Queue: queuePort{v}, Journal: journalPort{v}, Fleet: fleetPort{v}, Events: eventsPort{v}, Store: storePort{v},
		Fetcher: fetchPort{v}, Content: contentPort{}, Providers: providers,
	}
}

// view is the world as one worker sees it.
type view struct {
	*World
	worker string
}
