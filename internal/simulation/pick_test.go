package simulation

import (
	"slices"
	"strings"
	"testing/synctest"
	"time"
)

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
				synctest.Wait() // the call may be given up because of it
			default:
				fault = f
			}
		}
		if p.gone {
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
		p.w.hit, p.w.hitAt = s.picks, p.Op
	}
	if p.Op == "fleet.release" {
		s.check.releasing(p)
	}
	if stage, ok := strings.CutPrefix(p.Op, "paid."); ok && f.Kind != Fail && f.Kind != Refuse && f.Kind != CrashBefore {
		s.check.spent(p.ID, stage)
	}
	if p.Op == "fleet.acquire" {
		s.check.job(p.ID).slotBy = p.w
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
		if waits(p.Op) || reads(p.Op) {
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
