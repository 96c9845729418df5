package jobs_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// completed is a completed job with everything set that an event tells.
func completed() *jobs.Record {
	r := record("chair-1", jobs.Completed)
	r.Request.Labels = map[string]string{"sku": "123"}
	r.Request.Image.URL += "?X-Amz-Signature=secret"
	r.StoringAt = r.CreatedAt.Add(30 * time.Second)
	r.Outputs = []jobs.Output{{
		Format: "glb", Key: "meshes/chair-1/chair-1.glb", URI: "s3://meshmill/meshes/chair-1/chair-1.glb",
		SizeBytes: 1234, SHA256: strings.Repeat("0", 64), MediaType: "model/gltf-binary",
	}}
	r.Missing = []string{"obj"}
	r.Manifest = "meshes/chair-1/manifest.json"
	r.Error = &jobs.Problem{Kind: "retryable", Message: "of an earlier try"}
	return r
}

func indent(t *testing.T, body []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, body, "", "  "); err != nil {
		t.Fatal(err)
	}
	return out.String() + "\n"
}

func TestEventGolden(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*jobs.Record{
		"event-submitted.json": record("chair-1", jobs.Running),
		"event-completed.json": completed(),
		"event-failed.json":    record("chair-1", jobs.Failed),
		"event-parked.json":    record("chair-1", jobs.Parked),
		"event-cancelled.json": record("chair-1", jobs.Cancelled),
	} {
		e, err := jobs.NewEvent(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, indent(t, body))
		checkStructured(t, name, body)
		if bytes.Contains(body, []byte("secret")) {
			t.Errorf("%s tells a signature: %s", name, body)
		}
		_, d, err := jobs.DecodeEvent(body)
		if err != nil {
			t.Fatal(err)
		}
		if d.ID != r.ID || d.State != r.State || d.Attempt != r.Attempt || (d.Error != nil) != (r.State == jobs.Failed || r.State == jobs.Parked) || len(d.Outputs) > 0 != (r.State == jobs.Completed) {
			t.Errorf("%s: data = %+v", name, d)
		}
	}
}

// checkStructured checks the rules of CloudEvents 1.0, "Context Attributes" and
// "JSON Event Format", section 3: one JSON object that holds the required
// attributes as non-empty strings, names of lower-case letters and digits, a
// time of RFC 3339, and a JSON datum as it is.
func checkStructured(t *testing.T, name string, body []byte) {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	text := func(key string) string {
		var s string
		if err := json.Unmarshal(m[key], &s); err != nil || s == "" {
			t.Errorf("%s: %s = %s, want text", name, key, m[key])
		}
		return s
	}
	for _, key := range []string{"id", "source", "type", "subject"} {
		text(key)
	}
	if v := text("specversion"); v != "1.0" {
		t.Errorf("%s: specversion %q", name, v)
	}
	if v := text("datacontenttype"); v != "application/json" {
		t.Errorf("%s: datacontenttype %q", name, v)
	}
	if _, err := time.Parse(time.RFC3339Nano, text("time")); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if !strings.HasPrefix(string(m["data"]), "{") || m["data_base64"] != nil {
		t.Errorf("%s: the data is no JSON object", name)
	}
	for key := range m {
		if strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
			t.Errorf("%s: attribute %q", name, key)
		}
	}
}

func TestNewEvent(t *testing.T) {
	t.Parallel()
	kinds := map[jobs.State]string{
		jobs.Running: jobs.EventSubmitted, jobs.Completed: jobs.EventCompleted, jobs.Failed: jobs.EventFailed,
		jobs.Parked: jobs.EventParked, jobs.Cancelled: jobs.EventCancelled,
	}
	for _, s := range jobs.States {
		r := record("a", s)
		e, err := jobs.NewEvent(r)
		if kinds[s] != jobs.EventKind(s) || (err == nil) != (kinds[s] != "") {
			t.Errorf("%s: kind %q, err %v", s, jobs.EventKind(s), err)
		}
		if err != nil {
			continue
		}
		if e.Type() != "meshmill.job."+kinds[s]+".v1" || e.Subject() != "a" || e.Source() != "/meshmill/csm" {
			t.Errorf("%s: %s %s %s", s, e.Type(), e.Subject(), e.Source())
		}
		// The same fact has the same id, another attempt another one.
		again, err := jobs.NewEvent(r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e.String(), again.String()); diff != "" {
			t.Errorf("%s: it differs when repeated:\n%s", s, diff)
		}
		r.Attempt++
		if next, err := jobs.NewEvent(r); err != nil || next.ID() == e.ID() {
			t.Errorf("%s: the next attempt has the same id, %v", s, err)
		}
	}
}

func TestDecodeEventRefuses(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		``, `null`, `{}`, `[]`, `{"specversion":"1.0"}`, `{"specversion":"9.9","id":"a","source":"/b","type":"c","data":{"id":"a"}}`,
		`{"specversion":"1.0","id":"a","source":"/b","type":"c"}`,
		`{"specversion":"1.0","id":"a","source":"/b","type":"c","data":[]}`,
		`{"specversion":"1.0","id":"a","source":"/b","type":"c","data":{"id":"a b"}}`,
	} {
		if e, d, err := jobs.DecodeEvent([]byte(body)); err == nil {
			t.Errorf("%s: %v, %+v", body, e, d)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	for _, r := range []*jobs.Record{completed(), record("a", jobs.Failed)} {
		e, err := jobs.NewEvent(r)
		if err != nil {
			f.Fatal(err)
		}
		body, err := json.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte(`{"specversion":"1.0","id":"a","source":"/b","type":"c","data_base64":"e30="}`))
	f.Add([]byte(`{"specversion":"0.3","id":"a","source":"/b","type":"c","datacontenttype":"text/xml","data":"<a/>"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, d, err := jobs.DecodeEvent(data)
		if err != nil {
			return
		}
		if err := jobs.CheckID(d.ID); err != nil {
			t.Fatal(err)
		}
		if e.ID() == "" || e.Type() == "" || e.Source() == "" {
			t.Fatalf("attributes are missing: %v", e)
		}
	})
}
