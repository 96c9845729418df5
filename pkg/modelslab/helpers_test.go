package modelslab_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/modelslab"
)

const (
	key      = "s3cr3t/key+0f-tests"
	imageURL = "https://pub-3626123a908346a7a8be8d9295f44e26.r2.dev/generations/0335d02b-958a-4a7f-b7e4-a5f1e61efbf1-0.png"
)

// seen is one request as it was on the wire.
type seen struct {
	method, path, query string
	header              http.Header
	body                string
}

// server answers every request alike and keeps what it saw. In the answer,
// {host} stands for the address that was called.
type server struct {
	*httptest.Server
	mu   sync.Mutex
	list []seen
}

func serve(t testing.TB, status int, body string) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.list = append(s.list, seen{r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Clone(), string(raw)})
		s.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strings.ReplaceAll(body, "{host}", r.Host))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) requests() []seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]seen(nil), s.list...)
}

// one returns the only request.
func (s *server) one(t *testing.T) seen {
	t.Helper()
	list := s.requests()
	if len(list) != 1 {
		t.Fatalf("%d requests, want 1: %+v", len(list), list)
	}
	return list[0]
}

// canned is a transport that answers without a network.
type canned struct {
	status int
	header http.Header
	body   string
}

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	h := c.header
	if h == nil {
		h = http.Header{}
	}
	return &http.Response{StatusCode: c.status, Header: h, Body: io.NopCloser(strings.NewReader(strings.ReplaceAll(c.body, "{host}", r.URL.Host))), Request: r}, nil
}

func client(t testing.TB, cfg modelslab.Config) *modelslab.Client {
	t.Helper()
	if cfg.Key == "" {
		cfg.Key = key
	}
	c, err := modelslab.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// says returns a client whose provider always gives this answer.
func says(t testing.TB, status int, body string) *modelslab.Client {
	t.Helper()
	return client(t, modelslab.Config{Transport: canned{status: status, body: body}})
}

func provider(t testing.TB, status int, body string) *modelslab.Provider {
	t.Helper()
	return modelslab.NewProvider(says(t, status, body))
}

// submit makes a plain paid call.
func submit(ctx context.Context, p *modelslab.Provider, options map[string]any, formats ...string) (*jobs.Session, error) {
	return p.Submit(ctx, jobs.Call{Stage: "create", Image: jobs.Delivery{URL: imageURL}, Options: options, Formats: formats})
}

// fault checks that err is a fault without the key in it.
func fault(t testing.TB, err error) *jobs.Fault {
	t.Helper()
	f, ok := errors.AsType[*jobs.Fault](err)
	if !ok {
		t.Fatalf("error %v (%T) is no *jobs.Fault", err, err)
	}
	if strings.Contains(err.Error(), key) || f.After < 0 || f.After > jobs.MaxAfter {
		t.Fatalf("unfit fault %+v: %v", f, err)
	}
	return f
}
