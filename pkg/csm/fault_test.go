package csm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/meshmill/meshmill/pkg/csm"
	"github.com/meshmill/meshmill/pkg/jobs"
)

func TestNew(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		cfg   csm.Config
		words string
	}{
		"no key":      {csm.Config{}, "set CSM_API_KEY"},
		"key of file": {csm.Config{Key: "the-key\n"}, "check CSM_API_KEY"},
		"bad URL":     {csm.Config{Key: "the-key", BaseURL: "api.csm.ai"}, "check CSM_BASE_URL"},
		"good":        {csm.Config{Key: "the-key"}, ""},
	} {
		_, err := csm.New(tc.cfg)
		if (err == nil) != (tc.words == "") || (err != nil && (!strings.Contains(err.Error(), tc.words) || strings.Contains(err.Error(), "the-key"))) {
			t.Errorf("%s: %v", name, err)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if text := fmt.Sprintf(verb, tc.cfg); strings.Contains(text, "the-key") {
				t.Errorf("%s prints the key: %s", verb, text)
			}
		}
	}
}

// TestRefusals holds what CSM's refusals mean for each kind of call.
func TestRefusals(t *testing.T) {
	t.Parallel()
	type outcome struct {
		kind  jobs.Kind
		after time.Duration
		tries int
		pause bool
	}
	permanent := outcome{kind: jobs.Permanent}
	wait := func(d time.Duration) outcome { return outcome{kind: jobs.Retryable, after: d} }
	credits := outcome{jobs.Retryable, time.Minute, 0, true}
	limited := outcome{jobs.Retryable, 0, 0, true}
	key := outcome{jobs.Retryable, time.Minute, 0, true}
	disguised := outcome{jobs.Retryable, 30 * time.Second, 2, false}
	for name, tc := range map[string]struct {
		status               int
		header, body         string
		create, preview, get outcome
		words                string
	}{
		"400":              {400, "", `{"error":"image_url is not reachable","message":"Bad Request","statusCode":400}`, permanent, permanent, permanent, "HTTP 400: image_url is not reachable"},
		"400 in message":   {400, "", `{"error":"","message":"scaled_bbox is invalid","statusCode":400}`, permanent, permanent, permanent, "scaled_bbox is invalid"},
		"400 in an object": {400, "", `{"error":{"image_url":["is required"]},"message":""}`, permanent, permanent, permanent, `{"image_url":["is required"]}`},
		"400 disguised":    {400, "", `{"error":"","message":"Bad Request","statusCode":400}`, disguised, wait(30 * time.Second), wait(30 * time.Second), "called too often"},
		"400 empty":        {400, "", ``, disguised, wait(30 * time.Second), wait(30 * time.Second), "called too often"},
		"400 of a proxy":   {400, "", `<html>`, disguised, wait(30 * time.Second), wait(30 * time.Second), "called too often"},
		"400 booleans":     {400, "", `{"error":true,"message":null}`, disguised, wait(30 * time.Second), wait(30 * time.Second), "called too often"},
		"400 with advice":  {400, "120", `{}`, outcome{jobs.Retryable, 2 * time.Minute, 2, false}, wait(2 * time.Minute), wait(2 * time.Minute), ""},
		"401":              {401, "", `{"error":"Unauthorized"}`, key, key, wait(time.Minute), "Unauthorized; check CSM_API_KEY"},
		"403":              {403, "", `{"message":"Forbidden"}`, key, key, wait(time.Minute), "check CSM_API_KEY"},
		"402":              {402, "", `{"error":"no credits"}`, credits, credits, credits, "no credits left"},
		"407":              {407, "", `<html>`, key, key, key, "check HTTPS_PROXY"},
		"408":              {408, "", ``, outcome{jobs.Unknown, 0, 0, true}, outcome{jobs.Unknown, 0, 0, true}, limited, "HTTP 408"},
		"404":              {404, "", `{}`, permanent, permanent, permanent, "HTTP 404; "},
		"429":              {429, "", `{"error":"slow down"}`, limited, limited, limited, "slow down"},
		"429 with advice":  {429, "7", ``, outcome{jobs.Retryable, 7 * time.Second, 0, true}, outcome{jobs.Retryable, 7 * time.Second, 0, true}, outcome{jobs.Retryable, 7 * time.Second, 0, true}, ""},
		"500":              {500, "", `{"error":"oops"}`, outcome{jobs.Unknown, 0, 0, true}, outcome{jobs.Unknown, 0, 0, true}, limited, "HTTP 500: oops"},
		"308":              {308, "", ``, permanent, wait(30 * time.Second), wait(30 * time.Second), "correct the base URL"},
		"302":              {302, "", ``, outcome{kind: jobs.Unknown}, outcome{kind: jobs.Unknown}, wait(0), "HTTP 302"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // what has left cannot be unsent
				if tc.header != "" {
					w.Header().Set("Retry-After", tc.header)
				}
				w.WriteHeader(tc.status)
				_, _ = w.Write([]byte(tc.body))
			}))
			t.Cleanup(srv.Close)
			p := newProvider(t, srv.URL, "the-key")
			_, create := p.Submit(t.Context(), jobs.Call{Stage: "create", Image: jobs.Delivery{URL: photo}})
			_, preview := p.Submit(t.Context(), jobs.Call{Stage: "preview", Session: code})
			_, refine := p.Submit(t.Context(), jobs.Call{Stage: "refine", Session: code})
			_, get := p.Poll(t.Context(), jobs.Ref{Session: code})
			for call, c := range map[string]struct {
				err  error
				want outcome
			}{"create": {create, tc.create}, "preview": {preview, tc.preview}, "refine": {refine, tc.preview}, "get": {get, tc.get}} {
				f, ok := errors.AsType[*jobs.Fault](c.err)
				if !ok {
					t.Fatalf("%s: error %v is no fault", call, c.err)
				}
				if got := (outcome{f.Kind, f.After, f.Tries, f.Pause}); got != c.want {
					t.Errorf("%s: %+v, want %+v: %v", call, got, c.want, c.err)
				}
				if !strings.Contains(c.err.Error(), tc.words) {
					t.Errorf("%s: %q lacks %q", call, c.err, tc.words)
				}
			}
		})
	}
}

// TestUnclearSuccess holds answers with a 2xx status that do not say what they
// should.
func TestUnclearSuccess(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ body, words string }{
		"error in the envelope": {`{"error":"limit reached for the-key","message":"","statusCode":429,"data":null}`, "limit reached for [secret]"},
		"no session":            {`{"error":"","message":"Created","statusCode":201,"data":{}}`, "Created"},
		"code of dots":          {`{"data":{"session_code":".."}}`, ""},
		"code with a line end":  {`{"data":{"session_code":"a\nb"}}`, ""},
		"data of another kind":  {`{"data":"yes"}`, ""},
		"data is a list":        {`{"data":[]}`, ""},
		"no data":               {`{}`, "not the JSON that CSM documents"},
		"not an object":         {`[1]`, "not the JSON that CSM documents"},
		"flat, as v3":           {`{"_id":"SESSION_1","status":"incomplete"}`, "not the JSON that CSM documents"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusCreated)
				_, _ = w.Write([]byte(tc.body))
			}))
			t.Cleanup(srv.Close)
			p := newProvider(t, srv.URL, "the-key")
			for _, call := range []jobs.Call{
				{Stage: "create", Image: jobs.Delivery{URL: photo}}, {Stage: "preview", Session: code}, {Stage: "refine", Session: code},
			} {
				s, err := p.Submit(t.Context(), call)
				if s != nil || err == nil || jobs.KindOf(err) != jobs.Unknown || !strings.Contains(err.Error(), tc.words) || strings.Contains(err.Error(), "the-key") {
					t.Errorf("%s: %v, %v; want unknown with %q", call.Stage, s, err, tc.words)
				}
			}
		})
	}
}

func TestCreateAcceptsAnySuccess(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 201, 202} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"error":"x","data":{"session_code":"S1","session_status":"failed","percent_done":"0"}}`))
		}))
		s, err := newProvider(t, srv.URL, "the-key").Submit(t.Context(), jobs.Call{Stage: "create", Image: jobs.Delivery{URL: photo}})
		srv.Close()
		if err != nil || s.ID != "S1" || s.Status == nil || s.Status.Phase != jobs.Broken {
			t.Errorf("HTTP %d: %+v, %v; want the session, which has failed", status, s, err)
		}
	}
}

// TestUnresolvedHost is CSM as it is reported to be now: its name is gone.
func TestUnresolvedHost(t *testing.T) {
	t.Parallel()
	c, err := csm.New(csm.Config{Key: "the-key", Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "api.csm.ai", IsNotFound: true}}
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = csm.NewProvider(c).Submit(t.Context(), jobs.Call{Stage: "create", Image: jobs.Delivery{URL: photo}})
	const want = "csm: create session: api.csm.ai cannot be reached: its name cannot be resolved"
	if err == nil || err.Error() != want || jobs.KindOf(err) != jobs.Retryable {
		t.Errorf("error %v of kind %v, want %q", err, jobs.KindOf(err), want)
	}
}
