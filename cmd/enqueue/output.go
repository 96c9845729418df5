package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/mattn/go-runewidth"

	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// jobLine is one job in JSON Lines: the fields of its record, and what became
// of its image in this call.
type jobLine struct {
	Type    string       `json:"type"`
	Outcome jobs.Outcome `json:"outcome,omitempty"`
	*jobs.Record
}

// refusedLine is an image that did not become a job.
type refusedLine struct {
	Type  string `json:"type"`
	Image string `json:"image"`
	Error string `json:"error"`
}

// summary is the last line of JSON Lines. The first five counts are always
// there.
type summary struct {
	Type      string `json:"type"`
	Batch     string `json:"batch,omitempty"`
	Enqueued  int    `json:"enqueued"`
	Skipped   int    `json:"skipped"`
	Completed int    `json:"completed"`
	Failed    int    `json:"failed"`
	Parked    int    `json:"parked"`
	Cancelled int    `json:"cancelled,omitempty"`
	// Refused counts images that did not become jobs.
	Refused int `json:"refused,omitempty"`
	// Queued and Working count the jobs that have not ended.
	Queued  int `json:"queued,omitempty"`
	Working int `json:"working,omitempty"`
}

func (s *summary) count(r *jobs.Record) {
	switch shown(r) {
	case jobs.Queued, waiting:
		s.Queued++
	case jobs.Completed:
		s.Completed++
	case jobs.Failed:
		s.Failed++
	case jobs.Parked:
		s.Parked++
	case jobs.Cancelled:
		s.Cancelled++
	default:
		s.Working++
	}
}

// waiting is what people read of a job whose paid call was refused for now:
// "submitting" would sound as if money were being spent.
const waiting jobs.State = "waiting"

// shown is a job's state as people read it.
func shown(r *jobs.Record) jobs.State {
	if r.Waiting() {
		return waiting
	}
	return r.State
}

// text is the summary in words: what there is none of is left out.
func (s *summary) text() string {
	text := ""
	for _, p := range []struct {
		n    int
		what string
	}{
		{s.Enqueued, "enqueued"}, {s.Skipped, "skipped"}, {s.Refused, "refused"}, {s.Completed, "completed"}, {s.Failed, "failed"},
		{s.Parked, "parked"}, {s.Cancelled, "cancelled"}, {s.Queued, "queued"}, {s.Working, "in work"},
	} {
		if p.n > 0 {
			if text != "" {
				text += ", "
			}
			text += fmt.Sprintf("%d %s", p.n, p.what)
		}
	}
	if text == "" {
		text = "no jobs"
	}
	return text
}

// status is the exit status that the summary stands for.
func (s *summary) status() error {
	if s.Failed+s.Parked+s.Refused > 0 {
		return errSomeFailed
	}
	return nil
}

// printer prints jobs as a table or as JSON Lines.
type printer struct {
	json   *json.Encoder
	table  *progress.Table
	result func(jobs.Output) string
	// whole shows reasons at full length; JSON always does.
	whole bool
	err   error
}

func (a *app) printer(w io.Writer, c *connect.Conns) *printer {
	p := &printer{result: c.Result}
	if a.json {
		p.json = json.NewEncoder(w)
	} else {
		p.table = progress.NewTable(w, "JOB", "IMAGE", "PROVIDER", "STATE", "TIME", "RESULT")
	}
	return p
}

// job prints one job; remark is shown to people in place of a result.
func (p *printer) job(r *jobs.Record, outcome jobs.Outcome, remark string) {
	if p.json != nil {
		p.line(jobLine{"job", outcome, r})
		return
	}
	state := string(shown(r))
	if outcome == jobs.Skipped {
		state += " (skipped)"
	}
	p.table.Row(r.ID, imageName(r), r.Provider, state, duration(r), p.text(r, remark))
}

func (p *printer) line(v any) {
	if err := p.json.Encode(v); p.err == nil {
		p.err = err
	}
}

func (p *printer) flush() error {
	if p.table != nil {
		return p.table.Flush()
	}
	return p.err
}

// text is the last column: where the mesh is, or why there is none.
func (p *printer) text(r *jobs.Record, remark string) string {
	switch {
	case remark != "":
		return remark
	case r.State == jobs.Completed && len(r.Outputs) > 0:
		return p.result(r.Outputs[0])
	case r.Error != nil && p.whole:
		return r.Error.Message
	case r.Error != nil:
		const columns = 100
		return runewidth.Truncate(r.Error.Message, columns, "…")
	case r.State == jobs.Running && r.Percent > 0:
		return fmt.Sprintf("%.0f %% %s", r.Percent, r.Detail)
	}
	return r.Detail
}

func imageName(r *jobs.Record) string {
	if r.Request.Image.Name != "" {
		return r.Request.Image.Name
	}
	if u := r.Request.Image.Public().URL; u != "" {
		return u
	}
	return r.Request.Image.Object
}

// duration is how long a job has been in work, or was until its end.
func duration(r *jobs.Record) string {
	from, to := r.CreatedAt, r.FinishedAt
	if from.IsZero() || r.State == jobs.Queued {
		return ""
	}
	if to.IsZero() {
		to = time.Now()
	}
	return progress.Short(max(to.Sub(from), 0))
}

// pageJobs is how many jobs are looked up at a time.
const pageJobs = 500

// entry is a job of this call, in the order of the images.
type entry struct {
	id     string
	name   string
	out    jobs.Outcome
	sameAs string
}

// printAll prints the jobs of a call in their order, and counts their states.
func (p *printer) printAll(ctx context.Context, client *jobs.Client, entries []entry, sum *summary) error {
	for page := range slices.Chunk(entries, pageJobs) {
		ids := make([]string, len(page))
		for i, e := range page {
			ids[i] = e.id
		}
		records := make(map[string]*jobs.Record, len(page))
		for r, err := range client.List(ctx, jobs.Filter{IDs: ids}) {
			if err != nil {
				return err
			}
			records[r.ID] = r
		}
		for _, e := range page {
			r := records[e.id]
			switch {
			case r == nil:
				return fmt.Errorf("job %s has vanished from the broker: enqueue it again", e.id)
			case e.sameAs != "":
				if p.table != nil {
					p.table.Row(r.ID, e.name, r.Provider, string(r.State), "", "the same image as "+e.sameAs)
				}
			default:
				sum.count(r)
				p.job(r, e.out, "")
			}
		}
	}
	return nil
}
