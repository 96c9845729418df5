package simulator_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/internal/simulator"
)

// inBubble calls a handler without a network, so that it works on a fake clock.
func inBubble(t *testing.T, h http.Handler, method, path, body string) *answer {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, "http://sim.test"+path, strings.NewReader(body))
	req.Header.Set("X-Api-Key", csmKey)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	a := &answer{status: w.Code, header: w.Header(), raw: w.Body.Bytes()}
	decode(a)
	return a
}

// The whole status machine of CSM v1 on a fake clock: what is seen each second.
func TestCSMV1StatusMachine(t *testing.T) {
	t.Parallel()
	seconds := simulator.Durations{
		Spin: simulator.Span{Min: 3 * time.Second, Max: 3 * time.Second}, Preview: simulator.Span{Min: 2 * time.Second, Max: 2 * time.Second},
		Refine: simulator.Span{Min: 10 * time.Second, Max: 10 * time.Second}, Model: simulator.Span{Min: 5 * time.Second, Max: 5 * time.Second},
	}
	const spinning, training = "spin_generate_processing", "training_preview"
	tests := map[string]struct {
		options  string
		auto     bool
		fail     string
		field    string
		bySecond map[int]string
	}{
		"rests at the spins":    {`"preview_mesh":"turbo"`, false, "", "status", map[int]string{0: spinning, 2: spinning, 3: "spin_generate_done", 100: "spin_generate_done"}},
		"goes on by itself":     {`"preview_mesh":"turbo"`, true, "", "status", map[int]string{2: spinning, 4: training, 6: "preview_done", 100: "preview_done"}},
		"no spins":              {`"generate_preview_mesh":true`, false, "", "status", map[int]string{0: training, 2: "preview_done", 100: "preview_done"}},
		"auto refine":           {`"generate_preview_mesh":true,"auto_refine":true`, false, "", "status", map[int]string{0: training, 2: "preview_done", 5: "training_refine", 13: "refine_done"}},
		"spin fails":            {`"preview_mesh":"turbo"`, false, "spin", "status", map[int]string{2: spinning, 3: "spin_generate_failed", 100: "spin_generate_failed"}},
		"preview fails":         {`"generate_preview_mesh":true,"auto_refine":true`, false, "preview", "status", map[int]string{0: training, 3: "preview_failed", 100: "preview_failed"}},
		"refine fails":          {`"generate_preview_mesh":true,"auto_refine":true`, false, "refine", "status", map[int]string{5: "training_refine", 14: "refine_failed"}},
		"v2":                    {`"geometry_model":"turbo"`, false, "", "session_status", map[int]string{0: "queued", 2: "in_progress", 5: "complete"}},
		"v2 with neither's own": {`"topology":"quads"`, false, "", "session_status", map[int]string{0: "queued", 2: "in_progress", 5: "complete"}},
		"v2 fails":              {`"geometry_model":"turbo"`, false, "model", "session_status", map[int]string{2: "in_progress", 5: "failed"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := dataURI(disc(t, 1))
			synctest.Test(t, func(t *testing.T) {
				s, err := simulator.New(simulator.Config{Durations: seconds, CSMAutoPreview: tc.auto, Faults: []simulator.Fault{{Op: simulator.Create, FailStage: tc.fail}}})
				if err != nil {
					t.Fatal(err)
				}
				defer stop(t, s)
				a := inBubble(t, s.Handler(), "POST", "/csm/image-to-3d-sessions", fmt.Sprintf(`{"image_url":%q,%s}`, image, tc.options))
				code := text(a.data(t), "session_code")
				got := map[int]string{}
				for second := range 101 {
					if _, ok := tc.bySecond[second]; ok {
						got[second] = text(inBubble(t, s.Handler(), "GET", "/csm/image-to-3d-sessions/"+code, "").data(t), tc.field)
					}
					time.Sleep(time.Second) // moves the fake clock
				}
				if diff := cmp.Diff(tc.bySecond, got); diff != "" {
					t.Errorf("status by second (-want +got):\n%s", diff)
				}
				if n := len(s.Ledger()); n != 1 {
					t.Errorf("%d purchases, want 1", n)
				}
			})
		})
	}
}

func TestCSMRefusals(t *testing.T) {
	t.Parallel()
	s := start(t, simulator.Config{CSMKey: csmKey})
	img := dataURI(disc(t, 1))
	sessions := s.CSMBaseURL() + "/image-to-3d-sessions"
	tests := map[string]struct {
		url, key string
		body     any
		want     int
		says     string
	}{
		"no key":            {sessions, "", object{"image_url": img}, 401, ""},
		"wrong key":         {sessions, "no", object{"image_url": img}, 401, ""},
		"poll without key":  {sessions + "/SESSION_1_1", "", nil, 401, ""},
		"list without key":  {sessions, "", nil, 401, ""},
		"unknown session":   {sessions + "/SESSION_1_1", csmKey, nil, 404, ""},
		"stage of unknown":  {sessions + "/get-3d/refine/SESSION_1_1", csmKey, object{}, 404, ""},
		"no image":          {sessions, csmKey, object{}, 400, "image_url"},
		"not an image":      {sessions, csmKey, object{"image_url": "data:image/png;base64,aGVsbG8="}, 400, "image_url"},
		"no MIME type":      {sessions, csmKey, object{"image_url": strings.TrimPrefix(img, "data:image/png;base64,")}, 400, "image_url"},
		"mixed generations": {sessions, csmKey, object{"image_url": img, "creativity": "lowest", "texture_model": "pbr"}, 400, "creativity and texture_model"},
		"unknown field":     {sessions, csmKey, object{"image_url": img, "preview": "turbo"}, 400, "preview is not"},
		"wrong value":       {sessions, csmKey, object{"image_url": img, "geometry_model": "best"}, 400, "geometry_model"},
		"wrong box":         {sessions, csmKey, object{"image_url": img, "scaled_bbox": []float64{1, 2}}, 400, "scaled_bbox"},
		"not an object":     {sessions, csmKey, []int{1}, 400, "JSON"},
		"page is no number": {sessions + "?page=x", csmKey, nil, 400, "page"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := must(t, tc.url, tc.key, tc.body)
			if a.status != tc.want || a.body["statusCode"] != float64(tc.want) || text(a.body, "error") == "" || !strings.Contains(text(a.body, "message"), tc.says) {
				t.Errorf("HTTP %d: %s", a.status, a.raw)
			}
			if a.header.Get("Server") != simulator.ServerName {
				t.Errorf("Server: %q", a.header.Get("Server"))
			}
		})
	}
	t.Cleanup(func() {
		if n := len(s.Ledger()); n != 0 {
			t.Errorf("%d purchases, want none", n)
		}
	})
}

// fast_sculpt needs no spin, and its "zip" is an OBJ file.
func TestCSMFastSculpt(t *testing.T) {
	t.Parallel()
	s := start(t, simulator.Config{})
	d := csmCreate(t, s, object{"image_url": dataURI(disc(t, 1)), "preview_mesh": "fast_sculpt"})
	code := text(d, "session_code")
	if !regexp.MustCompile(`^SESSION_\d{10}_\d{7}$`).MatchString(code) {
		t.Errorf("session code %q", code)
	}
	if d["source"] != "external" || d["texture_resolution"] != 2048.0 || d["creativity"] != "lowest" {
		t.Errorf("create: %v", d)
	}
	csmPoll(t, s, code, "status", "spin_generate_done")
	must(t, s.CSMBaseURL()+"/image-to-3d-sessions/get-3d/preview/"+code, csmKey, object{})
	d = csmPoll(t, s, code, "status", "preview_done")
	a := must(t, text(d, "preview_mesh_url_zip"), "", nil)
	if a.status != 200 || !bytes.HasPrefix(a.raw, []byte("# ")) || !bytes.Contains(a.raw, []byte("\nv ")) {
		t.Errorf("HTTP %d, %.60q", a.status, a.raw)
	}
	if !strings.Contains(text(d, "preview_mesh_url_zip"), ".obj?") {
		t.Errorf("path of the zip: %s", text(d, "preview_mesh_url_zip"))
	}
	spin := d["spins"].([]any)[0].(object)
	if a := must(t, text(spin, "image_url"), "", nil); a.status != 200 || !bytes.Contains(a.raw[:12], []byte("ftyp")) {
		t.Errorf("spin: HTTP %d", a.status)
	}
}

// A stage that is asked for twice is billed twice, and the ledger tells.
func TestCSMStageTwice(t *testing.T) {
	t.Parallel()
	s := start(t, simulator.Config{})
	code := text(csmCreate(t, s, object{"image_url": dataURI(disc(t, 1)), "generate_preview_mesh": true}), "session_code")
	csmPoll(t, s, code, "status", "preview_done")
	for range 2 {
		if a := must(t, s.CSMBaseURL()+"/image-to-3d-sessions/get-3d/refine/"+code, csmKey, object{}); a.status != 200 || text(a.body, "message") != "Generating Mesh" {
			t.Fatalf("refine: HTTP %d: %s", a.status, a.raw)
		}
	}
	got := simulator.Duplicates(s.Ledger())
	if len(got) != 1 || got[0].Session != code || got[0].Stage != "refine" || got[0].Count != 2 {
		t.Errorf("duplicates: %+v", got)
	}
	csmPoll(t, s, code, "status", "refine_done")
}

func TestCSMList(t *testing.T) {
	t.Parallel()
	s := start(t, simulator.Config{})
	var codes []string
	for i := range 5 {
		codes = append(codes, text(csmCreate(t, s, object{"image_url": dataURI(disc(t, i)), "topology": "tris"}), "session_code"))
	}
	var got []string
	for page := 1; page <= 3; page++ {
		d := must(t, fmt.Sprintf("%s/image-to-3d-sessions?limit=2&page=%d", s.CSMBaseURL(), page), csmKey, nil).data(t)
		for _, r := range d["results"].([]any) {
			got = append([]string{text(r.(object), "session_code")}, got...)
		}
	}
	if diff := cmp.Diff(codes, got); diff != "" {
		t.Errorf("newest last (-want +got):\n%s", diff)
	}
}

// servePicture returns the base of URLs that all show one picture.
func servePicture(t *testing.T, data []byte) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) }))
	t.Cleanup(s.Close)
	return s.URL
}

// The list shows the image's URL as it was sent, and lags behind.
func TestCSMListLagsAndShowsTheURL(t *testing.T) {
	t.Parallel()
	link := servePicture(t, disc(t, 7)) + "/bucket/inputs/a.png?marker=j1.1&X-Amz-Signature=verysecret"
	for name, lag := range map[string]time.Duration{"none": 0, "an hour": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, simulator.Config{ListLag: lag})
			code := text(csmCreate(t, s, object{"image_url": link}), "session_code")
			results := must(t, s.CSMBaseURL()+"/image-to-3d-sessions", csmKey, nil).data(t)["results"].([]any)
			if lag > 0 && len(results) != 0 {
				t.Errorf("the list shows %d sessions at once", len(results))
			}
			if lag == 0 && (len(results) != 1 || text(results[0].(object), "image_url") != link) {
				t.Errorf("results: %v", results)
			}
			if p := s.Ledger()[0]; p.Session != code || strings.Contains(p.Marker, "?") || !strings.HasSuffix(p.Marker, "/bucket/inputs/a.png") {
				t.Errorf("ledger: %+v", p)
			}
		})
	}
}

// Options reach the mesh: a scaled box gives a mesh of that size.
func TestCSMScaledBox(t *testing.T) {
	t.Parallel()
	s := start(t, simulator.Config{})
	code := text(csmCreate(t, s, object{"image_url": dataURI(disc(t, 1)), "texture_model": "baked", "scaled_bbox": []float64{2, 3, 4}}), "session_code")
	d := csmPoll(t, s, code, "session_status", "complete")
	raw := isGLB(t, text(d, "mesh_url_glb"))
	if !bytes.Contains(raw, []byte(`"max":[1,1.5,2]`)) {
		t.Errorf("GLB: %.900s", raw[20:])
	}
	for field, magic := range map[string]string{"mesh_url_obj": "# ", "mesh_url_zip": "PK\x03\x04", "mesh_url_usdz": "PK\x03\x04"} {
		if a := must(t, text(d, field), "", nil); !bytes.HasPrefix(a.raw, []byte(magic)) {
			t.Errorf("%s: HTTP %d, %.20q", field, a.status, a.raw)
		}
	}
	if text(d, "mesh_url_fbx") != "" || text(d, "mp4_url") != "" {
		t.Error("formats that are not made have URLs")
	}
}
