//go:build chaos

package worker

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// A worker built with the tag chaos ends or stops itself at labelled points:
//
//	MESHMILL_CHAOS_POINT=label[#n][,…]   at the n-th pass, the first by default
//	MESHMILL_CHAOS_ACTION=kill|term|stop[,…]
//	MESHMILL_CHAOS_SUBMIT_TIMEOUT=6s     replaces every plan's submit timeout
//
// Point n of the first list takes action n of the second, or its last. Before
// it acts, a point writes "chaos: <label> <action>" on standard error.
const (
	chaosPoint         = "MESHMILL_CHAOS_POINT"
	chaosAction        = "MESHMILL_CHAOS_ACTION"
	chaosSubmitTimeout = "MESHMILL_CHAOS_SUBMIT_TIMEOUT"
)

// chaosOps are the effects on the world outside the process. Each has a point
// before and one after it.
var chaosOps = []string{
	"job.fetch", "job.requeue", "job.bury", "job.release", "job.ack", "lease.renew",
	"record.load", "record.save.claim", // over another worker's record
	"record.save.submitting", // the intent to buy
	"record.save.due",        // nothing is being bought: refused, or the next stage is due
	"record.save.unknown",    // the outcome of a purchase is not known
	"record.save.running", "record.save.storing", "record.save.completed",
	"record.save.failed", "record.save.parked", "record.save.cancelled",
	"slot.acquire", "slot.release", "fleet.pause",
	"event.submitted", "event.completed", "event.failed", "event.parked", "event.cancelled",
	"put.input", "put.receipt", "put.mesh", "put.manifest",
	"get.input", "get.manifest", "get.receipt", "list.receipts", "stat.input", "presign",
	"fetch",
	"csm.submit.create", "csm.submit.preview", "csm.submit.refine", "csm.poll", "csm.reconcile",
	"modelslab.upload", "modelslab.submit.create", "modelslab.poll",
}

// ChaosPoints returns the labels of all points, in pairs of before and after.
func ChaosPoints() []string {
	var out []string
	for _, op := range chaosOps {
		out = append(out, op+".before", op+".after")
	}
	return out
}

// point is one place at which the process is to be hit.
type point struct {
	label  string
	at     int64
	action string
	passed atomic.Int64
}

type points []*point

func chaosFromEnv() (points, time.Duration) {
	var out points
	actions := strings.Split(os.Getenv(chaosAction), ",")
	for i, s := range strings.Split(os.Getenv(chaosPoint), ",") {
		if s == "" {
			continue
		}
		label, nth, numbered := strings.Cut(s, "#")
		p := &point{label: label, at: 1, action: actions[min(i, len(actions)-1)]}
		if numbered {
			n, err := strconv.ParseInt(nth, 10, 32)
			if err != nil || n < 1 {
				panic(chaosPoint + ": " + s)
			}
			p.at = n
		}
		if !slices.Contains(ChaosPoints(), label) || !slices.Contains([]string{"kill", "term", "stop"}, p.action) {
			panic(fmt.Sprintf("%s: no such point or action: %s %s", chaosPoint, label, p.action))
		}
		out = append(out, p)
	}
	d, _ := time.ParseDuration(os.Getenv(chaosSubmitTimeout)) // zero leaves the plans alone
	return out, d
}

// pass is called at every point.
func (ps points) pass(ctx context.Context, label string) {
	for _, p := range ps {
		if p.label == label && p.passed.Add(1) == p.at {
			p.act(ctx)
		}
	}
}

// around passes the points before and after an effect.
func (ps points) around(ctx context.Context, op string, effect func()) {
	ps.pass(ctx, op+".before")
	effect()
	ps.pass(ctx, op+".after")
}

func (p *point) act(ctx context.Context) {
	fmt.Fprintf(os.Stderr, "chaos: %s %s\n", p.label, p.action)
	switch p.action {
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // not another step
	case "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		// The other threads stop first, perhaps; this one goes on after SIGCONT.
		time.Sleep(20 * time.Millisecond)
	case "term":
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		// The shutdown has begun before the next step, except in a paid call,
		// whose context a shutdown does not end.
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}
