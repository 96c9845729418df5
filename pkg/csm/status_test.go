package csm_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/csm"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// poll asks a session that answers with data.
func poll(t testing.TB, data string, ref jobs.Ref) (*jobs.Status, error) {
	t.Helper()
	c, err := csm.New(csm.Config{Key: "the-key", Transport: fixed(`{"error":"","message":"Retrieved","statusCode":200,"data":` + data + `}`)})
	if err != nil {
		t.Fatal(err)
	}
	ref.Session = code
	return csm.NewProvider(c).Poll(t.Context(), ref)
}

// fixed is a transport that answers everything with one body.
type fixed string

func (f fixed) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	_, _ = w.WriteString(string(f))
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

const (
	spins    = `"spins":[{"image_url":"https://f.example/s0.mp4"},{"image_url":"https://f.example/s1.mp4"}]`
	previews = `"preview_mesh_url":"","preview_mesh_url_glb":"https://f.example/p.glb","preview_mesh_url_zip":"https://f.example/p.zip"`
	meshes   = `"mesh_url_glb":"https://f.example/m.glb","mesh_url_obj":"https://f.example/m.obj"`
)

// TestStatusMachine holds the words of both generations against what they mean
// for each mode and bought stage (CSM quick primer).
func TestStatusMachine(t *testing.T) {
	t.Parallel()
	type opts = map[string]any
	sculpt, turbo := opts{"preview_mesh": "fast_sculpt"}, opts{"preview_mesh": "turbo"}
	refine := opts{"preview_mesh": "turbo", "refine_speed": "slow"}
	auto := opts{"preview_mesh": "turbo", "refine_speed": "slow", "auto_refine": true}
	for name, tc := range map[string]struct {
		options opts
		stage   string
		data    string
		phase   jobs.Phase
		next    string
		input   string
		files   string // formats and file names
	}{
		"spin":                   {sculpt, "create", `{"status":"spin_generate_processing"}`, jobs.InProgress, "", "", ""},
		"spin failed":            {sculpt, "create", `{"status":"spin_generate_failed"}`, jobs.Broken, "", "", ""},
		"sculpt rests":           {sculpt, "create", `{"status":"spin_generate_done",` + spins + `}`, jobs.NeedsStage, "preview", `{}`, ""},
		"sculpt without spins":   {sculpt, "create", `{"status":"spin_generate_done"}`, jobs.NeedsStage, "preview", `{}`, ""},
		"sculpt of a later spin": {opts{"selected_spin_index": 1}, "create", `{"status":"spin_generate_done",` + spins + `}`, jobs.NeedsStage, "preview", `{"selected_spin_index":1,"selected_spin":"https://f.example/s1.mp4"}`, ""},
		"turbo rests":            {turbo, "create", `{"status":"spin_generate_done",` + spins + `}`, jobs.NeedsStage, "preview", `{"selected_spin_index":0,"selected_spin":"https://f.example/s0.mp4"}`, ""},
		"spin by its URL": {opts{"preview_mesh": "turbo", "selected_spin": "https://f.example/s1.mp4"}, "create", `{"status":"spin_generate_done",` + spins + `}`,
			jobs.NeedsStage, "preview", `{"selected_spin_index":1,"selected_spin":"https://f.example/s1.mp4"}`, ""},
		"spin by index and URL": {opts{"selected_spin_index": 3.0, "selected_spin": "https://f.example/s1.mp4"}, "create", `{"status":"spin_generate_done",` + spins + `}`,
			jobs.NeedsStage, "preview", `{"selected_spin_index":3,"selected_spin":"https://f.example/s1.mp4"}`, ""},
		"spin by another URL": {opts{"preview_mesh": "turbo", "selected_spin": "https://f.example/mine.mp4"}, "create", `{"status":"spin_generate_done"}`,
			jobs.NeedsStage, "preview", `{"selected_spin_index":0,"selected_spin":"https://f.example/mine.mp4"}`, ""},
		"spins as plain URLs":         {turbo, "create", `{"status":"spin_generate_done","spins":["https://f.example/s0.mp4"]}`, jobs.NeedsStage, "preview", `{"selected_spin_index":0,"selected_spin":"https://f.example/s0.mp4"}`, ""},
		"turbo, spins lag":            {turbo, "create", `{"status":"spin_generate_done","spins":[]}`, jobs.InProgress, "", "", ""},
		"preview bought, status lags": {turbo, "preview", `{"status":"spin_generate_done",` + spins + `}`, jobs.InProgress, "", "", ""},
		"CSM chooses the spin":        {opts{"generate_preview_mesh": true}, "create", `{"status":"spin_generate_done",` + spins + `}`, jobs.InProgress, "", "", ""},

		"preview":           {turbo, "preview", `{"status":"training_preview"}`, jobs.InProgress, "", "", ""},
		"preview failed":    {turbo, "preview", `{"status":"preview_failed"}`, jobs.Broken, "", "", ""},
		"sculpt ends":       {sculpt, "preview", `{"status":"preview_done",` + previews + `}`, jobs.Done, "", "", "glb:p.glb zip:p.zip"},
		"sculpt ends early": {sculpt, "create", `{"status":"preview_done",` + previews + `}`, jobs.Done, "", "", "glb:p.glb zip:p.zip"},
		"turbo ends":        {turbo, "preview", `{"status":"preview_done",` + previews + `,` + meshes + `}`, jobs.Done, "", "", "glb:p.glb zip:p.zip"},
		"links lag":         {sculpt, "preview", `{"status":"preview_done","preview_mesh_url_glb":""}`, jobs.InProgress, "", "", ""},
		"only meshes":       {sculpt, "preview", `{"status":"preview_done",` + meshes + `}`, jobs.Done, "", "", "glb:m.glb obj:m.obj"},
		"speed without turbo": {opts{"preview_mesh": "fast_sculpt", "refine_speed": "slow"}, "preview", `{"status":"preview_done",` + previews + `}`,
			jobs.Done, "", "", "glb:p.glb zip:p.zip"},

		"refine wanted":              {refine, "preview", `{"status":"preview_done",` + previews + `}`, jobs.NeedsStage, "refine", `{}`, ""},
		"refine bought, status lags": {refine, "refine", `{"status":"preview_done",` + previews + `}`, jobs.InProgress, "", "", ""},
		"auto refine goes on":        {auto, "preview", `{"status":"preview_done",` + previews + `}`, jobs.InProgress, "", "", ""},
		"sculpt, auto refine":        {opts{"auto_refine": true}, "preview", `{"status":"preview_done",` + previews + `}`, jobs.InProgress, "", "", ""},
		"refining":                   {refine, "refine", `{"status":"training_refine"}`, jobs.InProgress, "", "", ""},
		"refine failed":              {refine, "refine", `{"status":"refine_failed",` + previews + `}`, jobs.Broken, "", "", ""},
		"refined":                    {refine, "refine", `{"status":"refine_done",` + previews + `,` + meshes + `,"mp4_url":"https://f.example/v.mp4"}`, jobs.Done, "", "", "glb:m.glb obj:m.obj mp4:v.mp4"},
		"refined, links lag":         {refine, "refine", `{"status":"refine_done",` + previews + `}`, jobs.InProgress, "", "", ""},
		"auto refined":               {auto, "preview", `{"status":"refine_done",` + meshes + `}`, jobs.Done, "", "", "glb:m.glb obj:m.obj"},
		"old word done":              {sculpt, "preview", `{"status":"done",` + previews + `}`, jobs.Done, "", "", "glb:p.glb zip:p.zip"},
		"old word done, refined":     {refine, "refine", `{"status":"done",` + previews + `}`, jobs.InProgress, "", "", ""},

		"v2 queued":      {nil, "create", `{"session_status":"queued","mesh_url_glb":""}`, jobs.InProgress, "", "", ""},
		"v2 in progress": {nil, "create", `{"session_status":"in_progress","mesh_url_glb":"https://f.example/m.glb"}`, jobs.InProgress, "", "", ""},
		"v2 failed":      {nil, "create", `{"session_status":"failed"}`, jobs.Broken, "", "", ""},
		"v2 complete":    {nil, "create", `{"session_status":"complete",` + meshes + `,"mesh_url_fbx":"https://f.example/m.fbx","mesh_url_usdz":"https://f.example/m.usdz","mesh_url_zip":"https://f.example/m.zip","mp4_url":"https://f.example/v.mp4"}`, jobs.Done, "", "", "glb:m.glb obj:m.obj fbx:m.fbx usdz:m.usdz zip:m.zip mp4:v.mp4"},
		"v2 links lag":   {nil, "create", `{"session_status":"complete","mesh_url_glb":""}`, jobs.InProgress, "", "", ""},
		"v2 goes before": {nil, "create", `{"session_status":"in_progress","status":"refine_done",` + meshes + `}`, jobs.InProgress, "", "", ""},

		"unknown word":         {nil, "create", `{"session_status":"polishing"}`, jobs.InProgress, "", "", ""},
		"no word":              {nil, "create", `{}`, jobs.InProgress, "", "", ""},
		"word of another kind": {nil, "create", `{"status":{"a":1},"session_status":[]}`, jobs.InProgress, "", "", ""},

		"zip that is an obj":      {sculpt, "preview", `{"status":"preview_done","preview_mesh_url_zip":"https://f.example/p.OBJ?sig=1"}`, jobs.Done, "", "", "obj:p.OBJ"},
		"obj in an archive":       {nil, "create", `{"session_status":"complete","mesh_url_obj":"https://f.example/m.zip"}`, jobs.Done, "", "", "obj:m.zip"},
		"bare field":              {nil, "create", `{"session_status":"complete","mesh_url":"https://f.example/m.glb"}`, jobs.Done, "", "", "glb:m.glb"},
		"bare field without name": {nil, "create", `{"session_status":"complete","mesh_url":"https://f.example/result"}`, jobs.Done, "", "", "glb:result"},
		"the same mesh twice":     {nil, "create", `{"session_status":"complete","mesh_url":"https://f.example/a.glb","mesh_url_glb":"https://f.example/m.glb"}`, jobs.Done, "", "", "glb:m.glb|a.glb"},
		"the same URL twice":      {nil, "create", `{"session_status":"complete","mesh_url":"https://f.example/m.glb","mesh_url_glb":"https://f.example/m.glb"}`, jobs.Done, "", "", "glb:m.glb"},
		"hostile links":           {nil, "create", `{"session_status":"complete","mesh_url_glb":"javascript:alert(1)","mesh_url_obj":"file:///etc/passwd","mesh_url":"://"}`, jobs.InProgress, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := poll(t, tc.data, jobs.Ref{Stage: tc.stage, Options: tc.options})
			if err != nil {
				t.Fatal(err)
			}
			if s.Phase != tc.phase || s.Next != tc.next || string(s.NextInput) != tc.input {
				t.Errorf("phase %d, next %q %s; want %d, %q %s", s.Phase, s.Next, s.NextInput, tc.phase, tc.next, tc.input)
			}
			if got := describe(s.Files); got != tc.files {
				t.Errorf("files %q, want %q", got, tc.files)
			}
			if (s.Message != "") != (tc.phase == jobs.Broken) {
				t.Errorf("message %q", s.Message)
			}
		})
	}
}

func describe(files []jobs.File) string {
	base := func(u string) string {
		u, _, _ = strings.Cut(u, "?")
		return u[strings.LastIndex(u, "/")+1:]
	}
	words := make([]string, len(files))
	for i, f := range files {
		words[i] = f.Format + ":" + base(f.URL)
		for _, a := range f.Alternatives {
			words[i] += "|" + base(a)
		}
	}
	return strings.Join(words, " ")
}

func TestStatusDetails(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]jobs.Status{
		`{"status":"training_preview"}`:                                        {Detail: "training_preview", Percent: -1},
		`{"status":"training_preview","percentage":40}`:                        {Detail: "training_preview", Percent: 40},
		`{"status":"training_preview","percentage":"12.5%"}`:                   {Detail: "training_preview", Percent: 12.5},
		`{"session_status":"in_progress","percent_done":"99"}`:                 {Detail: "in_progress", Percent: 99},
		`{"session_status":"in_progress","percent_done":1e9}`:                  {Detail: "in_progress", Percent: 100},
		`{"session_status":"in_progress","percent_done":-3}`:                   {Detail: "in_progress", Percent: 0},
		`{"session_status":"in_progress","percent_done":"NaN"}`:                {Detail: "in_progress", Percent: -1},
		`{"session_status":"in_progress","percent_done":null}`:                 {Detail: "in_progress", Percent: -1},
		`{"session_status":"with the-key\n"}`:                                  {Detail: "with [secret]", Percent: -1},
		`{"session_status":"` + strings.Repeat("x", 500) + `"}`:                {Detail: strings.Repeat("x", 80) + "…", Percent: -1},
		`{"session_status":"failed","percent_done":3}`:                         {Phase: jobs.Broken, Detail: "failed", Percent: 3, Message: "CSM reports failed"},
		`{"status":"refine_failed","message":"see https://f/x?sig=1"}`:         {Phase: jobs.Broken, Detail: "refine_failed", Percent: -1, Message: "CSM reports refine_failed: see https://f/x?…"},
		`{"status":"spin_generate_failed","error_message":"no the-key","a":1}`: {Phase: jobs.Broken, Detail: "spin_generate_failed", Percent: -1, Message: "CSM reports spin_generate_failed: no [secret]"},
	} {
		s, err := poll(t, data, jobs.Ref{Stage: "create"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&want, s); diff != "" {
			t.Errorf("%s (-want +got):\n%s", data, diff)
		}
	}
}

func TestSessionDecoding(t *testing.T) {
	t.Parallel()
	var got csm.Session
	if err := json.Unmarshal([]byte(`{"_id":"669924dCCCCCCCa04a493d12","user_id":"63XXXXXXXXXXXX0551638c","session_code":"SESSION_1721312476_7674068",
		"image_url":"https://via.placeholder.com/300/09f/fff.png","texture_resolution":2048,"status":"spin_generate_processing","topology":"tris",
		"source":"external","creativity":"lowest","refine_speed":"fast","created_at":"2024-07-18T14:21:18.050Z","updated_at":"2024-07-18T14:21:20.582Z",
		"polished_mesh_url":"https://f.example/q","polished_mesh_url_glb":"https://f.example/q.glb","mesh_url":"","mesh_url_glb":null,"mesh_urls":"x","remesh_url_glb":"x",
		"preview_mesh_url_usdz":"https://f.example/p.usdz","session_gif":"https://f.example/g.gif","symmetry":"","unknown":{"a":[1]}}`), &got); err != nil {
		t.Fatal(err)
	}
	if got.CreatedAt.UnixMilli() != 1721312478050 || got.UpdatedAt.UnixMilli() != 1721312480582 {
		t.Errorf("times %v, %v", got.CreatedAt, got.UpdatedAt)
	}
	got.CreatedAt, got.UpdatedAt = time.Time{}, time.Time{}
	want := csm.Session{
		Code: "SESSION_1721312476_7674068", Status: csm.StatusSpinProcessing, Percent: -1, ImageURL: "https://via.placeholder.com/300/09f/fff.png",
		Preview: map[string]string{"usdz": "https://f.example/p.usdz"}, Polished: map[string]string{"": "https://f.example/q", "glb": "https://f.example/q.glb"},
		GIFURL: "https://f.example/g.gif", ID: "669924dCCCCCCCa04a493d12", UserID: "63XXXXXXXXXXXX0551638c", Source: "external",
		Options: map[string]any{"texture_resolution": 2048.0, "topology": "tris", "creativity": "lowest", "refine_speed": "fast"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("session (-want +got):\n%s", diff)
	}
	for _, bad := range []string{`null`, `[]`, `"a"`, `1`} {
		if err := got.UnmarshalJSON([]byte(bad)); err == nil {
			t.Errorf("%s is taken for a session", bad)
		}
	}
}

func FuzzSession(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `{"session_code":1,"status":true,"spins":[{},"a",1,null,[]],"percentage":"1e999"}`,
		`{"mesh_url":"","mesh_url_":"https://a/b","preview_mesh_url_glb":{},"created_at":"yesterday","scaled_bbox":[1,"a"]}`,
		`{"session_code":"S","session_status":"complete","mesh_url_glb":"https://a/b.glb"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var s csm.Session
		if err := json.Unmarshal(data, &s); err != nil {
			return
		}
		if s.Percent != -1 && !(s.Percent >= 0 && s.Percent <= 100) {
			t.Errorf("percent %v", s.Percent)
		}
		for _, set := range []map[string]string{s.Mesh, s.Preview, s.Polished} {
			for format, u := range set {
				if u == "" || strings.HasPrefix(format, "_mesh") {
					t.Errorf("entry %q: %q", format, u)
				}
			}
		}
	})
}

func FuzzPoll(f *testing.F) {
	for _, s := range []string{
		`{"status":"spin_generate_done",` + spins + `}`, `{"status":"preview_done",` + previews + `}`, `{"session_status":"complete",` + meshes + `}`,
		`{"status":"refine_failed","message":"the-key"}`, `{"status":"spin_generate_done","spins":[null,{"image_url":"http://%zz"}]}`,
	} {
		f.Add([]byte(s), []byte(`{"preview_mesh":"turbo","selected_spin_index":1}`), "create")
	}
	f.Add([]byte(`{"status":"spin_generate_done","spins":["https://a/b"]}`), []byte(`{"preview_mesh":1,"selected_spin_index":-1e9,"scaled_bbox":[1],"selected_spin":"\u0000"}`), "")
	f.Fuzz(func(t *testing.T, data, opts []byte, stage string) {
		var o map[string]any
		if json.Unmarshal(opts, &o) != nil {
			return
		}
		s, err := poll(t, string(data), jobs.Ref{Stage: stage, Options: o})
		if err != nil {
			if k := jobs.KindOf(err); k != jobs.Retryable {
				t.Errorf("kind %v: %v", k, err)
			}
			return
		}
		switch s.Phase {
		case jobs.NeedsStage:
			if !slices.Contains([]string{"preview", "refine"}, s.Next) || !json.Valid(s.NextInput) || strings.Contains(string(s.NextInput), "?") {
				t.Errorf("next %q %s", s.Next, s.NextInput)
			}
		case jobs.Done:
			for _, f := range s.Files {
				if !strings.HasPrefix(strings.ToLower(f.URL), "http") || f.Format == "" {
					t.Errorf("file %+v", f)
				}
			}
		case jobs.Broken:
			if s.Message == "" {
				t.Error("no message")
			}
		}
		if strings.Contains(s.Message+s.Detail, "the-key") {
			t.Errorf("the key is in %q or %q", s.Message, s.Detail)
		}
	})
}
