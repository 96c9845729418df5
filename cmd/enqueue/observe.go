package main

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/meshmill/meshmill/internal/bulk"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// observer shows in a view what becomes of jobs.
type observer struct {
	view *progress.View
	// rested are the jobs that had ended, or waited for a person, when the
	// observer met them. Not by a time: the clocks of workers are their own.
	rested bulk.Tracker
	told   map[string]bool // reasons for waiting
}

func newObserver(v *progress.View) *observer {
	return &observer{view: v, told: map[string]bool{}}
}

// tellMost bounds how many different reasons for waiting are told.
const tellMost = 20

// change takes in a record of a job, with the state that was shown before.
func (w *observer) change(before jobs.State, r *jobs.Record) {
	now := bulk.Shown(r)
	news := before != jobs.Queued || !bulk.Rests(now) || !w.rested.Has(r.ID)
	w.view.Update(func(c *progress.Counts) {
		if n := counter(c, before); n != nil {
			*n--
		}
		if n := counter(c, now); n != nil {
			*n++
		}
		if !news {
			c.Before++
		}
	})
	switch now {
	case jobs.Submitting, jobs.Running, jobs.Storing:
		since := r.SubmittedAt
		if since.IsZero() {
			since = r.UpdatedAt
		}
		w.view.Work(r.ID, progress.Job{Name: progress.Clean(imageName(r)), Detail: detail(r.State, r.Percent, r.Detail), Since: since})
	default:
		w.view.Rested(r.ID)
	}
	if (now == jobs.Failed || now == jobs.Parked) && before != now && news {
		w.view.Failf("%s: %s: %s", progress.Clean(imageName(r)), now, problem(r))
	}
	if reason := problem(r); now == bulk.Waiting && !w.told[reason] && len(w.told) < tellMost {
		w.told[reason] = true
		w.view.Failf("waiting, nothing bought yet: %s", reason)
	}
}

// live shows the progress of the jobs in work, if the view does, until the
// function that it returns is called.
func (w *observer) live(ctx context.Context, client *jobs.Client) (stop func()) {
	if !w.view.Live() {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for p, err := range client.Progress(ctx) {
			if err != nil {
				return // the records tell enough
			}
			w.view.Detail(p.ID, detail(p.State, p.Percent, p.Detail))
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// detail says how a job in work is getting on.
func detail(s jobs.State, percent float64, text string) string {
	parts := []string{string(s)}
	if percent > 0 && s == jobs.Running {
		parts = append(parts, fmt.Sprintf("%.0f %%", percent))
	}
	if text != "" && s != jobs.Storing {
		parts = append(parts, progress.Clean(text))
	}
	return strings.Join(parts, " ")
}

// counter is where the view counts a state; nil if it does not.
func counter(c *progress.Counts, s jobs.State) *int {
	switch s {
	case jobs.Submitting, jobs.Running:
		return &c.Converting
	case bulk.Waiting:
		return &c.Waiting
	case jobs.Storing:
		return &c.Storing
	case jobs.Completed:
		return &c.Stored
	case jobs.Failed:
		return &c.Failed
	case jobs.Parked:
		return &c.Parked
	case jobs.Cancelled:
		return &c.Cancelled
	}
	return nil
}

func problem(r *jobs.Record) string {
	if r.Error == nil {
		return "no reason is known"
	}
	return progress.Clean(r.Error.Message)
}

// word shows a text as one word of a command line.
func word(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.:/@%+=,", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(progress.Clean(s), "'", `'\''`) + "'"
}

func flagName(s string) string { return strings.ReplaceAll(s, "_", "-") }
