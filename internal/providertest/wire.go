package providertest

import (
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshmill/meshmill/internal/apicall"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// request is one request that the scripted server has seen.
type request struct {
	method, url string
	header      http.Header
	body        string
}

// wire is a server on loopback that answers every request alike.
type wire struct {
	base string
	mu   sync.Mutex
	seen []request
}

// serve starts a wire. Its answer is called after the request has been read
// whole and recorded.
func serve(t *testing.T, answer http.HandlerFunc) *wire {
	t.Helper()
	w := &wire{}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 64<<20))
		w.mu.Lock()
		w.seen = append(w.seen, request{r.Method, r.URL.String(), r.Header.Clone(), string(body)})
		w.mu.Unlock()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		answer(rw, r)
	}))
	t.Cleanup(srv.Close)
	w.base = srv.URL
	return w
}

func (w *wire) requests() []request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// closedPort returns an address on which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func (r Reply) send(w http.ResponseWriter, _ *http.Request) {
	maps.Copy(w.Header(), r.Header)
	w.WriteHeader(r.Status)
	_, _ = io.WriteString(w, r.Body)
}

// cutAfterSend reads the request and hangs up without a word.
func cutAfterSend(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// cutInBody answers as r does but hangs up half-way.
func (r Reply) cutInBody(w http.ResponseWriter, _ *http.Request) {
	maps.Copy(w.Header(), r.Header)
	w.Header().Set("Content-Length", strconv.Itoa(len(r.Body)))
	w.WriteHeader(r.Status)
	_, _ = io.WriteString(w, r.Body[:len(r.Body)/2])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// with returns r with another body.
func (r Reply) with(body string) Reply { r.Body = body; return r }

// huge answers with a JSON string longer than any client should read.
func (r Reply) huge(w http.ResponseWriter, _ *http.Request) {
	maps.Copy(w.Header(), r.Header)
	w.WriteHeader(r.Status)
	chunk := strings.Repeat("x", 1<<20)
	_, err := io.WriteString(w, `{"message":"`)
	for n := 0; err == nil && n <= apicall.MaxBody+len(chunk); n += len(chunk) {
		_, err = io.WriteString(w, chunk)
	}
}

// want is what must hold of an error.
type want struct {
	kinds []jobs.Kind
	pause bool // the fault must pause the provider
	after bool // the fault must say when to try again
}

func kinds(k ...jobs.Kind) want { return want{kinds: k} }

// fault checks err as the engine reads it.
func (h *Harness) fault(t *testing.T, p jobs.Provider, err error, must want) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	f, ok := errors.AsType[*jobs.Fault](err)
	if !ok {
		t.Fatalf("error %v (%T) is no *jobs.Fault", err, err)
	}
	if !slices.Contains(must.kinds, jobs.KindOf(err)) {
		t.Errorf("kind %v, want one of %v: %v", jobs.KindOf(err), must.kinds, err)
	}
	if must.pause && !f.Pause {
		t.Errorf("Pause is not set: %v", err)
	}
	if f.After < 0 || f.After > jobs.MaxAfter || (must.after && f.After == 0) {
		t.Errorf("After is %v: %v", f.After, err)
	}
	if f.Err == nil {
		t.Error("Err is nil")
	}
	if !strings.HasPrefix(f.Op, p.Name()+": ") {
		t.Errorf("Op is %q, must begin with %q", f.Op, p.Name()+": ")
	}
	cleanText(t, err.Error())
}

// cleanText checks a text that a user will read and a log will keep.
func cleanText(t *testing.T, text string) {
	t.Helper()
	for _, secret := range []string{Key, "sig=", "s1gnature", "base64,"} {
		if strings.Contains(text, secret) {
			t.Errorf("the text gives %q away: %s", secret, text)
		}
	}
	if len(text) > 1000 || strings.ContainsAny(text, "\x00\x1b\r") {
		t.Errorf("the text is unfit for a line of a log: %q", text)
	}
}

// patience bounds the suite's own waiting: a correct adapter is far inside it.
const patience = 20 * time.Second
