package broker

import (
	"context"
	"errors"
	"time"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// relapse is how soon after a pause the next one counts as its continuation,
// and lasts longer.
const relapse = 2 * time.Minute

// Pause implements engine.Fleet. Pauses that follow each other closely double,
// up to jobs.MaxAfter.
func (f *Fleet) Pause(ctx context.Context, provider string, d time.Duration, reason string) error {
	for conflicts := 0; ; conflicts++ {
		f.mu.Lock()
		p := f.account(provider).pause
		changed := f.changed
		f.mu.Unlock()
		now := time.Now()
		next := pauseValue{Reason: reason}
		rev := p.rev
		if p.gone {
			rev = 0
		}
		switch {
		case rev > 0 && now.Before(p.value.Until):
			// Others have met the same trouble: that is one pause, not many, unless
			// the provider asks for much more.
			d = min(d, jobs.MaxAfter)
			next.Streak, next.Until = p.value.Streak, now.Add(d).UTC()
			if next.Until.Sub(p.value.Until) < d/2 {
				return nil
			}
		case rev > 0 && now.Before(p.value.Until.Add(relapse)):
			next.Streak = p.value.Streak + 1
			fallthrough
		default:
			next.Until = now.Add(min(d<<min(next.Streak, 10), jobs.MaxAfter)).UTC()
		}
		err := f.write(ctx, pauseKey(provider), next, rev)
		if err == nil {
			f.log.Warn().Str("provider", provider).Time("until", next.Until).Str("reason", reason).Msg("purchases paused for the whole fleet")
		}
		if !errors.Is(err, engine.ErrConflict) {
			return err
		}
		if err := settle(ctx, changed, conflicts); err != nil {
			return err
		}
	}
}

// Await implements engine.Fleet.
func (f *Fleet) Await(ctx context.Context, provider string) error {
	for {
		f.mu.Lock()
		p := f.account(provider).pause
		changed := f.changed
		f.mu.Unlock()
		wait := time.Until(p.value.Until)
		if p.gone || wait <= 0 {
			return nil
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// Paused returns until when and why purchases from a provider are paused; the
// time is zero or past if they are not.
func (f *Fleet) Paused(provider string) (until time.Time, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.account(provider).pause
	if p.gone {
		return time.Time{}, ""
	}
	return p.value.Until, p.value.Reason
}
