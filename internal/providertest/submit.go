package providertest

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// call returns the call that opens a session.
func (h Harness) call(p jobs.Provider) jobs.Call {
	return jobs.Call{Stage: p.Catalog().FirstStage, Marker: "marker-1", Image: h.Image, Options: h.Options, Formats: h.Formats}
}

// do makes the paid call named by the test: the first, or a later stage.
type do func(ctx context.Context, p jobs.Provider) (*jobs.Session, error)

func (h Harness) submit(ctx context.Context, p jobs.Provider) (*jobs.Session, error) {
	return p.Submit(ctx, h.call(p))
}

// attempt plays one answer to a paid call.
func (h Harness) attempt(t *testing.T, paid do, answer http.HandlerFunc) (jobs.Provider, *wire, *jobs.Session, error) {
	t.Helper()
	w := serve(t, answer)
	p := h.New(t, w.base, Key)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := paid(ctx, p)
	if (s == nil) == (err == nil) {
		t.Fatalf("Submit = %v, %v: want a session or an error", s, err)
	}
	return p, w, s, err
}

func (h Harness) testSubmit(t *testing.T) {
	t.Parallel()
	h.testPaid(t, h.submit, h.Accepted, true)

	t.Run("accepted", func(t *testing.T) {
		t.Parallel()
		_, w, s, err := h.attempt(t, h.submit, h.Accepted.send)
		if err != nil {
			t.Fatal(err)
		}
		if s.ID != h.Session {
			t.Errorf("session %q, want %q", s.ID, h.Session)
		}
		if s.Status != nil && s.Status.Phase != jobs.InProgress {
			t.Errorf("phase %d, want in progress", s.Status.Phase)
		}
		seen := w.requests()
		if len(seen) != 1 {
			t.Fatalf("%d requests, want 1: %v", len(seen), seen)
		}
		image := h.Image.URL
		if image == "" {
			image = base64.StdEncoding.EncodeToString(h.Image.Bytes)
		}
		if !strings.Contains(seen[0].body, image) {
			t.Error("the image is not in the body")
		}
	})
	t.Run("accepted and done", func(t *testing.T) {
		t.Parallel()
		if h.AcceptedDone == nil {
			t.Skip("the provider is never done at once")
		}
		_, _, s, err := h.attempt(t, h.submit, h.AcceptedDone.send)
		if err != nil {
			t.Fatal(err)
		}
		if s.ID != h.Session || s.Status == nil {
			t.Fatalf("session %+v, want %q with a status", s, h.Session)
		}
		h.done(t, s.Status)
	})
	t.Run("no id in the answer", func(t *testing.T) {
		t.Parallel()
		p, _, _, err := h.attempt(t, h.submit, h.NoID.send)
		h.fault(t, p, err, kinds(jobs.Unknown))
	})
	t.Run("options are checked again", func(t *testing.T) {
		t.Parallel()
		bad := func(ctx context.Context, p jobs.Provider) (*jobs.Session, error) {
			c := h.call(p)
			c.Options = map[string]any{"no_such_option": true}
			return p.Submit(ctx, c)
		}
		p, w, _, err := h.attempt(t, bad, h.Accepted.send)
		h.fault(t, p, err, kinds(jobs.Permanent))
		if n := len(w.requests()); n > 0 {
			t.Errorf("%d requests were sent", n)
		}
		if !strings.Contains(err.Error(), "no_such_option") {
			t.Errorf("the option is not named: %v", err)
		}
	})
}

// testPaid asserts what holds of every paid call, of which the first opens a
// session.
func (h Harness) testPaid(t *testing.T, paid do, accepted Reply, opens bool) {
	// A mistake with the base URL fails a new job at once; a session that has
	// been paid for may be kept until it is put right.
	mistake := kinds(jobs.Permanent)
	if !opens {
		mistake = kinds(jobs.Permanent, jobs.Retryable)
	}
	// A key that is wrong is wrong for the whole queue, which must not fail of it.
	key := want{kinds: []jobs.Kind{jobs.Retryable}, pause: true, after: true}
	message := "no: " + Key + " with https://files.example/a.glb?" + Signature + " and\x1b[31m " + strings.Repeat("words ", 400)
	limited := h.Refuse(http.StatusTooManyRequests, "slow down")
	limited.Header = limited.Header.Clone()
	if limited.Header == nil {
		limited.Header = http.Header{}
	}
	limited.Header.Set("Retry-After", "99999999999")
	moved := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
	}

	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   want
	}{
		"400": {h.Refuse(400, "the image is too small "+message).send, kinds(jobs.Permanent)},
		"401": {h.Refuse(401, message).send, key},
		"403": {h.Refuse(403, message).send, key},
		"407": {Reply{Status: 407, Body: "<html>" + message}.send, key},
		// A proxy says so of a server that is slow, and may have bought.
		"408": {h.Refuse(408, message).send, kinds(jobs.Unknown)},
		// Out of credits is a refusal for certain; whether it may pass is the
		// provider's nature.
		"402":                   {h.Refuse(402, message).send, kinds(jobs.Retryable, jobs.Permanent)},
		"429":                   {h.Refuse(429, message).send, want{kinds: []jobs.Kind{jobs.Retryable}, pause: true}},
		"429 with silly advice": {limited.send, want{kinds: []jobs.Kind{jobs.Retryable}, pause: true, after: true}},
		"500":                   {h.Refuse(500, message).send, kinds(jobs.Unknown)},
		"502 in HTML":           {Reply{Status: 502, Body: "<html>" + message}.send, kinds(jobs.Unknown)},
		"503 without a body":    {Reply{Status: 503}.send, kinds(jobs.Unknown)},
		"302 to nowhere":        {moved, kinds(jobs.Unknown)},
		"cut after send":        {cutAfterSend, want{kinds: []jobs.Kind{jobs.Unknown}, pause: true}},
		"cut in the body":       {accepted.cutInBody, kinds(jobs.Unknown)},
		"garbage":               {accepted.with("<html>" + message).send, kinds(jobs.Unknown)},
		"another JSON":          {accepted.with(`["` + Key + `"]`).send, kinds(jobs.Unknown)},
		"empty":                 {accepted.with("").send, kinds(jobs.Unknown)},
		"huge":                  {accepted.huge, kinds(jobs.Unknown)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, w, _, err := h.attempt(t, paid, tc.answer)
			h.fault(t, p, err, tc.want)
			if n := len(w.requests()); n != 1 {
				t.Errorf("%d requests, want 1: a paid call is never repeated", n)
			}
		})
	}

	t.Run("the key is sent, but in no URL", func(t *testing.T) {
		t.Parallel()
		_, w, _, err := h.attempt(t, paid, accepted.send)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range w.requests() {
			if strings.Contains(r.url, Key) {
				t.Errorf("the key is in the URL: %s", r.url)
			}
			held := strings.Contains(r.body, Key)
			for _, vs := range r.header {
				held = held || strings.Contains(strings.Join(vs, " "), Key)
			}
			if !held {
				t.Errorf("%s %s carries no key", r.method, r.url)
			}
		}
	})
	t.Run("a redirect is not followed", func(t *testing.T) {
		t.Parallel()
		for _, status := range []int{301, 302, 303, 307, 308} {
			second := serve(t, accepted.send)
			p, w, _, err := h.attempt(t, paid, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, second.base+r.URL.Path+"?"+Signature, status)
			})
			h.fault(t, p, err, want{kinds: append(slices.Clone(mistake.kinds), jobs.Unknown)})
			if n, m := len(w.requests()), len(second.requests()); n != 1 || m != 0 {
				t.Errorf("HTTP %d: %d requests to the first host and %d to the second, want 1 and 0", status, n, m)
			}
		}
	})
	t.Run("closed port", func(t *testing.T) {
		t.Parallel()
		p := h.New(t, closedPort(t), Key)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := paid(ctx, p)
		h.fault(t, p, err, want{kinds: []jobs.Kind{jobs.Retryable}, pause: true})
	})
	t.Run("deadline already past", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		h.unsent(t, ctx, paid, accepted)
	})
	t.Run("already cancelled", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("told to stop"))
		h.unsent(t, ctx, paid, accepted)
	})
	t.Run("deadline during the call", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancelCause(t.Context())
		w := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			cancel(errors.New("told to stop"))
			<-r.Context().Done() // the client hangs up
		})
		p := h.New(t, w.base, Key)
		_, err := paid(ctx, p)
		h.fault(t, p, err, kinds(jobs.Unknown))
	})
}

// unsent asserts that a call under an ended context sends nothing.
func (h Harness) unsent(t *testing.T, ctx context.Context, paid do, accepted Reply) {
	t.Helper()
	w := serve(t, accepted.send)
	p := h.New(t, w.base, Key)
	_, err := paid(ctx, p)
	h.fault(t, p, err, kinds(jobs.Retryable))
	if f, ok := errors.AsType[*jobs.Fault](err); ok && f.Pause {
		t.Error("Pause is set, but the provider was never asked")
	}
	if n := len(w.requests()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

func (h Harness) testStage(t *testing.T) {
	t.Parallel()
	// A probe learns what a resting session needs, from its own server: the
	// stage's server must see one request.
	stage := func(ctx context.Context, p jobs.Provider) (*jobs.Session, error) {
		w := httptest.NewServer(http.HandlerFunc(h.Resting.send))
		defer w.Close()
		rest, err := h.New(t, w.URL, Key).Poll(t.Context(), h.ref(p.Catalog().FirstStage))
		if err != nil {
			return nil, err
		}
		return p.Submit(ctx, jobs.Call{
			Stage: rest.Next, Session: h.Session, Marker: "marker-1", Options: h.Options, Formats: h.Formats, Input: rest.NextInput,
		})
	}
	t.Run("resting", func(t *testing.T) {
		t.Parallel()
		w := serve(t, h.Resting.send)
		p := h.New(t, w.base, Key)
		s, err := p.Poll(t.Context(), h.ref(p.Catalog().FirstStage))
		if err != nil {
			t.Fatal(err)
		}
		if s.Phase != jobs.NeedsStage || s.Next != h.Next {
			t.Errorf("phase %d next %q, want NeedsStage %q", s.Phase, s.Next, h.Next)
		}
		// The journal has bought the stage: a status that lags must not buy it
		// again.
		s, err = p.Poll(t.Context(), h.ref(h.Next))
		if err != nil {
			t.Fatal(err)
		}
		if s.Phase != jobs.InProgress {
			t.Errorf("after the stage was bought: phase %d next %q, want in progress", s.Phase, s.Next)
		}
	})
	t.Run("accepted", func(t *testing.T) {
		t.Parallel()
		_, w, s, err := h.attempt(t, stage, h.StageAccepted.send)
		if err != nil {
			t.Fatal(err)
		}
		if s.ID != h.Session {
			t.Errorf("session %q, want %q", s.ID, h.Session)
		}
		if n := len(w.requests()); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
	h.testPaid(t, stage, h.StageAccepted, false)
}
