package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// front listens for the S3 server and hands each connection on to its socket
// when the first bytes have come. The library behind can neither be given a
// listener nor told to let go of connections that were opened and never used,
// which HTTP clients do; its stop would wait 10 s for them.
type front struct {
	listener net.Listener
	socket   string
	log      zerolog.Logger
	wg       sync.WaitGroup

	mu     sync.Mutex
	unused map[net.Conn]struct{}
	used   map[net.Conn]struct{}
	closed bool
}

func listen(ctx context.Context, addr, socket string, log zerolog.Logger) (*front, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, inUse("S3 server", addr, "--s3-listen", err)
	}
	f := &front{listener: l, socket: socket, log: log, unused: map[net.Conn]struct{}{}, used: map[net.Conn]struct{}{}}
	f.wg.Go(f.accept)
	return f, nil
}

func inUse(what, addr, flag string, err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	return fmt.Errorf("%s: cannot listen on %s: %w: stop what uses it, or choose another address with %s", what, addr, err, flag)
}

func (f *front) accept() {
	for {
		c, err := f.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, say
			f.log.Warn().Err(err).Msg("embedded object store cannot accept a connection")
			<-time.After(50 * time.Millisecond)
			continue
		}
		f.mu.Lock()
		if f.closed {
			c.Close()
		} else {
			f.unused[c] = struct{}{}
			f.wg.Go(func() { f.serve(c) })
		}
		f.mu.Unlock()
	}
}

func (f *front) serve(client net.Conn) {
	defer func() {
		client.Close()
		f.mu.Lock()
		delete(f.unused, client)
		delete(f.used, client)
		f.mu.Unlock()
	}()
	first := make([]byte, 4096)
	n, err := client.Read(first)
	if err != nil {
		return
	}
	f.mu.Lock()
	delete(f.unused, client)
	f.used[client] = struct{}{}
	f.mu.Unlock()
	server, err := net.DialTimeout("unix", f.socket, 5*time.Second)
	if err != nil {
		f.log.Error().Err(err).Msg("embedded object store does not answer")
		return
	}
	defer server.Close()
	if _, err := server.Write(first[:n]); err != nil {
		return
	}
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(server, client) // ends with either side; its error is the end
		_ = server.(*net.UnixConn).CloseWrite()
	})
	_, _ = io.Copy(client, server)
	client.Close() // ends the other direction
	up.Wait()
}

// refuse takes no more connections and ends those that were never used. The
// others end when the server behind closes them.
func (f *front) refuse() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.listener.Close()
	for c := range f.unused {
		c.Close()
	}
}

// close ends what is left, and waits.
func (f *front) close() {
	f.refuse()
	f.mu.Lock()
	for c := range f.used {
		c.Close()
	}
	f.mu.Unlock()
	f.wg.Wait()
	_ = os.Remove(f.socket)
}
