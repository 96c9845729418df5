package enginetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// Provider is the model of a paid service. Its fields are set before use.
type Provider struct {
	World *World
	Label string
	// Stages are the paid calls of a session, in order.
	Stages []string
	// Takes is how long each stage runs.
	Takes time.Duration
	// AtOnce makes the last paid call answer with the result.
	AtOnce bool
	// Answer is how long a paid call takes to be answered.
	Answer time.Duration
	// Submits, if set, decides what becomes of a paid call. The session is
	// created if bought is true, whatever error the caller gets.
	Submits func(n int, call jobs.Call) (bought bool, err error)
	// Breaks, if set, makes a session fail after its stages.
	Breaks func(session string) string
	// Files, if set, replaces the result of a session.
	Files func(session string) []jobs.File
	// PollFails, if set, fails the nth poll.
	PollFails func(n int) error

	mu       sync.Mutex
	calls    int
	polls    int
	sessions map[string]*session
	// Purchases lists every stage that was bought, as "marker stage".
	purchases []string
}

type session struct {
	marker string
	stage  int
	since  time.Time
}

// Listing is a Provider that can look a lost call up.
type Listing struct{ *Provider }

// Name implements jobs.Provider.
func (p *Provider) Name() string { return p.Label }

// Catalog implements jobs.Provider.
func (p *Provider) Catalog() jobs.Catalog {
	return jobs.Catalog{Title: p.Label, Formats: []string{"glb"}, FirstStage: p.Stages[0]}
}

// Plan implements jobs.Provider. The only option is "bad", which is refused.
func (p *Provider) Plan(options map[string]any, formats []string) (*jobs.Plan, error) {
	if _, ok := options["bad"]; ok {
		return nil, &jobs.FieldError{Field: "options.bad", Problem: "is bad"}
	}
	if len(formats) == 0 {
		formats = []string{"glb"}
	}
	return &jobs.Plan{Formats: formats, Mode: "model", SubmitTimeout: time.Minute}, nil
}

// Submit implements jobs.Provider.
func (p *Provider) Submit(ctx context.Context, call jobs.Call) (*jobs.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, jobs.Faultf(jobs.Retryable, p.Label, "not sent: %w", err)
	}
	action := p.World.act("provider.submit", p.Label, call.Marker)
	if action == Fail {
		return nil, &jobs.Fault{Kind: jobs.Retryable, Op: p.Label, Pause: true, Err: ErrInjected}
	}
	p.mu.Lock()
	p.calls++
	bought, err := true, error(nil)
	if p.Submits != nil {
		bought, err = p.Submits(p.calls, call)
	}
	id := call.Session
	if bought {
		id = p.buy(call)
	}
	p.mu.Unlock()
	if p.Answer > 0 {
		t := time.NewTimer(p.Answer)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, jobs.Faultf(jobs.Unknown, p.Label, "no answer: %w", context.Cause(ctx))
		}
	}
	if err != nil {
		return nil, err
	}
	if action == Lose {
		return nil, jobs.Faultf(jobs.Unknown, p.Label, "answer lost: %w", ErrInjected)
	}
	out := &jobs.Session{ID: id}
	if p.AtOnce {
		out.Status = &jobs.Status{Phase: jobs.Done, Detail: "success", Percent: 100, Files: p.files(id)}
	}
	return out, nil
}

// buy books a purchase; p.mu is held.
func (p *Provider) buy(call jobs.Call) string {
	p.purchases = append(p.purchases, call.Marker+" "+call.Stage)
	if p.sessions == nil {
		p.sessions = map[string]*session{}
	}
	if s := p.sessions[call.Session]; s != nil {
		s.stage, s.since = p.index(call.Stage), time.Now()
		return call.Session
	}
	id := fmt.Sprintf("S%d", len(p.sessions)+1)
	p.sessions[id] = &session{marker: call.Marker, since: time.Now()}
	return id
}

func (p *Provider) index(stage string) int {
	for i, s := range p.Stages {
		if s == stage {
			return i
		}
	}
	return -1
}

func (p *Provider) files(id string) []jobs.File {
	if p.Files != nil {
		return p.Files(id)
	}
	return []jobs.File{{Format: "glb", URL: "https://files.test/MESH_glb_" + id}}
}

// Poll implements jobs.Provider.
func (p *Provider) Poll(ctx context.Context, ref jobs.Ref) (*jobs.Status, error) {
	if err := ctx.Err(); err != nil {
		return nil, jobs.Faultf(jobs.Retryable, p.Label, "%w", err)
	}
	if a := p.World.act("provider.poll", p.Label, ref.Session); a != Pass {
		return nil, jobs.Faultf(jobs.Retryable, p.Label, "%w", ErrInjected)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.polls++
	if p.PollFails != nil {
		if err := p.PollFails(p.polls); err != nil {
			return nil, err
		}
	}
	s := p.sessions[ref.Session]
	if s == nil {
		return nil, jobs.Faultf(jobs.Permanent, p.Label, "no session %s", ref.Session)
	}
	gone := time.Since(s.since)
	switch {
	case gone < p.Takes && !p.AtOnce:
		return &jobs.Status{Detail: "working on " + p.Stages[s.stage], Percent: 100 * float64(gone) / float64(p.Takes)}, nil
	case s.stage+1 < len(p.Stages):
		return &jobs.Status{Phase: jobs.NeedsStage, Detail: "rests after " + p.Stages[s.stage], Percent: -1, Next: p.Stages[s.stage+1]}, nil
	case p.Breaks != nil && p.Breaks(ref.Session) != "":
		return &jobs.Status{Phase: jobs.Broken, Detail: "failed", Message: p.Breaks(ref.Session)}, nil
	}
	return &jobs.Status{Phase: jobs.Done, Detail: "complete", Percent: 100, Files: p.files(ref.Session)}, nil
}

// Reconcile implements jobs.Reconciler.
func (l Listing) Reconcile(ctx context.Context, call jobs.Call, _ time.Time) (*jobs.Session, error) {
	if a := l.World.act("provider.reconcile", l.Label, call.Marker); a != Pass {
		return nil, jobs.Faultf(jobs.Retryable, l.Label, "%w", ErrInjected)
	}
	if err := ctx.Err(); err != nil {
		return nil, jobs.Faultf(jobs.Retryable, l.Label, "%w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, s := range l.sessions {
		first := call.Session == "" && s.marker == call.Marker && strings.Contains(call.Image.URL, call.Marker)
		later := call.Session == id && s.stage >= l.index(call.Stage)
		if first || later {
			return &jobs.Session{ID: id}, nil
		}
	}
	if call.Session == "" && call.Image.URL == "" {
		return nil, jobs.Faultf(jobs.Permanent, l.Label, "an inline image cannot be looked up")
	}
	return nil, fmt.Errorf("%s: %w", l.Label, jobs.ErrNotBought)
}

// Purchases returns every purchase, as "marker stage", in order.
func (p *Provider) Purchases() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.purchases...)
}

// Refuse is a Submits function that refuses the first n calls with err.
func Refuse(n int, err error) func(int, jobs.Call) (bool, error) {
	return func(call int, _ jobs.Call) (bool, error) {
		if call <= n {
			return false, err
		}
		return true, nil
	}
}

// ErrLost is what a caller sees whose paid call was answered by silence.
var ErrLost = errors.New("connection reset")
