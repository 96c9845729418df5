package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// keepResult stores what a job had bought when it was cancelled by somebody who
// wanted the result all the same. The job stays cancelled. Where there is
// nothing to keep the record says so, and the job is done with.
func (j *job) keepResult(ctx context.Context) error {
	j.planAnyway()
	reason := ""
	lost := func(format string, args ...any) error {
		problem := &jobs.Problem{
			Kind: jobs.Permanent.String(), Reason: reason,
			Message: "the result of the cancelled job could not be kept: " + fmt.Sprintf(format, args...),
		}
		return j.save(ctx, jobs.Cancelled, func(r *jobs.Record) { r.Error = problem })
	}
	late := time.Since(j.rec.FinishedAt) >= j.cfg.JobTimeout
	s, err := j.ask(ctx)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && (late || jobs.KindOf(err) == jobs.Permanent):
		return lost("%v", err)
	case err != nil:
		return later(ctx, 30*time.Second, err)
	case s.Phase == jobs.Broken:
		reason = jobs.ReasonProvider
		return lost("%s could not convert the image: %s", j.provider.Name(), s.Message)
	case s.Phase == jobs.NeedsStage:
		return lost("the session needs a further paid stage, %s, which is not bought", s.Next)
	case s.Phase != jobs.Done && late:
		return lost("the session still runs after %v", j.cfg.JobTimeout)
	case s.Phase != jobs.Done:
		return later(ctx, 30*time.Second, errors.New("the session of the cancelled job still runs"))
	}
	j.files = s.Files
	err = j.copyAll(ctx)
	_, isContent := errors.AsType[*ContentError](err)
	fetch, isFetch := errors.AsType[*FetchError](err)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil || errors.Is(err, errAgain) || errors.Is(err, errFenced):
		return err
	case late, isContent, isFetch && fetch.Permanent:
		return lost("%v", err)
	}
	return later(ctx, 30*time.Second, err)
}
