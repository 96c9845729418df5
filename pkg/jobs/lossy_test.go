package jobs_test

import (
	"bytes"
	"net"
	"sync/atomic"
)

// A lossyDialer makes one connection whose first answer to a publish that was
// stored gets lost, and the connection with it.
type lossyDialer struct{ cut atomic.Bool }

func (d *lossyDialer) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	if err != nil || d.cut.Load() {
		return c, err
	}
	return &lossyConn{Conn: c, d: d}, nil
}

type lossyConn struct {
	net.Conn
	d *lossyDialer
}

func (c *lossyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bytes.Contains(p[:n], []byte(`"stream":"MESHMILL_JOBS"`)) && bytes.Contains(p[:n], []byte(`"seq":`)) && c.d.cut.CompareAndSwap(false, true) {
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}
