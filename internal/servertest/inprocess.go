package servertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/internal/embedded"
	"github.com/meshmill/meshmill/pkg/storage"
)

// inProcess makes servers without Docker.
type inProcess struct {
	mu   sync.Mutex
	dir  string
	s3   *embedded.Servers
	keys storage.Config
}

func (*inProcess) words() string {
	return "NATS " + natsserver.VERSION + " and the S3 server of --embedded, inside the test process"
}

func (p *inProcess) newNATS(ctx context.Context) (server, error) {
	dir, err := os.MkdirTemp("", "meshmill-test-nats-")
	if err != nil {
		return nil, err
	}
	n := &inProcessNATS{dir: dir}
	if err := n.start(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return n, nil
}

type inProcessNATS struct {
	dir     string
	cluster func(*natsserver.Options) // nil: it stands alone
	mu      sync.Mutex
	srv     *natsserver.Server
	tcp     *net.TCPAddr // nil before the first start
}

func (n *inProcessNATS) addr() string { return n.tcp.String() }

func (n *inProcessNATS) start(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	opts := &natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: n.dir,
		SyncAlways: true, NoSigs: true, NoLog: true,
	}
	if n.tcp != nil {
		opts.Port = n.tcp.Port
	}
	if n.cluster != nil {
		n.cluster(opts)
	}
	srv, err := natsserver.NewServer(opts)
	if err != nil {
		return err
	}
	srv.Start()
	if !srv.ReadyForConnections(startTimeout / 2) {
		srv.Shutdown()
		return errors.New("the NATS server does not become ready")
	}
	n.srv, n.tcp = srv, srv.Addr().(*net.TCPAddr)
	return nil
}

func (n *inProcessNATS) stop(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.srv != nil {
		n.srv.Shutdown()
		n.srv.WaitForShutdown()
		n.srv = nil
	}
	return nil
}

func (n *inProcessNATS) kill(ctx context.Context) error { return n.stop(ctx) }

func (n *inProcessNATS) remove(ctx context.Context) error {
	return errors.Join(n.stop(ctx), os.RemoveAll(n.dir))
}

var errNoRoom = errors.New("the S3 server of --embedded cannot be kept from filling the disk")

// newS3 makes a door to the one S3 server that a process can have.
func (p *inProcess) newS3(ctx context.Context, room int64) (server, storage.Config, error) {
	if room > 0 {
		return nil, storage.Config{}, errNoRoom
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.s3 == nil {
		dir, err := os.MkdirTemp("", "meshmill-test-s3-")
		if err != nil {
			return nil, storage.Config{}, err
		}
		s3, err := embedded.Start(ctx, embedded.Config{Dir: dir, Log: zerolog.Nop()})
		if err != nil {
			return nil, storage.Config{}, errors.Join(err, os.RemoveAll(dir))
		}
		p.dir, p.s3, p.keys = dir, s3, s3.Storage()
	}
	d := &door{to: strings.TrimPrefix(p.keys.Endpoint, "http://")}
	return d, p.keys, d.start(ctx)
}

func (p *inProcess) close(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.s3 == nil {
		return nil
	}
	return errors.Join(p.s3.Shutdown(ctx), os.RemoveAll(p.dir))
}

// door passes connections on as long as it is open.
type door struct {
	to     string
	tcp    net.Addr // nil before the first start
	mu     sync.Mutex
	listen net.Listener
	conns  map[net.Conn]struct{}
	wg     sync.WaitGroup
}

func (d *door) addr() string { return d.tcp.String() }

func (d *door) start(ctx context.Context) error {
	addr := "127.0.0.1:0"
	if d.tcp != nil {
		addr = d.tcp.String()
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("open the way to the S3 server: %w", err)
	}
	d.mu.Lock()
	d.tcp, d.listen, d.conns = l.Addr(), l, map[net.Conn]struct{}{}
	d.mu.Unlock()
	d.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.wg.Go(func() { d.pass(c) })
		}
	})
	return nil
}

// hold reports whether the connection may live.
func (d *door) hold(c net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.listen == nil {
		c.Close()
		return false
	}
	d.conns[c] = struct{}{}
	return true
}

func (d *door) pass(in net.Conn) {
	defer in.Close()
	if !d.hold(in) {
		return
	}
	out, err := net.DialTimeout("tcp", d.to, 5*time.Second)
	if err != nil {
		return
	}
	defer out.Close()
	if !d.hold(out) {
		return
	}
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(out, in) // the end of either side ends both
		out.Close()
	})
	_, _ = io.Copy(in, out)
	in.Close()
	up.Wait()
}

func (d *door) stop(context.Context) error {
	d.mu.Lock()
	if d.listen != nil {
		d.listen.Close()
		d.listen = nil
	}
	for c := range d.conns {
		c.Close()
	}
	d.conns = nil
	d.mu.Unlock()
	d.wg.Wait()
	return nil
}

func (d *door) kill(ctx context.Context) error   { return d.stop(ctx) }
func (d *door) remove(ctx context.Context) error { return d.stop(ctx) }
