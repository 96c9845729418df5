package csm_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/csm"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// sent is one request as it was on the wire.
type sent struct {
	Method, Target, Body string
	Key, ContentType     string
}

// account is a server that records what it is sent and answers by path.
type account struct {
	*httptest.Server
	mu   sync.Mutex
	seen []sent
}

// answers maps "METHOD /path" to status and body.
func newAccount(t *testing.T, answers map[string]string) *account {
	t.Helper()
	a := &account{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		a.mu.Lock()
		a.seen = append(a.seen, sent{r.Method, r.RequestURI, string(body), r.Header.Get("x-api-key"), r.Header.Get("Content-Type")})
		a.mu.Unlock()
		answer, ok := answers[r.Method+" "+r.RequestURI]
		if !ok {
			http.Error(w, `{"error":"no such path"}`, http.StatusNotFound)
			return
		}
		status := http.StatusOK
		if r.Method == http.MethodPost && r.URL.Path == "/image-to-3d-sessions" {
			status = http.StatusCreated
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *account) requests() []sent {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]sent(nil), a.seen...)
}

func (a *account) client(t *testing.T) *csm.Client {
	t.Helper()
	c, err := csm.New(csm.Config{Key: "the-key", BaseURL: a.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	created   = `{"error":"","message":"Created","statusCode":201,"data":{"session_code":"SESSION_P_44569824122","status":"spin_generate_processing"}}`
	generates = `{"error":"","message":"Generating Mesh","statusCode":200,"data":{"scenario":"SESSION_P_44569824122","unique_trial_key":"168923176748ZJ@NcRfUjXn2r5u8x","status":"unprocessed","complete_job_data":{"start_time":"1689231769.6472576"}}}`
	photo     = "https://via.placeholder.com/300/09f/fff.png"
	code      = "SESSION_P_44569824122"

	createPath  = "/image-to-3d-sessions"
	sessionPath = "/image-to-3d-sessions/SESSION_P_44569824122"
	previewPath = "/image-to-3d-sessions/get-3d/preview/SESSION_P_44569824122"
	refinePath  = "/image-to-3d-sessions/get-3d/refine/SESSION_P_44569824122"
)

// preset returns the options of a preset as a request holds them.
func preset(t *testing.T, name string) map[string]any {
	t.Helper()
	for _, p := range csm.NewProvider(nil).Catalog().Presets {
		if p.Name == name {
			return p.Options
		}
	}
	t.Fatalf("no preset %q", name)
	return nil
}

// TestWire holds every paid request, of every mode, against CSM's documents.
func TestWire(t *testing.T) {
	t.Parallel()
	create := func(o map[string]any) jobs.Call {
		return jobs.Call{Stage: "create", Image: jobs.Delivery{URL: photo}, Options: o}
	}
	stage := func(name, input string, o map[string]any) jobs.Call {
		return jobs.Call{Stage: name, Session: code, Options: o, Input: json.RawMessage(input)}
	}
	for name, tc := range map[string]struct {
		call jobs.Call
		path string
		body string // from the document named
	}{
		// CSM quick primer, the four modes and its script.
		"sculpt": {create(preset(t, "sculpt")), createPath,
			`{"image_url":"https://via.placeholder.com/300/09f/fff.png","preview_mesh":"fast_sculpt"}`},
		"sculpt with textures": {create(preset(t, "sculpt-textured")), createPath,
			`{"image_url":"https://via.placeholder.com/300/09f/fff.png","preview_mesh":"fast_sculpt","generate_texture":true}`},
		"refine with textures": {create(preset(t, "refine")), createPath,
			`{"image_url":"https://via.placeholder.com/300/09f/fff.png","preview_mesh":"turbo","refine_speed":"slow"}`},
		"fast refine": {create(preset(t, "refine-fast")), createPath,
			`{"image_url":"https://via.placeholder.com/300/09f/fff.png","preview_mesh":"turbo","refine_speed":"fast"}`},
		// CSM v1 create session, code snippets and every parameter.
		"v1 sample": {create(map[string]any{"refine_speed": "fast", "creativity": "lowest"}), createPath,
			`{"image_url":"https://via.placeholder.com/300/09f/fff.png","refine_speed":"fast","creativity":"lowest"}`},
		"v1 all fields": {create(map[string]any{
			"creativity": "highest", "generate_texture": false, "auto_refine": true, "refine_speed": "slow", "preview_mesh": "fast_sculpt",
			"topology": "quads", "resolution": "low_poly", "texture_resolution": 1024.0, "scaled_bbox": []any{1.0, 2.0, 0.5}, "pivot_point": []any{0.0, -0.5, 0.5},
			"generate_preview_mesh": false, "manual_segmentation": false, "selected_spin_index": 2.0, "selected_spin": "https://files.example/s2.mp4",
		}), createPath,
			`{"image_url":"https://via.placeholder.com/300/09f/fff.png","creativity":"highest","generate_texture":false,"auto_refine":true,
			  "refine_speed":"slow","preview_mesh":"fast_sculpt","topology":"quads","resolution":"low_poly","texture_resolution":1024,
			  "scaled_bbox":[1,2,0.5],"pivot_point":[0,-0.5,0.5],"generate_preview_mesh":false,"manual_segmentation":false}`},
		// CSM v2 create session, code snippets and every parameter.
		"v2 turbo pbr": {create(preset(t, "turbo-pbr")), createPath,
			`{"image_url":"https://via.placeholder.com/300/09f/fff.png","geometry_model":"turbo","texture_model":"pbr"}`},
		"v2 without options": {create(nil), createPath,
			`{"image_url":"https://via.placeholder.com/300/09f/fff.png"}`},
		"v2 all fields": {create(map[string]any{
			"geometry_model": "base", "texture_model": "none", "scaled_bbox": []any{-1.0, 1.5, -1.0}, "preserve_aspect_ratio": true, "topology": "tris",
			"resolution": "high_poly", "symmetry": "auto", "pivot_point": []any{0.0, 0.0, 0.0}, "manual_segmentation": true,
		}), createPath,
			`{"image_url":"https://via.placeholder.com/300/09f/fff.png","geometry_model":"base","texture_model":"none","scaled_bbox":[-1,1.5,-1],
			  "preserve_aspect_ratio":true,"topology":"tris","resolution":"high_poly","symmetry":"auto","pivot_point":[0,0,0],"manual_segmentation":true}`},
		"common options": {create(map[string]any{"topology": "quads"}), createPath,
			`{"image_url":"https://via.placeholder.com/300/09f/fff.png","topology":"quads"}`},
		"image bytes": {jobs.Call{Stage: "create", Image: jobs.Delivery{Bytes: []byte("\xff\xd8\xff\xe0"), MediaType: "image/jpeg"}}, createPath,
			`{"image_url":"data:image/jpeg;base64,/9j/4A=="}`},
		"image bytes of unnamed type": {jobs.Call{Stage: "create", Image: jobs.Delivery{Bytes: []byte("\x89PNG\r\n\x1a\n")}}, createPath,
			`{"image_url":"data:image/png;base64,iVBORw0KGgo="}`},
		// CSM v1 get 3D preview.
		"preview for turbo": {stage("preview", `{"selected_spin_index":0,"selected_spin":"https://via.placeholder.com/300/09f/fff.png"}`, preset(t, "refine")), previewPath,
			`{"selected_spin_index":0,"selected_spin":"https://via.placeholder.com/300/09f/fff.png"}`},
		"preview for turbo with all fields": {stage("preview", `{"selected_spin_index":3,"selected_spin":"https://via.placeholder.com/300/09f/fff.png"}`,
			map[string]any{"preview_mesh": "turbo", "selected_spin_index": 3.0, "scaled_bbox": []any{1.0, 1.0, 2.0}, "pivot_point": []any{0.0, 0.5, 0.0}}), previewPath,
			`{"selected_spin_index":3,"selected_spin":"https://via.placeholder.com/300/09f/fff.png","scaled_bbox":[1,1,2],"pivot_point":[0,0.5,0]}`},
		"preview for sculpt": {stage("preview", `{}`, preset(t, "sculpt")), previewPath, `{}`},
		"preview for sculpt with a box": {stage("preview", `{}`, map[string]any{"preview_mesh": "fast_sculpt", "scaled_bbox": []any{1.0, 1.0, 2.0}}), previewPath,
			`{"scaled_bbox":[1,1,2]}`},
		"preview for sculpt with a spin": {stage("preview", `{"selected_spin_index":1,"selected_spin":"https://files.example/s1.mp4"}`,
			map[string]any{"selected_spin_index": 1.0}), previewPath,
			`{"selected_spin_index":1,"selected_spin":"https://files.example/s1.mp4"}`},
		// The get-3d refine call.
		"refine": {stage("refine", `{}`, preset(t, "refine")), refinePath, `{}`},
		"refine with a box": {stage("refine", `{}`, map[string]any{"preview_mesh": "turbo", "refine_speed": "slow", "scaled_bbox": []any{1.0, 1.0, 2.0}, "pivot_point": []any{0.1, 0.0, 0.0}}), refinePath,
			`{"scaled_bbox":[1,1,2],"pivot_point":[0.1,0,0]}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAccount(t, map[string]string{"POST " + createPath: created, "POST " + previewPath: generates, "POST " + refinePath: generates})
			s, err := csm.NewProvider(a.client(t)).Submit(t.Context(), tc.call)
			if err != nil {
				t.Fatal(err)
			}
			if s.ID != code {
				t.Errorf("session %q", s.ID)
			}
			a.expect(t, sent{"POST", tc.path, tc.body, "the-key", "application/json"})
		})
	}
}

// expect asserts that exactly these requests were sent, bodies as JSON.
func (a *account) expect(t *testing.T, want ...sent) {
	t.Helper()
	got := a.requests()
	for _, list := range [][]sent{got, want} {
		for i, r := range list {
			if r.Body == "" {
				continue
			}
			var v any
			if err := json.Unmarshal([]byte(r.Body), &v); err != nil {
				t.Fatalf("body %q: %v", r.Body, err)
			}
			canonical, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			list[i].Body = string(canonical)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("on the wire (-want +got):\n%s", diff)
	}
}

// TestClientWire holds the client's own calls, with typed requests, against the
// documents.
func TestClientWire(t *testing.T) {
	t.Parallel()
	type client = *csm.Client
	ignore := func(_ any, err error) error { return err }
	for name, tc := range map[string]struct {
		call                 func(context.Context, client) error
		method, target, body string
	}{
		"create v1": {func(ctx context.Context, c client) error {
			return ignore(c.CreateSession(ctx, csm.CreateV1Request{
				ImageURL: photo, PreviewMesh: "turbo", GenerateTexture: new(false), AutoRefine: new(true), RefineSpeed: "slow", Creativity: "moderate",
				GeneratePreviewMesh: new(true), Topology: "tris", Resolution: "high_poly", TextureResolution: 128, ScaledBBox: &[3]float64{1, 1, 1},
				PivotPoint: &[3]float64{0, 0, 0}, ManualSegmentation: new(false),
			}))
		}, "POST", createPath, `{"image_url":"https://via.placeholder.com/300/09f/fff.png","preview_mesh":"turbo","generate_texture":false,"auto_refine":true,
			"refine_speed":"slow","creativity":"moderate","generate_preview_mesh":true,"topology":"tris","resolution":"high_poly","texture_resolution":128,
			"scaled_bbox":[1,1,1],"pivot_point":[0,0,0],"manual_segmentation":false}`},
		"create v2": {func(ctx context.Context, c client) error {
			return ignore(c.CreateSession(ctx, csm.CreateV2Request{ImageURL: "data:image/png;base64,iVBORw0KGgo=", GeometryModel: "turbo", TextureModel: "baked",
				ScaledBBox: &[3]float64{-1, -1, -1}, PreserveAspectRatio: new(false), Topology: "quads", Resolution: "low_poly", Symmetry: "off"}))
		}, "POST", createPath, `{"image_url":"data:image/png;base64,iVBORw0KGgo=","geometry_model":"turbo","texture_model":"baked","scaled_bbox":[-1,-1,-1],
			"preserve_aspect_ratio":false,"topology":"quads","resolution":"low_poly","symmetry":"off"}`},
		"get": {func(ctx context.Context, c client) error { return ignore(c.GetSession(ctx, code)) }, "GET", sessionPath, ""},
		"get an odd code": {func(ctx context.Context, c client) error { return ignore(c.GetSession(ctx, "a/../b?c#d%2e")) },
			"GET", "/image-to-3d-sessions/a%2F..%2Fb%3Fc%23d%252e", ""},
		"preview": {func(ctx context.Context, c client) error {
			return ignore(c.Get3DPreview(ctx, code, csm.PreviewRequest{SelectedSpinIndex: new(0), SelectedSpin: photo}))
		}, "POST", previewPath, `{"selected_spin_index":0,"selected_spin":"https://via.placeholder.com/300/09f/fff.png"}`},
		"preview {}": {func(ctx context.Context, c client) error {
			return ignore(c.Get3DPreview(ctx, code, csm.PreviewRequest{}))
		}, "POST", previewPath, `{}`},
		"refine": {func(ctx context.Context, c client) error {
			return ignore(c.Get3DRefine(ctx, code, csm.RefineRequest{}))
		}, "POST", refinePath, `{}`},
		"list": {func(ctx context.Context, c client) error { return ignore(c.ListSessions(ctx, 10, 2)) },
			"GET", "/image-to-3d-sessions?limit=10&page=2", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAccount(t, map[string]string{
				"POST " + createPath: created, "POST " + previewPath: generates, "POST " + refinePath: generates,
				"GET " + sessionPath: created, "GET /image-to-3d-sessions/a%2F..%2Fb%3Fc%23d%252e": created,
				"GET /image-to-3d-sessions?limit=10&page=2": `{"error":"","data":{"results":[]}}`,
			})
			if err := tc.call(t.Context(), a.client(t)); err != nil {
				t.Fatal(err)
			}
			a.expect(t, sent{tc.method, tc.target, tc.body, "the-key", "application/json"})
		})
	}
}

// TestSignedSpin walks the preview stage of a turbo session whose spins have
// signed URLs: the signature must not get into the stage's input, which is kept
// in the job's record.
func TestSignedSpin(t *testing.T) {
	t.Parallel()
	spins := `{"error":"","data":{"session_code":"SESSION_P_44569824122","status":"spin_generate_done",
		"spins":[{"image_url":"https://files.example/s0.mp4?sig=a"},{"image_url":"https://files.example/s1.mp4?sig=b"}]}}`
	a := newAccount(t, map[string]string{"GET " + sessionPath: spins, "POST " + previewPath: generates})
	p := csm.NewProvider(a.client(t))
	o := map[string]any{"preview_mesh": "turbo", "selected_spin_index": 1.0}
	s, err := p.Poll(t.Context(), jobs.Ref{Session: code, Stage: "create", Options: o})
	if err != nil {
		t.Fatal(err)
	}
	if s.Phase != jobs.NeedsStage || s.Next != "preview" || strings.Contains(string(s.NextInput), "sig") {
		t.Fatalf("status %+v with input %s", s, s.NextInput)
	}
	if _, err := p.Submit(t.Context(), jobs.Call{Stage: s.Next, Session: code, Options: o, Input: s.NextInput}); err != nil {
		t.Fatal(err)
	}
	get := sent{"GET", sessionPath, "", "the-key", "application/json"}
	a.expect(t, get, get, sent{"POST", previewPath, `{"selected_spin_index":1,"selected_spin":"https://files.example/s1.mp4?sig=b"}`, "the-key", "application/json"})
}

// TestMissingSpin asks for spins that a session does not have: nothing is
// bought.
func TestMissingSpin(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		spins string
		index float64
		kind  jobs.Kind
	}{
		"none yet":     {`[]`, 0, jobs.Retryable},
		"out of range": {`[{"image_url":"https://files.example/s0.mp4"}]`, 3, jobs.Permanent},
		"no URL":       {`[{"image_url":"javascript:alert(1)"}]`, 0, jobs.Permanent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAccount(t, map[string]string{"GET " + sessionPath: `{"data":{"status":"spin_generate_done","spins":` + tc.spins + `}}`})
			_, err := csm.NewProvider(a.client(t)).Submit(t.Context(), jobs.Call{
				Stage: "preview", Session: code, Options: map[string]any{"preview_mesh": "turbo", "selected_spin_index": tc.index},
			})
			if jobs.KindOf(err) != tc.kind || err == nil {
				t.Errorf("error %v, want %v", err, tc.kind)
			}
			a.expect(t, sent{"GET", sessionPath, "", "the-key", "application/json"})
		})
	}
}
