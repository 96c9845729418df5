package modelslab_test

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/modelslab"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	type opts = map[string]any
	tests := map[string]struct {
		options opts
		formats []string
		want    []string
		warns   []string // one text for each warning
	}{
		"nothing":                      {nil, nil, []string{"glb"}, nil},
		"a format":                     {nil, []string{"stl"}, []string{"stl"}, nil},
		"the option":                   {opts{"output_format": "ply"}, nil, []string{"ply"}, nil},
		"both, and they agree":         {opts{"output_format": "obj"}, []string{"obj", "obj"}, []string{"obj"}, nil},
		"a video comes along":          {opts{"render": true}, nil, []string{"glb", "mp4"}, nil},
		"a video is not wanted":        {opts{"render": true}, []string{"glb"}, []string{"glb"}, nil},
		"a video and a mesh":           {opts{"render": true}, []string{"mp4", "obj"}, []string{"mp4", "obj"}, nil},
		"a video alone":                {opts{"render": true, "output_format": "obj"}, []string{"mp4"}, []string{"mp4"}, nil},
		"instantmesh makes obj":        {opts{"model_id": "instantmesh"}, nil, []string{"obj"}, nil},
		"instantmesh asked for glb":    {opts{"model_id": "instantmesh"}, []string{"glb"}, []string{"glb"}, []string{"documented to make obj"}},
		"another model":                {opts{"model_id": "new"}, nil, []string{"glb"}, []string{"not documented"}},
		"two interfaces":               {opts{"model_id": "instantmesh", "ss_sampling_steps": 5}, nil, []string{"obj"}, []string{"model_id are of the older"}},
		"ratio without its background": {opts{"foreground_ratio": 0.5}, nil, []string{"glb"}, []string{"remove_bg=true"}},
		"ratio with its background":    {opts{"foreground_ratio": 0.5, "remove_bg": true}, nil, []string{"glb"}, nil},
		"temporary files":              {opts{"temp": "yes"}, nil, []string{"glb"}, []string{"temp=yes"}},
		"JSON's own numbers":           {opts{"seed": json.Number("3480183101"), "resolution": json.Number("256.0")}, nil, []string{"glb"}, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// No key is needed to plan.
			plan, err := modelslab.NewProvider(nil).Plan(tc.options, tc.formats)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, plan.Formats); d != "" {
				t.Errorf("formats (-want +got):\n%s", d)
			}
			if !slices.EqualFunc(plan.Warnings, tc.warns, strings.Contains) {
				t.Errorf("warnings %q, want %q", plan.Warnings, tc.warns)
			}
			if plan.SubmitTimeout != 180*time.Second || plan.Mode == "" {
				t.Errorf("plan %+v", plan)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	type opts = map[string]any
	tests := map[string]struct {
		options opts
		formats []string
		want    []string // each mistake, by a part of its text
	}{
		"two meshes":          {nil, []string{"glb", "obj"}, []string{"formats has glb and obj, must be one mesh format"}},
		"two words for it":    {opts{"output_format": "glb"}, []string{"obj"}, []string{"formats has obj but options.output_format is glb"}},
		"video without order": {nil, []string{"glb", "mp4"}, []string{"formats[1] is mp4, which is made only with options.render=true"}},
		"video turned off":    {opts{"render": false}, []string{"mp4"}, []string{"formats[0] is mp4"}},
		"unknown format":      {nil, []string{"usdz"}, []string{`formats[0] is "usdz", must be one of glb, obj, stl, ply`}},
		"bool for temp":       {opts{"temp": true}, nil, []string{"options.temp is true, must be one of yes, no"}},
		"the image's name":    {opts{"image": imageURL, "init_image": imageURL, "key": "k"}, nil, []string{"options.image is unknown", "options.init_image", "options.key"}},
		"plain http webhook":  {opts{"webhook": "http://hooks.example/secret"}, nil, []string{"options.webhook must be an https URL"}},
		"empty model":         {opts{"model_id": " "}, nil, []string{"options.model_id is empty"}},
		"every range": {opts{"resolution": 513, "chunk_size": 12001, "seed": -1, "foreground_ratio": 1.1, "ss_sampling_steps": 51,
			"slat_sampling_steps": 0, "slat_guidance_strength": 10.5, "mesh_simplify": 0.99, "ss_guidance_strength": math.Inf(1), "output_format": "fbx"}, nil,
			[]string{"options.chunk_size", "options.foreground_ratio", "options.mesh_simplify", "options.output_format", "options.resolution",
				"options.seed", "options.slat_guidance_strength", "options.slat_sampling_steps", "options.ss_guidance_strength", "options.ss_sampling_steps"}},
		"an option and a format": {opts{"output_format": "fbx"}, []string{"usdz"}, []string{"options.output_format", "formats[0]"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := modelslab.NewProvider(nil).Plan(tc.options, tc.formats)
			if err == nil {
				t.Fatal("no error")
			}
			lines := strings.Split(err.Error(), "\n")
			if !slices.EqualFunc(lines, tc.want, strings.Contains) {
				t.Errorf("errors %q, want %q", lines, tc.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the webhook's path is shown: %v", err)
			}
			joined, _ := err.(interface{ Unwrap() []error })
			for _, e := range joined.Unwrap() {
				if _, ok := e.(*jobs.FieldError); !ok {
					t.Errorf("%v is a %T, want a *jobs.FieldError", e, e)
				}
			}
			// The same at the call, before anything is sent.
			s := serve(t, 200, seedAnswer)
			p := modelslab.NewProvider(client(t, modelslab.Config{BaseURL: s.URL}))
			_, err = submit(t.Context(), p, tc.options, tc.formats...)
			if f := fault(t, err); f.Kind != jobs.Permanent || len(s.requests()) != 0 {
				t.Errorf("submit: %v, %d requests", err, len(s.requests()))
			}
		})
	}
}

// The adapter always names the mesh format, so that the files are the plan's.
func TestSubmitSendsTheFormatOfThePlan(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		options map[string]any
		formats []string
		want    string
	}{
		"default":     {nil, nil, `"output_format":"glb"`},
		"by format":   {map[string]any{"render": true}, []string{"mp4", "stl"}, `"output_format":"stl"`},
		"by option":   {map[string]any{"output_format": "ply"}, nil, `"output_format":"ply"`},
		"instantmesh": {map[string]any{"model_id": "instantmesh"}, nil, `"output_format":"obj"`},
	} {
		s := serve(t, 200, `{"status":"processing","id":1}`)
		if _, err := submit(t.Context(), modelslab.NewProvider(client(t, modelslab.Config{BaseURL: s.URL})), tc.options, tc.formats...); err != nil {
			t.Fatal(err)
		}
		if body := s.one(t).body; !strings.Contains(body, tc.want) {
			t.Errorf("%s: body %s, want %s", name, body, tc.want)
		}
	}
}

func TestFileFormats(t *testing.T) {
	t.Parallel()
	body := `{"status":"success","id":1,"output":["https://f.example/a.obj?x=.stl","https://f.example/b","https://f.example/c.php","https://f.example/d.GLB","https://f.example/"]}`
	s, err := provider(t, 200, body).Poll(t.Context(), jobs.Ref{Session: "1", Formats: []string{"ply"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range s.Files {
		got = append(got, f.Format)
	}
	if d := cmp.Diff([]string{"obj", "ply", "ply", "glb", "ply"}, got); d != "" {
		t.Errorf("formats (-want +got):\n%s", d)
	}
	// What was bought is fetched, even if these options would be refused today.
	s, err = provider(t, 200, body).Poll(t.Context(), jobs.Ref{Session: "1", Options: map[string]any{"retired": 1.0}})
	if err != nil || s.Phase != jobs.Done {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestSubmitRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	s := serve(t, 200, seedAnswer)
	p := modelslab.NewProvider(client(t, modelslab.Config{BaseURL: s.URL}))
	for name, call := range map[string]jobs.Call{
		"another stage":    {Stage: "refine", Session: "1", Image: jobs.Delivery{URL: imageURL}},
		"bytes":            {Stage: "create", Image: jobs.Delivery{Bytes: []byte("x"), MediaType: "image/png"}},
		"a data URI":       {Stage: "create", Image: jobs.Delivery{URL: "data:image/png;base64,AAAA"}},
		"a password in it": {Stage: "create", Image: jobs.Delivery{URL: "https://u:p@x.example/a.png"}},
	} {
		_, err := p.Submit(t.Context(), call)
		if f := fault(t, err); f.Kind != jobs.Permanent || strings.Contains(err.Error(), "base64,") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(s.requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestWithoutAKey(t *testing.T) {
	t.Parallel()
	p := modelslab.NewProvider(nil)
	_, err1 := submit(t.Context(), p, nil)
	_, err2 := p.Poll(t.Context(), jobs.Ref{Session: "1"})
	_, err3 := p.Upload(t.Context(), []byte("x"), "image/png")
	for _, err := range []error{err1, err2, err3} {
		checkFault(t, err, wantFault{permanent, false, 0, "set MODELSLAB_API_KEY"})
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		cfg  modelslab.Config
		want string
	}{
		"no key":           {modelslab.Config{}, "MODELSLAB_API_KEY"},
		"blank key":        {modelslab.Config{Key: " \n"}, "MODELSLAB_API_KEY"},
		"two keys":         {modelslab.Config{Key: key + "\n" + key}, "MODELSLAB_API_KEY"},
		"no host":          {modelslab.Config{Key: key, BaseURL: "modelslab.com/api/v6"}, "MODELSLAB_BASE_URL"},
		"query in it":      {modelslab.Config{Key: key, BaseURL: "https://modelslab.com/?x=1"}, "MODELSLAB_BASE_URL"},
		"unknown field":    {modelslab.Config{Key: key, ImageField: "img"}, "init_image"},
		"another protocol": {modelslab.Config{Key: key, BaseURL: "ftp://modelslab.com"}, "MODELSLAB_BASE_URL"},
	} {
		_, err := modelslab.New(tc.cfg)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v, want %s named", name, err, tc.want)
		}
	}
	if _, err := modelslab.New(modelslab.Config{Key: key + "\n"}); err != nil {
		t.Errorf("a key with a newline after it, as files have: %v", err)
	}
}

func TestValidateNamesFieldsAsOnTheWire(t *testing.T) {
	t.Parallel()
	err := modelslab.CreateRequest{Resolution: new(600), Temp: "maybe", MeshSimplify: new(math.NaN()), Seed: new(int64(1<<53 + 2))}.Validate()
	want := []string{"image is empty", "mesh_simplify is a float64, must be", "resolution is 600", "seed is", `temp is "maybe"`}
	if got := strings.Split(err.Error(), "\n"); !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("errors %q, want %q", got, want)
	}
	if err := seedRequest().Validate(); err != nil {
		t.Error(err)
	}
}

// The mesh format decides what is bought, so it belongs to the options that a
// job's id is derived from; a format that would be made anyway does not.
func TestPlanOptions(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		options map[string]any
		formats []string
		want    map[string]any
	}{
		"nothing asked for":      {nil, nil, nil},
		"the default format":     {nil, []string{"glb"}, nil},
		"another format":         {nil, []string{"obj"}, map[string]any{"output_format": "obj"}},
		"the older model's own":  {map[string]any{"model_id": "instantmesh"}, []string{"obj"}, map[string]any{"model_id": "instantmesh"}},
		"not the older model's":  {map[string]any{"model_id": "instantmesh"}, []string{"glb"}, map[string]any{"model_id": "instantmesh", "output_format": "glb"}},
		"named as an option too": {map[string]any{"output_format": "stl"}, []string{"stl"}, map[string]any{"output_format": "stl"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan, err := modelslab.NewProvider(nil).Plan(tc.options, tc.formats)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, plan.Options); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
		})
	}
}
