package simulator_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/meshmill/meshmill/internal/simulator"
)

func TestModelsLabProcessing(t *testing.T) {
	t.Parallel()
	s := start(t, simulator.Config{ModelsLabKey: labKey, Durations: simulator.Each(time.Hour, time.Hour)})
	spellings, outputs := map[string]bool{}, map[any]bool{}
	for i := range 12 {
		link := labUpload(t, s, disc(t, i))
		a := must(t, s.ModelsLabBaseURL()+"/3d/image_to_3d", "", object{"key": labKey, "image": link})
		if a.status != 200 || text(a.body, "status") != "processing" || a.body["eta"] != 3600.0 {
			t.Fatalf("HTTP %d: %s", a.status, a.raw)
		}
		id, isNumber := a.body["id"].(float64)
		if !isNumber || text(a.body, "fetch_result") != s.ModelsLabBaseURL()+"/3d/fetch/"+jsonNumber(id) {
			t.Errorf("id %v, fetch_result %v", a.body["id"], a.body["fetch_result"])
		}
		future := a.body["future_links"].([]any)[0].(string)
		if f := must(t, future, "", nil); f.status != 404 {
			t.Errorf("future link: HTTP %d before it is ready", f.status)
		}
		for _, name := range []string{"message", "messege"} {
			if text(a.body, name) != "" {
				spellings[name] = true
			}
		}
		if out := a.body["output"]; out == nil || out == "" {
			outputs[out] = true
		} else {
			outputs["array"] = true
		}
	}
	if len(spellings) != 2 || len(outputs) != 3 {
		t.Errorf("spellings %v, outputs %v: want every one", spellings, outputs)
	}
}

func TestModelsLabRefusals(t *testing.T) {
	t.Parallel()
	s := start(t, simulator.Config{ModelsLabKey: labKey})
	link := labUpload(t, s, disc(t, 1))
	create := s.ModelsLabBaseURL() + "/3d/image_to_3d"
	tests := map[string]struct {
		url  string
		body object
		want int
		says string
	}{
		"no key":           {create, object{"image": link}, 401, "Invalid API key"},
		"wrong key":        {create, object{"key": "x", "image": link}, 401, "Invalid API key"},
		"fetch, no key":    {s.ModelsLabBaseURL() + "/3d/fetch/1", object{}, 401, "Invalid API key"},
		"unknown id":       {s.ModelsLabBaseURL() + "/3d/fetch/1", object{"key": labKey}, 200, "not found"},
		"no image":         {create, object{"key": labKey}, 200, "image"},
		"inline image":     {create, object{"key": labKey, "image": dataURI(disc(t, 1))}, 200, "valid URL"},
		"two images":       {create, object{"key": labKey, "image": link, "init_image": "http://example.test/x.png"}, 200, "differs"},
		"temp is text":     {create, object{"key": labKey, "image": link, "temp": true}, 200, "temp"},
		"resolution":       {create, object{"key": labKey, "image": link, "resolution": 513}, 200, "resolution"},
		"unknown":          {create, object{"key": labKey, "image": link, "quality": 1}, 200, "quality"},
		"upload of no PNG": {s.ModelsLabBaseURL() + "/base64_to_url", object{"key": labKey, "base64_string": "data:image/png;base64,AAAA"}, 200, "base64_string"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := must(t, tc.url, "", tc.body)
			if a.status != tc.want || text(a.body, "status") != "error" || !strings.Contains(string(a.raw), tc.says) {
				t.Errorf("HTTP %d: %s", a.status, a.raw)
			}
			if strings.Contains(string(a.raw), labKey) {
				t.Error("the key comes back")
			}
		})
	}
	t.Cleanup(func() {
		if n := len(s.Ledger()); n != 0 {
			t.Errorf("%d purchases, want none", n)
		}
	})
}

func TestModelsLabFormatsAndFailure(t *testing.T) {
	t.Parallel()
	bad := disc(t, 9)
	s := start(t, simulator.Config{Faults: []simulator.Fault{{Provider: simulator.ModelsLab, Op: simulator.Create, Image: sha(bad), FailStage: "convert"}}})
	for format, magic := range map[string]string{"glb": "glTF", "obj": "# ", "stl": "Meshmill", "ply": "ply\n"} {
		a := must(t, s.ModelsLabBaseURL()+"/3d/image_to_3d", "", object{"key": "k", "init_image": labUpload(t, s, disc(t, 1)), "output_format": format})
		done := labPoll(t, s, a)
		out := done["output"].([]any)[0].(string)
		proxy := done["proxy_links"].([]any)[0].(string)
		for _, link := range []string{out, proxy} {
			if f := must(t, link, "", nil); f.status != 200 || !strings.HasPrefix(string(f.raw), magic) || !strings.HasSuffix(link, "."+format) {
				t.Errorf("%s: HTTP %d, %.20q", link, f.status, f.raw)
			}
		}
	}
	a := must(t, s.ModelsLabBaseURL()+"/3d/image_to_3d", "", object{"key": "k", "image": labUpload(t, s, bad)})
	id, _ := a.body["id"].(float64)
	for text(a.body, "status") == "processing" && t.Context().Err() == nil {
		a = must(t, s.ModelsLabBaseURL()+"/3d/fetch/"+jsonNumber(id), "", object{"key": "k"})
	}
	if a.status != 200 || text(a.body, "status") != "failed" {
		t.Errorf("HTTP %d: %s", a.status, a.raw)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	s := start(t, simulator.Config{CSMLimit: 2, ModelsLabLimit: 1, Durations: simulator.Each(time.Hour, time.Hour)})
	for i := range 2 {
		csmCreate(t, s, object{"image_url": dataURI(disc(t, i))})
	}
	a := must(t, s.CSMBaseURL()+"/image-to-3d-sessions", csmKey, object{"image_url": dataURI(disc(t, 3))})
	if a.status != http.StatusTooManyRequests {
		t.Errorf("third session: HTTP %d", a.status)
	}
	link := labUpload(t, s, disc(t, 1))
	must(t, s.ModelsLabBaseURL()+"/3d/image_to_3d", "", object{"key": "k", "image": link})
	a = must(t, s.ModelsLabBaseURL()+"/3d/image_to_3d", "", object{"key": "k", "image": link})
	if a.status != http.StatusTooManyRequests || a.body["retry_after"] != 30.0 {
		t.Errorf("HTTP %d: %s", a.status, a.raw)
	}
	if v := s.Violations(); len(v) != 2 || v[0].Kind != "limit" || s.Peak(simulator.CSM) != 2 || s.Peak(simulator.ModelsLab) != 1 {
		t.Errorf("violations %+v, peaks %d and %d", v, s.Peak(simulator.CSM), s.Peak(simulator.ModelsLab))
	}
	if n := len(s.Ledger()); n != 3 {
		t.Errorf("%d purchases, want 3", n)
	}
}
