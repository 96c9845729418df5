package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshmill/meshmill/internal/bulk"
	"github.com/meshmill/meshmill/internal/cost"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// terms are what the flags say about all jobs of a call.
type terms struct {
	// offer is the provider that the flags or the keys choose, and template that
	// of its jobs. Without a provider noOffer says why there is none.
	offer    offer
	noOffer  error
	template bulk.Template
	maxCost  cost.Amount
	warned   map[string]bool
}

// wish is what a job is to be, by the flags or by a line of a list.
type wish struct {
	preset  string
	pairs   []string // NAME=VALUE
	options map[string]any
	formats []string
}

// plan makes the terms, and warns of what is unwise. Its error joins every
// mistake.
func (c *creation) plan() error {
	t := bulk.Template{Formats: c.formats, Batch: c.batch, Force: c.force}
	if t.Batch == "" {
		t.Batch = batchName(time.Now())
	}
	lane, err := jobs.ParseLane(c.lane)
	t.Lane = lane
	errs := []error{err}
	for _, l := range c.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok {
			errs = append(errs, fmt.Errorf("--label is %q, must be KEY=VALUE", l))
			continue
		}
		if t.Labels == nil {
			t.Labels = map[string]string{}
		}
		t.Labels[k] = v
	}
	if c.maxJobs < 0 {
		errs = append(errs, fmt.Errorf("--max-jobs is %d, must be 1 or more", c.maxJobs))
	}
	if c.maxCost != "" {
		if c.terms.maxCost, err = cost.Parse(c.maxCost); err != nil || c.terms.maxCost == 0 {
			errs = append(errs, fmt.Errorf("--max-cost is %q, must be an amount of US dollars, such as 12.50", c.maxCost))
		}
	}
	c.terms.template, c.terms.warned = t, map[string]bool{}
	c.terms.offer, err = chooseOffer(c.provider, &c.cfg)
	if err != nil {
		if c.mixed && c.provider == "" {
			c.terms.noOffer = err // lines may name theirs
			return errors.Join(errs...)
		}
		return errors.Join(append(errs, err)...)
	}
	t, err = c.propose(c.terms.offer, t, wish{preset: c.preset, pairs: c.options, formats: c.formats})
	c.terms.template = t
	if err != nil && c.mixed && c.provider == "" && c.preset == "" && len(c.options)+len(c.formats) == 0 {
		c.terms.noOffer, err = err, nil // only a line that leaves it to this provider is concerned
	}
	if err = errors.Join(append(errs, err)...); err != nil {
		return err
	}
	return nil
}

// propose completes a template by what a provider makes of a wish.
func (c *creation) propose(o offer, t bulk.Template, w wish) (bulk.Template, error) {
	t.Provider = o.Name()
	options, err := o.options(w.preset, w.pairs)
	if err != nil {
		return t, err
	}
	maps.Copy(options, w.options)
	t.Options, t.Formats = options, w.formats
	plan, err := o.Plan(options, w.formats)
	if err = errors.Join(err, t.Check()); err != nil {
		return t, err
	}
	t.Options, t.Mode = plan.Options, plan.Mode
	amount, known := o.prices(&c.cfg).Of(plan.Mode)
	t.Cost, t.Priced = int64(amount), known
	if !known && c.terms.maxCost > 0 {
		return t, fmt.Errorf("--max-cost needs a price, and that of %s (%s) is not known: set %s, such as %s",
			t.Provider, plan.Mode, o.costVar, "0.40")
	}
	for _, warning := range plan.Warnings {
		if !c.terms.warned[warning] {
			c.terms.warned[warning] = true
			c.say("warning: %s", progress.Clean(warning))
		}
	}
	return t, nil
}

// say prints a message, above the view if there is one.
func (c *creation) say(format string, args ...any) {
	if c.view != nil {
		c.view.Infof(format, args...)
		return
	}
	c.a.note(format, args...)
}

// pairs are the options of a map as NAME=VALUE, in the order of their names.
func pairs(options map[string]string) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(options)) {
		out = append(out, k+"="+options[k])
	}
	return out
}
