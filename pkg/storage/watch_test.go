package storage

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// steady yields one byte per pause, n times, unless ctx ends first.
type steady struct {
	ctx   context.Context
	pause time.Duration
	n     int
}

func (s *steady) Read(p []byte) (int, error) {
	if s.n == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(s.pause):
		s.n--
		p[0] = 'x'
		return 1, nil
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
}

func (s *steady) Close() error { return nil }

// TestWatch runs exchanges on a fake clock, with a stall limit of 30 s, a reply
// limit of 60 s and 600 s for assembling.
func TestWatch(t *testing.T) {
	const forever = 1000 * time.Hour
	for name, tc := range map[string]struct {
		method      string
		send        time.Duration // pause between ten bytes of the request's body
		think       time.Duration // before the answer
		recv        time.Duration // pause between ten bytes of the answer's body
		readerPause time.Duration // of ours, between reads
		want        error
		took        time.Duration
	}{
		"quick":          {method: "GET", took: 0},
		"slow upload":    {method: "PUT", send: 29 * time.Second, took: 290 * time.Second},
		"stalled upload": {method: "PUT", send: forever, want: stalled{}, took: 30 * time.Second},
		"slow answer":    {method: "GET", think: 59 * time.Second, took: 59 * time.Second},
		"no answer":      {method: "GET", think: forever, want: stalled{}, took: 60 * time.Second},
		"no put answer":  {method: "PUT", send: time.Second, think: forever, want: stalled{}, took: 70 * time.Second},
		"assembling":     {method: "POST", think: 599 * time.Second, took: 599 * time.Second},
		"not assembled":  {method: "POST", think: forever, want: stalled{}, took: 600 * time.Second},
		"slow body":      {method: "GET", recv: 29 * time.Second, took: 290 * time.Second},
		"stalled body":   {method: "GET", recv: forever, want: stalled{}, took: 30 * time.Second},
		"slow reader":    {method: "GET", readerPause: time.Hour, took: 11 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				next := tripper(func(r *http.Request) (*http.Response, error) {
					if r.Body != nil {
						if _, err := io.Copy(io.Discard, r.Body); err != nil {
							return nil, err
						}
					}
					select {
					case <-time.After(tc.think):
					case <-r.Context().Done():
						return nil, r.Context().Err()
					}
					return &http.Response{StatusCode: 200, Body: &steady{r.Context(), tc.recv, 10}}, nil
				})
				w := &watch{next: next, stall: 30 * time.Second, reply: 60 * time.Second, assemble: 600 * time.Second}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, tc.method, "http://x/", nil)
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				if tc.send != 0 {
					// The transport's reading ends when the request does.
					body := &steady{n: 10, pause: tc.send}
					sending, stop := context.WithCancel(ctx)
					body.ctx = sending
					defer stop()
					req.Body = body
					w.next = tripper(func(r *http.Request) (*http.Response, error) {
						context.AfterFunc(r.Context(), stop)
						return next(r)
					})
				}
				err = exchange(w, req, tc.readerPause)
				if !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) {
					t.Errorf("error = %v, want %v", err, tc.want)
				}
				if took := time.Since(began); took != tc.took {
					t.Errorf("took %v, want %v", took, tc.took)
				}
			})
		})
	}
}

func exchange(w *watch, req *http.Request, pause time.Duration) error {
	resp, err := w.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	p := make([]byte, 1)
	for {
		time.Sleep(pause) // on the fake clock
		if _, err := resp.Body.Read(p); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// TestStalledStore sees a stall through the SDK: three tries, then words.
func TestStalledStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		w := &watch{stall: stallTimeout, reply: replyTimeout, assemble: assembleTimeout}
		w.next = tripper(func(r *http.Request) (*http.Response, error) {
			tries++
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		b, err := open(t.Context(), Config{Bucket: "abc", Endpoint: "http://x", Region: "r", AccessKeyID: "a", SecretAccessKey: "b"}, w)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = b.Put(t.Context(), "k", strings.NewReader("x"), 1, "")
		if !errors.Is(err, ErrUnreachable) || tries != 3 {
			t.Errorf("Put = %v after %d tries", err, tries)
		}
		if took := time.Since(began); took < 3*stallTimeout || took > 3*stallTimeout+2*maxBackoff {
			t.Errorf("Put took %v", took)
		}
		for name, call := range map[string]func() error{
			"Stat":   func() error { _, err := b.Stat(t.Context(), "k"); return err },
			"Get":    func() error { _, _, err := b.Get(t.Context(), "k"); return err },
			"Delete": func() error { return b.Delete(t.Context(), "k") },
			"List": func() error {
				var last error
				for _, last = range b.List(t.Context(), "") {
				}
				return last
			},
			"AbortUploads": func() error { _, err := b.AbortUploads(t.Context(), "", 0); return err },
			"PutJSON":      func() error { return b.PutJSON(t.Context(), "k", 1) },
			"Check":        func() error { return b.Check(t.Context()) },
		} {
			want := callTimeout
			if name == "Check" {
				want = checkTimeout
			}
			began := time.Now()
			if err := call(); !errors.Is(err, ErrUnreachable) {
				t.Errorf("%s = %v, want ErrUnreachable", name, err)
			}
			if took := time.Since(began); took != want {
				t.Errorf("%s took %v, want %v", name, took, want)
			}
		}
	})
}

func FuzzSafeName(f *testing.F) {
	for _, s := range []string{"", "a.png", "../../etc/passwd", "ü\"\r\nX: y", ".hidden", strings.Repeat("a", 300) + ".png", strings.Repeat(".", 200)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := safeName(s)
		if got == "" || len(got) > 100 || got[0] == '.' || strings.Trim(got, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != "" {
			t.Errorf("safeName(%q) = %q", s, got)
		}
		if safeName(got) != got {
			t.Errorf("safeName is not stable: %q, %q", got, safeName(got))
		}
	})
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b[31mb\n\xff")
	f.Add(strings.Repeat("漢", 100))
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if len(got) > 203 || strings.ContainsAny(got, "\n\r\x1b\x00") {
			t.Errorf("clean(%q) = %q", s, got)
		}
	})
}
