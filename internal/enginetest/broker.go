package enginetest

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/pkg/jobs"
)

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only our own types come here
	}
	return b
}

type queuePort struct{ view }

func (q queuePort) Fetch(ctx context.Context, provider string, lane jobs.Lane, n int, wait time.Duration) ([]engine.Message, error) {
	prefix := strings.TrimSuffix(names.JobLane(provider, lane), "*")
	end := time.Now().Add(wait)
	var out []engine.Message
	err := q.call(ctx, q.named("queue.fetch", provider+"."+string(lane)), func(now time.Time) time.Duration {
		if _, d := q.next(prefix, now); d > 0 && now.Before(end) {
			return min(d, end.Sub(now))
		}
		return 0
	}, func() error {
		now := time.Now()
		for len(out) < n {
			m, d := q.next(prefix, now)
			if d > 0 {
				break
			}
			m.expires = now.Add(q.Lease)
			m.holders++
			out = append(out, &message{q.view, m, m.holders})
		}
		return nil
	})
	switch {
	case err == nil:
		return out, nil
	case ctx.Err() != nil:
		return nil, nil
	}
	return nil, err // what was delivered is lost until its lease runs out
}

// names of everything, with the default prefix.
var names, _ = jobs.NewNames("")

// next returns the message that a fetch gets, or the time until there may be
// one; the lock is held.
func (w *World) next(prefix string, now time.Time) (*queued, time.Duration) {
	var best *queued
	soonest := 24 * time.Hour
	for _, m := range w.queue {
		if !strings.HasPrefix(m.subject, prefix) {
			continue
		}
		at := m.visible
		if m.expires.After(at) {
			at = m.expires
		}
		if d := at.Sub(now); d > 0 {
			soonest = min(soonest, d)
		} else if best == nil || m.order < best.order {
			best = m
		}
	}
	if best != nil {
		return best, 0
	}
	return nil, soonest
}

func (q queuePort) Requeue(ctx context.Context, r *jobs.Record) error {
	return q.do(ctx, q.named("queue.requeue", r.ID), func() error {
		q.put(r.Request, r.Lane)
		return nil
	})
}

func (q queuePort) Bury(ctx context.Context, id string, _ []byte, reason string) error {
	return q.do(ctx, q.named("queue.bury", id), func() error {
		q.dead[id] = reason
		return nil
	})
}

type message struct {
	v        view
	m        *queued
	delivery int
}

func (m *message) named(op string) Call {
	return Call{Op: op, Worker: m.v.worker, ID: m.id(), Delivery: m.delivery}
}

// Identified is what the messages of a World have beside engine.Message.
type Identified interface {
	// Delivery tells the deliveries of one message apart, from 1.
	Delivery() int
}

func (m *message) Delivery() int { return m.delivery }

func (m *message) Subject() string { return m.m.subject }
func (m *message) Body() []byte    { return m.m.body }
func (m *message) id() string      { return m.m.subject[strings.LastIndexByte(m.m.subject, '.')+1:] }

// current reports whether the message is still in the queue; the lock is held.
func (m *message) current() bool { return m.v.queue[m.id()] == m.m }

func (m *message) Renew(ctx context.Context) error {
	return m.v.do(ctx, m.named("message.renew"), func() error {
		if m.current() {
			m.m.expires = time.Now().Add(m.v.Lease)
		}
		return nil
	})
}

func (m *message) Release(ctx context.Context, delay time.Duration) error {
	return m.v.do(ctx, m.named("message.release"), func() error {
		if m.current() {
			m.m.expires, m.m.visible = time.Time{}, time.Now().Add(delay)
		}
		return nil
	})
}

// Ack counts from whoever comes: the broker does not fence.
func (m *message) Ack(ctx context.Context) error {
	return m.v.do(ctx, m.named("message.ack"), func() error {
		if m.current() {
			delete(m.v.queue, m.id())
			if m.v.Watch.Acked != nil {
				m.v.Watch.Acked(m.v.worker, m.id())
			}
		}
		return nil
	})
}

type journalPort struct{ view }

func (j journalPort) Load(ctx context.Context, id string) (*jobs.Record, uint64, error) {
	var s stored
	err := j.do(ctx, j.named("journal.load", id), func() error {
		s = j.records[id]
		if j.Stale {
			if s.before == nil {
				s.before = &stored{}
			}
			s = *s.before
		}
		return nil
	})
	if err != nil || s.rev == 0 {
		return nil, 0, err
	}
	return j.copied(s.rec), s.rev, nil
}

func (j journalPort) Save(ctx context.Context, r *jobs.Record, rev uint64) (uint64, error) {
	var out uint64
	err := j.do(ctx, j.named("journal.save", r.ID), func() error {
		if j.records[r.ID].rev != rev {
			return engine.ErrConflict
		}
		out = j.write(j.worker, r)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return out, nil
}

type eventsPort struct{ view }

func (e eventsPort) Publish(ctx context.Context, r *jobs.Record) error {
	if !e.Lean {
		if _, err := jobs.NewEvent(r); err != nil {
			return err
		}
	}
	return e.do(ctx, e.named("events.publish", r.ID), func() error {
		e.publish(e.worker, r)
		return nil
	})
}

func (e eventsPort) Progress(jobs.Progress) {
	if e.Scheduler != nil {
		return
	}
	e.mu.Lock()
	e.progress++
	e.mu.Unlock()
}

type fleetPort struct{ view }

func (f fleetPort) Acquire(ctx context.Context, provider string, _ jobs.Lane, id string, until time.Time) (int, error) {
	hold := time.Until(until)
	got := 0
	err := f.call(ctx, f.named("fleet.acquire", id), func(now time.Time) time.Duration {
		if f.place(provider, id, now) > 0 {
			return 0
		}
		return time.Minute
	}, func() error {
		now := time.Now()
		got = f.place(provider, id, now)
		if f.slots[provider] == nil {
			f.slots[provider] = map[int]slot{}
		}
		f.slots[provider][got] = slot{id, now.Add(hold)}
		f.most[provider] = max(f.most[provider], len(f.slots[provider]))
		return nil
	})
	if err != nil {
		return 0, err
	}
	return got, nil
}

// place returns the slot that a job holds, or else a free one, or 0.
func (w *World) place(provider, id string, now time.Time) int {
	limit := w.limits[provider]
	if limit == 0 {
		limit = 5
	}
	free := 0
	for n := limit; n >= 1; n-- {
		s, taken := w.slots[provider][n]
		taken = taken && now.Before(s.until)
		if taken && s.job == id {
			return n
		}
		if !taken {
			free = n
		}
	}
	return free
}

func (f fleetPort) Release(ctx context.Context, provider string, n int, id string) error {
	return f.do(ctx, f.named("fleet.release", id), func() error {
		if f.slots[provider][n].job == id {
			delete(f.slots[provider], n)
		}
		return nil
	})
}

func (f fleetPort) Pause(ctx context.Context, provider string, d time.Duration, _ string) error {
	return f.do(ctx, f.named("fleet.pause", ""), func() error {
		if until := time.Now().Add(d); until.After(f.pauses[provider]) {
			f.pauses[provider] = until
		}
		return nil
	})
}

func (f fleetPort) Await(ctx context.Context, provider string) error {
	return f.call(ctx, f.named("fleet.await", provider), func(now time.Time) time.Duration {
		return f.pauses[provider].Sub(now)
	}, func() error { return nil })
}
