package simulation

import (
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// incident has something happen just before a call.
func (s *sim) incident(f Fault, p *pending) {
	if s.trace != nil {
		s.trace("%20s %s", "", f)
	}
	s.fired++
	if f.Kind == LoseBroker {
		for _, h := range s.check.jobs {
			s.check.doubts(h)
		}
	}
	switch f.Kind {
	case Drain:
		s.drain(p.w)
	case Redeliver:
		s.world.Forget()
	case Cancel:
		s.cancel(s.check.jobs[0])
	case Enqueue:
		s.world.Put(s.check.jobs[0].request, jobs.Bulk)
	case LoseBroker:
		s.world.Drop()
		for _, h := range s.check.jobs {
			s.check.lost(h)
		}
		s.at(time.Second, func() {
			for _, h := range s.check.jobs {
				s.world.Put(h.request, jobs.Bulk)
			}
		})
	case Sweep:
		s.sweep(2 * lease)
	case Resolve:
		for _, h := range s.check.jobs {
			s.resolve(h)
		}
	}
}

// cancel does what Client.Cancel does.
func (s *sim) cancel(h *history) {
	rec := s.world.Record(h.id)
	now := time.Now().UTC()
	switch {
	case rec == nil:
		rec = &jobs.Record{
			Schema: jobs.RecordSchema, ID: h.id, State: jobs.Cancelled, Attempt: 1, Provider: h.request.Provider,
			Lane: jobs.Bulk, Request: h.request, FinishedAt: now, UpdatedAt: now,
		}
		s.world.Store(rec)
	case rec.State == jobs.Parked:
		s.world.Edit(h.id, func(r *jobs.Record) {
			r.State, r.FinishedAt, r.UpdatedAt = jobs.Cancelled, now, now
			r.Owner, r.Epoch, r.CancelRequested = "", r.Epoch+1, false
		})
	case rec.State.Final():
		return
	default:
		s.world.Edit(h.id, func(r *jobs.Record) { r.CancelRequested, r.UpdatedAt = true, now })
		if s.rng == nil || s.rng.IntN(2) == 0 { // else the word is lost
			for _, w := range s.workers {
				if !w.dead {
					w.engine.Nudge(h.id)
				}
			}
		}
		return
	}
	s.world.Announce(s.world.Record(h.id))
	s.world.Purge(h.id)
}

// resolve does what a person does about a parked job, having looked at the
// provider's own list of sessions, or about one that has failed.
func (s *sim) resolve(h *history) {
	rec := s.world.Record(h.id)
	if rec == nil || rec.State != jobs.Parked && rec.State != jobs.Failed && rec.State != jobs.Cancelled {
		return
	}
	final := rec.State.Final()
	if final && s.rng != nil && s.rng.IntN(2) == 0 {
		return
	}
	give := rec.State == jobs.Parked && s.rng != nil && s.rng.IntN(4) == 0
	s.world.Edit(h.id, func(r *jobs.Record) {
		r.UpdatedAt, r.Owner, r.Epoch, r.CancelRequested = time.Now().UTC(), "", r.Epoch+1, false
		if give {
			r.State, r.FinishedAt = jobs.Failed, r.UpdatedAt
			r.Error = &jobs.Problem{Kind: jobs.Permanent.String(), Message: "given up by a person"}
			return
		}
		if n := len(h.sales); n > 0 && !final {
			r.State, r.Session, r.StageInput = jobs.Running, h.sales[n-1].session, nil
		} else {
			if final {
				r.Session, r.Stage, r.StageInput, r.SubmittedAt = "", "", nil, time.Time{}
			}
			r.State = jobs.Submitting
			r.Attempt++
			h.more++
		}
		r.SubmitDeadline, r.SessionDeadline = time.Time{}, time.Time{}
		r.Refusals, r.RefusedSince, r.Error = 0, time.Time{}, nil
		r.Percent, r.Detail, r.Outputs, r.Missing, r.Manifest = 0, "", nil, nil, ""
		r.StoringAt, r.FinishedAt = time.Time{}, time.Time{}
	})
	rec = s.world.Record(h.id)
	if give {
		s.world.Announce(rec)
		return
	}
	s.world.Put(rec.Request, rec.Lane)
}
