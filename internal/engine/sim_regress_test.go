package engine_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/internal/enginetest"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// These are schedules that internal/simulation has found to break a promise.

// The broker delivers a message to a worker that holds it already, and both
// deliveries come to the purchase at the same moment.
func TestTwoDeliveriesInOneWorkerBuyOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		meet := time.Now().Add(5 * time.Second)
		b.Hook = func(op, _, _ string) enginetest.Action {
			if op == "store.list" {
				time.Sleep(time.Until(meet))
			}
			return enginetest.Pass
		}
		b.provider.Answer = 2 * time.Second
		stop := b.start("w1")
		b.put("a")
		time.Sleep(time.Second)
		b.Forget()
		b.wait("a", jobs.Completed)
		b.purchases("a.a1. create")
		stop()
	})
}

// A worker dies between journalling a session and storing its receipt.
func TestReceiptAfterTakeOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.Hook = func(op, worker, id string) enginetest.Action {
			if worker == "w1" && op == "store.put" {
				return enginetest.Fail
			}
			return enginetest.Pass
		}
		stop1 := b.start("w1")
		b.put("a")
		b.wait("a", jobs.Running)
		time.Sleep(time.Second)
		stop2 := b.start("w2")
		stop1()
		b.stored("a", b.wait("a", jobs.Completed))
		stop2()
	})
}

// A worker that was replaced takes a slot when the job is over.
func TestZombieKeepsNoSlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		resume := time.Now().Add(10 * time.Minute)
		b.Hook = func(op, worker, _ string) enginetest.Action {
			if worker == "w1" && (op == "fleet.acquire" || op == "message.renew") {
				time.Sleep(time.Until(resume))
			}
			return enginetest.Pass
		}
		stop1 := b.start("w1")
		b.put("a")
		time.Sleep(time.Second)
		stop2 := b.start("w2")
		b.wait("a", jobs.Completed)
		time.Sleep(time.Until(resume) + time.Minute)
		b.purchases("a.a1. create")
		b.slotsFree()
		stop1()
		stop2()
	})
}

// A late session revives a parked job after its worker has announced it and
// before that acks the message.
func TestRevivedBeforeTheAck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.provider.Answer = 50 * time.Second
		var c cut
		b.Hook = func(op, worker, id string) enginetest.Action {
			if worker == "w2" && op == "message.ack" {
				time.Sleep(12 * time.Second)
			}
			return c.hook(op, worker, id)
		}
		stop1 := b.start("w1")
		b.put("a")
		b.wait("a", jobs.Submitting)
		c.set("w1", true)
		stop2 := b.start("w2")
		for b.Record("a").State != jobs.Parked {
			time.Sleep(time.Second)
		}
		c.set("w1", false)
		b.wait("a", jobs.Completed)
		b.purchases("a.a1. create")
		b.slotsFree()
		stop1()
		stop2()
	})
}

// lagging is a provider whose list shows nothing for a while, and whose second
// answer comes late: the worker stands still meanwhile.
type lagging struct {
	enginetest.Listing
	asked atomic.Int32
}

func (l *lagging) Reconcile(ctx context.Context, call jobs.Call, since time.Time) (*jobs.Session, error) {
	n := l.asked.Add(1)
	if n == 2 {
		time.Sleep(10 * time.Minute)
	}
	if n <= 2 {
		return nil, jobs.ErrNotBought
	}
	return l.Listing.Reconcile(ctx, call, since)
}

// Two looks at a list that lags, and a long pause, do not prove that nothing
// was bought.
func TestPauseProvesNoAbsence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.change = func(c *engine.Config) { c.Presign = true }
		b.provider.Submits = func(n int, _ jobs.Call) (bool, error) {
			if n == 1 {
				return true, jobs.Faultf(jobs.Unknown, "csm", "connection reset")
			}
			return true, nil
		}
		b.wrap = func(p *enginetest.Provider) jobs.Provider {
			return &lagging{Listing: enginetest.Listing{Provider: p}}
		}
		stop := b.start("w1")
		b.put("a")
		b.wait("a", jobs.Completed)
		b.purchases("a.a1. create")
		stop()
	})
}

// A job that has waited for its slot for longer than a session may run holds
// it for a whole session all the same.
func TestSlotHoldsAfterALongWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.SetLimit("csm", 1)
		b.change = func(c *engine.Config) { c.JobTimeout = 30 * time.Minute }
		b.provider.Takes = 20 * time.Minute
		stop1, stop2 := b.start("w1"), b.start("w2")
		for _, id := range []string{"a", "b", "c", "d"} {
			b.put(id)
		}
		busy := 0
		for range 90 {
			time.Sleep(time.Minute)
			now := 0
			for _, id := range []string{"a", "b", "c", "d"} {
				if r := b.Record(id); r != nil && r.State == jobs.Running {
					now++
				}
			}
			busy = max(busy, now)
		}
		if busy != 1 {
			t.Errorf("%d sessions ran at once, the limit is 1", busy)
		}
		stop1()
		stop2()
	})
}
