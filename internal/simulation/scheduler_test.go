package simulation

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/meshmill/meshmill/internal/enginetest"
)

// Bounds of a schedule; beyond them it counts as never ending.
const (
	maxPicks = 6000
	maxTime  = 12 * time.Hour
)

var (
	errInjected = errors.New("injected failure")
	errLost     = errors.New("the answer was lost")
)

// pending is a call that waits at the scheduler.
type pending struct {
	enginetest.Call
	w         *worker
	seq       int
	ready     func(time.Time) time.Duration
	effect    func() error
	notBefore time.Time
	// decided: the effect has happened, and err is the answer, which a paused
	// worker gets when it goes on.
	decided bool
	err     error
	wake    chan struct{}
	gone    bool // out of the list: wake is, or will be, signalled
}

// timed is something that happens at a time.
type timed struct {
	at time.Time
	do func()
}

// sim runs one schedule. All but its pending list belongs to the goroutine
// that runs it.
type sim struct {
	plan    *Plan
	rng     *rand.Rand // nil: always the first call in order
	world   *enginetest.World
	csm     *account
	lab     *account
	workers []*worker
	byName  map[string]*worker
	check   *checker
	began   time.Time
	picks   int
	fired   int // faults that have happened
	timed   []timed
	ending  bool
	hash    uint64
	trace   func(format string, args ...any)
	points  []string // the op of every pick, if wanted
	mutate  mutation

	mu      sync.Mutex
	waiting []*pending
	seq     int
	who     map[uint64]string // the job that a goroutine is about, by its number
	kick    chan struct{}
	alarm   *time.Timer
}

// Do implements enginetest.Scheduler, on the goroutines of workers.
func (s *sim) Do(ctx context.Context, c enginetest.Call, ready func(time.Time) time.Duration, effect func() error) error {
	id := uint64(0)
	shared := false // its ID is that of other jobs' calls, too
	switch {
	case len(s.plan.Flows) == 1:
	case c.Op == "journal.load":
		id = goroutine()
	case c.Op == "fleet.pause", c.Op == "fleet.await", c.Op == "http.connect", c.Op == "http.get" && strings.HasPrefix(c.ID, "list"):
		id, shared = goroutine(), true
	}
	s.mu.Lock()
	if shared {
		c.ID += " " + s.who[id]
	} else if id > 0 {
		s.who[id] = c.ID
	}
	w := s.byName[c.Worker]
	p := &pending{Call: c, w: w, ready: ready, effect: effect, wake: make(chan struct{}, 1)}
	switch {
	case w.dead:
		s.mu.Unlock()
		runtime.Goexit() // a crashed process does nothing any more
	case ctx.Err() != nil:
		s.mu.Unlock()
		return context.Cause(ctx)
	}
	s.seq++
	p.seq = s.seq
	s.waiting = append(s.waiting, p)
	s.mu.Unlock()
	s.poke()

	select {
	case <-p.wake:
	case <-ctx.Done():
		s.mu.Lock()
		// For a paused process no time passes: it learns of the end when it has
		// gone on, and its call may by then have had its effect.
		if !p.gone && !w.paused && !w.dead {
			s.remove(p)
			s.mu.Unlock()
			return context.Cause(ctx)
		}
		s.mu.Unlock()
		<-p.wake
	}
	if w.dead { // written before wake was signalled
		runtime.Goexit()
	}
	return p.err
}

// goroutine returns a number that no other goroutine has, ever.
func goroutine() (id uint64) {
	var buf [40]byte
	for _, b := range buf[len("goroutine "):runtime.Stack(buf[:], false)] {
		if b < '0' || b > '9' {
			break
		}
		id = 10*id + uint64(b-'0')
	}
	return id
}

func (s *sim) poke() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// remove takes a call off the list; s.mu is held.
func (s *sim) remove(p *pending) {
	p.gone = true
	i := slices.Index(s.waiting, p)
	s.waiting = slices.Delete(s.waiting, i, i+1)
}

// answer lets a call return.
func (s *sim) answer(p *pending, err error) {
	s.mu.Lock()
	p.err = err
	s.remove(p)
	s.mu.Unlock()
	p.wake <- struct{}{}
}

// run carries the schedule out to its end.
func (s *sim) run() {
	for {
		synctest.Wait()
		now := time.Now()
		if len(s.timed) > 0 && !s.timed[0].at.After(now) {
			t := s.timed[0]
			s.timed = s.timed[1:]
			t.do()
			continue
		}
		if s.picks > maxPicks || now.Sub(s.began) > maxTime {
			s.check.violate("the schedule does not end: %d calls, %v", s.picks, now.Sub(s.began))
			s.abort()
			return
		}
		if p, next := s.choose(now); p != nil {
			s.pick(p)
		} else if s.idle() {
			if s.ending {
				return
			}
			s.settle()
		} else {
			s.sleep(next)
		}
	}
}

// sleep waits for the next call, or until next.
func (s *sim) sleep(next time.Time) {
	if len(s.timed) > 0 && s.timed[0].at.Before(next) {
		next = s.timed[0].at
	}
	s.alarm.Reset(max(time.Until(next), 1))
	select {
	case <-s.kick:
		s.alarm.Stop()
	case <-s.alarm.C:
	}
}

// choose returns the call that has its effect next, or else the time of the
// next look.
func (s *sim) choose(now time.Time) (*pending, time.Time) {
	next := now.Add(time.Hour)
	var can []*pending
	s.mu.Lock()
	for _, p := range s.waiting {
		switch {
		case p.decided && p.w.paused:
			continue
		case p.decided:
		case p.w.paused && !sent(p.Op):
			continue
		case p.notBefore.After(now):
			next = earlier(next, p.notBefore)
			continue
		case p.ready != nil:
			if d := p.ready(now); d > 0 {
				next = earlier(next, now.Add(d))
				continue
			}
		}
		can = append(can, p)
	}
	s.mu.Unlock()
	if len(can) == 0 {
		return nil, next
	}
	if s.rng == nil {
		return slices.MinFunc(can, order), next
	}
	if len(can) > 1 {
		slices.SortFunc(can, order)
	}
	p := can[s.rng.IntN(len(can))]
	if !p.decided && p.notBefore.IsZero() && s.plan.Slow > 0 && s.rng.Float64() < s.plan.Slow && p.Op != "queue.fetch" {
		p.notBefore = now.Add(time.Duration(1 + s.rng.Int64N(int64(4*time.Second))))
		return s.choose(now)
	}
	return p, next
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// order is the same in every run: a worker has one goroutine for a job, and
// that for its lease, which does not begin to wait in the same step as the other
// with the same call.
func order(a, b *pending) int {
	return cmp.Or(cmp.Compare(a.w.index, b.w.index), strings.Compare(a.ID, b.ID), cmp.Compare(a.Delivery, b.Delivery),
		strings.Compare(a.Op, b.Op), cmp.Compare(a.seq, b.seq))
}

// sent reports a call that has left the process, and has its effect although
// the process is paused.
func sent(op string) bool { return strings.HasPrefix(op, "paid.") }
