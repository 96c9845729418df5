package apicall_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/meshmill/meshmill/internal/apicall"
	"github.com/meshmill/meshmill/pkg/jobs"
)

func TestRefusal(t *testing.T) {
	t.Parallel()
	e := endpoint(t, "https://api.example.com")
	for status, want := range map[int]struct {
		paid, read jobs.Kind
		pause      bool
	}{
		400: {jobs.Permanent, jobs.Permanent, false},
		402: {jobs.Permanent, jobs.Permanent, false},
		404: {jobs.Permanent, jobs.Permanent, false},
		407: {jobs.Retryable, jobs.Retryable, true},
		408: {jobs.Unknown, jobs.Retryable, true},
		422: {jobs.Permanent, jobs.Permanent, false},
		425: {jobs.Retryable, jobs.Retryable, true},
		429: {jobs.Retryable, jobs.Retryable, true},
		500: {jobs.Unknown, jobs.Retryable, true},
		502: {jobs.Unknown, jobs.Retryable, true},
		503: {jobs.Unknown, jobs.Retryable, true},
		504: {jobs.Unknown, jobs.Retryable, true},
		599: {jobs.Unknown, jobs.Retryable, true},
		301: {jobs.Permanent, jobs.Permanent, false},
		302: {jobs.Unknown, jobs.Retryable, false},
		303: {jobs.Unknown, jobs.Retryable, false},
		307: {jobs.Permanent, jobs.Permanent, false},
		308: {jobs.Permanent, jobs.Permanent, false},
		200: {jobs.Unknown, jobs.Retryable, false},
	} {
		a := &apicall.Answer{Status: status, Header: http.Header{"Retry-After": {"99999999999"}}}
		for _, c := range []struct {
			call apicall.Call
			kind jobs.Kind
		}{{paid, want.paid}, {read, want.read}} {
			f := e.Refusal(c.call, a, "bad "+key)
			if f.Kind != c.kind || f.Pause != want.pause || f.After != jobs.MaxAfter {
				t.Errorf("HTTP %d on %s: kind %v, pause %v, after %v; want %v, %v, %v",
					status, c.call.Op, f.Kind, f.Pause, f.After, c.kind, want.pause, jobs.MaxAfter)
			}
			if apicall.StatusOf(f) != status || strings.Contains(f.Error(), key) || f.Op != "acme: "+c.call.Op {
				t.Errorf("HTTP %d: status %d, text %q", status, apicall.StatusOf(f), f.Error())
			}
		}
	}
	if got := e.Refusal(paid, &apicall.Answer{Status: 400}, "").Error(); got != "acme: create: HTTP 400" {
		t.Errorf("without a message: %q", got)
	}
	if apicall.StatusOf(nil) != 0 || apicall.StatusOf(http.ErrAbortHandler) != 0 {
		t.Error("an error without a status has one")
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // for a clock that stands still
		now := time.Now().UTC()
		date := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
		for _, tc := range []struct {
			header, value string
			want          time.Duration
		}{
			{"Retry-After", "", 0},
			{"Retry-After", "30", 30 * time.Second},
			{"Retry-After", " 1.5 ", 1500 * time.Millisecond},
			{"Retry-After", "0", 0},
			{"Retry-After", "-5", 0},
			{"Retry-After", "soon", 0},
			{"Retry-After", "NaN", 0},
			{"Retry-After", "Inf", jobs.MaxAfter},
			{"Retry-After", "-Inf", 0},
			{"Retry-After", "1e300", jobs.MaxAfter},
			{"Retry-After", "99999999999999999999", jobs.MaxAfter},
			{"Retry-After", date(time.Minute), time.Minute},
			{"Retry-After", date(-time.Minute), 0},
			{"Retry-After", date(1000 * time.Hour), jobs.MaxAfter},
			{"X-RateLimit-Reset", "12", 12 * time.Second},
			{"X-RateLimit-Reset", "946684860", jobs.MaxAfter}, // the fake clock starts in 2000: a number of seconds
			{"X-RateLimit-Reset", "1700000000", jobs.MaxAfter},
			{"X-RateLimit-Reset", "9223372036854775807", jobs.MaxAfter},
			{"X-RateLimit-Reset", "1e400", 0},
		} {
			got := apicall.RetryAfter(http.Header{http.CanonicalHeaderKey(tc.header): {tc.value}})
			if got != tc.want {
				t.Errorf("%s: %q gives %v, want %v", tc.header, tc.value, got, tc.want)
			}
		}
		both := http.Header{"Retry-After": {"7"}, "X-Ratelimit-Reset": {"9"}}
		if got := apicall.RetryAfter(both); got != 7*time.Second {
			t.Errorf("with both headers: %v", got)
		}
	})
	for d, want := range map[time.Duration]time.Duration{-1: 0, 0: 0, 5: 5, jobs.MaxAfter + 1: jobs.MaxAfter} {
		if got := apicall.Bound(d); got != want {
			t.Errorf("Bound(%v) = %v", d, got)
		}
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	e := endpoint(t, "https://api.example.com")
	for in, want := range map[string]string{
		"":                               "",
		"too dark":                       "too dark",
		"key " + key + " is bad, " + key: "key [secret] is bad, [secret]",
		"get https://f.example/a.glb?sv=1&sig=abc%3D failed":   "get https://f.example/a.glb?… failed",
		"get HTTPS://f.example/a.glb?abc failed":               "get HTTPS://f.example/a.glb?… failed",
		`parse "/a.glb?X-Amz-Signature=abc": no`:               `parse "/a.glb?…": no`,
		`{"url":"https://f.example/a?sig=1","b":"?c=d"}`:       `{"url":"https://f.example/a?…","b":"?…"}`,
		"one\ntwo\r\n\x1b[31mthree\x00\u0085\u2028\u202efour ": "one two [31mthree four ",
		"what? nothing":          "what? nothing",
		strings.Repeat("é", 150): strings.Repeat("é", 100) + "…",
		"s3cret-\xffkey":         "s3cret-\uFFFDkey",
	} {
		if got := e.Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{
		"", "plain", key, "s3cret\xff-key", strings.Repeat("x", 195) + key, "https://a/b?c=" + key, "https://a?\x00b", "é\u2028?a=b",
	} {
		f.Add(s)
	}
	e := &apicall.Endpoint{Secrets: []string{key}}
	f.Fuzz(func(t *testing.T, s string) {
		got := e.Clean(s)
		if len(got) > 210 || !utf8.ValidString(got) || strings.ContainsAny(got, "\x00\n\r\x1b\u2028\u2029") {
			t.Errorf("Clean(%q) = %q is unfit", s, got)
		}
		if strings.Contains(got, key) {
			t.Errorf("Clean(%q) = %q holds the key", s, got)
		}
		if _, query, ok := strings.Cut(got, "?"); ok && strings.Contains(got, "https://a/b?") && !strings.HasPrefix(query, "…") {
			t.Errorf("Clean(%q) = %q holds a query", s, got)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "30", "-1", "1e999", "NaN", "0x1p-2", "Fri, 31 Dec 1999 23:59:59 GMT", "1700000000", "9223372036854775807"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, after, reset string) {
		h := http.Header{}
		h.Set("Retry-After", after)
		h.Set("X-RateLimit-Reset", reset)
		if got := apicall.RetryAfter(h); got < 0 || got > jobs.MaxAfter {
			t.Errorf("RetryAfter(%q, %q) = %v", after, reset, got)
		}
	})
}
