package simulation

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run the schedule of this seed alone, with TestSeed")
	firstFlag = flag.Uint64("first", 1, "the first seed of TestRandom")
	countFlag = flag.Uint64("count", 0, "how many seeds TestRandom tries; 0 is its own choice")
	planFlag  = flag.String("plan", "", "run this plan alone, with TestPlan")
)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x6d657368)) }

// totals of all tests of the package.
var totals struct{ schedules, faults, calls, swept, parked, slots atomic.Int64 }

func TestMain(m *testing.M) {
	began := time.Now()
	debug.SetGCPercent(400) // schedules are short-lived
	code := m.Run()
	if n := totals.schedules.Load(); n > 0 {
		fmt.Printf("simulation: %d schedules, %d faults, %d calls, %d jobs parked, %d jobs and %d slots swept, %.1f s\n",
			n, totals.faults.Load(), totals.calls.Load(), totals.parked.Load(), totals.swept.Load(), totals.slots.Load(), time.Since(began).Seconds())
	}
	os.Exit(code)
}

// lanes is how many schedules run at the same time.
const lanes = 2

// shards runs f in parallel tests; each makes its own share of the plans.
func shards(t *testing.T, f func(b *batch)) {
	b := make([]*batch, lanes)
	for i := range lanes {
		b[i] = &batch{lane: i, seen: map[string]int{}}
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			b[i].t = t
			f(b[i])
			b[i].flush()
		})
	}
}

// batch runs plans, many of them in one bubble: their goroutines have all
// ended when the next one begins.
type batch struct {
	t     *testing.T
	lane  int
	next  int // the number of the plan that is made
	plans []*Plan
	seen  map[string]int // violations, by promise
}

// mine reports whether the next piece of work is this lane's.
func (b *batch) mine() bool {
	b.next++
	return b.next%lanes == b.lane
}

func (b *batch) add(p *Plan) {
	if b.plans = append(b.plans, p); len(b.plans) == 100 {
		b.flush()
	}
}

func (b *batch) flush() {
	if len(b.plans) == 0 {
		return
	}
	synctest.Test(b.t, func(t *testing.T) {
		for _, p := range b.plans {
			b.judge(execute(p, nil, nil))
		}
	})
	b.plans = b.plans[:0]
}

// judge counts a schedule and reports its violations.
func (b *batch) judge(s *sim) {
	totals.schedules.Add(1)
	totals.faults.Add(int64(s.fired))
	totals.calls.Add(int64(s.picks))
	totals.swept.Add(int64(s.check.swept1))
	totals.slots.Add(int64(s.check.reclaimed1))
	for _, h := range s.check.jobs {
		if h.parked {
			totals.parked.Add(1)
		}
	}
	for _, v := range s.check.violations {
		_, text, _ := strings.Cut(v, ": ")
		promise, _, _ := strings.Cut(text, ":")
		if b.seen[promise]++; b.seen[promise] <= 3 {
			again := fmt.Sprintf("-run TestPlan -plan='%s'", s.plan)
			if s.plan.seed > 0 {
				again = fmt.Sprintf("-run TestSeed -seed=%d", s.plan.seed)
			}
			b.t.Errorf("%s\n  to see it: go test ./internal/simulation -v %s", v, again)
		}
	}
}

// points returns the call at each pick of a plan.
func (b *batch) points(p *Plan) (points []string) {
	synctest.Test(b.t, func(t *testing.T) {
		s := execute(p, nil, func(s *sim) { s.points = []string{"start"} })
		points = s.points
		b.judge(s)
	})
	return points
}

// replay runs one plan and prints every call.
func replay(t *testing.T, plan *Plan) {
	synctest.Test(t, func(t *testing.T) {
		t.Log(plan)
		s := execute(plan, nil, func(s *sim) {
			s.trace = func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
		})
		for _, v := range s.check.violations {
			t.Error(v)
		}
	})
}

func TestPlan(t *testing.T) {
	if *planFlag == "" {
		t.Skip("no -plan")
	}
	plan, err := parsePlan(*planFlag)
	if err != nil {
		t.Fatal(err)
	}
	replay(t, plan)
}

func TestSeed(t *testing.T) {
	if *seedFlag == 0 {
		t.Skip("no -seed")
	}
	replay(t, randomPlan(*seedFlag))
}

// The lengths of a pause that matter: past the lease, past the deadline of the
// paid call, and past the search for it.
var (
	lengths  = []time.Duration{lease + time.Second, 130 * time.Second, 5 * time.Minute}
	extremes = []time.Duration{lease + time.Second, 5 * time.Minute}
)

func variants(at int, k Kind, lengths []time.Duration) []Fault {
	if !k.pauses() {
		return []Fault{{At: at, Kind: k}}
	}
	var out []Fault
	for _, d := range lengths {
		out = append(out, Fault{At: at, Kind: k, For: d})
	}
	return out
}

// each calls f for each fault that can happen after a call of a run.
func each(points []string, after int, lengths []time.Duration, f func(Fault)) {
	for at := after + 1; at < len(points); at++ {
		for _, k := range callFaults {
			if applies(k, points[at]) {
				for _, v := range variants(at, k, lengths) {
					f(v)
				}
			}
		}
	}
}

// Every fault at every call of every flow, and the loss of the whole broker
// before every call.
func TestOneFault(t *testing.T) {
	t.Parallel()
	shards(t, func(b *batch) {
		for _, flow := range flows {
			each(b.points(basicPlan(flow)), 0, lengths, func(f Fault) {
				if b.mine() && (!short() || b.next%8 < 2) {
					b.add(with(basicPlan(flow), f))
				}
			})
			for at := range b.points(basicPlan(flow)) {
				if b.mine() {
					b.add(with(basicPlan(flow), Fault{At: at, Kind: LoseBroker}))
				}
			}
		}
	})
}

// A worker stands still at every call, before or after its effect, and goes on
// at every later call of the worker that has taken over.
func TestZombies(t *testing.T) {
	t.Parallel()
	shards(t, func(b *batch) {
		for _, flow := range flows {
			base := b.points(basicPlan(flow))
			for at := 1; at < len(base); at++ {
				for _, k := range []Kind{PauseBefore, PauseAfter, PauseLost} {
					if !applies(k, base[at]) || !b.mine() || (short() && at%7 != 0) {
						continue
					}
					points := b.points(with(basicPlan(flow), Fault{At: at, Kind: k, For: longest}))
					for until := at + 1; until < len(points); until++ {
						if points[until] != "queue.fetch" {
							b.add(with(basicPlan(flow), Fault{At: at, Kind: k, Until: until}))
						}
					}
				}
			}
		}
	})
}

// Every two faults at every two calls of the shortest flow.
func TestTwoFaults(t *testing.T) {
	t.Parallel()
	plan := func() *Plan { return basicPlan(flowNamed("lab-at-once")) }
	shards(t, func(b *batch) {
		each(b.points(plan()), 0, extremes, func(first Fault) {
			if !b.mine() || (short() && b.next%23 > 1) {
				return
			}
			each(b.points(with(plan(), first)), first.At, extremes, func(second Fault) {
				b.add(with(plan(), first, second))
			})
		})
	})
}

// Plans at random: several workers and jobs, two to five faults, clients that
// cancel, resolve and send again, and whatever order of calls.
func TestRandom(t *testing.T) {
	t.Parallel()
	n := uint64(20000)
	if short() {
		n = 800
	}
	if *countFlag > 0 {
		n = *countFlag
	}
	shards(t, func(b *batch) {
		for i := range n {
			if b.mine() {
				b.add(randomPlan(*firstFlag + i))
			}
		}
	})
}

// with adds faults to a plan.
func with(p *Plan, f ...Fault) *Plan {
	p.Faults = append(p.Faults, f...)
	return p
}

// short reports that the whole search would take too long.
func short() bool { return raceEnabled || testing.Short() }
