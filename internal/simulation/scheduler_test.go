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
	kick    chan struct{}
	alarm   *time.Timer
}

// Do implements enginetest.Scheduler, on the goroutines of workers.
func (s *sim) Do(ctx context.Context, c enginetest.Call, ready func(time.Time) time.Duration, effect func() error) error {
	s.mu.Lock()
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

// order is the same in every run: whatever else two goroutines may do at the
// same time, they do not get to make the same call within one step.
func order(a, b *pending) int {
	return cmp.Or(cmp.Compare(a.w.index, b.w.index), strings.Compare(a.ID, b.ID), cmp.Compare(a.Delivery, b.Delivery),
		strings.Compare(a.Op, b.Op), cmp.Compare(a.seq, b.seq))
}

// sent reports a call that has left the process, and has its effect although
// the process is paused.
func sent(op string) bool { return strings.HasPrefix(op, "paid.") }

// pick lets a call happen, with the faults that the plan has for it.
func (s *sim) pick(p *pending) {
	if p.decided {
		s.answer(p, p.err)
		return
	}
	s.picks++
	if s.points != nil {
		s.points = append(s.points, p.Op)
	}
	fault := Fault{}
	if !s.ending {
		for _, f := range s.plan.Faults {
			switch {
			case f.At != s.picks:
			case f.Kind.incident():
				s.incident(f, p)
			default:
				fault = f
			}
		}
		if p.w.dead { // by an incident
			return
		}
		for _, w := range s.workers {
			if w.paused && w.until > 0 && s.picks >= w.until {
				s.resume(w)
			}
		}
	}
	s.note(p, fault)
	s.apply(fault, p)
}

// note takes a pick down.
func (s *sim) note(p *pending, f Fault) {
	s.mix(p.Worker)
	s.mix(p.Op)
	s.mix(p.ID)
	s.mix(string(f.Kind))
	s.hash = (s.hash ^ uint64(time.Since(s.began))) * 0x100000001b3
	if s.trace != nil {
		text := ""
		if f.Kind != None {
			text = "  <- " + f.String()
		}
		s.trace("%4d %12v %s %s %s%s", s.picks, time.Since(s.began).Round(time.Millisecond), p.Worker, p.Op, p.ID, text)
	}
}

func (s *sim) mix(text string) {
	for i := range len(text) {
		s.hash = (s.hash ^ uint64(text[i])) * 0x100000001b3
	}
}

// apply has the effect of a call, as the fault lets it.
func (s *sim) apply(f Fault, p *pending) {
	if f.Kind != None {
		s.fired++
		p.w.hit = s.picks
	}
	if stage, ok := strings.CutPrefix(p.Op, "paid."); ok && f.Kind != Fail && f.Kind != Refuse && f.Kind != CrashBefore {
		s.check.spent(p.ID, stage)
	}
	switch f.Kind {
	case None:
		s.finish(p, p.effect())
	case Fail:
		s.finish(p, errInjected)
	case Refuse:
		s.finish(p, errRefused)
	case Lose:
		_ = p.effect() // nobody learns of it
		s.finish(p, errLost)
	case Late:
		if p.ready != nil || reads(p.Op) {
			s.finish(p, errInjected)
			return
		}
		effect := p.effect
		s.at(3*time.Second, func() { _ = effect() })
		s.finish(p, errLost)
	case Stale:
		s.world.Stale = p.Op == "journal.load"
		err := p.effect()
		s.world.Stale = false
		s.finish(p, err)
	case CrashBefore:
		s.crash(p.w)
	case CrashAfter:
		_ = p.effect()
		s.crash(p.w)
	case PauseBefore:
		if !sent(p.Op) {
			s.pause(p.w, f) // the call comes again
			return
		}
		fallthrough
	case PauseAfter, PauseLost:
		p.err = p.effect()
		if f.Kind == PauseLost {
			p.err = errLost
		}
		p.decided = true
		s.pause(p.w, f)
	}
}

// finish answers a call whose effect has happened.
func (s *sim) finish(p *pending, err error) {
	if p.w.paused { // its packets have left, but it is not there to read
		p.decided, p.err = true, err
		return
	}
	s.answer(p, err)
}

// reads reports calls without an effect that could come late.
func reads(op string) bool {
	switch op {
	case "journal.load", "store.get", "store.list", "fetch", "fleet.await", "http.get":
		return true
	}
	return false
}

// at has something happen after d.
func (s *sim) at(d time.Duration, do func()) {
	t := timed{time.Now().Add(d), do}
	i, _ := slices.BinarySearchFunc(s.timed, t, func(a, b timed) int {
		if a.at.After(b.at) {
			return 1
		}
		return -1
	})
	s.timed = slices.Insert(s.timed, i, t)
}

// abort ends a schedule that does not end by itself.
func (s *sim) abort() {
	s.ending = true
	for _, w := range s.workers {
		if !w.dead {
			s.crash(w)
		}
	}
	for _, w := range s.workers {
		<-w.done
	}
	synctest.Wait()
}
