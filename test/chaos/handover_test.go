//go:build chaos

package chaos

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/meshmill/meshmill/internal/simulator"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// handover measures how long jobs are left alone. The scenarios run one after
// another, so that they do not disturb each other's times.
func handover(t *testing.T) {
	t.Run("kill", func(t *testing.T) {
		measure(t, "take-over after kill -9", lease+time.Second, func(first *process) time.Time {
			at := time.Now()
			first.signal(syscall.SIGKILL)
			return at
		})
	})
	t.Run("term", func(t *testing.T) {
		measure(t, "hand-over after SIGTERM", time.Second, func(first *process) time.Time {
			at := time.Now()
			first.signal(syscall.SIGTERM)
			return at
		})
	})
	t.Run("leave", leave)
	t.Run("paid call", leavePaidCall)
}

const rounds = 3

// measure lets a worker hold jobs of every flow, ends it with another one at
// hand, and measures until the last of them has its new owner.
func measure(t *testing.T, row string, most time.Duration, end func(*process) time.Time) {
	var worst time.Duration
	for range rounds {
		w := newWorld(t, row, setup{durations: simulator.Each(3*time.Second, 4*time.Second)})
		first := w.start("first worker")
		w.enqueue(2, flowV2, flowV1, flowLab)
		w.untilAll(20*time.Second, "running", func(r *jobs.Record) bool { return r.State == jobs.Running })
		owner := w.owner()
		second := w.start("second worker")
		w.untilStarted(second)
		at := end(first)
		w.untilAll(most+10*time.Second, "taken over", func(r *jobs.Record) bool { return r.Owner != owner })
		took := time.Since(at)
		worst = max(worst, took)
		if took > most {
			t.Errorf("the last job changed its worker after %v, must be within %v", took, most)
		}
		w.finish(time.Minute, fmt.Sprintf("at most %v in %d rounds, must be within %v", worst.Round(time.Millisecond), rounds, most))
		w.stopAll()
		w.removeStreams()
	}
}

// leave measures how long a worker with jobs in hand takes to end.
func leave(t *testing.T) {
	const row, most = "end after SIGTERM", 10 * time.Second
	var worst time.Duration
	for range rounds {
		w := newWorld(t, row, setup{labSync: 0.5})
		first := w.start("first worker")
		w.enqueue(5, allFlows...)
		w.untilAny(20*time.Second, "stored", func(r *jobs.Record) bool { return r.State == jobs.Storing || r.State == jobs.Completed })
		at := time.Now()
		first.signal(syscall.SIGTERM)
		w.start("second worker")
		if !first.wait(submitTimeout + most) {
			t.Fatal("the worker does not end")
		}
		took := first.at.Sub(at)
		worst = max(worst, took)
		if took > most || first.err != nil {
			t.Errorf("the worker ended after %v with %v, must be within %v with status 0", took, first.err, most)
		}
		w.finish(time.Minute, fmt.Sprintf("at most %v in %d rounds, must be within %v", worst.Round(time.Millisecond), rounds, most))
		w.stopAll()
		w.removeStreams()
	}
}

// leavePaidCall measures how long a worker stays after the answer to a paid call
// for which it had to stay, and how soon the job has its next worker.
func leavePaidCall(t *testing.T) {
	const row = "end after SIGTERM in a paid call"
	const slow, most = 12 * time.Second, 2 * time.Second
	for _, f := range []flow{flowV2, flowLab} {
		w := newWorld(t, row, setup{
			env: []string{"MESHMILL_CHAOS_SUBMIT_TIMEOUT=60s"}, durations: simulator.Each(3*time.Second, 4*time.Second),
			faults: firstOnce(simulator.Fault{Delay: slow}),
		})
		first := w.start("first worker")
		w.enqueue(1, f)
		w.untilAll(20*time.Second, "submitting", func(r *jobs.Record) bool { return r.State == jobs.Submitting })
		owner := w.owner()
		second := w.start("second worker")
		w.untilStarted(second)
		at := time.Now()
		first.signal(syscall.SIGTERM)
		if !first.wait(slow + 10*time.Second) {
			t.Fatal("the worker does not end")
		}
		ledger := w.sim.Ledger()
		if len(ledger) != 1 {
			t.Fatalf("%d purchases", len(ledger))
		}
		answered := ledger[0].Time
		stayed, after := first.at.Sub(at), first.at.Sub(answered)
		if after < 0 || after > most || first.err != nil {
			t.Errorf("the worker ended %v after the answer with %v, must be within %v with status 0", after, first.err, most)
		}
		w.untilAll(10*time.Second, "taken over", func(r *jobs.Record) bool { return r.Owner != owner })
		over := time.Since(answered)
		if over > most {
			t.Errorf("the job changed its worker %v after the answer, must be within %v", over, most)
		}
		w.finish(time.Minute, fmt.Sprintf("stayed %v for the answer, left %v after it", stayed.Round(time.Millisecond), after.Round(time.Millisecond)))
		w.stopAll()
		w.removeStreams()
	}
}

// owner is the one owner of all records.
func (w *world) owner() string {
	w.t.Helper()
	owner := ""
	for _, r := range w.records() {
		if owner != "" && r.Owner != owner {
			w.t.Fatalf("two owners: %s and %s", owner, r.Owner)
		}
		owner = r.Owner
	}
	return owner
}

func (w *world) untilStarted(p *process) {
	w.t.Helper()
	w.eventually(func() bool { return len(p.grep("worker started")) > 0 }, 20*time.Second, p.name+" started")
	time.Sleep(200 * time.Millisecond) // its requests for jobs are on their way
}

func (w *world) untilAll(most time.Duration, what string, is func(*jobs.Record) bool) {
	w.t.Helper()
	w.eventually(func() bool {
		records := w.records()
		for _, o := range w.orders {
			if r := records[o.id]; r == nil || !is(r) {
				return false
			}
		}
		return true
	}, most, "every job "+what)
}

func (w *world) untilAny(most time.Duration, what string, is func(*jobs.Record) bool) {
	w.t.Helper()
	w.eventually(func() bool {
		for _, r := range w.records() {
			if is(r) {
				return true
			}
		}
		return false
	}, most, "a job "+what)
}

// eventually looks every 20 ms.
func (w *world) eventually(is func() bool, most time.Duration, what string) {
	w.t.Helper()
	deadline := time.Now().Add(most)
	for !is() {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited %v in vain: %s", most, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
