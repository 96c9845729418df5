package servertest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/meshmill/meshmill/internal/storagetest"
	"github.com/meshmill/meshmill/pkg/storage"
)

const (
	startTimeout = 60 * time.Second // of one server
	buildTimeout = 20 * time.Minute // of both images, on a slow machine
)

// server is one server that can be stopped and started again.
type server interface {
	addr() string // host:port, the same after every start
	kill(context.Context) error
	stop(context.Context) error
	start(context.Context) error
	remove(context.Context) error
}

// Broker is a NATS server with JetStream; it syncs each write.
type Broker struct {
	// URL is its address; it asks for no credentials.
	URL string
	// Prefix is for MESHMILL_PREFIX. No other test uses it, so that many tests
	// can share a broker.
	Prefix string

	server server
	shared bool
}

// Store is an S3 server with a bucket.
type Store struct {
	// Config reaches the bucket, which is there and empty. No other test uses it.
	Config storage.Config

	server server
	shared bool
}

// NATS returns the broker that the tests of this package share.
func NATS(t testing.TB) *Broker {
	t.Helper()
	s := need(t)
	srv, err := s.nats()
	if err != nil {
		t.Fatal("servertest: ", err)
	}
	return newBroker(srv, true)
}

// NewNATS returns a broker of the test's own, which it may stop and kill. It is
// removed when the test ends.
func NewNATS(t testing.TB) *Broker {
	t.Helper()
	s := need(t)
	srv, err := s.make.newNATS(t.Context())
	if err != nil {
		t.Fatal("servertest: ", err)
	}
	t.Cleanup(func() { discard(t, srv) })
	return newBroker(srv, false)
}

func newBroker(srv server, shared bool) *Broker {
	prefix := "t" + strings.ToLower(rand.Text()[:10])
	return &Broker{URL: "nats://" + srv.addr(), Prefix: prefix, server: srv, shared: shared}
}

// Connect returns a connection that is closed when the test ends.
func (b *Broker) Connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(b.URL, opts...)
	if err != nil {
		t.Fatal("servertest: ", err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Kill ends the broker like a crash. Without Docker it is only stopped.
func (b *Broker) Kill(t testing.TB) { t.Helper(); control(t, b.shared, b.server.kill) }

// Stop stops the broker in good order.
func (b *Broker) Stop(t testing.TB) { t.Helper(); control(t, b.shared, b.server.stop) }

// Start starts it again, with the data and the address it had, and waits until
// it answers.
func (b *Broker) Start(t testing.TB) { t.Helper(); control(t, b.shared, b.server.start) }

// S3 returns a new bucket on the S3 server that the tests of this package share.
func S3(t testing.TB) storage.Config {
	t.Helper()
	s := need(t)
	srv, keys, err := s.s3()
	if err != nil {
		t.Fatal("servertest: ", err)
	}
	return newStore(t, srv, keys, true).Config
}

// NewS3 returns a bucket on an S3 server of the test's own, which it may stop
// and kill. It is removed when the test ends.
func NewS3(t testing.TB) *Store {
	t.Helper()
	s := need(t)
	srv, keys, err := s.make.newS3(t.Context(), 0)
	if err != nil {
		t.Fatal("servertest: ", err)
	}
	t.Cleanup(func() { discard(t, srv) })
	return newStore(t, srv, keys, false)
}

// NewSmallS3 is NewS3 with room for so many bytes, after which the server says
// that it is full. Its data does not outlive a Kill or Stop. MinIO frees what is
// deleted at once only when less than 5 % is left: fill it with small objects.
// Without Docker the test is skipped.
func NewSmallS3(t testing.TB, room int64) *Store {
	t.Helper()
	s := need(t)
	srv, keys, err := s.make.newS3(t.Context(), room)
	if errors.Is(err, errNoRoom) {
		t.Skip("servertest: ", err)
	}
	if err != nil {
		t.Fatal("servertest: ", err)
	}
	t.Cleanup(func() { discard(t, srv) })
	return newStore(t, srv, keys, false)
}

func newStore(t testing.TB, srv server, keys storage.Config, shared bool) *Store {
	t.Helper()
	cfg := keys
	cfg.Endpoint = "http://" + srv.addr()
	cfg.Bucket = storagetest.BucketName(t)
	b, err := storage.Open(t.Context(), cfg)
	if err == nil {
		err = b.Ensure(t.Context())
	}
	if err != nil {
		t.Fatal("servertest: ", err)
	}
	return &Store{Config: cfg, server: srv, shared: shared}
}

// Kill ends the server like a crash. Without Docker it is only cut off.
func (s *Store) Kill(t testing.TB) { t.Helper(); control(t, s.shared, s.server.kill) }

// Stop stops the server in good order.
func (s *Store) Stop(t testing.TB) { t.Helper(); control(t, s.shared, s.server.stop) }

// Start starts it again, with the data and the address it had.
func (s *Store) Start(t testing.TB) { t.Helper(); control(t, s.shared, s.server.start) }

func control(t testing.TB, shared bool, do func(context.Context) error) {
	t.Helper()
	if shared {
		t.Fatal("servertest: the tests of a package share this server: take one of your own with NewNATS or NewS3")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), startTimeout)
	defer cancel()
	if err := do(ctx); err != nil {
		t.Fatal("servertest: ", err)
	}
}

func discard(t testing.TB, srv server) {
	// The test's context has ended by now.
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := srv.remove(ctx); err != nil {
		t.Error("servertest: ", err)
	}
}

// servers is the choice made for this process, and what its tests share.
type servers struct {
	words  string
	make   maker
	mu     sync.Mutex
	broker server
	store  server
	keys   storage.Config
}

// maker makes servers of one kind.
type maker interface {
	newNATS(context.Context) (server, error)
	// newCluster also returns what is to be removed after its nodes.
	newCluster(context.Context) (nodes []server, remove func(context.Context) error, err error)
	// newS3 makes an S3 server with room for so many bytes, or as many as the
	// disk has if it is 0.
	newS3(ctx context.Context, room int64) (server, storage.Config, error)
	close(context.Context) error
}

var (
	choose = sync.OnceValues(choice)
	chosen atomic.Bool
	inMain bool // set before any test runs
)

func choice() (*servers, error) {
	chosen.Store(true)
	s := &servers{}
	mode := os.Getenv("MESHMILL_TEST_SERVERS")
	if mode != "" && mode != "containers" && mode != "embedded" {
		return nil, fmt.Errorf("MESHMILL_TEST_SERVERS is %q, must be containers, embedded or empty", mode)
	}
	why := "MESHMILL_TEST_SERVERS=embedded"
	if mode != "embedded" {
		ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
		defer cancel()
		e, err := findEngine(ctx)
		switch {
		case err == nil:
			if err := e.prepare(ctx, os.Stderr); err != nil {
				return nil, err
			}
			s.make, s.words = e, e.words()
		case mode == "containers":
			return nil, err
		default:
			why = err.Error()
		}
	}
	if s.make == nil {
		e := new(inProcess)
		s.make, s.words = e, e.words()+" ("+why+")"
	}
	fmt.Fprintln(os.Stderr, "servertest:", s.words)
	return s, nil
}

func need(t testing.TB) *servers {
	t.Helper()
	if !inMain {
		t.Fatal("servertest: this package's tests need func TestMain(m *testing.M) { servertest.Main(m) }")
	}
	s, err := choose()
	if err != nil {
		t.Fatal("servertest: ", err)
	}
	return s
}

// Describe says in one line which servers the tests use, and why.
func Describe() string {
	s, err := choose()
	if err != nil {
		return err.Error()
	}
	return s.words
}

func (s *servers) nats() (_ server, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broker == nil {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout) // outlives the test
		defer cancel()
		s.broker, err = s.make.newNATS(ctx)
	}
	return s.broker, err
}

func (s *servers) s3() (_ server, _ storage.Config, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store == nil {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		s.store, s.keys, err = s.make.newS3(ctx, 0)
	}
	return s.store, s.keys, err
}

func (s *servers) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	var errs []error
	for _, srv := range []server{s.broker, s.store} {
		if srv != nil {
			errs = append(errs, srv.remove(ctx))
		}
	}
	return errors.Join(append(errs, s.make.close(ctx))...)
}

// Main runs a package's tests, removes what they shared, and exits.
func Main(m *testing.M) {
	inMain = true
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	defer func() {
		if !chosen.Load() {
			return
		}
		if s, err := choose(); err == nil {
			if err := s.close(); err != nil {
				fmt.Fprintln(os.Stderr, "servertest: clean up:", err)
				code = max(code, 1)
			}
		}
	}()
	return m.Run()
}
