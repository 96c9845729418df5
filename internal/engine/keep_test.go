package engine_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshmill/meshmill/internal/enginetest"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// A cancelled job whose result is wanted stays cancelled, and has it.
func TestCancelAndKeepTheResult(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		prepare func(b *bench)
		when    jobs.State
		kept    bool
		problem string
	}{
		"running":     {when: jobs.Running, kept: true},
		"with stages": {prepare: func(b *bench) { b.provider.Stages = []string{"create", "refine"} }, when: jobs.Running, problem: "the session needs a further paid stage, refine"},
		"broken":      {prepare: func(b *bench) { b.provider.Breaks = func(string) string { return "no object" } }, when: jobs.Running, problem: "could not convert the image: no object"},
		"bucket down for a while": {prepare: func(b *bench) {
			until := time.Now().Add(5 * time.Minute)
			b.Hook = func(op, _, _ string) enginetest.Action {
				if op == "store.put" && time.Now().Before(until) && time.Now().After(until.Add(-4*time.Minute)) {
					return enginetest.Fail
				}
				return enginetest.Pass
			}
		}, when: jobs.Running, kept: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				if tc.prepare != nil {
					tc.prepare(b)
				}
				stop := b.start("w1")
				b.put("a")
				b.wait("a", tc.when)
				b.Edit("a", func(r *jobs.Record) { r.CancelRequested, r.KeepResult = true, true })
				b.wait("a", jobs.Cancelled)
				time.Sleep(time.Hour)
				r := b.Record("a")
				problem := ""
				if r.Error != nil {
					problem = r.Error.Message
				}
				if r.State != jobs.Cancelled || (r.Manifest != "" && len(r.Outputs) == 1) != tc.kept || !strings.Contains(problem, tc.problem) {
					t.Errorf("state %s, manifest %q, outputs %v, problem %q", r.State, r.Manifest, r.Outputs, problem)
				}
				if queued, _ := b.Has("a"); queued {
					t.Error("its message is still there")
				}
				b.slotsFree()
				b.events("cancelled.a.1", "submitted.a.1")
				b.purchases("a.a1. create")
				stop()
			})
		})
	}
}

// A failure that the provider reported says so, which tells it from those after
// which the session is still good.
func TestReasonOfAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.provider.Breaks = func(string) string { return "no object" }
		stop := b.start("w1")
		b.put("a")
		r := b.wait("a", jobs.Failed)
		if r.Error == nil || r.Error.Reason != jobs.ReasonProvider || jobs.RemedyFor(r) != jobs.Buy {
			t.Errorf("error %+v, remedy %s", r.Error, jobs.RemedyFor(r))
		}
		stop()
	})
}
