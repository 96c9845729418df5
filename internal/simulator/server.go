package simulator

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// ServerName is the Server header of every answer.
const ServerName = "meshmill-simulator"

const maxBody = 32 << 20

// Simulator is a running test double of the providers. It is safe for
// concurrent use. Whoever made it calls Shutdown.
type Simulator struct {
	cfg     Config
	root    string // folder of sessions and images
	scratch bool   // root is ours to remove
	ledger  *ledger
	fetcher *http.Client
	handler http.Handler
	meshes  meshCache
	making  singleflight.Group
	cpu     chan struct{}
	stop    chan struct{} // closed by Shutdown: ends delays and endless bodies
	once    sync.Once

	mu         sync.Mutex
	rng        *rand.Rand
	sessions   map[string]*session
	files      map[string]string // ModelsLab file id → session
	busy       map[string]map[string]time.Time
	peak       map[string]int
	rules      []*rule
	faulted    int
	calls      map[counted]int
	violations []Violation

	// Set by Start alone.
	listener net.Listener
	server   *http.Server
	served   sync.WaitGroup
}

type counted struct {
	provider string
	op       Op
}

// Violation is something that a well-behaved client never does.
type Violation struct {
	Time     time.Time
	Provider string
	// Kind is "limit" (a purchase beyond the account's limit) or "key" (an API
	// key sent to the host of the files).
	Kind   string
	Detail string
}

// maxViolations bounds what is kept; a client that loops adds nothing new.
const maxViolations = 1000

// New returns a Simulator that listens nowhere: its Handler is for
// net/http/httptest. Result URLs name the host that the client called.
func New(cfg Config) (*Simulator, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Simulator{
		cfg: cfg, root: cfg.Dir, ledger: &ledger{}, fetcher: newFetcher(),
		cpu: make(chan struct{}, 2), stop: make(chan struct{}),
		rng: rand.New(rand.NewPCG(cfg.Seed, 0x6d6573686d696c6c)), sessions: map[string]*session{}, files: map[string]string{},
		busy: map[string]map[string]time.Time{CSM: {}, ModelsLab: {}}, peak: map[string]int{}, calls: map[counted]int{},
	}
	s.addFaults(cfg.Faults)
	if err := s.openDir(); err != nil {
		return nil, errors.Join(err, s.release())
	}
	s.handler = s.routes()
	return s, nil
}

func (s *Simulator) openDir() (err error) {
	if s.root == "" {
		s.scratch = true
		if s.root, err = os.MkdirTemp("", "meshmill-simulator-"); err != nil {
			return fmt.Errorf("simulator: %w", err)
		}
	}
	for _, name := range []string{"sessions", "images"} {
		if err := os.MkdirAll(filepath.Join(s.root, name), 0o700); err != nil {
			return fmt.Errorf("simulator: %w", err)
		}
	}
	if s.scratch {
		return nil
	}
	if s.ledger, err = openLedger(filepath.Join(s.root, LedgerFile)); err != nil {
		s.ledger = &ledger{}
		return err
	}
	return s.load()
}

// Start returns a Simulator that serves on Config.Listen until Shutdown. The
// context bounds the start alone.
func Start(ctx context.Context, cfg Config) (*Simulator, error) {
	s, err := New(cfg)
	if err != nil {
		return nil, err
	}
	listen := cfg.Listen
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	s.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("simulator: listen on %s: %w", listen, err), s.release())
	}
	s.server = &http.Server{Handler: s.handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	s.cfg.Log.Info().Str("address", s.Host()).Msg("simulated providers are listening; nothing is bought")
	s.served.Go(func() { _ = s.server.Serve(s.listener) }) // ends with ErrServerClosed on Shutdown
	return s, nil
}

// Shutdown ends delays and endless answers, waits for calls in flight as long as
// ctx lets it, and releases everything. What Config.Dir holds stays.
func (s *Simulator) Shutdown(ctx context.Context) error {
	var err error
	s.once.Do(func() {
		close(s.stop)
		if s.server != nil {
			if err = s.server.Shutdown(ctx); err != nil {
				err = errors.Join(err, s.server.Close())
			}
			s.served.Wait()
		}
		err = errors.Join(err, s.release())
	})
	return err
}

func (s *Simulator) release() error {
	s.fetcher.CloseIdleConnections()
	err := s.ledger.close()
	if s.scratch && s.root != "" {
		err = errors.Join(err, os.RemoveAll(s.root))
	}
	return err
}

// Handler serves both providers and the files.
func (s *Simulator) Handler() http.Handler { return s.handler }

// Host is the host:port that Start listens on; empty after New.
func (s *Simulator) Host() string {
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// The paths of the APIs, below the host.
const (
	CSMPath       = "/csm"
	ModelsLabPath = "/modelslab/api/v6"
)

// CSMBaseURL is what CSM_BASE_URL must be.
func (s *Simulator) CSMBaseURL() string { return "http://" + s.Host() + CSMPath }

// ModelsLabBaseURL is what MODELSLAB_BASE_URL must be.
func (s *Simulator) ModelsLabBaseURL() string { return "http://" + s.Host() + ModelsLabPath }

// Ledger returns every purchase so far, those of earlier runs in Config.Dir
// included, oldest first.
func (s *Simulator) Ledger() []Purchase { return s.ledger.list() }

// Violations returns what clients did that they must not, the first 1000.
func (s *Simulator) Violations() []Violation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

// violate needs s.mu.
func (s *Simulator) violate(v Violation) {
	if len(s.violations) < maxViolations {
		s.violations = append(s.violations, v)
	}
}

// Peak is the largest number of sessions that a provider had in progress.
func (s *Simulator) Peak(provider string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak[provider]
}

// Calls counts the calls of a kind that arrived, whatever became of them.
func (s *Simulator) Calls(provider string, op Op) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[counted{provider, op}]
}

// Faulted counts the calls that a fault has hit.
func (s *Simulator) Faulted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faulted
}

func (s *Simulator) routes() http.Handler {
	mux := http.NewServeMux()
	s.csmRoutes(mux)
	s.labRoutes(mux)
	s.fileRoutes(mux)
	mux.HandleFunc("GET /simulator/ledger", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jsonl")
		enc := json.NewEncoder(w)
		for _, p := range s.Ledger() {
			if enc.Encode(p) != nil {
				return
			}
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "meshmill-simulator: a test double of 3D providers; nothing here is real or costs money\n")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", ServerName)
		mux.ServeHTTP(w, r)
	})
}

// api wraps a handler of an API call: it counts the call and applies the faults
// that cut a connection before anything is read.
func (s *Simulator) api(provider string, op Op, h func(w http.ResponseWriter, r *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.calls[counted{provider, op}]++
		s.mu.Unlock()
		if f := s.match(provider, op, "", "", true); f.Cut == CutUnread {
			s.wait(f.Delay)
			panic(http.ErrAbortHandler)
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		h(w, r)
	}
}

// reply is an answer that is complete before its first byte is sent.
type reply struct {
	status int
	body   []byte
}

func asJSON(status int, v any) reply {
	raw, err := json.Marshal(v)
	if err != nil { // only our own types come here
		raw = fmt.Appendf(nil, "{\"error\":%q}", err)
	}
	return reply{status, raw}
}

// perform lets a call have its effect and sends its answer, unless the fault
// says otherwise. The effect happens even if the client has gone away.
func (s *Simulator) perform(w http.ResponseWriter, f *Fault, effect func() reply) {
	s.wait(f.Delay)
	if f.Cut == CutBefore {
		panic(http.ErrAbortHandler)
	}
	if f.Answer != nil && !f.Billed {
		f.Answer.send(w)
		return
	}
	rep := effect()
	s.wait(f.Hold)
	switch {
	case f.Cut == CutAfter:
		panic(http.ErrAbortHandler)
	case f.Answer != nil:
		f.Answer.send(w)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", fmt.Sprint(len(rep.body)))
	w.WriteHeader(rep.status)
	if f.Cut == CutBody {
		_, _ = w.Write(rep.body[:len(rep.body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(rep.body)
}

func (a *Answer) send(w http.ResponseWriter) {
	for k, v := range a.Header {
		w.Header()[http.CanonicalHeaderKey(k)] = v
	}
	w.WriteHeader(cmp.Or(a.Status, http.StatusOK))
	_, _ = io.WriteString(w, a.Body)
}

// wait lets d pass, or less if the simulator is shut down.
func (s *Simulator) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.stop:
	}
}

// keyEnd is as much of a key as may be shown.
func keyEnd(key string) string {
	if len(key) < 12 {
		return ""
	}
	return key[len(key)-4:]
}
