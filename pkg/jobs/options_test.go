package jobs_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/jobs"
)

var options = []jobs.Option{
	{Name: "flag", Type: jobs.TypeBool},
	{Name: "text", Type: jobs.TypeString},
	{Name: "model", Type: jobs.TypeString, Allowed: []any{"base", "turbo"}},
	{Name: "link", Type: jobs.TypeURL},
	{Name: "count", Type: jobs.TypeInt, Min: new(1.0), Max: new(512.0)},
	{Name: "spin", Type: jobs.TypeInt, Allowed: []any{0, 1, 2}},
	{Name: "any", Type: jobs.TypeInt},
	{Name: "scale", Type: jobs.TypeNumber, Min: new(0.5)},
	{Name: "least", Type: jobs.TypeNumber, Max: new(1.5)},
	{Name: "box", Type: jobs.TypeNumbers, Length: 3, Min: new(-1.0)},
	{Name: "list", Type: jobs.TypeNumbers},
}

func option(t testing.TB, name string) *jobs.Option {
	t.Helper()
	for i := range options {
		if options[i].Name == name {
			return &options[i]
		}
	}
	t.Fatalf("no option %q", name)
	return nil
}

func TestCheckOptions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		value any
		want  string // in the error; empty: it is right
	}{
		{"flag", true, ""},
		{"flag", "true", `is "true", must be true or false`},
		{"flag", nil, "is null, must be true or false"},
		{"text", "", ""},
		{"text", 1.0, "must be text"},
		{"model", "turbo", ""},
		{"model", "Turbo", `is "Turbo", must be one of base, turbo`},
		{"link", "https://example.com/x", ""},
		{"link", "ftp://example.com/x", "an http or https URL"},
		{"link", "/x", "an http or https URL"},
		{"count", 1.0, ""},
		{"count", 512, ""},
		{"count", int64(7), ""},
		{"count", uint8(7), ""},
		{"count", float32(7), ""},
		{"count", json.Number("7"), ""},
		{"count", 0.0, "is 0, must be a whole number from 1 to 512"},
		{"count", 513, "from 1 to 512"},
		{"count", 1.5, "a whole number"},
		{"count", "7", "a whole number"},
		{"count", json.Number("x"), "a whole number"},
		{"count", math.NaN(), "is a float64, must be a whole number"},
		{"count", true, "a whole number"},
		{"count", nil, "a whole number"},
		{"spin", 2.0, ""},
		{"spin", 3.0, "one of 0, 1, 2"},
		{"any", math.Pow(2, 60), "a whole number"},
		{"scale", 0.5, ""},
		{"scale", 0.4, "a number of at least 0.5"},
		{"scale", math.Inf(1), "a number"},
		{"least", 1.6, "a number of at most 1.5"},
		{"box", []any{1.0, 1, -1.0}, ""},
		{"box", []float64{1, 1, -1}, ""},
		{"box", []any{1.0, 1.0}, "a list of 3 numbers of at least -1"},
		{"box", []any{1.0, 1.0, -2.0}, "a list of 3 numbers"},
		{"box", []any{1.0, 1.0, "x"}, "a list of 3 numbers"},
		{"box", []any{1.0, 1.0, nil}, "a list of 3 numbers"},
		{"list", []any{}, ""},
		{"list", 1.0, "a list of numbers"},
		{"lost", 1.0, "options.lost is unknown, known are any, box,"},
		{strings.Repeat("x", 200), 1.0, "… is unknown"},
	}
	for _, tc := range tests {
		err := jobs.CheckOptions(map[string]any{tc.name: tc.value}, options)
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s = %v: %v", tc.name, tc.value, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s = %v: %v, want %q", tc.name, tc.value, err, tc.want)
		}
		if err != nil {
			if _, ok := errors.AsType[*jobs.FieldError](err); !ok {
				t.Errorf("%s = %v: no field error: %v", tc.name, tc.value, err)
			}
		}
	}
	err := jobs.CheckOptions(map[string]any{"flag": 1, "count": 0, "text": "fine"}, options)
	if got := strings.Count(err.Error(), "options."); got != 2 {
		t.Errorf("%d mistakes are reported, want 2: %v", got, err)
	}
	if err := jobs.CheckOptions(nil, options); err != nil {
		t.Error(err)
	}
}

func TestOptionParse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       any // nil: an error
	}{
		{"flag", "true", true},
		{"flag", "yes", nil},
		{"text", "12", "12"},
		{"model", "turbo", "turbo"},
		{"model", "", nil},
		{"link", "https://example.com/", "https://example.com/"},
		{"count", "12", 12.0},
		{"count", "12.5", nil},
		{"count", "", nil},
		{"count", "NaN", nil},
		{"any", "1e400", nil},
		{"scale", "0.5", 0.5},
		{"scale", "Inf", nil},
		{"box", "1,1,-1", []any{1.0, 1.0, -1.0}},
		{"box", "[1, 1, -1]", []any{1.0, 1.0, -1.0}},
		{"box", " 1, 1, -1 ", []any{1.0, 1.0, -1.0}},
		{"box", "1,1", nil},
		{"box", "1,1,null", nil},
		{"box", "1,1,", nil},
		{"box", "[1,1,-1", nil},
		{"box", `1,1,"1"`, nil},
		{"list", "null", nil},
		{"list", "2", []any{2.0}},
	}
	for _, tc := range tests {
		got, err := option(t, tc.name).Parse(tc.text)
		if (err != nil) != (tc.want == nil) {
			t.Errorf("%s=%s: %v, %v", tc.name, tc.text, got, err)
			continue
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s=%s (-want +got):\n%s", tc.name, tc.text, diff)
		}
	}
}

func FuzzOptionParse(f *testing.F) {
	for _, s := range []string{"true", "12", "0x1p3", "1e2", "1,1,-1", "[1,1,-1]", "null", "[null]", "turbo", "https://example.com/", "NaN", "]", "1_000"} {
		for i := range options {
			f.Add(i, s)
		}
	}
	f.Fuzz(func(t *testing.T, i int, s string) {
		o := options[uint(i)%uint(len(options))]
		v, err := o.Parse(s)
		if err != nil {
			return
		}
		if err := jobs.CheckOptions(map[string]any{o.Name: v}, options); err != nil {
			t.Fatalf("parsed, and not right: %v", err)
		}
		body, err := json.Marshal(v) // it must survive the way to the worker
		if err != nil {
			t.Fatal(err)
		}
		var sent any
		if err := json.Unmarshal(body, &sent); err != nil {
			t.Fatal(err)
		}
		if o.Type == jobs.TypeString || o.Type == jobs.TypeURL {
			return // JSON replaces bytes that are no UTF-8
		}
		if diff := cmp.Diff(v, sent); diff != "" {
			t.Fatalf("%s becomes something else on the wire:\n%s", s, diff)
		}
	})
}
