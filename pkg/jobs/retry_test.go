package jobs_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/meshmill/meshmill/pkg/jobs"
)

func TestRetry(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	start := func(id string, s jobs.State, session, stage, input, reason string) *jobs.Record {
		r := record(id, s)
		r.Session, r.Stage, r.Attempt = session, stage, 1
		if input != "" {
			r.StageInput = json.RawMessage(input)
		}
		r.Error = &jobs.Problem{Kind: "permanent", Message: "no", Reason: reason}
		return r
	}
	for name, tc := range map[string]struct {
		r      *jobs.Record
		remedy jobs.Remedy
		state  jobs.State
		// of the session and stage afterwards
		session, stage string
	}{
		"never bought":            {start("r1", jobs.Failed, "", "create", "", ""), jobs.Buy, jobs.Submitting, "", ""},
		"failed by the provider":  {start("r2", jobs.Failed, "s", "create", "", jobs.ReasonProvider), jobs.Buy, jobs.Submitting, "", ""},
		"fault on our side":       {start("r3", jobs.Failed, "s", "refine", "", ""), jobs.Fetch, jobs.Running, "s", "refine"},
		"further stage refused":   {start("r4", jobs.Failed, "s", "refine", "{}", ""), jobs.BuyStage, jobs.Submitting, "s", "refine"},
		"cancelled while running": {start("r5", jobs.Cancelled, "s", "create", "", ""), jobs.Fetch, jobs.Running, "s", "create"},
		"cancelled before":        {start("r6", jobs.Cancelled, "", "", "", ""), jobs.Buy, jobs.Submitting, "", ""},
		"completed":               {start("r7", jobs.Completed, "s", "create", "", ""), jobs.NoRemedy, jobs.Completed, "s", "create"},
		"parked":                  {start("r8", jobs.Parked, "s", "create", "", ""), jobs.NoRemedy, jobs.Parked, "s", "create"},
	} {
		t.Run(name, func(t *testing.T) {
			id := tc.r.ID
			b.put(tc.r)
			if got := jobs.RemedyFor(tc.r); got != tc.remedy {
				t.Errorf("remedy %q, want %q", got, tc.remedy)
			}
			buys := tc.remedy == jobs.Buy || tc.remedy == jobs.BuyStage
			r, remedy, err := b.client.Retry(t.Context(), id, false)
			if buys != errors.Is(err, jobs.ErrMustBuy) || (err != nil && !buys) || remedy != tc.remedy {
				t.Fatalf("without leave to buy: remedy %q, error %v", remedy, err)
			}
			if buys {
				if now, err := b.client.Get(t.Context(), id); err != nil || now.State != tc.r.State {
					t.Fatalf("it was changed: %+v, %v", now, err)
				}
				if r, _, err = b.client.Retry(t.Context(), id, true); err != nil {
					t.Fatal(err)
				}
			}
			if r.State != tc.state || r.Session != tc.session || r.Stage != tc.stage {
				t.Errorf("it is %s with session %q and stage %q", r.State, r.Session, r.Stage)
			}
			if tc.remedy != jobs.NoRemedy && (r.Error != nil || r.Attempt != 2 || b.queued(jobs.Bulk, id) == nil) {
				t.Errorf("error %v, attempt %d, queued %t", r.Error, r.Attempt, (b.queued(jobs.Bulk, id) != nil))
			}
		})
	}
	if _, _, err := b.client.Retry(t.Context(), "none", true); !errors.Is(err, jobs.ErrNotFound) {
		t.Errorf("error %v for a job that does not exist", err)
	}
}

// A cancelled job whose result is wanted keeps its message, which leads a worker
// to the result; without a purchase there is nothing to keep.
func TestCancelKeeping(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	with := func(id string, s jobs.State, session string) *jobs.Record {
		r := record(id, s)
		r.Session = session
		return r
	}
	for name, tc := range map[string]struct {
		r       *jobs.Record
		state   jobs.State
		keeping bool
		marked  bool
	}{
		"running":             {with("k1", jobs.Running, "s"), jobs.Running, false, true},
		"in the paid call":    {with("k2", jobs.Submitting, ""), jobs.Submitting, false, true},
		"parked":              {with("k3", jobs.Parked, "s"), jobs.Cancelled, true, true},
		"parked, none bought": {with("k4", jobs.Parked, ""), jobs.Cancelled, false, false},
		"cancelled before":    {with("k5", jobs.Cancelled, "s"), jobs.Cancelled, true, true},
		"completed":           {with("k6", jobs.Completed, "s"), jobs.Completed, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			b.put(tc.r)
			r, err := b.client.CancelKeeping(t.Context(), tc.r.ID)
			if err != nil {
				t.Fatal(err)
			}
			if r.State != tc.state || r.Keeping() != tc.keeping || r.KeepResult != tc.marked || (b.queued(jobs.Bulk, tc.r.ID) != nil) != tc.keeping {
				t.Errorf("it is %s, keeping %t, marked %t, queued %t", r.State, r.Keeping(), r.KeepResult, (b.queued(jobs.Bulk, tc.r.ID) != nil))
			}
		})
	}
	// A second, plain cancel does not take the result away.
	if r, err := b.client.Cancel(t.Context(), "k3"); err != nil || !r.Keeping() || b.queued(jobs.Bulk, "k3") == nil {
		t.Errorf("cancelled again: %v, keeping %t, queued %t", err, r.Keeping(), (b.queued(jobs.Bulk, "k3") != nil))
	}
}
