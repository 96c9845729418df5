package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/pkg/storage"
)

// Config says where the servers keep their data and where they listen.
type Config struct {
	// Dir is the data folder; it is created with mode 0700. It may be relative.
	Dir string
	// NATSListen is the "host:port" of the broker; empty means that only this
	// process can use it. Port 0 is any free one.
	NATSListen string
	// S3Listen is the "host:port" of the S3 server; empty is any free port of
	// 127.0.0.1. The S3 server always listens, for providers' clients and
	// presigned URLs speak HTTP.
	S3Listen string
	// Bucket is created; empty is "meshmill".
	Bucket string
	// Log takes what the servers have to say.
	Log zerolog.Logger
}

// Servers are the running servers. Its methods are safe for concurrent use.
type Servers struct {
	dir   string
	log   zerolog.Logger
	lock  *os.File
	nats  *server.Server
	creds string // file
	s3    *gateway
	store storage.Config

	mu    sync.Mutex
	conns []*nats.Conn
	stop  sync.Once
	err   error
}

// ErrRunning: the S3 server's library allows one instance in a process.
var ErrRunning = errors.New("embedded servers already run in this process: shut them down first")

// running also keeps the servers from the garbage collector, which would close
// the lock of servers that their owner only lets run.
var running atomic.Pointer[Servers]

const (
	startTimeout = 30 * time.Second // until NATS has read its streams
	stopTimeout  = 15 * time.Second // at most, where Shutdown's context allows more
)

// Start starts the servers, and returns when both answer and the bucket is
// there. It fails with [ErrLocked] when another process has the folder, and
// with [ErrRunning] when this one runs servers already. When it fails nothing
// is left running.
//
// Start changes the working directory and puts it back before it returns: call
// it before anything else in the process uses relative paths.
func Start(ctx context.Context, cfg Config) (_ *Servers, err error) {
	s := &Servers{log: cfg.Log}
	if !running.CompareAndSwap(nil, s) {
		return nil, ErrRunning
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("embedded servers: %w", err)
			s.close(context.WithoutCancel(ctx))
		}
	}()
	if s.dir, err = filepath.Abs(cmp.Or(cfg.Dir, "meshmill-data")); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	for _, dir := range []string{s.dir, filepath.Join(s.dir, "nats"), filepath.Join(s.dir, "s3"), filepath.Join(s.dir, "meta")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("data folder: %w (choose another with MESHMILL_DATA)", err)
		}
	}
	if s.lock, err = acquire(s.dir); err != nil {
		return nil, err
	}
	s.creds = filepath.Join(s.dir, "nats.creds")
	auth, err := loadAuth(s.creds)
	if err != nil {
		return nil, err
	}
	keys, err := loadKeys(s.EnvFile())
	if err != nil {
		return nil, err
	}
	if s.nats, err = startNATS(ctx, filepath.Join(s.dir, "nats"), cfg.NATSListen, auth, cfg.Log); err != nil {
		return nil, err
	}
	xattr, err := hasXattr(s.dir)
	if err != nil {
		return nil, err
	}
	if s.s3, err = startGateway(ctx, s.dir, cfg.S3Listen, keys, xattr, cfg.Log); err != nil {
		return nil, err
	}
	s.store = storage.Config{
		Bucket: cmp.Or(cfg.Bucket, "meshmill"), Endpoint: "http://" + s.s3.addr, Region: region,
		AccessKeyID: keys.id, SecretAccessKey: keys.secret,
	}
	bucket, err := storage.Open(ctx, s.store)
	if err != nil {
		return nil, err
	}
	if err := bucket.Ensure(ctx); err != nil {
		return nil, err
	}
	if err := s.writeEnv(cfg.NATSListen != ""); err != nil {
		return nil, err
	}
	for _, addr := range []string{cfg.NATSListen, cfg.S3Listen} {
		if addr != "" && !isLoopback(addr) {
			s.log.Warn().Str("listen", addr).Msg("embedded server listens beyond this machine, without encryption")
		}
	}
	return s, nil
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Connect opens a connection to the broker that does not use the network. The
// caller closes it; what is still open at Shutdown is drained then.
func (s *Servers) Connect(opts ...nats.Option) (*nats.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, err := os.ReadFile(s.creds)
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded broker: %w", err)
	}
	// Not the file's name: the library would expand a $ in it.
	opts = append([]nats.Option{nats.InProcessServer(s.nats), nats.UserCredentialBytes(raw)}, opts...)
	nc, err := nats.Connect("", opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded broker: %w", err)
	}
	s.conns = slices.DeleteFunc(s.conns, (*nats.Conn).IsClosed)
	s.conns = append(s.conns, nc)
	return nc, nil
}

// Storage tells how to use the bucket, secret included.
func (s *Servers) Storage() storage.Config { return s.store }

// NATSURL is the broker's address, empty when it does not listen.
func (s *Servers) NATSURL() string {
	if a := s.nats.Addr(); a != nil {
		return "nats://" + a.String()
	}
	return ""
}

// NATSCreds is the credentials file that clients of NATSURL need.
func (s *Servers) NATSCreds() string { return s.creds }

// EnvFile is the absolute path of the file to load into a shell.
func (s *Servers) EnvFile() string { return filepath.Join(s.dir, "env") }

// Shutdown drains the connections that are still open, stops both servers and
// waits for them, and gives the folder free. It waits for ctx, but at most 15 s
// for each part. Further calls return what the first one did.
func (s *Servers) Shutdown(ctx context.Context) error {
	s.stop.Do(func() { s.err = s.close(ctx) })
	return s.err
}

func (s *Servers) close(ctx context.Context) error {
	defer running.Store(nil)
	var errs []error
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	for _, nc := range conns {
		drain(ctx, nc)
	}
	if s.s3 != nil {
		errs = append(errs, s.s3.close(ctx))
	}
	if s.nats != nil {
		errs = append(errs, stopNATS(ctx, s.nats))
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close()) // gives the lock back
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop the embedded servers: %w", err)
	}
	return nil
}

// wait waits for done, as long as ctx allows and no longer than stopTimeout.
func wait(ctx context.Context, done <-chan struct{}, what string) error {
	limit := time.NewTimer(stopTimeout)
	defer limit.Stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s did not stop in time: %w", what, context.Cause(ctx))
	case <-limit.C:
		return fmt.Errorf("%s did not stop within %v", what, stopTimeout)
	}
}
