package modelslab_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/modelslab"
)

// refused is a provider's refusal with a message of any JSON type.
func refused(message any) string {
	raw, _ := json.Marshal(message)
	return `{"status":"error","message":` + string(raw) + `}`
}

type wantFault struct {
	kind  jobs.Kind
	pause bool
	after time.Duration
	text  string // must occur
}

func checkFault(t *testing.T, err error, want wantFault) {
	t.Helper()
	f := fault(t, err)
	if f.Kind != want.kind || f.Pause != want.pause || f.After != want.after || !strings.Contains(err.Error(), want.text) {
		t.Errorf("fault %v pause=%v after=%v %q\nwant  %v pause=%v after=%v with %q", f.Kind, f.Pause, f.After, err, want.kind, want.pause, want.after, want.text)
	}
}

const (
	unknown   = jobs.Unknown
	retryable = jobs.Retryable
	permanent = jobs.Permanent
)

func TestCreateFaults(t *testing.T) {
	t.Parallel()
	credits := wantFault{retryable, true, time.Minute, "out of credits"}
	busy := wantFault{retryable, true, 0, ""}
	key := wantFault{retryable, true, time.Minute, "MODELSLAB_API_KEY"}
	no := func(text string) wantFault { return wantFault{permanent, false, 0, text} }
	lost := wantFault{unknown, true, 0, ""}
	maybe := wantFault{unknown, false, 0, ""}
	tests := []struct {
		status int
		body   string
		want   wantFault
	}{
		// HTTP 200 with status error: the words decide.
		{200, refused("Rate limit exceeded"), busy},
		{200, refused("Too many requests"), busy},
		{200, refused("Try Again"), busy},
		{200, refused("The server is overloaded, try again later"), busy},
		{200, refused("Queue is full"), busy},
		{200, refused("Model is loading"), busy},
		{200, `{"status":"error","message":"Rate limit exceeded. Maximum 5 queued requests allowed.","retry_after":30}`, wantFault{retryable, true, 30 * time.Second, "Maximum 5"}},
		{200, `{"status":"error","messege":"rate limit","retry_after":"12.5"}`, wantFault{retryable, true, 12500 * time.Millisecond, ""}},
		{200, `{"status":"error","message":"rate limit","retry_after":1e18}`, wantFault{retryable, true, jobs.MaxAfter, ""}},
		{200, `{"status":"error","message":"rate limit","retry_after":-5}`, busy},
		{200, `{"status":"error","message":"rate limit","retry_after":{"a":1}}`, busy},
		{200, refused("Insufficient credits. Please add more credits to continue."), credits},
		{200, refused("You are out of credits"), credits},
		{200, refused("Please subscribe to a plan"), credits},
		{200, refused("Fund your wallet to continue"), credits},
		{200, refused("Your quota is exhausted"), credits},
		{200, refused("Your subscription has expired"), credits},
		{200, refused("Invalid API key"), key},
		{200, refused("invalid api_key"), key},
		{200, refused("API key does not exist"), key},
		{200, refused(map[string]any{"key": []string{"The key field is required."}}), key},
		{200, refused("image is required"), no("image is required")},
		{200, refused(map[string]any{"resolution": []string{"must be at most 512"}}), no("resolution: must be at most 512")},
		{200, refused("Unable to fetch image from provided URL"), no("Unable to fetch image")},
		{200, refused("Model not found: xyz"), no("Model not found: xyz")},
		{200, refused("The image is invalid, please try again"), no("The image is invalid")},
		{200, refused("Something odd"), no("Something odd")},
		{200, `{"status":"error"}`, no("without a reason")},
		{200, `{"status":"error","error":"odd"}`, no("odd")},
		{200, `{"status":"failed","message":"odd"}`, no("odd")},
		{200, `{"status":"failed","message":"rate limit"}`, busy},
		// Words that admit that something happened prove nothing.
		{200, refused("Internal server error. Please try again."), lost},
		{200, `{"status":"error","id":7,"message":"odd"}`, wantFault{unknown, false, 0, "session 7"}},
		{200, `{"status":"error","id":7,"message":"try again"}`, wantFault{unknown, true, 0, "session 7"}},
		{200, `{"status":"error","id":7,"message":"rate limit"}`, wantFault{unknown, true, 0, "session 7"}},
		{200, `{"status":"error","id":7,"message":"Insufficient credits"}`, wantFault{unknown, true, 0, "session 7"}},
		{200, `{"status":"error","id":7,"message":"Invalid API key"}`, wantFault{unknown, true, 0, "session 7"}},
		{200, `{"status":"error","id":7,"message":"image is required"}`, wantFault{unknown, false, 0, "session 7"}},
		// The error codes page.
		{400, refused("prompt is required"), no("prompt is required")},
		{401, refused("Invalid API key"), key},
		{401, "", key},
		{402, refused("Insufficient credits. Please add more credits to continue."), credits},
		{402, "", credits},
		{403, refused("This feature requires a premium subscription"), wantFault{retryable, true, time.Minute, "premium subscription"}},
		{403, "<html>", key},
		{404, "", no("MODELSLAB_BASE_URL")},
		{422, refused("seed must be an integer"), no("seed must")},
		{429, `{"status":"error","message":"Rate limit exceeded. Maximum 5 queued requests allowed.","retry_after":30}`, wantFault{retryable, true, 30 * time.Second, "queued requests"}},
		{429, "", busy},
		{429, `{"status":"slow","retry_after":3}`, wantFault{retryable, true, 3 * time.Second, ""}},
		{407, "<html>", wantFault{retryable, true, time.Minute, "HTTPS_PROXY"}},
		{408, "", lost},
		{408, refused("Rate limit exceeded"), lost},
		{500, refused("Internal server error. Please try again."), lost},
		{500, refused("Rate limit exceeded"), lost},
		{500, refused("Invalid API key"), lost},
		{500, `{"status":"failed","message":"odd"}`, lost},
		{503, `{"status":"error","message":"Service temporarily unavailable. Please try again later.","retry_after":9}`, wantFault{unknown, true, 9 * time.Second, ""}},
		{502, "<html>bad gateway</html>", lost},
		{504, "", lost},
		// Answers that cannot be understood.
		{200, "", maybe},
		{200, "{}", maybe},
		{200, "null", maybe},
		{200, "[]", maybe},
		{200, `"success"`, maybe},
		{200, `{"status":"success"`, maybe},
		{200, `{"status":"success","id":1}{}`, maybe},
		{200, `{"status":["success"],"id":null}`, maybe},
		{200, `{"status":"success","output":["https://f.example/a.glb?sig=1"]}`, wantFault{unknown, false, 0, "https://f.example/a.glb?…"}},
		{200, `{"status":"processing","eta":3}`, wantFault{unknown, false, 0, "no id"}},
		{200, `{"status":"queued"}`, wantFault{unknown, false, 0, "queued"}},
		{201, refused("odd"), no("odd")},
	}
	for _, tc := range tests {
		t.Run(fmt.Sprint(tc.status, " ", tc.body), func(t *testing.T) {
			t.Parallel()
			_, err := submit(t.Context(), provider(t, tc.status, tc.body), nil)
			checkFault(t, err, tc.want)
		})
	}
}

// Whatever says a session's name was bought, whatever else it says.
func TestCreateNeverLosesASession(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]jobs.Phase{
		`{"status":"processing","id":7,"eta":2}`:                                    jobs.InProgress,
		`{"status":"success","id":7,"output":["https://f.example/a.glb"]}`:          jobs.Done,
		`{"status":"success","id":7,"output":""}`:                                   jobs.InProgress,
		`{"status":"failed","id":7,"message":"too dark"}`:                           jobs.Broken,
		`{"status":"processing","fetch_result":"https://{host}/api/v6/3d/fetch/7"}`: jobs.InProgress,
	} {
		for _, status := range []int{200, 201, 400, 429, 500, 503} {
			s, err := submit(t.Context(), provider(t, status, body), nil)
			if err != nil || s.ID != "7" || s.Status.Phase != want {
				t.Errorf("HTTP %d %s: %+v, %v", status, body, s, err)
			}
		}
	}
	for _, body := range []string{`{"id":7}`, `{"id":7,"status":"queued"}`} {
		s, err := submit(t.Context(), provider(t, 200, body), nil)
		if err != nil || s.ID != "7" || s.Status.Phase != jobs.InProgress {
			t.Errorf("%s: %+v, %v", body, s, err)
		}
	}
}

func TestFetchFaults(t *testing.T) {
	t.Parallel()
	again := wantFault{retryable, false, 0, ""}
	pause := wantFault{retryable, true, 0, ""}
	auth := wantFault{retryable, false, time.Minute, "MODELSLAB_API_KEY"}
	credits := wantFault{retryable, true, time.Minute, "out of credits"}
	gone := wantFault{permanent, false, 0, ""}
	tests := []struct {
		status int
		body   string
		want   wantFault
	}{
		{200, refused("Something odd"), again},
		{200, refused("Generation failed"), again},
		{200, refused("Invalid request"), again},
		{200, refused("Request URL not found"), again},
		{200, refused("Not found"), again},
		{200, `{"status":"error"}`, again},
		{200, refused("Rate limit exceeded"), pause},
		{200, refused("Try again"), again},
		{200, refused("Invalid API key"), auth},
		{200, refused("Insufficient credits"), credits},
		{200, `{"status":"failed","message":"Rate limit exceeded"}`, pause},
		{200, `{"status":"failed","message":"Invalid API key"}`, auth},
		{429, `{"status":"failed","id":7,"message":"slow down","retry_after":4}`, wantFault{retryable, true, 4 * time.Second, ""}},
		{500, `{"status":"failed","message":"odd"}`, pause},
		{200, refused("Request not found"), gone},
		{404, refused("No such request"), gone},
		{400, refused("Invalid request id"), gone},
		{200, refused("request_id 7 does not exist"), gone},
		{200, refused("The id does not exist"), gone},
		{200, refused(map[string]any{"id": []string{"is unknown"}}), gone},
		{401, refused("Request not found"), auth},
		{500, refused("Request not found"), pause},
		{401, "", auth},
		{403, refused("odd"), auth},
		{402, "", credits},
		{404, "", again},
		{404, "<html>", again},
		{404, refused("Not found"), again},
		{400, refused("odd"), again},
		{422, refused("odd"), again},
		{301, "", again},
		{302, "", again},
		{308, "", again},
		{429, `{"status":"error","message":"x","retry_after":30}`, wantFault{retryable, true, 30 * time.Second, ""}},
		{500, refused("odd"), pause},
		{503, "", pause},
		{200, "", again},
		{200, "{}", again},
		{200, `{"id":7,"output":["https://f.example/a.glb"]}`, again},
		{200, "[]", again},
		{200, "<html>", again},
		{404, `{"status":"gone"}`, again},
	}
	for _, tc := range tests {
		t.Run(fmt.Sprint(tc.status, " ", tc.body), func(t *testing.T) {
			t.Parallel()
			_, err := provider(t, tc.status, tc.body).Poll(t.Context(), jobs.Ref{Session: "7", Stage: "create"})
			checkFault(t, err, tc.want)
		})
	}
}

func TestUploadFaults(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status int
		body   string
		want   wantFault
	}{
		{200, refused("Rate limit exceeded"), wantFault{retryable, true, 0, ""}},
		{200, refused("Internal server error"), wantFault{retryable, true, 0, ""}},
		{200, refused("invalid base64"), wantFault{permanent, false, 0, "invalid base64"}},
		{200, refused("odd"), wantFault{permanent, false, 0, "odd"}},
		{401, refused("Invalid API key"), wantFault{retryable, true, time.Minute, "MODELSLAB_API_KEY"}},
		{408, "", wantFault{retryable, true, 0, ""}},
		{402, "", wantFault{retryable, true, time.Minute, "credits"}},
		{429, `{"retry_after":5}`, wantFault{retryable, true, 5 * time.Second, ""}},
		{500, "", wantFault{retryable, true, 0, ""}},
		{200, "", wantFault{retryable, false, 0, ""}},
		{200, `{"status":"success","output":[]}`, wantFault{retryable, false, 0, "no URL"}},
		{200, `{"status":"processing","eta":1e9}`, wantFault{retryable, false, jobs.MaxAfter, "no URL"}},
		{200, `{"status":"success","output":["file:///etc/passwd"]}`, wantFault{retryable, false, 0, "no URL"}},
	}
	for _, tc := range tests {
		_, err := provider(t, tc.status, tc.body).Upload(t.Context(), []byte("x"), "image/png")
		checkFault(t, err, tc.want)
	}
}

func TestUploadRefusesWithoutACall(t *testing.T) {
	t.Parallel()
	s := serve(t, 200, `{"status":"success","output":["https://f.example/a.png"]}`)
	p := modelslab.NewProvider(client(t, modelslab.Config{BaseURL: s.URL}))
	_, err := p.Upload(t.Context(), make([]byte, modelslab.MaxUpload+1), "image/png")
	checkFault(t, err, wantFault{permanent, false, 0, "MESHMILL_IMAGE_DELIVERY=presign"})
	_, err = p.Upload(t.Context(), []byte("x"), "image/gif")
	checkFault(t, err, wantFault{permanent, false, 0, "image/gif"})
	_, err = p.Upload(t.Context(), nil, "image/png")
	checkFault(t, err, wantFault{permanent, false, 0, "empty"})
	_, err = p.Upload(t.Context(), []byte("what is this"), "")
	checkFault(t, err, wantFault{permanent, false, 0, "media type"})
	if n := len(s.requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
	if _, err := p.Upload(t.Context(), make([]byte, modelslab.MaxUpload), "image/webp"); err != nil {
		t.Error(err)
	}
}

// A lost answer to a paid call, by the real transport.
func TestLostAnswersStayUnknown(t *testing.T) {
	t.Parallel()
	cut := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(cut.Close)
	p := modelslab.NewProvider(client(t, modelslab.Config{BaseURL: cut.URL}))
	_, err := submit(t.Context(), p, nil)
	checkFault(t, err, wantFault{unknown, true, 0, ""})
	_, err = p.Poll(t.Context(), jobs.Ref{Session: "7"})
	checkFault(t, err, wantFault{retryable, true, 0, ""})
	if _, ok := any(p).(jobs.Reconciler); ok {
		t.Error("the API has nothing to look up with")
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = submit(ctx, p, nil)
	checkFault(t, err, wantFault{retryable, false, 0, ""})
}

// No answer can make an error, a status or a printed value show the key.
func TestTheKeyIsNeverShown(t *testing.T) {
	t.Parallel()
	echo := func(status string) string {
		return fmt.Sprintf(`{"status":%q,"id":7,"message":{"your key %s":["is %s"]},"fetch_result":"https://{host}/%s"}`, status, key, key, key)
	}
	for _, code := range []int{200, 400, 401, 402, 403, 404, 429, 500} {
		for _, body := range []string{echo("error"), echo("failed"), echo(key), key, `{"status":"` + key + `"}`} {
			p := provider(t, code, body)
			s, err := submit(t.Context(), p, nil)
			st, err2 := p.Poll(t.Context(), jobs.Ref{Session: "7"})
			if s != nil {
				st = s.Status
			}
			if text := fmt.Sprintf("%+v %+v %v %v", s, st, err, err2); strings.Contains(text, key) {
				t.Errorf("HTTP %d %s: %s", code, body, text)
			}
		}
	}
	cfg := modelslab.Config{Key: key}
	c := client(t, cfg)
	if text := fmt.Sprintf("%v %+v %#v %s %v %+v %#v", cfg, cfg, cfg, cfg, c, c, modelslab.NewProvider(c)); strings.Contains(text, key) {
		t.Errorf("printed: %s", text)
	}
}
