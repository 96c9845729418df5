package simulation

import (
	"runtime"
	"testing"
	"testing/synctest"
)

// A plan gives the same history every time, on any number of processors, alone
// in a bubble or after others.
func TestReplay(t *testing.T) {
	n := uint64(400)
	if short() {
		n = 60
	}
	run := func(procs int, alone bool) []uint64 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		var hashes []uint64
		all := func(t *testing.T, from, to uint64) {
			synctest.Test(t, func(t *testing.T) {
				for seed := from; seed <= to; seed++ {
					hashes = append(hashes, execute(randomPlan(seed), nil, nil).hash)
				}
			})
		}
		if !alone {
			all(t, 1, n)
			return hashes
		}
		for seed := uint64(1); seed <= n; seed++ {
			all(t, seed, seed)
		}
		return hashes
	}
	want := run(1, false)
	for name, got := range map[string][]uint64{"alone": run(1, true), "four processors": run(4, false), "four, alone": run(4, true)} {
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s: seed %d has another history", name, i+1)
			}
		}
	}
}

// The text of a plan says all of it.
func TestPlanText(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		text := randomPlan(seed + 1).String()
		p, err := parsePlan(text)
		if err != nil || p.String() != text {
			t.Errorf("%s\nis read as\n%v, %v", text, p, err)
		}
	}
}
