package simulation

import (
	"flag"
	"math/rand/v2"
	"testing"
	"testing/synctest"
)

var (
	seedFlag = flag.Uint64("seed", 0, "run the schedule of this seed alone, with TestSeed")
	planFlag = flag.String("plan", "", "run this plan alone, with TestPlan")
)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x6d657368)) }

// replay runs one plan and prints every call.
func replay(t *testing.T, plan *Plan) {
	synctest.Test(t, func(t *testing.T) {
		t.Log(plan)
		s := execute(plan, nil, func(s *sim) { s.trace = t.Logf })
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

func TestQuiet(t *testing.T) {
	for _, f := range flows {
		t.Run(f.name, func(t *testing.T) { replay(t, basicPlan(f)) })
	}
}
