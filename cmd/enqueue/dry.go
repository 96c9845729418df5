package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/meshmill/meshmill/internal/bulk"
	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/cost"
	"github.com/meshmill/meshmill/internal/picture"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// dryLine is what --dry-run prints for an image.
type dryLine struct {
	Type     string         `json:"type"`
	Schema   string         `json:"schema"`
	ID       string         `json:"id"`
	Outcome  jobs.Outcome   `json:"outcome"`
	State    jobs.State     `json:"state,omitempty"`
	Provider string         `json:"provider"`
	Mode     string         `json:"mode"`
	CostUSD  *float64       `json:"cost_usd,omitempty"`
	Image    jobs.Image     `json:"image"`
	Options  map[string]any `json:"options,omitempty"`
	Formats  []string       `json:"formats,omitempty"`
}

// drySummary is the last line of a dry run.
type drySummary struct {
	Type    string `json:"type"`
	Schema  string `json:"schema"`
	Images  int    `json:"images"`
	Refused int    `json:"refused"`
	Skipped int    `json:"skipped"`
	// CostUSD is the estimate for the images whose price is known, and
	// CostUnknown counts the others.
	CostUSD     float64 `json:"cost_usd"`
	CostUnknown int     `json:"cost_unknown"`
	// Compared says whether a broker was asked what is there already.
	Compared bool   `json:"compared"`
	Stopped  string `json:"stopped,omitempty"`
}

// dollars is an amount as JSON has it; nil if it is not known.
func dollars(a int64, known bool) *float64 {
	if !known {
		return nil
	}
	return new(float64(a) / 1e6)
}

// lookup returns what asks a broker for jobs that exist, if one was given: one
// of a fleet, or that of a data folder which is there already.
func (c *creation) lookup(ctx context.Context) (func(context.Context, []string) (map[string]jobs.State, error), *connect.Conns, error) {
	if c.force {
		return nil, nil, nil // nothing will be skipped
	}
	if c.cfg.Embedded {
		if _, err := os.Stat(filepath.Join(c.cfg.Data, "nats")); err != nil {
			return nil, nil, nil
		}
	} else if c.cfg.NATSURL == "" {
		return nil, nil, nil
	}
	conns, err := c.a.connect(ctx, c.cfg)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, ids []string) (map[string]jobs.State, error) {
		states := map[string]jobs.State{}
		for r, err := range conns.Client.List(ctx, jobs.Filter{IDs: ids}) {
			if err != nil {
				return nil, err
			}
			states[r.ID] = r.State
		}
		return states, nil
	}, conns, nil
}

// dry reads every image and says what would be enqueued. It changes nothing, and
// talks to nobody but the broker, if there is one.
func (c *creation) dry(ctx context.Context, args []string) (err error) {
	lookup, conns, err := c.lookup(ctx)
	if err != nil {
		return err
	}
	if conns != nil {
		defer func() { err = errors.Join(err, conns.Close(context.WithoutCancel(ctx))) }()
	}
	d := drying{
		a: c.a, enc: json.NewEncoder(c.a.stdout), table: progress.NewTable(c.a.stdout, "JOB", "IMAGE", "PROVIDER", "MODE", "COST"),
		sum: drySummary{Type: "dry_run", Schema: lineSchema, Compared: lookup != nil},
	}
	p := bulk.Pipeline{
		Template: c.terms.template, Limits: picture.DefaultLimits, Lookup: lookup,
		MaxJobs: c.maxJobs, MaxCost: int64(c.terms.maxCost), Done: d.done,
	}
	if err := c.feed(ctx, &p, args, &d.sum.Stopped); err != nil {
		return err
	}
	d.sum.CostUSD, d.sum.CostUnknown = float64(d.cost.Known)/1e6, d.cost.Unknown
	if c.a.json {
		d.broken = errors.Join(d.broken, d.enc.Encode(d.sum))
	}
	if err := errors.Join(d.broken, d.table.Flush()); err != nil {
		return err
	}
	skipped := fmt.Sprintf("%d are there already", d.sum.Skipped)
	if lookup == nil {
		skipped = "what is there already would be skipped, but no broker was asked"
	}
	c.a.note("dry run: %d jobs would be bought, for %s by estimate; %s; %d files would be refused", d.sum.Images, &d.cost, skipped, d.sum.Refused)
	c.stopNote(d.sum.Stopped)
	if d.sum.Refused > 0 {
		return errSomeFailed
	}
	return nil
}

// drying collects the outcomes of a dry run.
type drying struct {
	a      *app
	enc    *json.Encoder
	table  *progress.Table
	sum    drySummary
	cost   cost.Sum
	broken error
}

func (d *drying) done(o bulk.Outcome) {
	name := progress.Clean(o.Source.Name)
	switch {
	case o.Err != nil:
		d.sum.Refused++
		fmt.Fprintln(d.a.stderr, refusal(o))
		return
	case o.SameAs != "":
		d.a.note("%s is the same image as %s", name, progress.Clean(o.SameAs))
		return
	}
	t := o.Template
	price := "unknown"
	if t.Priced {
		price = cost.Amount(t.Cost).String()
	}
	state := jobs.State("")
	if o.Result.Outcome == jobs.Skipped {
		d.sum.Skipped++
		price, state = "skipped: "+string(o.Result.State), o.Result.State
	} else {
		d.sum.Images++
		d.cost.Add(cost.Amount(t.Cost), t.Priced)
	}
	if d.a.json {
		d.broken = errors.Join(d.broken, d.enc.Encode(dryLine{
			"job", lineSchema, o.ID, o.Result.Outcome, state, t.Provider, t.Mode, dollars(t.Cost, t.Priced), o.Image, t.Options, t.Formats,
		}))
		return
	}
	d.table.Row(o.ID, shortName(o.Source.Name), t.Provider, t.Mode, price)
}
