package modelslab_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/modelslab"
)

// seedAnswer is the example of the seed (Response).
const seedAnswer = `{
"status": "success",
"generationTime": 10.62,
"id": 109655545,
"output": [
"https://pub-3626123a908346a7a8be8d9295f44e26.r2.dev/out/ae46c488-b66c-4aaa-9540-7355261d8d71.obj"
],
"proxy_links": [
"https://cdn2.stablediffusionapi.com/out/ae46c488-b66c-4aaa-9540-7355261d8d71.obj"
],
"meta": {
"chunk_size": 8192,
"file_prefix": "ae46c488-b66c-4aaa-9540-7355261d8d71",
"foreground_ratio": ".85",
"image": "https://pub-3626123a908346a7a8be8d9295f44e26.r2.dev/generations/0335d02b-958a-4a7f-b7e4-a5f1e61efbf1-0.png",
"remove_bg": true,
"render": false,
"resolution": 256,
"seed": 3480183101,
"temp": "no"
}
}`

// seedRequest is the example of the seed (Body).
func seedRequest() modelslab.CreateRequest {
	return modelslab.CreateRequest{
		ModelID: "instantmesh", Image: imageURL, ForegroundRatio: new(0.85), RemoveBG: new(false),
		Resolution: new(256), ChunkSize: new(8192), Seed: new(int64(0)), Temp: "no",
	}
}

func sameJSON(t *testing.T, got, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatalf("the body is no JSON: %v", err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(w, g); d != "" {
		t.Errorf("body (-want +got):\n%s", d)
	}
}

func checkRequest(t *testing.T, r seen, path string) {
	t.Helper()
	if r.method != http.MethodPost || r.path != path || r.query != "" {
		t.Errorf("%s %s?%s, want POST %s", r.method, r.path, r.query, path)
	}
	if ct := r.header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type %q", ct)
	}
	for name, values := range r.header {
		if strings.Contains(strings.Join(values, " "), key) {
			t.Errorf("the key is in the header %s; the documents have it in the body only", name)
		}
	}
}

func TestCreateOnTheWire(t *testing.T) {
	t.Parallel()
	full := modelslab.CreateRequest{
		Image: imageURL + "?a=1&b=2", ModelID: "other", OutputFormat: "ply", Render: new(true), ForegroundRatio: new(0.5), RemoveBG: new(true),
		Resolution: new(512), ChunkSize: new(12000), Seed: new(int64(3480183101)), Temp: "yes", MultiImage: new(true),
		SSGuidanceStrength: new(7.5), SSSamplingSteps: new(50), SlatGuidanceStrength: new(0.0), SlatSamplingSteps: new(1),
		MeshSimplify: new(0.98), Webhook: "https://hooks.example/x", TrackID: "t-1",
	}
	tests := map[string]struct {
		request modelslab.CreateRequest
		fields  modelslab.ImageField
		want    string
	}{
		"the seed's example, letter for letter": {seedRequest(), modelslab.OnlyImage,
			`{"key":%q,"model_id":"instantmesh","image":"` + imageURL + `","foreground_ratio":0.85,"remove_bg":false,"resolution":256,"chunk_size":8192,"seed":0,"temp":"no"}`},
		"the seed's example under both names": {seedRequest(), modelslab.BothFields,
			`{"key":%q,"model_id":"instantmesh","image":"` + imageURL + `","init_image":"` + imageURL + `","foreground_ratio":0.85,"remove_bg":false,"resolution":256,"chunk_size":8192,"seed":0,"temp":"no"}`},
		"instantmesh gets the seed's required fields": {modelslab.CreateRequest{ModelID: "instantmesh", Image: imageURL}, modelslab.OnlyImage,
			`{"key":%q,"model_id":"instantmesh","image":"` + imageURL + `","foreground_ratio":0.85,"resolution":256}`},
		"instantmesh keeps those that are set": {modelslab.CreateRequest{ModelID: "instantmesh", Image: imageURL, ForegroundRatio: new(0.7), Resolution: new(300)}, modelslab.OnlyImage,
			`{"key":%q,"model_id":"instantmesh","image":"` + imageURL + `","foreground_ratio":0.7,"resolution":300}`},
		"only what is set": {modelslab.CreateRequest{Image: imageURL}, modelslab.BothFields,
			`{"key":%q,"image":"` + imageURL + `","init_image":"` + imageURL + `"}`},
		"init_image only": {modelslab.CreateRequest{Image: imageURL}, modelslab.OnlyInitImage,
			`{"key":%q,"init_image":"` + imageURL + `"}`},
		"every field": {full, modelslab.BothFields,
			`{"key":%q,"image":"` + imageURL + `?a=1&b=2","init_image":"` + imageURL + `?a=1&b=2","model_id":"other","output_format":"ply","render":true,
			"foreground_ratio":0.5,"remove_bg":true,"resolution":512,"chunk_size":12000,"seed":3480183101,"temp":"yes","multi_image":true,
			"ss_guidance_strength":7.5,"ss_sampling_steps":50,"slat_guidance_strength":0,"slat_sampling_steps":1,"mesh_simplify":0.98,
			"webhook":"https://hooks.example/x","track_id":"t-1"}`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, 200, seedAnswer)
			c := client(t, modelslab.Config{BaseURL: s.URL + "/api/v6/", ImageField: tc.fields})
			if _, err := c.Create(t.Context(), tc.request); err != nil {
				t.Fatal(err)
			}
			r := s.one(t)
			checkRequest(t, r, "/api/v6/3d/image_to_3d")
			sameJSON(t, r.body, fmt.Sprintf(tc.want, key))
		})
	}
}

func TestFetchOnTheWire(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"109655545", "abc123-def456", "9007199254740993123"} {
		s := serve(t, 200, seedAnswer)
		c := client(t, modelslab.Config{BaseURL: s.URL + "/api/v6"})
		if _, err := c.Fetch(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		r := s.one(t)
		checkRequest(t, r, "/api/v6/3d/fetch/"+id)
		if want := `{"key":"` + key + `"}`; r.body != want {
			t.Errorf("body %s", r.body)
		}
	}
}

func TestFetchRefusesIDsThatChangeThePath(t *testing.T) {
	t.Parallel()
	s := serve(t, 200, seedAnswer)
	c := client(t, modelslab.Config{BaseURL: s.URL + "/api/v6"})
	for _, id := range []string{"", ".", "..", "../../x", "1/2", "1?x=1", "1#x", "%2e%2e", "a b", strings.Repeat("9", 200)} {
		_, err := c.Fetch(t.Context(), id)
		if f := fault(t, err); f.Kind != jobs.Permanent {
			t.Errorf("%q: %v", id, err)
		}
	}
	if n := len(s.requests()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

func TestBase64ToURLOnTheWire(t *testing.T) {
	t.Parallel()
	s := serve(t, 200, `{"status":"success","id":1,"output":["https://cdn.example/in.png"]}`)
	c := client(t, modelslab.Config{BaseURL: s.URL + "/api/v6"})
	u, err := c.Base64ToURL(t.Context(), []byte("\x89PNG\r\n\x1a\n"), "")
	if err != nil || u != "https://cdn.example/in.png" {
		t.Fatalf("%q, %v", u, err)
	}
	r := s.one(t)
	checkRequest(t, r, "/api/v6/base64_to_url")
	sameJSON(t, r.body, fmt.Sprintf(`{"key":%q,"base64_string":"data:image/png;base64,iVBORw0KGgo="}`, key))
}

// The key must reach the configured address only, whatever an answer offers.
func TestFetchResultOfAnotherHostIsIgnored(t *testing.T) {
	t.Parallel()
	trap := serve(t, 200, seedAnswer)
	for name, offer := range map[string]string{
		"another port":      trap.URL + "/api/v6/3d/fetch/7",
		"user before host":  strings.Replace(trap.URL, "http://", "http://{host}@", 1) + "/api/v6/3d/fetch/7",
		"user at our host":  "https://user:pass@{host}/api/v6/3d/fetch/7",
		"look-alike domain": "https://{host}.evil.example/api/v6/3d/fetch/7",
		"other scheme":      "ftp://{host}/api/v6/3d/fetch/7",
		"no host":           "/api/v6/3d/fetch/7",
		"not a URL":         "http://[::1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := fmt.Sprintf(`{"status":"processing","id":42,"fetch_result":%q}`, offer)
			s := serve(t, 200, body)
			p := modelslab.NewProvider(client(t, modelslab.Config{BaseURL: s.URL + "/api/v6"}))
			session, err := submit(t.Context(), p, nil)
			if err != nil || session.ID != "42" {
				t.Fatalf("%+v, %v", session, err)
			}
			if _, err := p.Poll(t.Context(), jobs.Ref{Session: session.ID, Stage: "create"}); err != nil {
				t.Fatal(err)
			}
			if got := s.requests(); len(got) != 2 || got[1].path != "/api/v6/3d/fetch/42" {
				t.Errorf("requests %+v", got)
			}
			// Without an id, such an offer must not even name the session.
			anon := strings.Replace(body, `"id":42,`, "", 1)
			_, err = submit(t.Context(), provider(t, 200, anon), nil)
			if f := fault(t, err); f.Kind != jobs.Unknown {
				t.Errorf("without an id: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		if n := len(trap.requests()); n != 0 {
			t.Errorf("%d requests, with the key, went to another host", n)
		}
	})
}

func TestFetchResultOfTheConfiguredHostNamesTheSession(t *testing.T) {
	t.Parallel()
	r, err := says(t, 200, `{"status":"processing","fetch_result":"https://modelslab.com/api/v6/3d/fetch/77?x=1"}`).Create(t.Context(), seedRequest())
	if err != nil || r.ID != "77" || strings.Contains(r.FetchResult, "x=1") {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	trap := serve(t, 200, seedAnswer)
	for _, status := range []int{301, 302, 303, 307, 308} {
		c := client(t, modelslab.Config{Transport: canned{status: status, header: http.Header{"Location": {trap.URL}}}})
		_, err := c.Create(t.Context(), seedRequest())
		if k := fault(t, err).Kind; k == jobs.Retryable {
			t.Errorf("create, HTTP %d: %v", status, err)
		}
		_, err = c.Fetch(t.Context(), "1")
		if k := fault(t, err).Kind; k != jobs.Retryable {
			t.Errorf("fetch, HTTP %d: %v", status, err)
		}
	}
	if n := len(trap.requests()); n != 0 {
		t.Errorf("%d requests to the other host", n)
	}
}

// A new field must be known to all of the hand-written lists.
func TestEveryFieldIsSentAndChecked(t *testing.T) {
	t.Parallel()
	s := serve(t, 200, seedAnswer)
	p := modelslab.NewProvider(client(t, modelslab.Config{BaseURL: s.URL}))
	options := map[string]any{}
	for _, o := range p.Catalog().Options {
		switch {
		case o.Name == "webhook":
			options[o.Name] = "https://hooks.example/"
		case o.Name == "track_id":
			options[o.Name] = "t"
		case o.Type == jobs.TypeBool:
			options[o.Name] = true
		case o.Max != nil:
			options[o.Name] = *o.Max
		case o.Type == jobs.TypeInt || o.Type == jobs.TypeNumber:
			options[o.Name] = 3.0
		default:
			options[o.Name] = o.Default
		}
	}
	if _, err := submit(t.Context(), p, options); err != nil {
		t.Fatal(err)
	}
	var sent map[string]any
	if err := json.Unmarshal([]byte(s.one(t).body), &sent); err != nil {
		t.Fatal(err)
	}
	for name, want := range options {
		if sent[name] != want {
			t.Errorf("%s = %v on the wire, want %v", name, sent[name], want)
		}
	}
	// Image, and the catalog's options, are all that a request has.
	if have := reflect.TypeFor[modelslab.CreateRequest]().NumField(); have != len(options)+1 || len(sent) != len(options)+3 {
		t.Errorf("%d fields in CreateRequest and %d on the wire for %d options", have, len(sent), len(options))
	}
}
