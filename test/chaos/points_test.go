//go:build chaos

package chaos

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/meshmill/meshmill/internal/simulator"
	"github.com/meshmill/meshmill/internal/worker"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// actions are what happens to the first worker at a point.
var actions = []string{"kill", "term", "stop"}

// plan is what it takes to lead a worker to a point.
type plan struct {
	cfg   setup
	flows []flow
	each  int // jobs of each flow
	// want is how the jobs end if not completed.
	want jobs.State
	// before is done when the jobs are in the queue and no worker runs.
	before func(w *world)
	// while is done when the first worker runs.
	while func(w *world)
	// first, if set, is a point and action that the worker meets before.
	first string
}

// firstOnce hits the first paid call of each image, before or after it counts.
func firstOnce(f simulator.Fault) []simulator.Fault {
	f.Op, f.Each, f.Times = simulator.Create, true, 1
	return []simulator.Fault{f}
}

// planFor returns the plans for an effect; the name tells several apart.
func planFor(op string) map[string]plan {
	one := func(p plan) map[string]plan { return map[string]plan{"": p} }
	each := func(flows ...flow) map[string]plan {
		out := map[string]plan{}
		for _, f := range flows {
			out[" "+f.name] = plan{flows: []flow{f}, each: 2}
		}
		return out
	}
	switch op {
	case "record.save.submitting", "record.save.running", "put.receipt":
		return each(allFlows...) // where money and promises meet
	case "record.save.due", "csm.submit.preview", "csm.submit.refine":
		return one(plan{flows: []flow{flowV1}, each: 2})
	case "csm.submit.create":
		return each(csmFlows...)
	case "modelslab.submit.create":
		return each(labFlows...)
	case "csm.poll":
		return one(plan{flows: csmFlows, each: 2})
	case "modelslab.poll":
		return one(plan{flows: []flow{flowLab}, each: 2})
	case "modelslab.upload":
		return one(plan{flows: labFlows, each: 2, cfg: setup{inline: true}})
	case "put.input", "stat.input":
		return one(plan{flows: []flow{flowURL}, each: 3})
	case "record.save.unknown", "csm.reconcile":
		return one(plan{flows: csmFlows, each: 1, cfg: setup{faults: firstOnce(simulator.Fault{Cut: simulator.CutAfter})}})
	case "record.save.parked", "event.parked":
		return one(plan{flows: labFlows, each: 1, cfg: setup{faults: firstOnce(simulator.Fault{Cut: simulator.CutAfter})}})
	case "record.save.failed", "event.failed":
		return one(plan{flows: allFlows, each: 1, want: jobs.Failed, cfg: setup{faults: firstOnce(simulator.Fault{FailStage: "any"})}})
	case "record.save.cancelled", "event.cancelled":
		return one(plan{flows: []flow{flowV2, flowV1, flowLab}, each: 1, want: jobs.Cancelled, while: cancelAll,
			cfg: setup{faults: firstOnce(simulator.Fault{Takes: 4 * time.Second})}})
	case "fleet.pause", "job.release":
		return one(plan{flows: []flow{flowV2, flowLab}, each: 1, cfg: setup{faults: firstOnce(simulator.Fault{
			Answer: &simulator.Answer{Status: 429, Body: `{"message":"slow down"}`}})}})
	case "record.save.claim":
		return one(plan{flows: allFlows, each: 1, before: func(w *world) {
			w.until(w.start("earlier worker", "MESHMILL_CHAOS_POINT=csm.poll.after", "MESHMILL_CHAOS_ACTION=kill"))
		}})
	case "get.receipt":
		// The broker is lost after the purchase, and the job enqueued anew.
		return one(plan{flows: []flow{flowV2, flowLab}, each: 1, before: func(w *world) {
			w.until(w.start("worker of the lost broker", "MESHMILL_CHAOS_POINT=put.receipt.after#2", "MESHMILL_CHAOS_ACTION=kill"))
			w.loseBroker()
		}})
	case "job.requeue":
		// The first worker is stopped with the provider's answer in hand, until
		// another has parked the job; then it hands the session over.
		return one(plan{flows: []flow{flowLab}, each: 1, first: "modelslab.submit.create.after"})
	case "job.bury":
		return one(plan{flows: []flow{flowV2}, each: 1, before: func(w *world) {
			// No acknowledged publish: to the broker this is a job like any other.
			m := nats.NewMsg(w.names.JobSubject("csm", jobs.Interactive, "poison"))
			m.Data = []byte(`{"schema":"meshmill.job.v1","id":"poison"`)
			_, err := w.js.PublishMsg(w.t.Context(), m)
			w.must(err)
		}})
	}
	return one(plan{flows: allFlows, each: 1})
}

// share is how many of the ModelsLab calls are answered with the result.
func share(flows []flow) float64 {
	now, later := 0.0, 0.0
	for _, f := range flows {
		if f.sync {
			now++
		} else if f.provider == "modelslab" {
			later++
		}
	}
	if now == 0 {
		return 0
	}
	return now / (now + later)
}

// cancelAll cancels every job once all have been bought.
func cancelAll(w *world) {
	deadline := time.Now().Add(20 * time.Second)
	for _, o := range w.orders {
		for {
			if r := w.records()[o.id]; r != nil && r.Session != "" {
				break
			}
			if time.Now().After(deadline) {
				w.t.Fatalf("job %s is not bought", o.id)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	for _, o := range w.orders {
		_, err := w.client.Cancel(w.t.Context(), o.id)
		w.must(err)
	}
}

// until waits until the worker has met its last point and ended.
func (w *world) until(p *process) {
	w.t.Helper()
	if !p.wait(40 * time.Second) {
		w.t.Fatalf("%s never met its point", p.name)
	}
}

// loseBroker leaves the old broker's names behind for new ones, with the same
// bucket, and enqueues the same jobs.
func (w *world) loseBroker() {
	w.t.Helper()
	w.removeStreams()
	w.prefix += "n"
	w.connect()
	w.topology()
	again := w.orders
	w.orders = nil
	w.put(again)
}

// killPoints leads a worker to every point and hits it there; a second one
// takes over.
func killPoints(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, label := range worker.ChaosPoints() {
		op := label[:strings.LastIndexByte(label, '.')]
		if known[label] {
			t.Errorf("the label %s is there twice", label)
		}
		known[label] = true
		for name, p := range planFor(op) {
			for _, action := range actions {
				t.Run(label+name+"/"+action, func(t *testing.T) {
					t.Parallel()
					meet(t, label, action, p)
				})
			}
		}
	}
	// Stopped past the deadline of the call that it was about to make: it must
	// not make it any more.
	for _, label := range []string{"record.save.submitting.after", "csm.submit.create.before", "modelslab.submit.create.before"} {
		for _, f := range allFlows {
			if strings.Contains(label, ".submit.") && !strings.HasPrefix(label, f.provider) {
				continue
			}
			t.Run(label+" "+f.name+"/late", func(t *testing.T) {
				t.Parallel()
				meet(t, label, "late", plan{flows: []flow{f}, each: 1})
			})
		}
	}
}

// meet runs one scenario of a point.
func meet(t *testing.T, label, action string, p plan) {
	p.cfg.labSync = share(p.flows)
	w := newWorld(t, label, p.cfg)
	for _, o := range w.enqueue(p.each, p.flows...) {
		if p.want != "" {
			o.want = p.want
		}
	}
	if p.before != nil {
		p.before(w)
	}
	points, acts := label, action
	if action == "late" {
		acts = "stop"
	}
	if p.first != "" {
		points, acts = p.first+","+label, "stop,"+acts
	}
	first := w.start("first worker", "MESHMILL_CHAOS_POINT="+points, "MESHMILL_CHAOS_ACTION="+acts)
	if p.while != nil {
		p.while(w)
	}
	if p.first != "" {
		w.hit(first)
		w.start("second worker")
		w.untilParked()
		first.signal(syscall.SIGCONT)
	}
	w.hit(first)
	if p.first == "" {
		w.start("second worker")
	}
	switch action {
	case "kill":
		if !first.wait(5 * time.Second) {
			t.Fatal("the first worker lives on")
		}
	case "term":
		if !first.wait(submitTimeout + 10*time.Second) {
			t.Error("the first worker does not leave")
		} else if first.err != nil {
			t.Errorf("the first worker ended with %v", first.err)
		}
	case "stop":
		time.Sleep(lease + lease/2)
		first.signal(syscall.SIGCONT)
	case "late":
		time.Sleep(submitTimeout + lease/2)
		first.signal(syscall.SIGCONT)
	}
	w.settle(150 * time.Second)
	w.stopAll()
	w.removeStreams()
}

// hit waits until the worker has met its next point.
func (w *world) hit(p *process) {
	w.t.Helper()
	select {
	case <-p.met:
	case <-p.done:
		select {
		case <-p.met: // and died of it
		default:
			w.t.Fatalf("%s ended before its point: %s", p.name, p.how())
		}
	case <-time.After(60 * time.Second):
		w.t.Fatalf("%s never met its point", p.name)
	}
}

func (w *world) untilParked() {
	w.t.Helper()
	deadline := time.Now().Add(submitTimeout + 30*time.Second)
	for {
		for _, r := range w.records() {
			if r.State == jobs.Parked {
				return
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatal("no job was parked")
		}
		time.Sleep(100 * time.Millisecond)
	}
}
