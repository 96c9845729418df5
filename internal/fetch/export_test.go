package fetch

import (
	"context"
	"net"
	"net/netip"
)

// The names that tests need from inside.

type (
	Judge = func(to netip.AddrPort, allowed bool) error
	Dial  = func(ctx context.Context, network, address string) (net.Conn, error)
)

func (cfg Config) WithResolver(r *net.Resolver) Config { cfg.hooks.resolver = r; return cfg }
func (cfg Config) WithJudge(j Judge) Config            { cfg.hooks.judge = j; return cfg }
func (cfg Config) WithDial(d Dial) Config              { cfg.hooks.dial = d; return cfg }

var PolicyJudge Judge = judge

func IsPublic(a netip.Addr) bool       { r, _ := classify(a); return r == public }
func IsNever(a netip.Addr) bool        { r, _ := classify(a); return r == never }
func (c *Client) Check(u string) error { _, err := c.parse(u, nil); return err }
