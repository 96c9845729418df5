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
	// Scheduler, if set, decides when and how each call happens, and Hook is
	// not asked. It runs one effect at a time.
	Scheduler Scheduler
	// Watch is told of what happens, within the effect of a call.
	Watch Watch
	// Lean leaves out what only costs time: records are not passed through
	// JSON, and events are not built.
	Lean bool
	// Stale makes Load return the revision before the newest one, as a direct
	// get from a replica that lags can. Only a Scheduler may set it, around an
	// effect.
	Stale bool

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
}

// Call names one call to the world.
type Call struct {
	// Op is the port and its method, such as "journal.save".
	Op     string
	Worker string
	ID     string // of the job, or what else the call is about
	// Delivery tells apart the deliveries of one message: the number of the one
	// that a message call is about; 0 for all other calls.
	Delivery int
}

// Scheduler carries out calls to the world.
type Scheduler interface {
	// Do has the call's effect and returns its error, or does something worse.
	// If ready is not nil the call waits until it returns 0; a positive duration
	// is when to ask again, unless something changes before.
	Do(ctx context.Context, c Call, ready func(now time.Time) time.Duration, effect func() error) error
}

// Watch is told of what happens in the world. Nil functions are left out. They
// may not call the world.
type Watch struct {
	// Saved: a worker, or a client if its name is empty, wrote a record. Old is
	// nil for a new one.
	Saved func(worker string, old, now *jobs.Record)
	// Acked: the message of a job was removed from the queue.
	Acked func(worker, id string)
	// Published: an event was stored for the first time.
	Published func(worker string, r *jobs.Record)
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
	holders int // deliveries so far
}

// stored is a record with its revision, and the one before.
type stored struct {
	rec    *jobs.Record
	rev    uint64
	before *stored
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

// do makes a call that waits for nothing.
func (w *World) do(ctx context.Context, c Call, effect func() error) error {
	return w.call(ctx, c, nil, effect)
}

// call waits until the call is ready and runs its effect, as the scheduler or
// the hook allows.
func (w *World) call(ctx context.Context, c Call, ready func(now time.Time) time.Duration, effect func() error) error {
	if w.Scheduler != nil {
		return w.Scheduler.Do(ctx, c, ready, effect)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	action := w.act(c.Op, c.Worker, c.ID)
	if action == Fail {
		return fmt.Errorf("%s: %w", c.Op, ErrInjected)
	}
	var out error
	err := w.wait(ctx, func() time.Duration {
		if ready != nil {
			if d := ready(time.Now()); d > 0 {
				return d
			}
		}
		out = effect()
		w.notify()
		return -1
	})
	switch {
	case err != nil:
		return err
	case action == Lose:
		return fmt.Errorf("%s: answer lost: %w", c.Op, ErrInjected)
	}
	return out
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
	if w.queue[r.ID] != nil {
		return
	}
	w.seq++
	w.queue[r.ID] = &queued{subject: names.JobSubject(r.Provider, lane, r.ID), body: encode(r), order: w.seq}
}

// PutRaw queues any bytes under a job's subject.
func (w *World) PutRaw(provider string, lane jobs.Lane, id string, body []byte) {
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
	return w.copied(s.rec)
}

// copied returns a record as a reader gets it: nothing of it is shared but what
// nobody changes in place.
func (w *World) copied(r *jobs.Record) *jobs.Record {
	if w.Lean {
		out := *r
		return &out
	}
	out, err := jobs.DecodeRecord(encode(r))
	if err != nil {
		panic(err) // only the engine writes here
	}
	return out
}

// write stores the next revision of a record; w.mu is held.
func (w *World) write(worker string, r *jobs.Record) uint64 {
	old := w.records[r.ID]
	if w.Watch.Saved != nil {
		w.Watch.Saved(worker, old.rec, r)
	}
	w.seq++
	next := stored{rec: w.copied(r), rev: w.seq}
	if old.rev > 0 {
		old.before = nil
		next.before = &old
	}
	w.records[r.ID] = next
	return w.seq
}

// Edit changes a record as a client does, by compare-and-set.
func (w *World) Edit(id string, change func(*jobs.Record)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.record(id)
	change(r)
	w.write("", r)
	w.notify()
}

// Store writes a record as a client does, over whatever is there.
func (w *World) Store(r *jobs.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write("", r)
	w.notify()
}

// Announce publishes the event of a record's state, as a client does.
func (w *World) Announce(r *jobs.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.publish("", r)
	w.notify()
}

// publish stores an event, unless it is there; w.mu is held.
func (w *World) publish(worker string, r *jobs.Record) {
	subject := names.EventSubject(jobs.EventKind(r.State), r.ID, r.Attempt)
	if w.events[subject]++; w.events[subject] == 1 && w.Watch.Published != nil {
		w.Watch.Published(worker, r)
	}
}

// Delete deletes a job's record.
func (w *World) Delete(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.records, id)
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

// Has reports whether a job's message is in the queue, and whether somebody
// holds it.
func (w *World) Has(id string) (queued, held bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.queue[id]
	return m != nil, m != nil && time.Now().Before(m.expires)
}

// Purge removes a job's message from the queue, as a client that cancels does.
func (w *World) Purge(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.queue, id)
	w.notify()
}

// Forget makes the broker forget who holds what: every message is delivered
// again at once, as after a crash of a broker with a single replica.
func (w *World) Forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.queue {
		m.expires = time.Time{}
	}
	w.notify()
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

// Holders returns the jobs that hold a slot of the provider now, by its number.
func (w *World) Holders(provider string) map[int]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[int]string{}
	for n, s := range w.slots[provider] {
		if time.Now().Before(s.until) {
			out[n] = s.job
		}
	}
	return out
}

// Free takes a slot back, as the sweeper does.
func (w *World) Free(provider string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.slots[provider], n)
	w.notify()
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

func (v view) named(op, id string) Call { return Call{Op: op, Worker: v.worker, ID: id} }
