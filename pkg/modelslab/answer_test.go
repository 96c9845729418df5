package modelslab_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/modelslab"
)

func TestSeedAnswer(t *testing.T) {
	t.Parallel()
	r, err := says(t, 200, seedAnswer).Create(t.Context(), seedRequest())
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != modelslab.Success || r.ID != "109655545" || r.GenerationTime != 10620*time.Millisecond {
		t.Errorf("result %+v", r)
	}
	if seed, ok := r.Seed(); !ok || seed != 3480183101 {
		t.Errorf("seed %d, %v", seed, ok)
	}
	if !strings.Contains(string(r.Meta), `".85"`) {
		t.Errorf("meta is not raw: %s", r.Meta)
	}
	s, err := submit(t.Context(), provider(t, 200, seedAnswer), map[string]any{"model_id": "instantmesh"})
	if err != nil {
		t.Fatal(err)
	}
	want := &jobs.Session{ID: "109655545", Status: &jobs.Status{Phase: jobs.Done, Detail: "success", Percent: 100, Files: []jobs.File{{
		Format: "obj", URL: "https://pub-3626123a908346a7a8be8d9295f44e26.r2.dev/out/ae46c488-b66c-4aaa-9540-7355261d8d71.obj",
		Alternatives: []string{"https://cdn2.stablediffusionapi.com/out/ae46c488-b66c-4aaa-9540-7355261d8d71.obj"},
	}}}}
	if d := cmp.Diff(want, s); d != "" {
		t.Errorf("session (-want +got):\n%s", d)
	}
}

// Every shape is played to fetch, whose answers have the same form as create's.
func TestAnswerShapes(t *testing.T) {
	t.Parallel()
	one := []jobs.File{{Format: "glb", URL: "https://f.example/a.glb"}}
	done := jobs.Status{Phase: jobs.Done, Detail: "success", Percent: 100, Files: one}
	waits := func(detail string, eta time.Duration) jobs.Status {
		return jobs.Status{Phase: jobs.InProgress, Detail: detail, Percent: -1, ETA: eta}
	}
	broken := func(message string) jobs.Status {
		return jobs.Status{Phase: jobs.Broken, Detail: "failed", Percent: -1, Message: message}
	}
	files := func(f ...jobs.File) jobs.Status {
		return jobs.Status{Phase: jobs.Done, Detail: "success", Percent: 100, Files: f}
	}
	tests := map[string]struct {
		status int
		body   string
		want   jobs.Status
	}{
		"output list":             {200, `{"status":"success","id":7,"output":["https://f.example/a.glb"]}`, done},
		"output text":             {200, `{"status":"success","id":7,"output":"https://f.example/a.glb"}`, done},
		"output nested lists":     {200, `{"status":"success","id":7,"output":[[["https://f.example/a.glb"]],[]]}`, done},
		"output object":           {200, `{"status":"success","id":7,"output":{"model":{"url":"https://f.example/a.glb"}}}`, done},
		"output with null in it":  {200, `{"status":"success","id":7,"output":[null,"",7,"https://f.example/a.glb"]}`, done},
		"output twice the same":   {200, `{"status":"success","id":7,"output":["https://f.example/a.glb","https://f.example/a.glb"]}`, done},
		"success in capitals":     {200, `{"status":" SUCCESS ","id":7,"output":["https://f.example/a.glb"]}`, done},
		"success under HTTP 500":  {500, `{"status":"success","id":7,"output":["https://f.example/a.glb"]}`, done},
		"success under HTTP 404":  {404, `{"status":"success","id":7,"output":["https://f.example/a.glb"]}`, done},
		"byte order mark":         {200, "\ufeff" + `{"status":"success","id":7,"output":["https://f.example/a.glb"]}`, done},
		"proxy links alone":       {200, `{"status":"success","id":7,"output":[],"proxy_links":["https://f.example/a.glb"]}`, done},
		"only usable addresses":   {200, `{"status":"success","id":7,"output":["file:///etc/passwd","javascript:x","data:model/gltf;base64,AA","/a.glb","https://u:p@f.example/a.glb","https://f.example/a.glb"]}`, done},
		"success, output empty":   {200, `{"status":"success","id":7,"output":[]}`, waits("success without a file", 0)},
		"success, output text":    {200, `{"status":"success","id":7,"output":""}`, waits("success without a file", 0)},
		"success, output null":    {200, `{"status":"success","id":7,"output":null}`, waits("success without a file", 0)},
		"success, no output":      {200, `{"status":"success","id":7}`, waits("success without a file", 0)},
		"success, future only":    {200, `{"status":"success","id":7,"output":[],"future_links":["https://f.example/a.glb"]}`, waits("success without a file", 0)},
		"processing":              {200, `{"status":"processing","id":7,"eta":4,"message":"wait","tip":"t","fetch_result":"https://modelslab.com/api/v6/3d/fetch/7","output":[],"future_links":["https://f.example/a.glb"],"meta":{},"extra_assets":[]}`, waits("processing", 4*time.Second)},
		"processing with output":  {200, `{"status":"processing","id":7,"output":["https://f.example/a.glb"]}`, waits("processing", 0)},
		"processing under 503":    {503, `{"status":"processing","id":7}`, waits("processing", 0)},
		"eta fraction":            {200, `{"status":"processing","id":7,"eta":2.5}`, waits("processing", 2500*time.Millisecond)},
		"eta text":                {200, `{"status":"processing","id":7,"eta":"9"}`, waits("processing", 9*time.Second)},
		"eta negative":            {200, `{"status":"processing","id":7,"eta":-9}`, waits("processing", 0)},
		"eta absurd":              {200, `{"status":"processing","id":7,"eta":1e300}`, waits("processing", 24*time.Hour)},
		"eta not a number":        {200, `{"status":"processing","id":7,"eta":["x"]}`, waits("processing", 0)},
		"unknown word":            {200, `{"status":"queued","id":7,"output":["https://f.example/a.glb"]}`, waits(`unknown status "queued"`, 0)},
		"failed":                  {200, `{"status":"failed","id":7,"message":"too dark"}`, broken("too dark")},
		"failed, id as text":      {200, `{"status":"failed","id":"7","messege":"too dark"}`, broken("too dark")},
		"failed without an id":    {200, `{"status":"failed","message":"too dark"}`, broken("too dark")},
		"failed without a reason": {200, `{"status":"failed","id":7}`, broken("the provider gives no reason")},
		"failed under HTTP 500":   {500, `{"status":"failed","id":7,"message":"too dark"}`, broken("too dark")},
		"failed, message object":  {200, `{"status":"failed","id":7,"message":{"image":["is too dark","is too small"],"seed":["is odd"]}}`, broken("image: is too dark; image: is too small; seed: is odd")},
		"failed, message list":    {200, `{"status":"failed","id":7,"message":["too dark","too small"]}`, broken("too dark; too small")},
		"failed, empty message":   {200, `{"status":"failed","id":7,"message":"","messege":"too dark"}`, broken("too dark")},
		"failed, hostile message": {200, `{"status":"failed","id":7,"message":"see https:\/\/x.example\/i.png?sig=abc for s3cr3t\/key+0f-tests\u001b[31m"}`, broken("see https://x.example/i.png?… for [secret] [31m")},
		"several files, twins by name and by place": {200, `{"status":"success","id":7,
			"output":["https://f.example/o/a.glb?sig=1","https://f.example/o/a.mp4","https://f.example/o/noext"],
			"proxy_links":["https://c.example/a.mp4","https://c.example/a.glb","https://c.example/x"]}`, files(
			jobs.File{Format: "glb", URL: "https://f.example/o/a.glb?sig=1", Alternatives: []string{"https://c.example/a.glb"}},
			jobs.File{Format: "mp4", URL: "https://f.example/o/a.mp4", Alternatives: []string{"https://c.example/a.mp4"}},
			jobs.File{Format: "glb", URL: "https://f.example/o/noext", Alternatives: []string{"https://c.example/x"}})},
		"a twin of another file is none of this one": {200, `{"status":"success","id":7,
			"output":["https://f.example/a.glb","https://f.example/b.mp4"],"proxy_links":["https://c.example/b.mp4","https://c.example/y"]}`, files(
			one[0], jobs.File{Format: "mp4", URL: "https://f.example/b.mp4", Alternatives: []string{"https://c.example/b.mp4"}})},
		"extra assets only where they add": {200, `{"status":"success","id":7,"output":["https://f.example/a.glb"],
			"extra_assets":["https://f.example/b.glb","https://f.example/a.MP4","https://f.example/thing"]}`, files(one[0], jobs.File{Format: "mp4", URL: "https://f.example/a.MP4"})},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := provider(t, tc.status, tc.body).Poll(t.Context(), jobs.Ref{Session: "7", Stage: "create"})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(&tc.want, got); d != "" {
				t.Errorf("status (-want +got):\n%s", d)
			}
		})
	}
}

func TestSessionIDs(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`7`: "7", `"7"`: "7", `" 7 "`: "7", `9007199254740993123`: "9007199254740993123", `"abc123-def456"`: "abc123-def456",
		`1.09655545e8`: "109655545", `5.0`: "5", `2147483648`: "2147483648",
		// None of these can be polled.
		`0`: "", `"0"`: "", `""`: "", `null`: "", `-5`: "", `1.5`: "", `1e400`: "", `1e17`: "", `true`: "", `[7]`: "", `{"id":7}`: "",
		`"../x"`: "", `"a/b"`: "", `"a?b"`: "", `"a b"`: "", `"` + strings.Repeat("9", 129) + `"`: "", strings.Repeat("9", 129): "",
	} {
		body := `{"status":"processing","id":` + raw + `}`
		r, err := says(t, 200, body).Create(t.Context(), seedRequest())
		switch {
		case want == "":
			if err == nil || fault(t, err).Kind != jobs.Unknown {
				t.Errorf("id %s: %+v, %v: want an unknown outcome", raw, r, err)
			}
		case err != nil || r.ID != want:
			t.Errorf("id %s: %+v, %v; want %s", raw, r, err, want)
		}
	}
}

func TestSeedOfMeta(t *testing.T) {
	t.Parallel()
	for meta, want := range map[string]int64{`{"seed":3480183101}`: 3480183101, `{"seed":"9"}`: 9, `{"seed":9007199254740993}`: 9007199254740993,
		`{}`: -1, `[]`: -1, `null`: -1, `{"seed":null}`: -1, `{"seed":1.5}`: -1, `"x"`: -1} {
		r, err := says(t, 200, `{"status":"success","id":1,"output":[],"meta":`+meta+`}`).Fetch(t.Context(), "1")
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := r.Seed(); ok != (want >= 0) || (ok && got != want) {
			t.Errorf("meta %s: seed %d, %v", meta, got, ok)
		}
	}
}

func TestLinksOfASessionInProgressStayWhatTheyAre(t *testing.T) {
	t.Parallel()
	r, err := says(t, 200, `{"status":"processing","id":1,"output":[],"proxy_links":["https://f.example/a.glb"],"future_links":["https://f.example/b.glb"]}`).Fetch(t.Context(), "1")
	if err != nil || len(r.Output) != 0 || len(r.ProxyLinks) != 1 || len(r.FutureLinks) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestHugeListsAreBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 5000 {
		b.WriteString(`,"https://f.example/` + strings.Repeat("x", i%7) + time.Duration(i).String() + `.glb"`)
	}
	r, err := says(t, 200, `{"status":"success","id":1,"output":[""`+b.String()+`],"message":[""`+b.String()+`]}`).Fetch(t.Context(), "1")
	if err != nil || len(r.Output) > 64 || len(r.Message) > 300 {
		t.Errorf("%d outputs, message of %d bytes, %v", len(r.Output), len(r.Message), err)
	}
}
