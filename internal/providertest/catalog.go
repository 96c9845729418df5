package providertest

import (
	"errors"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

var (
	namePattern   = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}$`)
	formatPattern = regexp.MustCompile(`^[a-z0-9]{1,8}$`)
)

func (h Harness) offline(t *testing.T) jobs.Provider {
	t.Helper()
	return h.New(t, "http://127.0.0.1:1", Key) // Plan and Catalog make no call
}

func (h Harness) testCatalog(t *testing.T) {
	t.Parallel()
	p := h.offline(t)
	if !namePattern.MatchString(p.Name()) {
		t.Errorf("Name %q cannot be a token of a subject", p.Name())
	}
	c := p.Catalog()
	if !reflect.DeepEqual(c, p.Catalog()) {
		t.Error("Catalog is not constant")
	}
	if c.Title == "" || c.FirstStage == "" || len(c.Formats) == 0 {
		t.Errorf("Catalog lacks a title, a first stage or formats: %+v", c)
	}
	unique(t, "format", c.Formats)
	for _, f := range c.Formats {
		if !formatPattern.MatchString(f) {
			t.Errorf("format %q is not one that a request can name", f)
		}
	}
	names := make([]string, len(c.Options))
	for i, o := range c.Options {
		names[i] = o.Name
		if o.Name == "" || o.Doc == "" || o.Constraint() == "" {
			t.Errorf("option %q lacks a name, a text or a known type", o.Name)
		}
	}
	unique(t, "option", names)
	names = make([]string, len(c.Presets))
	for i, s := range c.Presets {
		names[i] = s.Name
		if s.Doc == "" {
			t.Errorf("preset %q lacks a text", s.Name)
		}
		plan := h.plan(t, p, s.Options, nil)
		if s.Deprecated != "" && plan != nil && len(plan.Warnings) == 0 {
			t.Errorf("preset %q is deprecated, but its plan warns of nothing", s.Name)
		}
	}
	unique(t, "preset", names)
	h.plan(t, p, nil, nil)
	h.plan(t, p, nil, c.Formats[:1])
	h.plan(t, p, h.Options, h.Formats)

	_, err := p.Plan(nil, []string{"nosuch"})
	names = fields(err)
	if len(names) != 1 || !strings.HasPrefix(names[0], "formats") {
		t.Errorf("an unknown format gives %v, want one FieldError for formats", err)
	}
}

// plan checks that a plan can be made, and that it is whole.
func (h Harness) plan(t *testing.T, p jobs.Provider, options map[string]any, formats []string) *jobs.Plan {
	t.Helper()
	plan, err := p.Plan(options, formats)
	if err != nil || plan == nil {
		t.Errorf("Plan(%v, %v) = %v, %v", options, formats, plan, err)
		return nil
	}
	switch {
	case len(plan.Formats) == 0:
		t.Errorf("Plan(%v, %v) names no format", options, formats)
	case len(formats) > 0 && !slices.Equal(plan.Formats, formats):
		t.Errorf("Plan(%v, %v) has the formats %v", options, formats, plan.Formats)
	case plan.Mode == "":
		t.Errorf("Plan(%v, %v) has no mode", options, formats)
	case plan.SubmitTimeout <= 0 || plan.SubmitTimeout > 15*time.Minute || plan.Typical < 0:
		t.Errorf("Plan(%v, %v) has a submit timeout of %v, typical %v", options, formats, plan.SubmitTimeout, plan.Typical)
	}
	for _, f := range plan.Formats {
		if !slices.Contains(p.Catalog().Formats, f) {
			t.Errorf("Plan(%v, %v) has format %q, which the catalog lacks", options, formats, f)
		}
	}
	return plan
}

func (h Harness) testOptions(t *testing.T) {
	t.Parallel()
	p := h.offline(t)
	for _, o := range p.Catalog().Options {
		t.Run(o.Name, func(t *testing.T) {
			t.Parallel()
			if o.Default != nil {
				if err := jobs.CheckOptions(map[string]any{o.Name: o.Default}, p.Catalog().Options); err != nil {
					t.Errorf("the default does not pass CheckOptions: %v", err)
				}
				h.plan(t, p, h.option(o.Name, o.Default), nil)
			}
			for _, v := range o.Allowed {
				h.plan(t, p, h.option(o.Name, v), nil)
			}
			for _, v := range wrong(o) {
				_, err := p.Plan(h.option(o.Name, v), nil)
				if !slices.Contains(fields(err), "options."+o.Name) {
					t.Errorf("%s = %v gives %v, want a FieldError for options.%[1]s", o.Name, v, err)
				}
			}
		})
	}
	const a, b = "no_such_option", "no_such_option_either"
	_, err := p.Plan(map[string]any{a: 1.0, b: 1.0}, nil)
	got := fields(err)
	slices.Sort(got)
	if !slices.Equal(got, []string{"options." + a, "options." + b}) {
		t.Errorf("two unknown options give %v, want a FieldError for each", err)
	}
}

// option returns options with name set to v and what must go with it.
func (h Harness) option(name string, v any) map[string]any {
	options := map[string]any{}
	for k, c := range h.Companions[name] {
		options[k] = c
	}
	options[name] = v
	return options
}

// wrong returns values that an option must refuse.
func wrong(o jobs.Option) []any {
	var out []any
	beyond := []float64{math.NaN(), math.Inf(1), math.Inf(-1)}
	if o.Min != nil {
		beyond = append(beyond, *o.Min-1)
	}
	if o.Max != nil {
		beyond = append(beyond, *o.Max+1)
	}
	switch o.Type {
	case jobs.TypeBool:
		out = []any{"true", 1.0, nil}
	case jobs.TypeString, jobs.TypeURL:
		out = []any{true, 1.0, nil, []any{"a"}}
		if len(o.Allowed) > 0 || o.Type == jobs.TypeURL {
			out = append(out, "", "no-such-value", "javascript:alert(1)")
		}
	case jobs.TypeInt, jobs.TypeNumber:
		out = []any{"1", true, nil}
		for _, f := range beyond {
			out = append(out, f)
		}
		if o.Type == jobs.TypeInt {
			out = append(out, 1.5)
		}
		if len(o.Allowed) > 0 {
			out = append(out, -7777.0)
		}
	case jobs.TypeNumbers:
		out = []any{"1,1,1", 1.0, nil, []any{"1", "1", "1"}}
		n := max(o.Length, 1)
		if o.Length > 0 {
			out = append(out, []any{}, repeat(1, n+1), repeat(1, n-1))
		}
		for _, f := range beyond {
			out = append(out, repeat(f, n))
		}
	}
	return out
}

func repeat(f float64, n int) []any {
	return slices.Repeat([]any{f}, n)
}

// fields returns the fields of every FieldError that err joins.
func fields(err error) []string {
	switch e := err.(type) {
	case nil:
		return nil
	case *jobs.FieldError:
		return []string{e.Field}
	case interface{ Unwrap() []error }:
		var out []string
		for _, one := range e.Unwrap() {
			out = append(out, fields(one)...)
		}
		return out
	}
	return fields(errors.Unwrap(err))
}

func unique(t *testing.T, what string, names []string) {
	t.Helper()
	sorted := slices.Sorted(slices.Values(names))
	for i := 1; i < len(sorted); i++ {
		if sorted[i] == sorted[i-1] {
			t.Errorf("%s %q occurs twice", what, sorted[i])
		}
	}
}
