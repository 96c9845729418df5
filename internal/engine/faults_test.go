package engine_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/internal/enginetest"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// cut is a hook that cuts workers off from the broker.
type cut struct {
	mu  sync.Mutex
	off map[string]bool
}

func (c *cut) set(worker string, off bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off == nil {
		c.off = map[string]bool{}
	}
	c.off[worker] = off
}

func (c *cut) hook(op, worker, _ string) enginetest.Action {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off[worker] {
		return enginetest.Fail
	}
	return enginetest.Pass
}

func TestTakeOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var c cut
		b.Hook = c.hook
		b.provider.Takes = 10 * time.Minute
		stop1 := b.start("w1")
		b.put("a")
		b.wait("a", jobs.Running)
		c.set("w1", true)
		began := time.Now()
		stop2 := b.start("w2")
		time.Sleep(lease + time.Second)
		if r := b.Record("a"); r.Owner != "w2" || r.Epoch != 2 {
			t.Errorf("owner %s, epoch %d after %v; want w2, 2", r.Owner, r.Epoch, time.Since(began))
		}
		c.set("w1", false) // it comes back as a zombie
		b.wait("a", jobs.Completed)
		b.purchases("a.a1. create")
		b.events("completed.a.1", "submitted.a.1")
		b.slotsFree()
		stop1()
		stop2()
	})
}

// A worker is cut off while its paid call is under way, and gets its answer
// after another has taken the job over.
func TestLateSession(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]time.Duration{"while the new owner waits": 55 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				var c cut
				b.Hook = c.hook
				b.provider.Answer = answer
				stop1 := b.start("w1")
				b.put("a")
				b.wait("a", jobs.Submitting)
				c.set("w1", true)
				stop2 := b.start("w2")
				time.Sleep(lease + 10*time.Second)
				if r := b.Record("a"); r.Owner != "w2" || r.State != jobs.Submitting {
					t.Errorf("%s owns the job in state %s, want w2 waiting", r.Owner, r.State)
				}
				c.set("w1", false)
				r := b.wait("a", jobs.Completed, jobs.Parked)
				if r.State != jobs.Completed || r.Owner != "w2" {
					t.Errorf("ended %s by %s: %+v", r.State, r.Owner, r.Error)
				}
				b.purchases("a.a1. create")
				b.slotsFree()
				stop1()
				stop2()
			})
		})
	}
}

// The answer comes when the job has been parked: it is revived.
func TestSessionRevivesParkedJob(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var c cut
		b.Hook = c.hook
		b.provider.Answer = 59 * time.Second
		stop1 := b.start("w1")
		b.put("a")
		b.wait("a", jobs.Submitting)
		c.set("w1", true)
		stop2 := b.start("w2")
		b.wait("a", jobs.Parked) // 60 s deadline and skew have passed
		if b.Queued() != 0 {
			t.Error("a parked job is still queued")
		}
		c.set("w1", false)
		r := b.wait("a", jobs.Completed)
		if r.Attempt != 1 || r.Error != nil {
			t.Errorf("attempt %d, error %+v", r.Attempt, r.Error)
		}
		b.purchases("a.a1. create")
		b.events("completed.a.1", "parked.a.1", "submitted.a.1")
		b.slotsFree()
		stop1()
		stop2()
	})
}

func TestHandOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.provider.Takes = 10 * time.Minute
		stop1 := b.start("w1")
		b.put("a")
		b.wait("a", jobs.Running)
		stop2 := b.start("w2")
		began := time.Now()
		stop1()
		synctest.Wait()
		if r := b.Record("a"); r.Owner != "w2" || time.Since(began) > time.Second {
			t.Errorf("owner %s after %v, want w2 at once", r.Owner, time.Since(began))
		}
		b.wait("a", jobs.Completed)
		b.purchases("a.a1. create")
		stop2()
	})
}

func TestShutdownWaitsForPaidCall(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer time.Duration
		grace  time.Duration
		leaves time.Duration
		want   jobs.State
	}{
		"answered in time": {20 * time.Second, 90 * time.Second, 20 * time.Second, jobs.Completed},
		"grace ends first": {50 * time.Second, 10 * time.Second, 10 * time.Second, jobs.Parked},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.provider.Answer = tc.answer
				b.change = func(c *engine.Config) { c.Grace = tc.grace }
				stop1 := b.start("w1")
				b.put("a")
				b.wait("a", jobs.Submitting)
				began := time.Now()
				stop1()
				if took := time.Since(began); took < tc.leaves || took > tc.leaves+5*time.Second {
					t.Errorf("left after %v, want %v", took, tc.leaves)
				}
				stop2 := b.start("w2")
				b.wait("a", tc.want)
				b.purchases("a.a1. create")
				stop2()
			})
		})
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.provider.Takes = 10 * time.Minute
		stop := b.start("w1")
		defer stop()
		b.put("a")
		b.wait("a", jobs.Running)
		time.Sleep(time.Minute)
		b.Edit("a", func(r *jobs.Record) { r.CancelRequested = true })
		began := time.Now()
		b.wait("a", jobs.Cancelled)
		// The session keeps its place on the account until it ends.
		if took := time.Since(began); took < 8*time.Minute {
			t.Errorf("the message was acked after %v, while the session was running", took)
		}
		b.purchases("a.a1. create")
		b.events("cancelled.a.1", "submitted.a.1")
		b.slotsFree()
	})
}

func TestLostBrokerBuysNothingAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.provider.Takes = 10 * time.Minute
		stop := b.start("w1")
		b.put("done")
		b.wait("done", jobs.Completed)
		b.put("running")
		b.wait("running", jobs.Running)
		time.Sleep(time.Second)
		stop()
		b.Drop()
		stop = b.start("w2")
		defer stop()
		b.put("done")
		b.put("running")
		if r := b.wait("done", jobs.Completed); len(r.Outputs) != 1 || r.Session != "S1" {
			t.Errorf("recovered record: %+v", r)
		}
		b.stored("running", b.wait("running", jobs.Completed))
		b.purchases("done.a1. create", "running.a1. create")
		b.slotsFree()
	})
}

// One call fails, or loses its answer, at every place where one is made: the
// job still ends, bought once.
func TestOneFaultAnywhere(t *testing.T) {
	t.Parallel()
	for _, flow := range []string{"one stage", "at once", "two stages"} {
		for _, action := range []enginetest.Action{enginetest.Fail, enginetest.Lose} {
			t.Run(fmt.Sprintf("%s/%d", flow, action), func(t *testing.T) {
				t.Parallel()
				for at := 1; oneFault(t, flow, action, at); at++ {
				}
			})
		}
	}
}

// oneFault runs a job with a fault at the nth call, and reports whether there
// was an nth call.
func oneFault(t *testing.T, flow string, action enginetest.Action, at int) (reached bool) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.listing = true
		b.change = func(c *engine.Config) { c.Presign = true }
		switch flow {
		case "at once":
			b.provider.AtOnce = true
		case "two stages":
			b.provider.Stages = []string{"create", "preview"}
		}
		var mu sync.Mutex
		calls, where := 0, ""
		b.Hook = func(op, worker, id string) enginetest.Action {
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls != at {
				return enginetest.Pass
			}
			where = op
			return action
		}
		stop := b.start("w1")
		b.put("a")
		r := b.wait("a", jobs.Completed, jobs.Failed, jobs.Parked)
		stop()
		mu.Lock()
		defer mu.Unlock()
		reached = where != ""
		if r.State != jobs.Completed {
			t.Errorf("fault %d at call %d (%s): the job ended %s: %+v", action, at, where, r.State, r.Error)
			return
		}
		if got, want := len(b.provider.Purchases()), len(b.provider.Stages); got != want {
			t.Errorf("fault %d at call %d (%s): %d purchases, want %d: %v", action, at, where, got, want, b.provider.Purchases())
		}
		b.stored("a", r)
		b.slotsFree()
		if b.Queued() != 0 {
			t.Errorf("fault %d at call %d (%s): the message is still there", action, at, where)
		}
	})
	return reached
}
