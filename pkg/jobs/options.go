package jobs

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// OptionType is the JSON type of an option.
type OptionType string

// The types of options.
const (
	TypeString  OptionType = "string"
	TypeBool    OptionType = "boolean"
	TypeInt     OptionType = "integer"
	TypeNumber  OptionType = "number"
	TypeNumbers OptionType = "array of numbers"
	TypeURL     OptionType = "url"
)

// Option describes one option of a provider, by its name on the wire.
type Option struct {
	Name string     `json:"name"`
	Type OptionType `json:"type"`
	Doc  string     `json:"doc"`
	// Default is what the provider uses if the option is not sent; nil if that
	// is not documented. Meshmill sends only what the request names.
	Default any `json:"default,omitempty"`
	// Allowed lists the values of a string or integer option; empty is any.
	Allowed []any `json:"allowed,omitempty"`
	// Min and Max bound a number, or every element of an array.
	Min *float64 `json:"min,omitempty"`
	Max *float64 `json:"max,omitempty"`
	// Length is the exact length of an array.
	Length int `json:"length,omitempty"`
	// Group names the generation or model that the option belongs to, such as
	// "v1"; empty belongs to all.
	Group string `json:"group,omitempty"`
	// Note is a restriction such as "enterprise accounts only".
	Note string `json:"note,omitempty"`
}

// CheckOptions checks options against their descriptions: names, types, values
// and ranges. Its error joins one *FieldError for each mistake.
func CheckOptions(options map[string]any, known []Option) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(options)) {
		i := slices.IndexFunc(known, func(o Option) bool { return o.Name == name })
		if i < 0 {
			errs = append(errs, fieldErrorf("options."+clip(name), "is unknown, known are %s", optionNames(known)))
			continue
		}
		if err := known[i].check(options[name]); err != "" {
			errs = append(errs, fieldErrorf("options."+name, "is %s, must be %s", show(options[name]), err))
		}
	}
	return errors.Join(errs...)
}

func optionNames(known []Option) string {
	names := make([]string, len(known))
	for i, o := range known {
		names[i] = o.Name
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// check returns what the value must be, or "" if it is that.
func (o *Option) check(v any) string {
	must := o.Constraint()
	switch o.Type {
	case TypeBool:
		if _, ok := v.(bool); !ok {
			return must
		}
	case TypeString, TypeURL:
		s, ok := v.(string)
		if !ok || (len(o.Allowed) > 0 && !slices.Contains(o.Allowed, any(s))) {
			return must
		}
		if o.Type == TypeURL {
			if u, err := url.Parse(s); err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
				return must
			}
		}
	case TypeInt, TypeNumber:
		f, ok := Number(v)
		if !ok || !o.inRange(f) || (o.Type == TypeInt && (f != math.Trunc(f) || math.Abs(f) > 1<<53)) {
			return must
		}
		if len(o.Allowed) > 0 && !slices.ContainsFunc(o.Allowed, func(a any) bool { n, ok := Number(a); return ok && n == f }) {
			return must
		}
	case TypeNumbers:
		list, ok := Numbers(v)
		if !ok || (o.Length > 0 && len(list) != o.Length) || !allOf(list, o.inRange) {
			return must
		}
	}
	return ""
}

func (o *Option) inRange(f float64) bool {
	return !math.IsNaN(f) && !math.IsInf(f, 0) && (o.Min == nil || f >= *o.Min) && (o.Max == nil || f <= *o.Max)
}

func allOf(list []float64, ok func(float64) bool) bool {
	return !slices.ContainsFunc(list, func(f float64) bool { return !ok(f) })
}

// Constraint says in words what the option's value must be.
func (o *Option) Constraint() string {
	if len(o.Allowed) > 0 {
		words := make([]string, len(o.Allowed))
		for i, a := range o.Allowed {
			words[i] = fmt.Sprint(a)
		}
		return "one of " + strings.Join(words, ", ")
	}
	var what string
	switch o.Type {
	case TypeBool:
		return "true or false"
	case TypeString:
		return "text"
	case TypeURL:
		return "an http or https URL"
	case TypeInt:
		what = "a whole number"
	case TypeNumber:
		what = "a number"
	case TypeNumbers:
		what = "a list of numbers"
		if o.Length > 0 {
			what = fmt.Sprintf("a list of %d numbers", o.Length)
		}
	}
	switch {
	case o.Min != nil && o.Max != nil:
		return fmt.Sprintf("%s from %v to %v", what, *o.Min, *o.Max)
	case o.Min != nil:
		return fmt.Sprintf("%s of at least %v", what, *o.Min)
	case o.Max != nil:
		return fmt.Sprintf("%s of at most %v", what, *o.Max)
	}
	return what
}

// Parse reads a value as people write it on a command line: true, 12, pbr,
// 1,1,-1 or [1,1,-1]. The result passes CheckOptions or Parse returns an error.
func (o *Option) Parse(s string) (any, error) {
	var v any = s
	var err error
	switch o.Type {
	case TypeBool:
		v, err = strconv.ParseBool(s)
	case TypeInt, TypeNumber:
		v, err = strconv.ParseFloat(s, 64)
	case TypeNumbers:
		text := strings.TrimSpace(s)
		if !strings.HasPrefix(text, "[") {
			text = "[" + text + "]"
		}
		// Not into []float64: that would read null as 0.
		var list []any
		err = json.Unmarshal([]byte(text), &list)
		v = list
	}
	if err != nil || o.check(v) != "" {
		return nil, fieldErrorf("options."+o.Name, "is %q, must be %s", clip(s), o.Constraint())
	}
	return v, nil
}

// Number returns a JSON number, or any Go integer or float, as a float64.
func Number(v any) (float64, bool) {
	if n, ok := v.(json.Number); ok {
		f, err := n.Float64()
		return f, err == nil
	}
	switch n := reflect.ValueOf(v); {
	case n.CanFloat():
		return n.Float(), true
	case n.CanInt():
		return float64(n.Int()), true
	case n.CanUint():
		return float64(n.Uint()), true
	}
	return 0, false
}

// Numbers returns a JSON array of numbers, or a []float64, as a []float64.
func Numbers(v any) ([]float64, bool) {
	switch list := v.(type) {
	case []float64:
		return list, true
	case []any:
		out := make([]float64, len(list))
		for i, e := range list {
			f, ok := Number(e)
			if !ok {
				return nil, false
			}
			out[i] = f
		}
		return out, true
	}
	return nil, false
}

func show(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("a %T", v)
	}
	return clip(string(b))
}
