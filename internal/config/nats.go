package config

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

// connectTimeout bounds one attempt to connect to one broker address.
const connectTimeout = 5 * time.Second

// Brokers returns the broker addresses without passwords, fit to be shown.
func (c *Config) Brokers() string { return redact(c.NATSURL) }

func redact(list string) string {
	parts := strings.Split(list, ",")
	for i, p := range parts {
		p = strings.TrimSpace(p)
		if at := strings.LastIndexByte(p, '@'); at >= 0 {
			scheme, _, found := strings.Cut(p[:at], "://")
			p = p[at+1:]
			if found {
				p = scheme + "://" + p
			}
		}
		if u, err := url.Parse(p); err == nil {
			u.RawQuery, u.Fragment = "", ""
			p = u.String()
		}
		parts[i] = p
	}
	return strings.Join(parts, ",")
}

// NATSOptions returns the options of a connection called name: credentials and
// TLS as configured, reconnecting for ever. What happens to the connection is
// logged. It fails if a file that is named cannot be read.
func (c *Config) NATSOptions(name string, log zerolog.Logger) ([]nats.Option, error) {
	var errs []error
	for _, f := range []struct{ variable, path string }{
		{"NATS_CREDS", c.NATSCreds}, {"NATS_CA", c.NATSCA}, {"NATS_CERT", c.NATSCert}, {"NATS_KEY", c.NATSKey},
	} {
		if f.path == "" {
			continue
		}
		if file, err := os.Open(f.path); err != nil {
			errs = append(errs, fmt.Errorf("%s cannot be read: %w", f.variable, err))
		} else {
			_ = file.Close()
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	opts := []nats.Option{
		nats.Name(name),
		nats.Timeout(connectTimeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Second),
		nats.ReconnectJitter(500*time.Millisecond, time.Second),
		nats.PingInterval(20 * time.Second),
		nats.MaxPingsOutstanding(3),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil is our own Close
				log.Warn().Err(err).Msg("broker connection lost, reconnecting")
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info().Str("broker", nc.ConnectedUrlRedacted()).Msg("broker connection is back")
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			e := log.Warn().Err(err)
			if sub != nil {
				e = e.Str("subject", sub.Subject)
			}
			e.Msg("broker reported an error")
		}),
	}
	if c.NATSCreds != "" {
		opts = append(opts, nats.UserCredentials(c.NATSCreds))
	}
	if c.NATSCA != "" {
		opts = append(opts, nats.RootCAs(c.NATSCA))
	}
	if c.NATSCert != "" && c.NATSKey != "" {
		opts = append(opts, nats.ClientCert(c.NATSCert, c.NATSKey))
	}
	return opts, nil
}

// Connect connects to the broker. It fails within seconds if none of the
// addresses answers; its error names them. Afterwards the connection
// reconnects for ever.
func (c *Config) Connect(ctx context.Context, name string, log zerolog.Logger) (*nats.Conn, error) {
	opts, err := c.NATSOptions(name, log)
	if err != nil {
		return nil, err
	}
	d := &dialer{first: ctx}
	nc, err := nats.Connect(c.NATSURL, append(opts, nats.SetCustomDialer(d))...)
	d.connected.Store(true)
	switch {
	case err == nil:
		return nc, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, fmt.Errorf("the broker at %s cannot be reached: %w; check NATS_URL and that the broker runs", c.Brokers(), plain(err))
}

// dialer lets the first connection end with its context, and none after it:
// nats.Connect itself takes no context.
type dialer struct {
	first     context.Context
	connected atomic.Bool
}

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	ctx := d.first
	if d.connected.Load() {
		ctx = context.Background()
	}
	nd := net.Dialer{Timeout: connectTimeout}
	return nd.DialContext(ctx, network, address)
}

// plain takes the library's prefix off its error.
func plain(err error) error {
	if errors.Is(err, nats.ErrNoServers) {
		return errors.New("nothing answers there")
	}
	return errors.New(strings.TrimPrefix(err.Error(), "nats: "))
}
