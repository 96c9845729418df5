package fetch_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/internal/fetch"
)

// server is a test server on loopback that counts what it is asked.
type server struct {
	url, addr, port string
	hits            atomic.Int32
}

func serve(t *testing.T, h http.HandlerFunc) *server {
	t.Helper()
	s := &server{}
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.hits.Add(1)
		h(w, r)
	}))
	t.Cleanup(ts.Close)
	s.url, s.addr = ts.URL, strings.TrimPrefix(ts.URL, "http://")
	_, s.port, _ = net.SplitHostPort(s.addr)
	return s
}

func hello(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "Model/GLTF-Binary; charset=x")
	io.WriteString(w, "hello")
}

// client returns a client that may read from s, and its folder for scratch
// files, which must be empty in the end.
func client(t *testing.T, s *server) *fetch.Client {
	t.Helper()
	dir := t.TempDir()
	// The limit is for a test that fails; none that passes comes near it.
	c := fetch.New(fetch.Config{AllowHosts: []string{s.addr}, Scratch: dir, Limit: 20 * time.Second})
	t.Cleanup(func() {
		c.Close()
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left in the scratch folder: %v, %v", left, err)
		}
	})
	return c
}

// mustFail downloads u, which has to fail for the given reason and without
// the word SECRET in any text.
func mustFail(t *testing.T, c *fetch.Client, u string, want fetch.Reason) *fetch.Error {
	t.Helper()
	f, err := c.Download(t.Context(), u, 1<<20)
	if err == nil {
		f.Close()
		t.Fatalf("%.80q was downloaded", u)
	}
	e, ok := errors.AsType[*fetch.Error](err)
	if !ok {
		t.Fatalf("%.80q: %T is no *fetch.Error", u, err)
	}
	if fetch.ReasonOf(err) != want {
		t.Errorf("%.80q: %v (%v), want %v", u, e.Reason, e, want)
	}
	if strings.Contains(e.Text, "was not done") {
		t.Errorf("%.80q: hung until the test's own limit: %v", u, e)
	}
	for cause := err; cause != nil; cause = errors.Unwrap(cause) {
		if strings.Contains(cause.Error(), "SECRET") {
			t.Errorf("the error tells a secret: %v", cause)
		}
	}
	return e
}

func TestDownload(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"one byte": 1, "small": 1000, "as large as memory": 1 << 20, "on disk": 1<<20 + 1, "large": 5<<20 + 17} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, chunked %v", name, chunked), func(t *testing.T) {
				t.Parallel()
				content := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
				s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "model/gltf-binary")
					if !chunked {
						w.Header().Set("Content-Length", strconv.Itoa(size))
					}
					w.(http.Flusher).Flush()
					w.Write(content)
				})
				f, err := client(t, s).Download(t.Context(), s.url+"/x.glb?sig=1#part", int64(size))
				if err != nil {
					t.Fatal(err)
				}
				sum := sha256.Sum256(content)
				got := []any{f.Size(), f.SHA256(), f.MediaType(), f.Private}
				want := []any{int64(size), hex.EncodeToString(sum[:]), "model/gltf-binary", true}
				if d := cmp.Diff(want, got); d != "" {
					t.Error(d)
				}
				for range 2 {
					if all, err := io.ReadAll(f.Reader()); err != nil || !bytes.Equal(all, content) {
						t.Errorf("read %d bytes, %v", len(all), err)
					}
				}
				r := f.Reader()
				if end, err := r.Seek(-1, io.SeekEnd); err != nil || end != int64(size-1) {
					t.Errorf("seek: %d, %v", end, err)
				}
				last := make([]byte, 2)
				if n, err := f.ReadAt(last, int64(size-1)); n != 1 || err != io.EOF || last[0] != content[size-1] {
					t.Errorf("read at the end: %d, %v", n, err)
				}
				if _, err := f.ReadAt(last, -1); err == nil {
					t.Error("a negative offset was taken")
				}
				if n, err := f.ReadAt(last, int64(size)+5); n != 0 || err != io.EOF {
					t.Errorf("read behind the end: %d, %v", n, err)
				}
				if err := errors.Join(f.Close(), f.Close()); err != nil {
					t.Error(err)
				}
				if _, err := f.ReadAt(last, 0); !errors.Is(err, os.ErrClosed) {
					t.Errorf("read after Close: %v", err)
				}
			})
		}
	}
}

func TestMediaType(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		"Image/PNG; charset=utf-8": "image/png", "image/png; =": "image/png", "": "", ";;": "", "a b/c": "", "x/" + strings.Repeat("y", 200): "",
	} {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{header}
			io.WriteString(w, "x")
		})
		f, err := client(t, s).Download(t.Context(), s.url, 10)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.MediaType(); got != want {
			t.Errorf("%q: got %q, want %q", header, got, want)
		}
		f.Close()
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Path[1:])
		w.WriteHeader(status)
		if status >= 400 {
			io.WriteString(w, "denied: SECRET")
		}
	})
	c := client(t, s)
	for status, want := range map[int]struct {
		reason    fetch.Reason
		retryable bool
	}{
		201: {fetch.BadStatus, false}, 204: {fetch.BadStatus, false}, 206: {fetch.BadStatus, false},
		300: {fetch.BadStatus, false}, 304: {fetch.BadStatus, false}, 302: {fetch.Broken, true},
		400: {fetch.Expired, false}, 401: {fetch.Expired, false}, 403: {fetch.Expired, false}, 404: {fetch.Expired, false}, 410: {fetch.Expired, false},
		402: {fetch.BadStatus, false}, 408: {fetch.BadStatus, true}, 418: {fetch.BadStatus, false}, 425: {fetch.BadStatus, true}, 429: {fetch.BadStatus, true},
		500: {fetch.BadStatus, true}, 503: {fetch.BadStatus, true},
	} {
		e := mustFail(t, c, fmt.Sprintf("%s/%d?X-Amz-Signature=SECRET", s.url, status), want.reason)
		if e.Status != status || e.Retryable() != want.retryable {
			t.Errorf("%d: status %d, retryable %v", status, e.Status, e.Retryable())
		}
	}
}

func TestErrorText(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) })
	c := client(t, s)
	const why = ": HTTP 403: the link is not valid, or not any more"
	for path, want := range map[string]string{
		"/a/b/oak%20chair.glb?sig=SECRET": s.addr + "/…/oak chair.glb" + why,
		"/download/SECRET":                s.addr + why,
		"/SECRET.not-an-extension":        s.addr + why,
		"/%0ASECRET.glb":                  s.addr + why,
		"":                                s.addr + why,
	} {
		if got := mustFail(t, c, s.url+path, fetch.Expired).Error(); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	for r := fetch.None; r <= fetch.Stopped; r++ {
		if strings.HasPrefix(r.String(), "reason") {
			t.Errorf("reason %d has no name", uint8(r))
		}
	}
	if got := fetch.ReasonOf(errors.New("other")); got != fetch.None {
		t.Errorf("another's error: %v", got)
	}
	if got := fetch.ReasonOf(fmt.Errorf("job: %w", &fetch.Error{Reason: fetch.TooLarge})); got != fetch.TooLarge {
		t.Errorf("wrapped: %v", got)
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/huge":
			w.Header().Set("Content-Length", "9000000000000000000")
			w.(http.Flusher).Flush()
			<-r.Context().Done() // a client that waits for the body would hang
		case "/endless":
			for block := make([]byte, 64<<10); ; {
				n, err := w.Write(block)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		case "/101":
			w.Write(make([]byte, 101))
		}
	})
	c := client(t, s)
	mustFail(t, c, s.url+"/huge?SECRET", fetch.TooLarge)
	mustFail(t, c, s.url+"/endless?SECRET", fetch.TooLarge)
	// What the sockets' buffers hold comes on top of what was read.
	if n := sent.Load(); n > 64<<20 {
		t.Errorf("%d bytes were sent to a client that takes 1 MiB", n)
	}
	for _, max := range []int64{-1, 0, 100} {
		if _, err := c.Download(t.Context(), s.url+"/101", max); fetch.ReasonOf(err) != fetch.TooLarge {
			t.Errorf("limit %d: %v", max, err)
		}
	}
	f, err := c.Download(t.Context(), s.url+"/101", 101)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestBrokenBodies(t *testing.T) {
	t.Parallel()
	zipped := zip(t, bytes.Repeat([]byte{0}, 1<<20))
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/short":
			w.Header().Set("Content-Length", "100")
			w.Write(make([]byte, 99))
		case "/short-on-disk":
			w.Header().Set("Content-Length", "1048576")
			w.Write(make([]byte, 1<<20-1))
		case "/cut":
			w.Write(make([]byte, 5000))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "/no-answer":
			panic(http.ErrAbortHandler)
		case "/empty":
			w.Header().Set("Content-Length", "0")
		case "/empty-chunked":
			w.(http.Flusher).Flush()
		case "/encoded":
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(zipped)
		}
	})
	c := client(t, s)
	for path, want := range map[string]fetch.Reason{
		"/short": fetch.Broken, "/short-on-disk": fetch.Broken, "/cut": fetch.Broken, "/no-answer": fetch.Unreachable,
		"/empty": fetch.Broken, "/empty-chunked": fetch.Broken, "/encoded": fetch.Broken,
	} {
		if e := mustFail(t, c, s.url+path+"?SECRET", want); !e.Retryable() {
			t.Errorf("%s: not retryable", path)
		}
	}
}

func TestGzipIsNotExpanded(t *testing.T) {
	t.Parallel()
	zipped := zip(t, bytes.Repeat([]byte{0}, 1<<20))
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("Accept-Encoding: %q", got)
		}
		w.Header().Set("Content-Encoding", "aws-chunked") // some stores say so of plain objects
		w.Write(zipped)
	})
	f, err := client(t, s).Download(t.Context(), s.url+"/x.gz", 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, _ := io.ReadAll(f.Reader()); !bytes.Equal(got, zipped) {
		t.Errorf("got %d bytes, want the %d that were sent", len(got), len(zipped))
	}
}

func zip(t *testing.T, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(content)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRefusedRedirects(t *testing.T) {
	t.Parallel()
	inner := serve(t, hello)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.Query().Get("to"))
		w.WriteHeader(http.StatusFound)
	})
	c := client(t, s)
	targets := map[string]string{"another port of loopback": inner.url + "/x.glb", "loopback by scheme-relative URL": "//" + inner.addr + "/x.glb"}
	for name, u := range hidden {
		switch name {
		case "empty", "no scheme", "scheme-relative", "opaque", "very long", "control character":
			// Relative to the server itself, or nothing that a header can carry.
		default:
			targets[name] = u
		}
	}
	for name, to := range targets {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := s.url + "/?" + strings.ReplaceAll("to="+urlEscape(to)+"&sig=SECRET", "+", "%20")
			mustFail(t, c, u, fetch.Refused)
			if n := inner.hits.Load(); n != 0 {
				t.Errorf("the inner server was asked %d times", n)
			}
		})
	}
}

func urlEscape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "%%%02x", c)
	}
	return b.String()
}

func TestRedirectsCarryNothing(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []http.Header
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Header.Clone())
		mu.Unlock()
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "1", Path: "/"})
		switch r.URL.Path {
		case "/a":
			http.Redirect(w, r, "/b?token=1", http.StatusMovedPermanently)
		case "/b":
			http.Redirect(w, r, "c", http.StatusSeeOther)
		case "/c":
			http.Redirect(w, r, "/d", http.StatusPermanentRedirect)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusTemporaryRedirect)
		case "/4":
			http.Redirect(w, r, "/a", http.StatusFound)
		default:
			hello(w, r)
		}
	})
	c := client(t, s)
	for range 2 {
		f, err := c.Download(t.Context(), s.url+"/a?SECRET", 100)
		if err != nil {
			t.Fatalf("three redirects: %v", err)
		}
		f.Close()
	}
	want := http.Header{"User-Agent": {"meshmill"}, "Accept": {"*/*"}, "Accept-Encoding": {"identity"}}
	if len(seen) != 8 {
		t.Fatalf("%d requests, want 8", len(seen))
	}
	for _, h := range seen {
		if d := cmp.Diff(want, h); d != "" {
			t.Error(d)
		}
	}
	mustFail(t, c, s.url+"/loop?SECRET", fetch.Refused)
	mustFail(t, c, s.url+"/4?SECRET", fetch.Refused)
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	c := fetch.New(fetch.Config{AllowHosts: []string{addr}})
	defer c.Close()
	if e := mustFail(t, c, "http://"+addr+"/x.glb?SECRET", fetch.Unreachable); !e.Retryable() || !strings.Contains(e.Error(), "refused") {
		t.Errorf("%v", e)
	}
	s := serve(t, hello)
	c = client(t, s)
	if e := mustFail(t, c, "https://"+s.addr+"/x.glb?SECRET", fetch.Unreachable); !strings.Contains(e.Error(), "does not speak TLS") {
		t.Errorf("%v", e)
	}
}

func TestUnknownCertificate(t *testing.T) {
	t.Parallel()
	ts := httptest.NewUnstartedServer(http.HandlerFunc(hello))
	ts.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of the client that hangs up
	ts.StartTLS()
	defer ts.Close()
	addr := strings.TrimPrefix(ts.URL, "https://")
	c := fetch.New(fetch.Config{AllowHosts: []string{addr}})
	defer c.Close()
	if e := mustFail(t, c, ts.URL+"/x.glb?SECRET", fetch.Unreachable); !strings.Contains(e.Error(), "unknown authority") {
		t.Errorf("%v", e)
	}
}

// A server that says the signature back in a line that is not HTTP.
func TestEchoedSecretStaysHidden(t *testing.T) {
	t.Parallel()
	c := piped(t, fetch.Config{}, func(conn net.Conn) {
		conn.Write([]byte("SECRET SECRET\r\n\r\n"))
	})
	e, ok := errors.AsType[*fetch.Error](func() error { _, err := c.Download(t.Context(), "http://cdn.test/?SECRET", 9); return err }())
	if !ok || e.Reason != fetch.Unreachable || strings.Contains(e.Error(), "SECRET") {
		t.Errorf("%v", e)
	}
}

func TestScratchFileIsClosedAfterErrors(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("open files that are unlinked can be seen on Linux only")
	}
	// The collector would close what nobody holds any more, and hide the fault.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	dir := t.TempDir()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write(make([]byte, 3<<20))
		if r.URL.Path == "/cut" {
			panic(http.ErrAbortHandler)
		}
	})
	c := fetch.New(fetch.Config{AllowHosts: []string{s.addr}, Scratch: dir})
	defer c.Close()
	for path, want := range map[string]fetch.Reason{"/large": fetch.TooLarge, "/cut": fetch.Broken} {
		max := int64(2 << 20)
		if path == "/cut" {
			max = 8 << 20
		}
		if _, err := c.Download(t.Context(), s.url+path, max); fetch.ReasonOf(err) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, dir) {
			t.Errorf("still open: %s", to)
		}
	}
}

func TestScratchFolderMissing(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 2<<20)) })
	c := fetch.New(fetch.Config{AllowHosts: []string{s.addr}, Scratch: t.TempDir() + "/missing"})
	defer c.Close()
	_, err := c.Download(t.Context(), s.url, 4<<20)
	if fetch.ReasonOf(err) != fetch.Scratch {
		t.Errorf("%v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Path[1:])
		w.Write(bytes.Repeat([]byte{byte(n)}, 1+n<<17))
	})
	c := client(t, s)
	var wg sync.WaitGroup
	for n := range 16 {
		wg.Go(func() {
			f, err := c.Download(t.Context(), fmt.Sprintf("%s/%d", s.url, n), 4<<20)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if want := sha256.Sum256(bytes.Repeat([]byte{byte(n)}, 1+n<<17)); f.SHA256() != hex.EncodeToString(want[:]) {
				t.Errorf("%d: mixed up", n)
			}
		})
	}
	wg.Wait()
}

func TestNoProxyUnlessPrivateIsAllowed(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(name, "http://proxy.test:3128")
	}
	var dialled string
	cfg := fetch.Config{}.WithDial(func(_ context.Context, _, address string) (net.Conn, error) {
		dialled = address
		return nil, errors.New("no network in this test")
	})
	c := fetch.New(cfg)
	defer c.Close()
	if e := mustFail(t, c, "http://cdn.test/x.glb?SECRET", fetch.Unreachable); dialled != "cdn.test:80" || !strings.Contains(e.Error(), "MESHMILL_ALLOW_PRIVATE_URLS") {
		t.Errorf("dialled %s: %v", dialled, e)
	}
	cfg.AllowPrivate = true
	c = fetch.New(cfg)
	defer c.Close()
	if mustFail(t, c, "http://cdn.test/x.glb?SECRET", fetch.Unreachable); dialled != "proxy.test:3128" {
		t.Errorf("dialled %s, want the proxy", dialled)
	}
}

// piped returns a client whose every connection is to answer, which is called
// when the request has come.
func piped(t *testing.T, cfg fetch.Config, answer func(net.Conn)) *fetch.Client {
	t.Helper()
	var servers sync.WaitGroup
	c := fetch.New(cfg.WithDial(func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		servers.Go(func() { // ends with the client's side of the pipe
			defer theirs.Close()
			for block := make([]byte, 4096); ; {
				n, err := theirs.Read(block)
				if err != nil {
					return
				}
				if bytes.HasSuffix(block[:n], []byte("\r\n\r\n")) {
					break
				}
			}
			answer(theirs)
		})
		return ours, nil
	}))
	t.Cleanup(func() {
		c.Close()
		servers.Wait()
	})
	return c
}

func TestTimes(t *testing.T) {
	t.Parallel()
	hang := func(c net.Conn) { io.Copy(io.Discard, c) } // until the client closes
	// trickle sends the head and then a byte every 20 s.
	trickle := func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
		for {
			time.Sleep(20 * time.Second)
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
		}
	}
	tests := map[string]struct {
		answer  func(net.Conn)
		stopAt  time.Duration // 0: the caller does not stop it
		reason  fetch.Reason
		text    string
		took    time.Duration
		wantErr error
	}{
		"no answer": {answer: hang, reason: fetch.Unreachable, text: "nothing came for 1m0s", took: time.Minute},
		"head only": {
			answer: func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"); hang(c) },
			reason: fetch.Broken, took: time.Minute,
		},
		"stalls in the middle": {
			answer: func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
				time.Sleep(50 * time.Second)
				io.WriteString(c, "he")
				hang(c)
			},
			reason: fetch.Broken, took: 110 * time.Second,
		},
		"too slow":            {answer: trickle, reason: fetch.Broken, text: "not done after 10m0s", took: 10 * time.Minute},
		"stopped":             {answer: trickle, stopAt: 30 * time.Second, reason: fetch.Stopped, took: 30 * time.Second, wantErr: errStop},
		"stopped before head": {answer: hang, stopAt: 30 * time.Second, reason: fetch.Stopped, took: 30 * time.Second, wantErr: errStop},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := piped(t, fetch.Config{Limit: 10 * time.Minute}, tc.answer)
				ctx, stop := context.WithCancelCause(t.Context())
				defer stop(nil)
				if tc.stopAt > 0 {
					defer time.AfterFunc(tc.stopAt, func() { stop(errStop) }).Stop()
				}
				began := time.Now()
				_, err := c.Download(ctx, "http://cdn.test/x.glb?SECRET", 5000)
				if fetch.ReasonOf(err) != tc.reason || strings.Contains(err.Error(), "SECRET") {
					t.Errorf("%v (%v), want %v", err, fetch.ReasonOf(err), tc.reason)
				}
				if tc.wantErr != nil && !errors.Is(err, tc.wantErr) {
					t.Errorf("%v does not wrap %v", err, tc.wantErr)
				}
				if !strings.Contains(err.Error(), tc.text) {
					t.Errorf("%v does not say %q", err, tc.text)
				}
				if took := time.Since(began); took != tc.took {
					t.Errorf("took %v, want %v", took, tc.took)
				}
			})
		})
	}
}

var errStop = errors.New("shutting down")

// A download that is slow, but never silent for long, comes through.
func TestSlowButSteady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := piped(t, fetch.Config{}, func(c net.Conn) {
			time.Sleep(50 * time.Second)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n")
			for _, b := range []byte("hello") {
				time.Sleep(50 * time.Second)
				c.Write([]byte{b})
			}
		})
		f, err := c.Download(t.Context(), "http://cdn.test/x.glb", 5)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if got, _ := io.ReadAll(f.Reader()); string(got) != "hello" {
			t.Errorf("got %q", got)
		}
	})
}
