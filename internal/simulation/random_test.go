package simulation

import (
	"math/rand/v2"
	"time"

	"github.com/meshmill/meshmill/internal/engine"
)

// randomPlan returns the plan of a seed.
func randomPlan(seed uint64) *Plan {
	rng := newRand(seed)
	// Whether images go by presigned URL is a setting of the fleet.
	presign := rng.IntN(2) == 0
	var fit []*flow
	for _, f := range flows {
		if f.presign == presign {
			fit = append(fit, f)
		}
	}
	p := &Plan{
		Workers: 1 + rng.IntN(3), Limit: 1 + rng.IntN(2), Policy: engine.Park, Order: seed, seed: seed,
		Slow: pickOne(rng, 0, 0, 0.1, 0.3), Lag: pickOne(rng, 0, 20*time.Second),
		Answer: pickOne(rng, 0, 2*time.Second, 20*time.Second, 80*time.Second),
	}
	if rng.IntN(5) == 0 {
		p.Policy = engine.Resubmit
	}
	for range 1 + rng.IntN(3) {
		p.Flows = append(p.Flows, fit[rng.IntN(len(fit))])
	}
	for range 2 + rng.IntN(4) {
		p.Faults = append(p.Faults, randomFault(rng, 45*len(p.Flows)))
	}
	return p
}

func randomFault(rng *rand.Rand, calls int) Fault {
	f := Fault{At: 1 + rng.IntN(calls)}
	if rng.IntN(4) == 0 {
		f.Kind = pickOne(rng, Drain, Redeliver, Redeliver, Cancel, Cancel, Resolve, Enqueue, Sweep)
		return f
	}
	f.Kind = callFaults[rng.IntN(len(callFaults))]
	if f.Kind.pauses() {
		if rng.IntN(2) == 0 {
			f.Until = f.At + 1 + rng.IntN(40)
		} else {
			f.For = time.Duration(1 + rng.Int64N(int64(6*time.Minute)))
		}
	}
	return f
}

func pickOne[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }
