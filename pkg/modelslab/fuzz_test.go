package modelslab_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// FuzzAnswer plays any bytes as the answer to create and to fetch.
func FuzzAnswer(f *testing.F) {
	for _, body := range []string{
		"", "{}", "null", "[]", `"x"`, "<html>", "\ufeff{}", seedAnswer,
		`{"status":"processing","id":"abc123-def456","eta":"4","fetch_result":"https://modelslab.com/api/v6/3d/fetch/1","output":"","future_links":["https://f.example/a.glb"]}`,
		`{"status":"success","id":9007199254740993123,"output":[[{"a":"https://f.example/a.glb"}]],"proxy_links":null}`,
		`{"status":"error","messege":{"image":["is required"]},"retry_after":1e300}`,
		`{"status":"failed","id":1.5e2,"message":["a",{"b":null}],"eta":-1}`,
		`{"status":"error","message":"Invalid API key s3cr3t/key+0f-tests"}`,
		`{"Status":"SUCCESS","ID":-0,"output":"https://u:p@x/"}`,
		strings.Repeat(`{"output":`, 50) + `""` + strings.Repeat("}", 50),
	} {
		f.Add(200, []byte(body))
		f.Add(500, []byte(body))
	}
	f.Add(429, []byte(`{"status":"error","retry_after":30}`))
	f.Add(302, []byte(``))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 {
			t.Skip("not an HTTP status of an answer")
		}
		p := provider(t, status, string(body))
		s, err := submit(t.Context(), p, nil)
		if err != nil {
			if k := fault(t, err).Kind; status >= 500 && k != jobs.Unknown {
				t.Fatalf("a 5xx to a paid call is %v: %v", k, err)
			}
		} else {
			if s.ID == "" || s.Status == nil {
				t.Fatalf("session %+v", s)
			}
			checkStatus(t, s.Status)
		}
		st, err := p.Poll(t.Context(), jobs.Ref{Session: "7", Stage: "create"})
		if err != nil {
			if k := fault(t, err).Kind; k == jobs.Unknown || (k == jobs.Permanent && status >= 500) {
				t.Fatalf("a poll is %v: %v", k, err)
			}
			return
		}
		checkStatus(t, st)
	})
}

func checkStatus(t *testing.T, s *jobs.Status) {
	t.Helper()
	if s.ETA < 0 || s.Percent > 100 || (s.Phase == jobs.Done) != (len(s.Files) > 0) || (s.Phase == jobs.Broken) != (s.Message != "") || s.Phase == jobs.NeedsStage {
		t.Fatalf("status %+v", s)
	}
	if strings.Contains(s.Message+s.Detail, key) || len(s.Message) > 300 || len(s.Detail) > 300 {
		t.Fatalf("texts %q %q", s.Message, s.Detail)
	}
	for _, f := range s.Files {
		for _, raw := range append([]string{f.URL}, f.Alternatives...) {
			u, err := url.Parse(raw)
			if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil {
				t.Fatalf("file %q", raw)
			}
		}
		if f.Format == "" {
			t.Fatalf("file %+v without a format", f)
		}
	}
}
