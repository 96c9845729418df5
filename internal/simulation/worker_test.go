package simulation

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/internal/enginetest"
	"github.com/meshmill/meshmill/pkg/csm"
	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/modelslab"
)

const (
	lease      = 30 * time.Second
	jobTimeout = time.Hour
	grace      = 90 * time.Second
	// restart is how long it takes until another worker replaces one that is
	// gone.
	restart = 2 * time.Second
	// longest is how long a pause may last that ends with a call.
	longest = 10 * time.Minute
)

// worker is one process: an engine and its adapters.
type worker struct {
	engine.NoObserver
	name   string
	index  int
	engine *engine.Engine
	cancel context.CancelFunc
	done   chan struct{}
	held   atomic.Int64
	// dead: it has crashed. left: it was told to shut down. Paused until the
	// pick until, if that is not 0, or the pause numbered pauses ends by time.
	dead, left, paused bool
	until, pauses      int
	// hit is the last pick at which it met a fault, and hitAt the call.
	hit   int
	hitAt string
}

// Held implements engine.Observer.
func (w *worker) Held(_ string, delta int) { w.held.Add(int64(delta)) }

// newSim sets up a schedule; nothing runs yet.
func newSim(plan *Plan, m mutation) *sim {
	s := &sim{
		plan: plan, world: enginetest.NewWorld(lease), byName: map[string]*worker{}, who: map[uint64]string{}, began: time.Now(), mutate: m,
		kick: make(chan struct{}, 1), alarm: time.NewTimer(time.Hour), hash: 14695981039346656037,
	}
	s.alarm.Stop()
	if plan.Order != 0 {
		s.rng = newRand(plan.Order)
	}
	s.world.Scheduler, s.world.Lean = s, true
	s.check = newChecker(s)
	s.world.Watch = enginetest.Watch{Saved: s.check.saved, Acked: s.check.acked, Published: s.check.published}
	s.csm = &account{s: s, name: "csm"}
	s.lab = &account{s: s, name: modelslab.Name}
	for _, name := range []string{"csm", modelslab.Name} {
		s.world.SetLimit(name, plan.Limit)
	}
	return s
}

// execute carries a plan out, within a bubble, and returns the finished
// schedule.
func execute(plan *Plan, m mutation, prepare func(*sim)) *sim {
	s := newSim(plan, m)
	if prepare != nil {
		prepare(s)
	}
	for i, f := range plan.Flows {
		id := string(rune('a' + i))
		key := s.world.PutImage(id)
		r := jobs.Request{
			Schema: jobs.RequestSchema, ID: id, Provider: f.provider, Image: jobs.Image{Object: key},
			Options: f.options, EnqueuedAt: s.began.UTC(),
		}
		s.check.jobs = append(s.check.jobs, &history{id: id, flow: f, request: r, key: key})
		lane := jobs.Bulk
		if i%2 == 1 {
			lane = jobs.Interactive
		}
		s.world.Put(r, lane)
	}
	for range plan.Workers {
		s.start()
	}
	s.run()
	time.Sleep(time.Minute) // for what is left of workers that have crashed
	s.check.end()
	s.alarm.Stop()
	return s
}

// start runs another worker.
func (s *sim) start() {
	w := &worker{name: "w" + strconv.Itoa(len(s.workers)+1), index: len(s.workers), done: make(chan struct{})}
	var providers []jobs.Provider
	presign := false
	for _, f := range s.plan.Flows {
		presign = presign || f.presign
	}
	if s.uses("csm") {
		c, err := csm.New(csm.Config{Key: "key", BaseURL: "https://csm.test", Transport: &wire{s, w, s.csm}})
		s.must(err)
		providers = append(providers, csm.NewProvider(c))
	}
	if s.uses(modelslab.Name) {
		c, err := modelslab.New(modelslab.Config{Key: "key", BaseURL: "https://lab.test", Transport: &wire{s, w, s.lab}})
		s.must(err)
		providers = append(providers, modelslab.NewProvider(c))
	}
	ports := s.world.Ports(w.name, providers...)
	ports.Observer = w
	if s.mutate != nil {
		s.mutate(s, &ports)
	}
	e, err := engine.New(engine.Config{
		Worker: w.name, Lease: lease, PollMin: 5 * time.Second, PollMax: 30 * time.Second, JobTimeout: jobTimeout, Grace: grace,
		OnUnknown: s.plan.Policy, Presign: presign, MaxMeshBytes: 1 << 20, MaxImageBytes: 1 << 20, MaxHeld: 20,
	}, ports)
	s.must(err)
	w.engine = e
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	s.mu.Lock()
	s.workers = append(s.workers, w)
	s.byName[w.name] = w
	s.mu.Unlock()
	go func() {
		_ = e.Run(ctx) // always the cause of ctx
		close(w.done)
		s.poke()
	}()
}

func (s *sim) must(err error) {
	if err != nil {
		panic(err) // a mistake in this package
	}
}

func (s *sim) uses(provider string) bool {
	for _, f := range s.plan.Flows {
		if f.provider == provider {
			return true
		}
	}
	return false
}

// crash ends a worker where it stands: none of its goroutines comes past its
// next call.
func (s *sim) crash(w *worker) {
	s.mu.Lock()
	w.dead, w.paused = true, false
	var open []*pending
	for _, p := range s.waiting {
		if p.w == w {
			open = append(open, p)
		}
	}
	for _, p := range open {
		s.remove(p)
	}
	s.mu.Unlock()
	for _, p := range open {
		p.wake <- struct{}{}
	}
	w.cancel()
	if !s.ending && !w.left {
		s.at(restart, s.start)
	}
}

// pause has a worker stand still.
func (s *sim) pause(w *worker, f Fault) {
	s.mu.Lock()
	w.paused, w.until = true, f.Until
	w.pauses++
	s.mu.Unlock()
	n, d := w.pauses, f.For
	if d == 0 {
		d = longest
	}
	s.at(d, func() {
		if w.paused && w.pauses == n {
			s.resume(w)
		}
	})
}

func (s *sim) resume(w *worker) {
	s.mu.Lock()
	w.paused, w.until = false, 0
	s.mu.Unlock()
	w.hit = s.picks
}

// idle reports that nothing will happen any more by itself.
func (s *sim) idle() bool {
	if len(s.timed) > 0 || (!s.ending && s.world.Queued() > 0) {
		return false
	}
	for _, w := range s.workers {
		switch {
		case w.paused:
			return false
		case w.dead || w.left || s.ending:
			select {
			case <-w.done:
			default:
				return false
			}
		case w.held.Load() > 0:
			return false
		}
	}
	return true
}

// settle is called when nothing goes on. What only the sweeper can mend it mends
// now; then the workers are shut down.
func (s *sim) settle() {
	if s.sweep(0) {
		return
	}
	s.ending = true
	for _, w := range s.workers {
		w.cancel()
	}
}

// sweep does what internal/sweeper does, to records that nobody has written for
// so long: it queues those that are open and have no message, and takes back
// slots of jobs that have ended. It reports whether there was anything to do.
func (s *sim) sweep(after time.Duration) (did bool) {
	old := func(r *jobs.Record) bool { return time.Since(r.UpdatedAt) >= after }
	for _, h := range s.check.jobs {
		rec := s.world.Record(h.id)
		queued, _ := s.world.Has(h.id)
		if !queued && rec != nil && !rec.State.Final() && rec.State != jobs.Parked && old(rec) {
			s.check.swept(h)
			s.world.Put(rec.Request, rec.Lane)
			did = true
		}
	}
	for _, a := range []*account{s.csm, s.lab} {
		holders := s.world.Holders(a.name)
		for _, n := range slices.Sorted(maps.Keys(holders)) {
			rec := s.world.Record(holders[n])
			queued, _ := s.world.Has(holders[n])
			switch {
			case rec == nil && queued, rec != nil && !(rec.State.Final() && old(rec)):
				continue
			case rec == nil || rec.Slot != n:
				s.world.Free(a.name, n)
			case queued:
				continue
			default:
				s.world.Put(rec.Request, rec.Lane)
			}
			s.check.reclaimed(holders[n])
			did = true
		}
	}
	return did
}

// drain tells a worker to shut down, and starts another.
func (s *sim) drain(w *worker) {
	if w.left {
		return
	}
	w.left = true
	w.hit = s.picks
	w.cancel()
	s.at(restart, s.start)
}

// mutation breaks the protocol on purpose.
type mutation func(s *sim, ports *engine.Ports)

var errRefused = errors.New("refused by the provider")
