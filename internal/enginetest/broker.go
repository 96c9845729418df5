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
	if q.act("queue.fetch", q.worker, "") == Fail {
		return nil, ErrInjected
	}
	names, _ := jobs.NewNames("")
	prefix := strings.TrimSuffix(names.JobLane(provider, lane), "*")
	end := time.Now().Add(wait)
	var out []engine.Message
	err := q.wait(ctx, func() time.Duration {
		now := time.Now()
		next := end
		for len(out) < n {
			var best *queued
			for _, m := range q.queue {
				if !strings.HasPrefix(m.subject, prefix) {
					continue
				}
				at := m.visible
				if m.expires.After(at) {
					at = m.expires
				}
				if at.After(now) {
					if at.Before(next) {
						next = at
					}
				} else if best == nil || m.order < best.order {
					best = m
				}
			}
			if best == nil {
				break
			}
			best.expires = now.Add(q.Lease)
			best.holders++
			out = append(out, &message{q.view, best})
		}
		if len(out) > 0 || !now.Before(end) {
			return -1
		}
		return next.Sub(now)
	})
	if len(out) > 0 || ctx.Err() != nil {
		return out, nil
	}
	return nil, err
}

func (q queuePort) Requeue(ctx context.Context, r *jobs.Record) error {
	return q.do(ctx, "queue.requeue", q.worker, r.ID, func() error {
		q.put(r.Request, r.Lane)
		return nil
	})
}

func (q queuePort) Bury(ctx context.Context, id string, _ []byte, reason string) error {
	return q.do(ctx, "queue.bury", q.worker, id, func() error {
		q.dead[id] = reason
		return nil
	})
}

type message struct {
	v view
	m *queued
}

func (m *message) Subject() string { return m.m.subject }
func (m *message) Body() []byte    { return m.m.body }
func (m *message) id() string      { return m.m.subject[strings.LastIndexByte(m.m.subject, '.')+1:] }

// current reports whether the message is still in the queue; the lock is held.
func (m *message) current() bool { return m.v.queue[m.id()] == m.m }

func (m *message) Renew(ctx context.Context) error {
	return m.v.do(ctx, "message.renew", m.v.worker, m.id(), func() error {
		if m.current() {
			m.m.expires = time.Now().Add(m.v.Lease)
		}
		return nil
	})
}

func (m *message) Release(ctx context.Context, delay time.Duration) error {
	return m.v.do(ctx, "message.release", m.v.worker, m.id(), func() error {
		if m.current() {
			m.m.expires, m.m.visible = time.Time{}, time.Now().Add(delay)
		}
		return nil
	})
}

// Ack counts from whoever comes: the broker does not fence.
func (m *message) Ack(ctx context.Context) error {
	return m.v.do(ctx, "message.ack", m.v.worker, m.id(), func() error {
		if m.current() {
			delete(m.v.queue, m.id())
		}
		return nil
	})
}

type journalPort struct{ view }

func (j journalPort) Load(ctx context.Context, id string) (*jobs.Record, uint64, error) {
	var s stored
	err := j.do(ctx, "journal.load", j.worker, id, func() error {
		s = j.records[id]
		return nil
	})
	if err != nil || s.rev == 0 {
		return nil, 0, err
	}
	r, err := jobs.DecodeRecord(s.body)
	return r, s.rev, err
}

func (j journalPort) Save(ctx context.Context, r *jobs.Record, rev uint64) (uint64, error) {
	var out uint64
	err := j.do(ctx, "journal.save", j.worker, r.ID, func() error {
		if j.records[r.ID].rev != rev {
			return engine.ErrConflict
		}
		j.seq++
		out = j.seq
		j.records[r.ID] = stored{encode(r), out}
		return nil
	})
	return out, err
}

type eventsPort struct{ view }

func (e eventsPort) Publish(ctx context.Context, r *jobs.Record) error {
	if _, err := jobs.NewEvent(r); err != nil {
		return err
	}
	names, _ := jobs.NewNames("")
	return e.do(ctx, "events.publish", e.worker, r.ID, func() error {
		e.events[names.EventSubject(jobs.EventKind(r.State), r.ID, r.Attempt)]++
		return nil
	})
}

func (e eventsPort) Progress(jobs.Progress) {
	e.mu.Lock()
	e.progress++
	e.mu.Unlock()
}

type fleetPort struct{ view }

func (f fleetPort) Acquire(ctx context.Context, provider string, _ jobs.Lane, id string, until time.Time) (int, error) {
	if f.act("fleet.acquire", f.worker, id) == Fail {
		return 0, ErrInjected
	}
	got := 0
	err := f.wait(ctx, func() time.Duration {
		now := time.Now()
		limit := f.limits[provider]
		if limit == 0 {
			limit = 5
		}
		if f.slots[provider] == nil {
			f.slots[provider] = map[int]slot{}
		}
		for n, s := range f.slots[provider] {
			if s.job == id && now.Before(s.until) {
				got = n
				return -1
			}
		}
		for n := 1; n <= limit; n++ {
			if s, ok := f.slots[provider][n]; !ok || !now.Before(s.until) {
				f.slots[provider][n] = slot{id, until}
				f.most[provider] = max(f.most[provider], len(f.slots[provider]))
				got = n
				return -1
			}
		}
		return time.Minute
	})
	return got, err
}

func (f fleetPort) Release(ctx context.Context, provider string, n int, id string) error {
	return f.do(ctx, "fleet.release", f.worker, id, func() error {
		if f.slots[provider][n].job == id {
			delete(f.slots[provider], n)
		}
		return nil
	})
}

func (f fleetPort) Pause(ctx context.Context, provider string, d time.Duration, _ string) error {
	return f.do(ctx, "fleet.pause", f.worker, "", func() error {
		if until := time.Now().Add(d); until.After(f.pauses[provider]) {
			f.pauses[provider] = until
		}
		return nil
	})
}

func (f fleetPort) Await(ctx context.Context, provider string) error {
	return f.wait(ctx, func() time.Duration {
		if d := time.Until(f.pauses[provider]); d > 0 {
			return d
		}
		return -1
	})
}
