package csm_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/csm"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// problems returns the field errors that err joins, by field.
func problems(err error) map[string]string {
	out := map[string]string{}
	var walk func(error)
	walk = func(err error) {
		switch e := err.(type) {
		case *jobs.FieldError:
			out[e.Field] += e.Problem
		case interface{ Unwrap() []error }:
			for _, one := range e.Unwrap() {
				walk(one)
			}
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		}
	}
	walk(err)
	return out
}

func TestPlan(t *testing.T) {
	t.Parallel()
	type opts = map[string]any
	p := csm.NewProvider(nil)
	glb := []string{"glb"}
	for name, tc := range map[string]struct {
		options opts
		mode    string
		typical time.Duration
		warns   string
	}{
		"nothing":              {nil, "v2 base", 0, ""},
		"common only":          {opts{"topology": "quads", "scaled_bbox": []any{-1.0, -1.0, 2.0}}, "v2 base", 0, ""},
		"v2 turbo pbr":         {opts{"geometry_model": "turbo", "texture_model": "pbr"}, "v2 turbo with pbr texture", 0, ""},
		"v2 symmetry":          {opts{"symmetry": "off", "texture_model": "none"}, "v2 base", 0, ""},
		"v2 box":               {opts{"preserve_aspect_ratio": true, "scaled_bbox": []float64{1, 2, 3}}, "v2 base", 0, ""},
		"sculpt":               {opts{"preview_mesh": "fast_sculpt"}, "v1 sculpt", 2 * time.Minute, ""},
		"sculpt textured":      {opts{"generate_texture": true}, "v1 sculpt with textures", 2 * time.Minute, ""},
		"turbo":                {opts{"preview_mesh": "turbo"}, "v1 turbo preview", 2 * time.Minute, ""},
		"turbo refined":        {opts{"preview_mesh": "turbo", "refine_speed": "slow"}, "v1 refine", 92 * time.Minute, ""},
		"turbo auto":           {opts{"preview_mesh": "turbo", "auto_refine": true}, "v1 refine", 92 * time.Minute, ""},
		"turbo fast":           {opts{"preview_mesh": "turbo", "refine_speed": "fast"}, "v1 fast refine", 12 * time.Minute, "deprecated"},
		"sculpt auto":          {opts{"auto_refine": true}, "v1 sculpt, refined", 92 * time.Minute, ""},
		"sculpt auto fast":     {opts{"auto_refine": true, "refine_speed": "fast"}, "v1 sculpt, refined", 12 * time.Minute, ""},
		"speed without effect": {opts{"refine_speed": "fast"}, "v1 sculpt", 2 * time.Minute, "no effect"},
		"texture resolution":   {opts{"texture_resolution": 512.0, "scaled_bbox": []any{0.1, 1.0, 2.0}, "pivot_point": []any{-0.5, 0.0, 0.5}}, "v1 sculpt", 2 * time.Minute, ""},
		"spin":                 {opts{"selected_spin_index": 3.0, "selected_spin": "https://f.example/s3.mp4"}, "v1 sculpt", 2 * time.Minute, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := maps.Clone(tc.options)
			plan, err := p.Plan(tc.options, nil)
			if err != nil {
				t.Fatal(err)
			}
			if plan.Mode != tc.mode || plan.Typical != tc.typical || !slices.Equal(plan.Formats, glb) {
				t.Errorf("plan %+v, want mode %q, typically %v", plan, tc.mode, tc.typical)
			}
			if got := strings.Join(plan.Warnings, " "); (got == "") != (tc.warns == "") || !strings.Contains(got, tc.warns) {
				t.Errorf("warnings %q, want %q", got, tc.warns)
			}
			if diff := cmp.Diff(before, tc.options); diff != "" {
				t.Errorf("Plan changed the options:\n%s", diff)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	type opts = map[string]any
	p := csm.NewProvider(nil)
	for name, tc := range map[string]struct {
		options opts
		formats []string
		want    map[string]string // field: part of the problem
	}{
		"mix of generations": {opts{"preview_mesh": "turbo", "texture_model": "pbr", "topology": "tris"}, nil,
			map[string]string{"options.preview_mesh": "belongs to CSM's v1 sessions, but options.texture_model to its v2 sessions"}},
		"texture on turbo":  {opts{"preview_mesh": "turbo", "generate_texture": true}, nil, map[string]string{"options.generate_texture": "fast_sculpt only"}},
		"ratio without box": {opts{"preserve_aspect_ratio": true}, nil, map[string]string{"options.preserve_aspect_ratio": "needs options.scaled_bbox"}},
		"v1 automatic box":  {opts{"creativity": "lowest", "scaled_bbox": []any{-1.0, 1.0, 1.0}}, nil, map[string]string{"options.scaled_bbox": "has -1, each must be above 0"}},
		"v1 box of nothing": {opts{"creativity": "lowest", "scaled_bbox": []any{1.0, 0.0, 1.0}}, nil, map[string]string{"options.scaled_bbox": "has 0, each must be above 0"}},
		"v2 box of nothing": {opts{"scaled_bbox": []any{1.0, 0.0, 1.0}}, nil, map[string]string{"options.scaled_bbox": "or -1 to leave"}},
		"v2 negative box":   {opts{"scaled_bbox": []any{-0.5, 1.0, 1.0}}, nil, map[string]string{"options.scaled_bbox": "has -0.5"}},
		"box below -1":      {opts{"scaled_bbox": []any{-2.0, 1.0, 1.0}}, nil, map[string]string{"options.scaled_bbox": "must be a list of 3 numbers of at least -1"}},
		"short box":         {opts{"scaled_bbox": []any{1.0, 1.0}}, nil, map[string]string{"options.scaled_bbox": "must be a list of 3 numbers"}},
		"pivot outside":     {opts{"pivot_point": []any{0.0, 0.6, 0.0}}, nil, map[string]string{"options.pivot_point": "from -0.5 to 0.5"}},
		"odd resolution":    {opts{"texture_resolution": 300.0}, nil, map[string]string{"options.texture_resolution": "one of 128, 256, 512, 1024, 2048"}},
		"fifth spin":        {opts{"selected_spin_index": 4.0}, nil, map[string]string{"options.selected_spin_index": "one of 0, 1, 2, 3"}},
		"spin without choice": {opts{"generate_preview_mesh": true, "selected_spin_index": 1.0, "selected_spin": "https://a/b"}, nil,
			map[string]string{"options.selected_spin_index": "contradicts", "options.selected_spin": "contradicts"}},
		"null":             {opts{"topology": nil}, nil, map[string]string{"options.topology": "one of tris, quads"}},
		"unknown":          {opts{"colour": "red"}, nil, map[string]string{"options.colour": "unknown, known are auto_refine, creativity"}},
		"image in options": {opts{"image_url": "https://a/b.png"}, nil, map[string]string{"options.image_url": "unknown"}},
		"unknown format":   {nil, []string{"glb", "dwg"}, map[string]string{"formats[1]": "CSM makes glb, obj, fbx, usdz, zip, mp4"}},
		"format twice":     {nil, []string{"glb", "obj", "glb"}, map[string]string{"formats[2]": "repeats glb"}},
		"all at once": {opts{"creativity": "wild", "auto_refine": "yes", "preserve_aspect_ratio": true}, []string{"dwg"},
			map[string]string{"options.creativity": "one of", "options.auto_refine": "true or false" + "belongs", "options.preserve_aspect_ratio": "needs", "formats[0]": "dwg"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan, err := p.Plan(tc.options, tc.formats)
			if plan != nil || err == nil {
				t.Fatalf("Plan = %+v, %v", plan, err)
			}
			got := problems(err)
			if diff := cmp.Diff(slices.Sorted(maps.Keys(tc.want)), slices.Sorted(maps.Keys(got))); diff != "" {
				t.Fatalf("fields (-want +got):\n%s\n%v", diff, err)
			}
			for field, words := range tc.want {
				if !strings.Contains(got[field], words) {
					t.Errorf("%s %s, want %q", field, got[field], words)
				}
			}
		})
	}
}

func TestTypedRequestsAreChecked(t *testing.T) {
	t.Parallel()
	a := newAccount(t, nil)
	c := a.client(t)
	nan := 0.0
	nan /= nan
	for name, tc := range map[string]struct {
		r     csm.CreateRequest
		field string
	}{
		"no image":      {csm.CreateV2Request{}, "image_url"},
		"bare base64":   {csm.CreateV1Request{ImageURL: "iVBORw0KGgo="}, "image_url"},
		"no base64":     {csm.CreateV1Request{ImageURL: "data:image/png,abc"}, "image_url"},
		"not an image":  {csm.CreateV1Request{ImageURL: "data:text/html;base64,abc"}, "image_url"},
		"v1 topology":   {csm.CreateV1Request{ImageURL: photo, Topology: "hexes"}, "topology"},
		"v1 resolution": {csm.CreateV1Request{ImageURL: photo, TextureResolution: 100}, "texture_resolution"},
		"v1 box":        {csm.CreateV1Request{ImageURL: photo, ScaledBBox: &[3]float64{-1, 1, 1}}, "scaled_bbox"},
		"v1 pivot":      {csm.CreateV1Request{ImageURL: photo, PivotPoint: &[3]float64{1, 0, 0}}, "pivot_point"},
		"v1 texture":    {csm.CreateV1Request{ImageURL: photo, PreviewMesh: "turbo", GenerateTexture: new(true)}, "generate_texture"},
		"v2 geometry":   {csm.CreateV2Request{ImageURL: photo, GeometryModel: "fast"}, "geometry_model"},
		"v2 ratio":      {csm.CreateV2Request{ImageURL: photo, PreserveAspectRatio: new(true)}, "preserve_aspect_ratio"},
		"v2 box":        {csm.CreateV2Request{ImageURL: photo, ScaledBBox: &[3]float64{0, 1, 1}}, "scaled_bbox"},
		"not a number":  {csm.CreateV2Request{ImageURL: photo, ScaledBBox: &[3]float64{nan, 1, 1}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := c.CreateSession(t.Context(), tc.r)
			if err == nil || jobs.KindOf(err) != jobs.Permanent {
				t.Fatalf("error %v, want a permanent one", err)
			}
			if _, ok := problems(err)[tc.field]; !ok && tc.field != "" {
				t.Errorf("error %v does not name %s", err, tc.field)
			}
		})
	}
	for name, call := range map[string]func() error{
		"spin index": func() error {
			_, err := c.Get3DPreview(t.Context(), code, csm.PreviewRequest{SelectedSpinIndex: new(4)})
			return err
		},
		"spin URL": func() error {
			_, err := c.Get3DPreview(t.Context(), code, csm.PreviewRequest{SelectedSpin: "spin"})
			return err
		},
		"refine box": func() error {
			_, err := c.Get3DRefine(t.Context(), code, csm.RefineRequest{ScaledBBox: &[3]float64{-1, 1, 1}})
			return err
		},
		"no code":     func() error { _, err := c.Get3DRefine(t.Context(), "", csm.RefineRequest{}); return err },
		"dots":        func() error { _, err := c.GetSession(t.Context(), ".."); return err },
		"line end":    func() error { _, err := c.GetSession(t.Context(), "a\nb"); return err },
		"long code":   func() error { _, err := c.GetSession(t.Context(), strings.Repeat("a", 201)); return err },
		"long page":   func() error { _, err := c.ListSessions(t.Context(), 1000, 0); return err },
		"page before": func() error { _, err := c.ListSessions(t.Context(), 10, -1); return err },
	} {
		if err := call(); err == nil || jobs.KindOf(err) != jobs.Permanent {
			t.Errorf("%s: error %v, want a permanent one", name, err)
		}
	}
	if seen := a.requests(); len(seen) > 0 {
		t.Errorf("requests were sent: %v", seen)
	}
}

func TestSubmitRefusesBeforeSending(t *testing.T) {
	t.Parallel()
	a := newAccount(t, map[string]string{"POST " + createPath: created})
	p := csm.NewProvider(a.client(t))
	for name, call := range map[string]jobs.Call{
		"no image":      {Stage: "create"},
		"not an image":  {Stage: "create", Image: jobs.Delivery{Bytes: []byte("hello")}},
		"another type":  {Stage: "create", Image: jobs.Delivery{Bytes: []byte("hello"), MediaType: "text/plain"}},
		"odd URL":       {Stage: "create", Image: jobs.Delivery{URL: "inputs/a.png"}},
		"unknown stage": {Stage: "polish", Session: code},
		"no stage":      {Image: jobs.Delivery{URL: photo}},
		"no session":    {Stage: "preview"},
		"bad input":     {Stage: "preview", Session: code, Options: map[string]any{"preview_mesh": "turbo"}, Input: []byte(`{`)},
		"mix":           {Stage: "create", Image: jobs.Delivery{URL: photo}, Options: map[string]any{"symmetry": "off", "creativity": "lowest"}},
	} {
		s, err := p.Submit(t.Context(), call)
		if _, ok := errors.AsType[*jobs.Fault](err); !ok || s != nil || jobs.KindOf(err) != jobs.Permanent {
			t.Errorf("%s: Submit = %v, %v; want a permanent fault", name, s, err)
		}
	}
	if seen := a.requests(); len(seen) > 0 {
		t.Errorf("requests were sent: %v", seen)
	}
}

func TestCatalogIsTheCallers(t *testing.T) {
	t.Parallel()
	p := csm.NewProvider(nil)
	c := p.Catalog()
	c.Options[0].Name, c.Formats[0], c.Presets[0].Options["preview_mesh"] = "x", "x", "x"
	if got := p.Catalog(); got.Options[0].Name == "x" || got.Formats[0] == "x" || got.Presets[0].Options["preview_mesh"] == "x" {
		t.Error("a caller can change the catalog of others")
	}
}
