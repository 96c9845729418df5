package providertest

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

func (h Harness) ref(stage string) jobs.Ref {
	return jobs.Ref{Session: h.Session, Stage: stage, Options: h.Options, Formats: h.Formats}
}

func (h Harness) poll(t *testing.T, answer http.HandlerFunc) (jobs.Provider, *jobs.Status, error) {
	t.Helper()
	w := serve(t, answer)
	p := h.New(t, w.base, Key)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := p.Poll(ctx, h.lastRef(p))
	if (s == nil) == (err == nil) {
		t.Fatalf("Poll = %v, %v: want a status or an error", s, err)
	}
	return p, s, err
}

// lastRef is a session whose last stage has been bought, so far as the suite
// knows it.
func (h Harness) lastRef(p jobs.Provider) jobs.Ref {
	if h.Next != "" {
		return h.ref(h.Next)
	}
	return h.ref(p.Catalog().FirstStage)
}

// done checks the status of a session with results.
func (h Harness) done(t *testing.T, s *jobs.Status) {
	t.Helper()
	if s.Phase != jobs.Done {
		t.Fatalf("phase %d (%s), want done", s.Phase, s.Detail)
	}
	if len(s.Files) == 0 {
		t.Fatal("no files")
	}
	formats := map[string]bool{}
	for _, f := range s.Files {
		formats[f.Format] = true
		if f.Format == "" || f.URL == "" {
			t.Errorf("file %q lacks a format or a URL", f.Format)
		}
	}
	for _, f := range h.Formats {
		if !formats[f] {
			t.Errorf("no file in the wanted format %s", f)
		}
	}
}

func (h Harness) testPoll(t *testing.T) {
	t.Parallel()
	t.Run("processing", func(t *testing.T) {
		t.Parallel()
		_, s, err := h.poll(t, h.Processing.send)
		if err != nil {
			t.Fatal(err)
		}
		if s.Phase != jobs.InProgress || s.Percent > 100 || s.ETA < 0 || len(s.Files) > 0 {
			t.Errorf("status %+v, want in progress without files", s)
		}
	})
	t.Run("done", func(t *testing.T) {
		t.Parallel()
		_, s, err := h.poll(t, h.Done.send)
		if err != nil {
			t.Fatal(err)
		}
		h.done(t, s)
	})
	t.Run("broken", func(t *testing.T) {
		t.Parallel()
		_, s, err := h.poll(t, h.Broken.send)
		if err != nil {
			t.Fatalf("a failed session must be a status: %v", err)
		}
		if s.Phase != jobs.Broken || s.Message == "" {
			t.Errorf("status %+v, want broken with a message", s)
		}
		cleanText(t, s.Message)
		cleanText(t, s.Detail)
	})

	message := "no: " + Key + " with https://files.example/a.glb?" + Signature + " and\x1b[31m " + strings.Repeat("words ", 400)
	ok := h.Processing
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   want
	}{
		// What is paid for must not be lost to a key that is wrong today.
		"401":             {h.Refuse(401, message).send, kinds(jobs.Retryable)},
		"403":             {h.Refuse(403, message).send, kinds(jobs.Retryable)},
		"429":             {h.Refuse(429, message).send, kinds(jobs.Retryable)},
		"500":             {h.Refuse(500, message).send, kinds(jobs.Retryable)},
		"502 in HTML":     {Reply{Status: 502, Body: "<html>" + message}.send, kinds(jobs.Retryable)},
		"404":             {h.Refuse(404, message).send, kinds(jobs.Retryable, jobs.Permanent)},
		"cut after send":  {cutAfterSend, kinds(jobs.Retryable)},
		"cut in the body": {ok.cutInBody, kinds(jobs.Retryable)},
		"garbage":         {ok.with("<html>" + message).send, kinds(jobs.Retryable)},
		"another JSON":    {ok.with(`["` + Key + `"]`).send, kinds(jobs.Retryable)},
		"empty":           {ok.with("").send, kinds(jobs.Retryable)},
		"huge":            {ok.huge, kinds(jobs.Retryable)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _, err := h.poll(t, tc.answer)
			h.fault(t, p, err, tc.want)
		})
	}

	t.Run("a redirect is not followed", func(t *testing.T) {
		t.Parallel()
		second := serve(t, h.Done.send)
		p, _, err := h.poll(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, second.base+r.URL.Path+"?"+Signature, http.StatusTemporaryRedirect)
		})
		h.fault(t, p, err, kinds(jobs.Retryable, jobs.Permanent))
		if n := len(second.requests()); n != 0 {
			t.Errorf("%d requests to the second host", n)
		}
	})
	t.Run("closed port", func(t *testing.T) {
		t.Parallel()
		p := h.New(t, closedPort(t), Key)
		_, err := p.Poll(t.Context(), h.lastRef(p))
		h.fault(t, p, err, kinds(jobs.Retryable))
	})
	t.Run("deadline already past", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		p := h.New(t, serve(t, h.Done.send).base, Key)
		_, err := p.Poll(ctx, h.lastRef(p))
		h.fault(t, p, err, kinds(jobs.Retryable))
	})
	t.Run("concurrent use", func(t *testing.T) {
		t.Parallel()
		p := h.New(t, serve(t, h.Done.send).base, Key)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := p.Poll(t.Context(), h.lastRef(p)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

func (h Harness) testReconcile(t *testing.T) {
	t.Parallel()
	since := time.Now().Add(-time.Minute)
	reconcile := func(t *testing.T, base string) (jobs.Provider, *jobs.Session, error) {
		t.Helper()
		p := h.New(t, base, Key)
		r, ok := p.(jobs.Reconciler)
		if !ok {
			t.Fatal("Harness.Lookup is set, but the adapter is no jobs.Reconciler")
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		s, err := r.Reconcile(ctx, *h.Lookup, since)
		if (s == nil) == (err == nil) {
			t.Fatalf("Reconcile = %v, %v: want a session or an error", s, err)
		}
		return p, s, err
	}
	t.Run("found", func(t *testing.T) {
		t.Parallel()
		_, s, err := reconcile(t, serve(t, h.Found.send).base)
		if err != nil {
			t.Fatal(err)
		}
		if s.ID != h.Session {
			t.Errorf("session %q, want %q", s.ID, h.Session)
		}
	})
	t.Run("absent", func(t *testing.T) {
		t.Parallel()
		_, _, err := reconcile(t, serve(t, h.Absent.send).base)
		if !errors.Is(err, jobs.ErrNotBought) {
			t.Errorf("error %v, want ErrNotBought", err)
		}
	})
	t.Run("closed port", func(t *testing.T) {
		t.Parallel()
		p, _, err := reconcile(t, closedPort(t))
		h.cannotTell(t, p, err)
	})
	// Whatever hides the truth must not be taken for "not bought".
	for name, answer := range map[string]http.HandlerFunc{
		"401": h.Refuse(401, Key).send, "404": h.Refuse(404, Key).send, "429": h.Refuse(429, Key).send, "500": h.Refuse(500, Key).send,
		"cut after send": cutAfterSend, "cut in the body": h.Found.cutInBody, "garbage": h.Found.with("<html>" + Key).send,
		"another JSON": h.Found.with(`["` + Key + `"]`).send, "empty": h.Found.with("").send, "huge": h.Found.huge,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _, err := reconcile(t, serve(t, answer).base)
			h.cannotTell(t, p, err)
		})
	}
}

// cannotTell asserts a lookup that could not be made.
func (h Harness) cannotTell(t *testing.T, p jobs.Provider, err error) {
	t.Helper()
	if errors.Is(err, jobs.ErrNotBought) {
		t.Errorf("error %v says that nothing was bought, which this answer does not show", err)
	}
	h.fault(t, p, err, kinds(jobs.Retryable, jobs.Permanent))
}
