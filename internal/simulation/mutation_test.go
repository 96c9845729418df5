package simulation

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// The protocol broken on purpose, by ports that lie to the engine.

// forgetful says that it has journalled the intent to buy, and has not.
type forgetful struct{ engine.Journal }

func (j forgetful) Save(ctx context.Context, r *jobs.Record, rev uint64) (uint64, error) {
	if r.State == jobs.Submitting && !r.SubmitDeadline.IsZero() {
		return rev, nil
	}
	return j.Journal.Save(ctx, r, rev)
}

func skipJournal(_ *sim, p *engine.Ports) { p.Journal = forgetful{p.Journal} }

// hasty takes the message away as soon as the provider is done, before anything
// is stored.
type hasty struct {
	engine.Queue
	engine.Journal

	mu   sync.Mutex
	held map[string]engine.Message
}

func (h *hasty) Fetch(ctx context.Context, provider string, lane jobs.Lane, n int, wait time.Duration) ([]engine.Message, error) {
	out, err := h.Queue.Fetch(ctx, provider, lane, n, wait)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range out {
		h.held[m.Subject()[strings.LastIndexByte(m.Subject(), '.')+1:]] = m
	}
	return out, err
}

func (h *hasty) Save(ctx context.Context, r *jobs.Record, rev uint64) (uint64, error) {
	out, err := h.Journal.Save(ctx, r, rev)
	h.mu.Lock()
	m := h.held[r.ID]
	h.mu.Unlock()
	if err == nil && r.State == jobs.Storing && m != nil {
		_ = m.Ack(ctx)
	}
	return out, err
}

func ackEarly(_ *sim, p *engine.Ports) {
	h := &hasty{Queue: p.Queue, Journal: p.Journal, held: map[string]engine.Message{}}
	p.Queue, p.Journal = h, h
}

// deaf takes a failed compare-and-set for a success.
type deaf struct{ engine.Journal }

func (j deaf) Save(ctx context.Context, r *jobs.Record, rev uint64) (uint64, error) {
	out, err := j.Journal.Save(ctx, r, rev)
	if errors.Is(err, engine.ErrConflict) {
		return rev, nil
	}
	return out, err
}

func ignoreConflict(_ *sim, p *engine.Ports) { p.Journal = deaf{p.Journal} }

// Each break of the protocol breaks the promises that it must break.
func TestBreaks(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		m    mutation
		want []string
	}{
		"skip the journal write":          {skipJournal, []string{journaled, onlyOnce}},
		"ack before storing":              {ackEarly, []string{queueKept}},
		"ignore a failed compare-and-set": {ignoreConflict, []string{onlyOnce}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken, schedules, tried := map[string]int{}, 0, 0
			try := func(p *Plan) (points []string) {
				synctest.Test(t, func(t *testing.T) {
					s := execute(p, tc.m, func(s *sim) { s.points = []string{"start"} })
					points = s.points
					schedules++
					promises := map[string]bool{}
					for _, v := range s.check.violations {
						_, text, _ := strings.Cut(v, ": ")
						promise, _, _ := strings.Cut(text, ":")
						promises[promise] = true
					}
					for promise := range promises {
						broken[promise]++
					}
				})
				return points
			}
			for _, f := range []*flow{flowNamed("csm-v2"), flowNamed("csm-sculpt"), flowNamed("lab-at-once"), flowNamed("lab-processing")} {
				each(try(basicPlan(f)), 0, lengths, func(fault Fault) {
					if tried++; tried%20 == 0 || !short() {
						try(with(basicPlan(f), fault))
					}
				})
			}
			for _, promise := range tc.want {
				if broken[promise] == 0 {
					t.Errorf("%q is not found broken", promise)
				}
			}
			t.Logf("of %d schedules: %v", schedules, broken)
		})
	}
}
