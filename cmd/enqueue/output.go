package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mattn/go-runewidth"

	"github.com/meshmill/meshmill/internal/bulk"
	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// lineSchema is the version of the lines that --json prints, in each of them but
// those of jobs, which have that of their record. See docs/json.md.
const lineSchema = "meshmill.cli.v1"

// jobLine is one job in JSON Lines: the fields of its record, and what became
// of its image in this call.
type jobLine struct {
	Type    string       `json:"type"`
	Outcome jobs.Outcome `json:"outcome,omitempty"`
	// Remark says in words what the command did to the job.
	Remark string `json:"remark,omitempty"`
	*jobs.Record
}

// refusedLine is an image that did not become a job.
type refusedLine struct {
	Type   string `json:"type"`
	Schema string `json:"schema"`
	Image  string `json:"image"`
	// Place is where a list names it, such as "line 7".
	Place string `json:"place,omitempty"`
	Error string `json:"error"`
}

// summary is the last line of JSON Lines. The first five counts are always
// there.
type summary struct {
	Type      string `json:"type"`
	Schema    string `json:"schema"`
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
	// CostUSD is the estimate for the new jobs whose price is known, and
	// CostUnknown counts the others.
	CostUSD     float64 `json:"cost_usd,omitempty"`
	CostUnknown int     `json:"cost_unknown,omitempty"`
	// Stopped says which limit ended the call: max_jobs or max_cost.
	Stopped string `json:"stopped,omitempty"`
}

func newSummary(batch string) summary {
	return summary{Type: "summary", Schema: lineSchema, Batch: batch}
}

func (s *summary) count(r *jobs.Record) { s.countState(bulk.Shown(r)) }

func (s *summary) countState(state jobs.State) {
	switch state {
	case jobs.Queued, bulk.Waiting:
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

// take replaces the counts of states by those of a view.
func (s *summary) take(c progress.Counts) {
	s.Completed, s.Failed, s.Parked, s.Cancelled = c.Stored, c.Failed, c.Parked, c.Cancelled
	s.Working = c.Converting + c.Storing
	s.Queued = c.Jobs - s.Working - c.Stored - c.Failed - c.Parked - c.Cancelled
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

func (a *app) printer(c *connect.Conns) *printer {
	p := &printer{result: c.Result}
	if a.json {
		p.json = json.NewEncoder(a.stdout)
	} else {
		p.table = progress.NewTable(a.stdout, "JOB", "IMAGE", "PROVIDER", "STATE", "TIME", "RESULT")
	}
	return p
}

// job prints one job; remark is shown to people in place of a result.
func (p *printer) job(r *jobs.Record, outcome jobs.Outcome, remark string) {
	if p.json != nil {
		p.line(jobLine{"job", outcome, remark, r})
		return
	}
	state := string(bulk.Shown(r))
	if outcome == jobs.Skipped {
		state += " (skipped)"
	}
	p.table.Row(r.ID, shortName(imageName(r)), r.Provider, state, duration(r), p.text(r, remark))
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

// shortName is a name for a table; JSON has it whole.
func shortName(name string) string {
	const columns = 80
	return progress.Middle(progress.Clean(name), columns)
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

// page looks a page of jobs up.
func page(ctx context.Context, client *jobs.Client, ids []string) (map[string]*jobs.Record, error) {
	records := make(map[string]*jobs.Record, len(ids))
	for r, err := range client.List(ctx, jobs.Filter{IDs: ids}) {
		if err != nil {
			return nil, err
		}
		records[r.ID] = r
	}
	return records, nil
}

// all prints the jobs of a call in the order of their images, and counts their
// states anew.
func (p *printer) all(ctx context.Context, k *call) error {
	k.sum.Completed, k.sum.Failed, k.sum.Parked, k.sum.Cancelled, k.sum.Queued, k.sum.Working = 0, 0, 0, 0, 0, 0
	twins := k.twins
	for from := 0; from < k.ids.Len(); from += pageJobs {
		var ids []string
		for i := from; i < min(from+pageJobs, k.ids.Len()); i++ {
			ids = append(ids, k.ids.At(i))
		}
		records, err := page(ctx, k.conns.Client, ids)
		if err != nil {
			return err
		}
		for i, id := range ids {
			for ; len(twins) > 0 && twins[0].after <= from+i; twins = twins[1:] {
				p.twin(twins[0])
			}
			r := records[id]
			if r == nil {
				return fmt.Errorf("job %s has vanished from the broker: enqueue it again", id)
			}
			outcome := jobs.Skipped
			if k.enqueued[from+i] {
				outcome = jobs.Enqueued
			}
			k.sum.count(r)
			p.job(r, outcome, "")
		}
	}
	for _, t := range twins {
		p.twin(t)
	}
	return nil
}

func (p *printer) twin(t twin) {
	if p.table != nil {
		p.table.Row(t.id, shortName(t.name), "", "skipped", "", "the same image as "+shortName(t.sameAs))
	}
}

// some prints those of the jobs that are still in trouble.
func (p *printer) some(ctx context.Context, client *jobs.Client, troubled *bulk.IDs) error {
	told := map[string]bool{} // of the last page: a job can be in trouble twice
	for from := 0; from < troubled.Len(); from += pageJobs {
		var ids []string
		for i := from; i < min(from+pageJobs, troubled.Len()); i++ {
			ids = append(ids, troubled.At(i))
		}
		records, err := page(ctx, client, ids)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if r := records[id]; r != nil && !told[id] && (r.State == jobs.Failed || r.State == jobs.Parked) {
				told[id] = true
				p.job(r, "", "")
			}
		}
	}
	return nil
}

// end prints the summary in JSON Lines, and what is left of a table.
func (p *printer) end(s *summary) error {
	if p.json != nil {
		p.line(s)
	}
	return p.flush()
}
