package jobs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/jobs"
)

const goodRequest = `{"schema":"meshmill.job.v1","id":"chair-1","provider":"csm",
 "image":{"object":"inputs/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.png","media_type":"image/png","name":"chairs/oak.png"},
 "options":{"geometry_model":"turbo","texture_model":"pbr","scaled_bbox":[1,1,-1]},
 "formats":["glb","obj"],"batch":"spring","labels":{"sku":"123"},"enqueued_at":"2026-11-20T10:00:00Z"}`

func TestDecodeRequest(t *testing.T) {
	t.Parallel()
	got, err := jobs.DecodeRequest([]byte(goodRequest))
	if err != nil {
		t.Fatal(err)
	}
	want := &jobs.Request{
		Schema: "meshmill.job.v1", ID: "chair-1", Provider: "csm",
		Image:   jobs.Image{Object: "inputs/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.png", MediaType: "image/png", Name: "chairs/oak.png"},
		Options: map[string]any{"geometry_model": "turbo", "texture_model": "pbr", "scaled_bbox": []any{1.0, 1.0, -1.0}},
		Formats: []string{"glb", "obj"}, Batch: "spring", Labels: map[string]string{"sku": "123"},
		EnqueuedAt: time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

func TestDecodeRequestRefuses(t *testing.T) {
	t.Parallel()
	change := func(old, new string) string {
		if !strings.Contains(goodRequest, old) {
			t.Fatalf("no %s in the request", old)
		}
		return strings.Replace(goodRequest, old, new, 1)
	}
	object := `"object":"inputs/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.png"`
	tests := map[string]struct{ body, want string }{
		"empty":            {"", "not valid"},
		"array":            {"[]", "not valid"},
		"null":             {"null", "schema"},
		"more":             {goodRequest + "{}", "follows"},
		"misspelt field":   {change(`"formats"`, `"format"`), "format"},
		"misspelt image":   {change(`"name"`, `"nam"`), "nam"},
		"large":            {change(`"spring"`, `"`+strings.Repeat("x", jobs.MaxRequestBytes)+`"`), "bytes"},
		"schema":           {change("job.v1", "job.v2"), "schema"},
		"id empty":         {change("chair-1", ""), "id"},
		"id dot":           {change("chair-1", "chair.1"), "id"},
		"id long":          {change("chair-1", strings.Repeat("x", 65)), "id"},
		"id newline":       {change("chair-1", `x\n`), "id"},
		"provider":         {change(`"csm"`, `"c*"`), "provider"},
		"no image":         {change(object+",", ""), "image"},
		"two images":       {change(object, object+`,"url":"https://example.com/"`), "image"},
		"object elsewhere": {change(`inputs/e3`, `inputs/../e3`), "image.object"},
		"scheme":           {change(object, `"url":"file:///etc/passwd"`), "image.url"},
		"no host":          {change(object, `"url":"https://:443/x"`), "image.url"},
		"password":         {change(object, `"url":"https://u:secret@example.com/x"`), "image.url"},
		"long url":         {change(object, `"url":"https://example.com/`+strings.Repeat("x", 8192)+`"`), "image.url"},
		"media type":       {change("image/png", "image/gif"), "image.media_type"},
		"format":           {change(`"glb"`, `"g/b"`), "formats[0]"},
		"formats":          {change(`["glb","obj"]`, `["a`+strings.Repeat(`","a`, 16)+`"]`), "formats"},
		"batch":            {change("spring", `a\u0085b`), "batch"},
		"signed option":    {change(`"turbo"`, `"https://example.com/x?X-Amz-Signature=a"`), "options.geometry_model"},
		"password option":  {change(`"turbo"`, `"https://u:p@example.com/x"`), "options.geometry_model"},
		"label key":        {change(`"sku"`, `""`), "labels"},
		"label value":      {change(`"123"`, `"`+strings.Repeat("1", 257)+`"`), "labels.sku"},
		"time":             {change("2026-11-20T10:00:00Z", "yesterday"), "not valid"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := jobs.DecodeRequest([]byte(tc.body))
			if err == nil {
				t.Fatalf("taken: %+v", r)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("err = %q, want it to name %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("err = %q tells a password", err)
			}
		})
	}
}

func TestValidateReportsEverything(t *testing.T) {
	t.Parallel()
	r := jobs.Request{Schema: "x", ID: "a b", Provider: "", Labels: map[string]string{"a\n": "", "b": "\x00"}, Formats: []string{"GLB"}}
	err := r.Validate()
	var fields []string
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		f, ok := errors.AsType[*jobs.FieldError](e)
		if !ok {
			t.Errorf("%v is no field error", e)
			continue
		}
		fields = append(fields, f.Field)
	}
	want := []string{"schema", "id", "provider", "image", "formats[0]", "labels", "labels.b"}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	for range 20 {
		if again := r.Validate().Error(); again != err.Error() {
			t.Fatalf("the text changes from\n%v\nto\n%v", err, again)
		}
	}
}

func TestImagePublic(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "",
		"https://example.com/a.png?X-Amz-Signature=secret#secret": "https://example.com/a.png",
		"https://user:secret@example.com/a%20b.png":               "https://example.com/a%20b.png",
		"https://example.com/%zz?sig=secret":                      "", // not to be taken apart
	} {
		if got := (jobs.Image{URL: in, Name: "n"}).Public(); got != (jobs.Image{URL: want, Name: "n"}) {
			t.Errorf("Public(%q) = %+v, want %q", in, got, want)
		}
	}
}

func TestParseLane(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]jobs.Lane{"": jobs.Bulk, "bulk": jobs.Bulk, "interactive": jobs.Interactive, "Bulk": "", "x": ""} {
		if got, err := jobs.ParseLane(in); got != want || (err != nil) != (want == "") {
			t.Errorf("ParseLane(%q) = %q, %v", in, got, err)
		}
	}
}

// The ids below are stored in people's brokers and buckets. If this fails, what
// was bought once will be bought again: do not change the values.
func TestDeriveIDIsStable(t *testing.T) {
	t.Parallel()
	object := jobs.Image{Object: "inputs/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.png"}
	var lines strings.Builder
	for _, c := range []struct {
		image    jobs.Image
		provider string
		options  map[string]any
	}{
		{object, "csm", nil},
		{object, "modelslab", nil},
		{object, "csm", map[string]any{"geometry_model": "turbo", "resolution": 128, "scaled_bbox": []any{1, 1, -1}}},
		{jobs.Image{URL: "https://example.com/chair.png"}, "csm", nil},
		{jobs.Image{URL: "https://example.com/chair.png?v=2"}, "csm", map[string]any{"prompt": "a <b> & ü"}},
	} {
		id, err := jobs.DeriveID(c.image, c.provider, c.options)
		if err != nil {
			t.Fatal(err)
		}
		if err := jobs.CheckID(id); err != nil {
			t.Error(err)
		}
		fmt.Fprintf(&lines, "%s %s%s %s %v\n", id, c.image.Object, c.image.URL, c.provider, c.options)
	}
	golden(t, "ids.txt", lines.String())
}

func TestDeriveIDSameWork(t *testing.T) {
	t.Parallel()
	id := func(image jobs.Image, options map[string]any) string {
		got, err := jobs.DeriveID(image, "csm", options)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	const hash = "inputs/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	png := jobs.Image{Object: hash + ".png"}
	same := map[string]string{
		"name":      id(jobs.Image{Object: hash + ".png", Name: "x", MediaType: "image/png"}, nil),
		"extension": id(jobs.Image{Object: hash + ".jpg"}, nil),
		"empty map": id(png, map[string]any{}),
	}
	for what, got := range same {
		if got != id(png, nil) {
			t.Errorf("%s changes the id", what)
		}
	}
	base := map[string]any{"a": 1.0, "list": []any{1.0, 2.5}, "big": float64(1 << 53)}
	for what, options := range map[string]map[string]any{
		"int":         {"a": 1, "list": []any{1, 2.5}, "big": 1 << 53},
		"int64":       {"a": int64(1), "list": []float64{1, 2.5}, "big": int64(1 << 53)},
		"json.Number": {"a": json.Number("1.0"), "list": []any{json.Number("1"), json.Number("2.50")}, "big": json.Number("9007199254740992")},
	} {
		if id(png, options) != id(png, base) {
			t.Errorf("numbers as %s change the id", what)
		}
	}
	different := []string{
		id(png, nil), id(png, base), id(png, map[string]any{"a": 2.0}), id(png, map[string]any{"a": "1"}), id(png, map[string]any{"a": nil}),
		id(jobs.Image{URL: "https://example.com/"}, nil), id(jobs.Image{URL: "https://example.com/?"}, nil),
	}
	slices.Sort(different)
	if n := len(slices.Compact(different)); n != 7 {
		t.Errorf("%d different ids, want 7", n)
	}
	if _, err := jobs.DeriveID(png, "csm", map[string]any{"f": func() {}}); err == nil {
		t.Error("options that are no JSON have an id")
	}
}

func TestFreshID(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 100 {
		id := jobs.FreshID()
		if err := jobs.CheckID(id); err != nil || seen[id] {
			t.Fatalf("%q: %v, twice %v", id, err, seen[id])
		}
		seen[id] = true
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(goodRequest))
	f.Add([]byte(`{"schema":"meshmill.job.v1","id":"a","provider":"csm","image":{"url":"https://example.com/?a=b"},"options":{"a":1e20,"b":null}}`))
	f.Add([]byte(`{"ID":"a","id":"b"}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := jobs.DecodeRequest(data)
		if err != nil {
			return
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("taken, and not valid: %v", err)
		}
		body, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if len(body) > jobs.MaxRequestBytes {
			return // escaping can make it longer
		}
		again, err := jobs.DecodeRequest(body)
		if err != nil {
			t.Fatalf("not taken a second time: %v\n%s", err, body)
		}
		if diff := cmp.Diff(r, again); diff != "" {
			t.Fatalf("differs after a round (-first +second):\n%s", diff)
		}
		one, err1 := jobs.DeriveID(r.Image, r.Provider, r.Options)
		two, err2 := jobs.DeriveID(again.Image, again.Provider, again.Options)
		if err1 != nil || err2 != nil || one != two {
			t.Fatalf("ids %q, %q, %v, %v", one, two, err1, err2)
		}
		if p := r.Image.Public(); strings.Contains(p.URL, "?") {
			t.Fatalf("public URL %q has a query", p.URL)
		}
	})
}

// golden compares with a file in testdata, or writes it with UPDATE_GOLDEN=1.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := "testdata/" + name
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}
