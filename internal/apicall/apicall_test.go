package apicall_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshmill/meshmill/internal/apicall"
	"github.com/meshmill/meshmill/pkg/jobs"
)

const key = "s3cret-key"

func endpoint(t *testing.T, base string) *apicall.Endpoint {
	t.Helper()
	e, err := apicall.New("acme", base)
	if err != nil {
		t.Fatal(err)
	}
	e.Header.Set("X-Api-Key", key)
	e.Secrets = []string{key}
	return e
}

// serve answers every call with h, and counts the calls that arrive whole.
func serve(t *testing.T, h http.HandlerFunc) (string, *atomic.Int64) {
	t.Helper()
	var calls atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		calls.Add(1)
		h(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, &calls
}

var (
	paid = apicall.Call{Op: "create", Method: http.MethodPost, Path: "/things", Body: map[string]any{"a": 1}, Paid: true}
	read = apicall.Call{Op: "get", Method: http.MethodGet, Path: "/things/1"}
	post = apicall.Call{Op: "fetch", Method: http.MethodPost, Path: "/fetch/1", Body: map[string]any{"key": key}}
)

func fault(t *testing.T, err error) *jobs.Fault {
	t.Helper()
	f, ok := errors.AsType[*jobs.Fault](err)
	if !ok {
		t.Fatalf("error %v (%T) is no *jobs.Fault", err, err)
	}
	if strings.Contains(err.Error(), key) {
		t.Errorf("the key is in the error: %v", err)
	}
	return f
}

func TestNew(t *testing.T) {
	t.Parallel()
	for base, ok := range map[string]bool{
		"https://api.example.com": true, "http://127.0.0.1:80/v6/": true,
		"": false, "api.example.com": false, "ftp://a": false, "https://a/?b=c": false, "https://u:p@a": false, "https://": false, "http://[": false,
	} {
		_, err := apicall.New("acme", base)
		if (err == nil) != ok {
			t.Errorf("New(%q): %v", base, err)
		}
		if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("the password is in the error: %v", err)
		}
	}
}

func TestDoSends(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		call               apicall.Call
		method, path, body string
		contentType        string
	}{
		"paid":  {paid, "POST", "/v6/things", `{"a":1}`, "application/json"},
		"read":  {read, "GET", "/v6/things/1", "", ""},
		"query": {apicall.Call{Op: "list", Method: "GET", Path: "list", Query: url.Values{"page": {"2"}}}, "GET", "/v6/list?page=2", "", ""},
		"escaped segment": {apicall.Call{Op: "get", Method: "GET", Path: "/things/" + url.PathEscape("a/b?c")},
			"GET", "/v6/things/a%2Fb%3Fc", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if r.Method != tc.method || r.RequestURI != tc.path || string(body) != tc.body {
					t.Errorf("got %s %s %q", r.Method, r.RequestURI, body)
				}
				if got := r.Header.Get("Content-Type"); got != tc.contentType {
					t.Errorf("Content-Type %q, want %q", got, tc.contentType)
				}
				if r.Header.Get("X-Api-Key") != key || r.Header.Get("Accept") != "application/json" {
					t.Errorf("header %v", r.Header)
				}
				if int(r.ContentLength) != len(tc.body) {
					t.Errorf("Content-Length %d, want %d", r.ContentLength, len(tc.body))
				}
				w.WriteHeader(http.StatusTeapot)
				_, _ = io.WriteString(w, "answer")
			}))
			t.Cleanup(srv.Close)
			a, err := endpoint(t, srv.URL+"/v6/").Do(t.Context(), tc.call)
			if err != nil {
				t.Fatal(err)
			}
			if a.Status != http.StatusTeapot || string(a.Body) != "answer" {
				t.Errorf("answer %d %q", a.Status, a.Body)
			}
		})
	}
}

func TestDoBrokenExchange(t *testing.T) {
	t.Parallel()
	hangUp := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	long := func(w http.ResponseWriter, _ *http.Request) {
		chunk := strings.Repeat("x", 1<<20)
		for range apicall.MaxBody>>20 + 1 {
			if _, err := io.WriteString(w, chunk); err != nil {
				return
			}
		}
	}
	for name, tc := range map[string]struct {
		call  apicall.Call
		h     http.HandlerFunc
		kind  jobs.Kind
		words string
	}{
		"paid, cut after send":    {paid, hangUp, jobs.Unknown, "broke after the request was sent"},
		"read, cut after send":    {read, hangUp, jobs.Retryable, "broke: "},
		"free POST, cut":          {post, hangUp, jobs.Retryable, "broke: "},
		"paid, cut in the answer": {paid, cut, jobs.Unknown, "broke after the request was sent"},
		"read, cut in the answer": {read, cut, jobs.Retryable, "broke: "},
		"paid, long answer":       {paid, long, jobs.Unknown, "longer than"},
		"read, long answer":       {read, long, jobs.Retryable, "longer than"},
		"paid without a body":     {apicall.Call{Op: "create", Method: "POST", Path: "/", Paid: true}, hangUp, jobs.Unknown, "after the request was sent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base, calls := serve(t, tc.h)
			_, err := endpoint(t, base).Do(t.Context(), tc.call)
			f := fault(t, err)
			if f.Kind != tc.kind || !strings.Contains(err.Error(), tc.words) || f.Op != "acme: "+tc.call.Op {
				t.Errorf("kind %v, %v; want %v, %q", f.Kind, err, tc.kind, tc.words)
			}
			if n := calls.Load(); n != 1 && tc.call.Method == http.MethodPost {
				t.Errorf("%d calls, want 1", n)
			}
		})
	}
}

type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

func TestDoNeverConnected(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	for name, tc := range map[string]struct {
		dial  dialer
		words string
	}{
		"closed port": {(&net.Dialer{}).DialContext, closed + " cannot be reached: "},
		"no such name": {func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}
		}, closed + " cannot be reached: its name cannot be resolved"},
		"dns is down": {func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.DNSError{Err: "server misbehaving", Name: "x", IsTemporary: true}
		}, "server misbehaving"},
		"text with a key": {func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("proxy said " + key + " to https://p/?sig=1")
		},
			"proxy said [secret] to https://p/?…"},
		"never answers": {func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, context.Cause(ctx) }, "cannot be reached: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := endpoint(t, "http://"+closed)
			e.Transport = &http.Transport{DialContext: tc.dial}
			for _, call := range []apicall.Call{paid, read} {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				_, err := e.Do(ctx, call)
				cancel()
				f := fault(t, err)
				if f.Kind != jobs.Retryable || !f.Pause {
					t.Errorf("kind %v, pause %v, want retryable and a pause: %v", f.Kind, f.Pause, err)
				}
				u, ok := errors.AsType[*apicall.UnreachableError](err)
				if !ok || u.Host != closed || u.Err == nil || !strings.Contains(err.Error(), tc.words) {
					t.Errorf("error %v, want an UnreachableError with %q", err, tc.words)
				}
			}
		})
	}
}

// pausing is a context whose deadline passes without any timer firing, as in a
// process that was stopped and continued.
type pausing struct {
	context.Context
	left *atomic.Int64 // nanoseconds to the deadline
}

func (p pausing) Deadline() (time.Time, bool) {
	return time.Now().Add(time.Duration(p.left.Load())), true
}

// paused returns such a context with left to go.
func paused(t *testing.T, left time.Duration) pausing {
	p := pausing{t.Context(), new(atomic.Int64)}
	p.left.Store(int64(left))
	return p
}

func TestDoUnderEndedContext(t *testing.T) {
	t.Parallel()
	cause := errors.New("told to stop")
	for name, tc := range map[string]struct {
		ctx   func(t *testing.T) context.Context
		words string
	}{
		"deadline passed": {func(t *testing.T) context.Context {
			ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
			t.Cleanup(cancel)
			return ctx
		}, "not sent: context deadline exceeded"},
		"deadline passed while paused": {func(t *testing.T) context.Context {
			return paused(t, -time.Millisecond)
		}, "not sent: context deadline exceeded"},
		"cancelled": {func(t *testing.T) context.Context {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(cause)
			return ctx
		}, "not sent: told to stop"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base, calls := serve(t, func(http.ResponseWriter, *http.Request) {})
			for _, call := range []apicall.Call{paid, read, post} {
				_, err := endpoint(t, base).Do(tc.ctx(t), call)
				f := fault(t, err)
				if f.Kind != jobs.Retryable || f.Pause || !strings.Contains(err.Error(), tc.words) {
					t.Errorf("kind %v, pause %v, %v; want %q", f.Kind, f.Pause, err, tc.words)
				}
			}
			if n := calls.Load(); n != 0 {
				t.Errorf("the server saw %d calls", n)
			}
		})
	}
}

// TestDoPausedWhileConnecting stops the world between the start of the call and
// its connection: the deadline is past by the wall clock when the request could
// go out, and no timer has fired. The header may get out, but nothing of the body.
func TestDoPausedWhileConnecting(t *testing.T) {
	t.Parallel()
	base, calls := serve(t, func(http.ResponseWriter, *http.Request) {})
	e := endpoint(t, base)
	ctx := paused(t, time.Hour)
	e.Transport = &http.Transport{DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
		ctx.left.Store(int64(-time.Millisecond))
		return (&net.Dialer{}).DialContext(t.Context(), network, addr)
	}}
	_, err := e.Do(ctx, paid)
	f := fault(t, err)
	if f.Kind != jobs.Retryable || f.Pause || !strings.Contains(err.Error(), "not sent: context deadline exceeded") {
		t.Errorf("kind %v, pause %v: %v", f.Kind, f.Pause, err)
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("the server saw %d calls", n)
	}
}

func TestDoEndedDuringTheCall(t *testing.T) {
	t.Parallel()
	cause := errors.New("told to stop")
	for name, tc := range map[string]struct {
		call  apicall.Call
		kind  jobs.Kind
		pause bool
		end   func(cancel context.CancelCauseFunc)
		words string
	}{
		"paid, cancelled": {paid, jobs.Unknown, false, func(c context.CancelCauseFunc) { c(cause) }, "stopped: told to stop"},
		"read, cancelled": {read, jobs.Retryable, false, func(c context.CancelCauseFunc) { c(cause) }, "stopped: told to stop"},
		"paid, deadline":  {paid, jobs.Unknown, true, func(context.CancelCauseFunc) {}, "no answer in time"},
		"read, deadline":  {read, jobs.Retryable, true, func(context.CancelCauseFunc) {}, "no answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if tc.pause {
				var stop context.CancelFunc
				ctx, stop = context.WithTimeoutCause(ctx, 300*time.Millisecond, errors.New("no answer in time"))
				defer stop()
			}
			base, _ := serve(t, func(_ http.ResponseWriter, r *http.Request) {
				tc.end(cancel)
				<-r.Context().Done()
			})
			_, err := endpoint(t, base).Do(ctx, tc.call)
			f := fault(t, err)
			if f.Kind != tc.kind || f.Pause != tc.pause || !strings.Contains(err.Error(), tc.words) {
				t.Errorf("kind %v, pause %v, %v; want %v, %v, %q", f.Kind, f.Pause, err, tc.kind, tc.pause, tc.words)
			}
		})
	}
}

func TestDoFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		second, seen := serve(t, func(http.ResponseWriter, *http.Request) {})
		first, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, second+"/?sig=1", status)
		})
		for _, call := range []apicall.Call{paid, read, post} {
			a, err := endpoint(t, first).Do(t.Context(), call)
			if err != nil || a.Status != status {
				t.Errorf("HTTP %d: answer %v, %v", status, a, err)
			}
		}
		if n := seen.Load(); n != 0 {
			t.Errorf("HTTP %d: the second host saw %d calls", status, n)
		}
	}
}

// TestPaidCallTakesFreshConnection makes free calls that leave pooled
// connections, which the server then closes without a word.
func TestPaidCallTakesFreshConnection(t *testing.T) {
	t.Parallel()
	for name, https := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var opened, calls atomic.Int64
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
			srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
				if s == http.StateNew {
					opened.Add(1)
				}
			}
			srv.EnableHTTP2 = https
			start := srv.Start
			if https {
				start = srv.StartTLS
			}
			start()
			t.Cleanup(srv.Close)
			e := endpoint(t, srv.URL)
			e.Transport = srv.Client().Transport
			do := func(c apicall.Call) {
				t.Helper()
				if _, err := e.Do(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			do(read)
			do(read)
			if n := opened.Load(); n != 1 {
				t.Fatalf("two free calls opened %d connections, want 1", n)
			}
			do(paid)
			do(paid)
			if n := opened.Load(); n != 3 {
				t.Errorf("two paid calls opened %d connections, want 2", n-1)
			}
			srv.CloseClientConnections()
			do(paid)
			if n := calls.Load(); n != 5 {
				t.Errorf("%d calls, want 5", n)
			}
		})
	}
}

func TestZeroTransport(t *testing.T) {
	t.Parallel()
	base, _ := serve(t, func(http.ResponseWriter, *http.Request) {})
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	e := &apicall.Endpoint{Name: "acme", Base: u}
	for _, c := range []apicall.Call{paid, read} {
		if _, err := e.Do(t.Context(), c); err != nil {
			t.Error(err)
		}
	}
}

func TestUnencodableBody(t *testing.T) {
	t.Parallel()
	base, calls := serve(t, func(http.ResponseWriter, *http.Request) {})
	c := paid
	c.Body = func() {}
	_, err := endpoint(t, base).Do(t.Context(), c)
	if f := fault(t, err); f.Kind != jobs.Permanent || calls.Load() != 0 {
		t.Errorf("kind %v, %d calls: %v", f.Kind, calls.Load(), err)
	}
}

// A 408 to a paid call proves that nothing was bought only if the body has not
// left.
func TestRequestTimeoutAfterTheBody(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		reads bool
		want  jobs.Kind
	}{"body left": {true, jobs.Unknown}, "body kept": {false, jobs.Retryable}} {
		e := endpoint(t, "https://api.example.com")
		e.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			if tc.reads {
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					return nil, err
				}
			}
			t.Cleanup(func() {
				if _, err := r.Body.Read(make([]byte, 1)); err == nil {
					t.Errorf("%s: the body goes out after the answer was judged", name)
				}
			})
			return &http.Response{StatusCode: http.StatusRequestTimeout, Body: http.NoBody, Request: r}, nil
		})
		a, err := e.Do(t.Context(), paid)
		if err != nil {
			t.Fatal(err)
		}
		if f := e.Refusal(paid, a, ""); f.Kind != tc.want || !f.Pause {
			t.Errorf("%s: kind %v, pause %v, want %v and a pause", name, f.Kind, f.Pause, tc.want)
		}
		if f := e.Refusal(post, a, ""); f.Kind != jobs.Retryable {
			t.Errorf("%s: kind %v of an unpaid call, want retryable", name, f.Kind)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
