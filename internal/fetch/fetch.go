// Package fetch downloads files from addresses that are not to be trusted:
// results that a provider names, and images that a user names by URL.
//
// It reads public hosts only, unless told otherwise, so that nobody can make a
// worker read its own network; it carries no credentials, bounds size and
// time, and keeps large files out of memory. It does not look at the content.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// Config says what a Client may do. Its zero value reads public addresses
// only, with the default times.
type Config struct {
	// AllowPrivate allows loopback and private addresses, and with them the
	// HTTP proxy of the environment. Without it no proxy is used: a proxy
	// resolves names itself, behind the back of every check made here.
	// Link-local addresses, where clouds keep their metadata, stay forbidden.
	AllowPrivate bool
	// AllowHosts are the hosts, exactly as "host:port", that may be private
	// although AllowPrivate is false, such as a provider simulator on loopback.
	AllowHosts []string
	// Scratch is an existing folder for scratch files; "" is the system's.
	Scratch string
	// Stall is how long no byte may come before a download fails; 0 is 60 s.
	Stall time.Duration
	// Limit is how long a whole download may take; 0 is 30 minutes.
	Limit time.Duration

	hooks hooks
}

// hooks are what tests put in the place of the network.
type hooks struct {
	resolver *net.Resolver
	judge    func(to netip.AddrPort, allowed bool) error
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	defaultStall = time.Minute
	defaultLimit = 30 * time.Minute
	maxRedirects = 3
	dialTimeout  = 15 * time.Second
	maxMediaType = 127 // bytes; longer than any that is registered
)

// Client downloads files. It is safe for concurrent use, and retries nothing.
type Client struct {
	cfg       Config
	hosts     map[string]bool
	judge     func(to netip.AddrPort, allowed bool) error
	transport *http.Transport
	proxyHint string
}

// New returns a Client. Close it when it is no longer needed.
func New(cfg Config) *Client {
	if cfg.Stall <= 0 {
		cfg.Stall = defaultStall
	}
	if cfg.Limit <= 0 {
		cfg.Limit = defaultLimit
	}
	c := &Client{cfg: cfg, hosts: make(map[string]bool), judge: judge}
	for _, h := range cfg.AllowHosts {
		c.hosts[strings.ToLower(h)] = true
	}
	if cfg.hooks.judge != nil {
		c.judge = cfg.hooks.judge
	}
	// HTTP/1.1 only: one connection for each download, so that a stall is this
	// download's own, and a length that the server must keep to.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	c.transport = &http.Transport{
		DialContext:            c.dial,
		Protocols:              &protocols,
		DisableCompression:     true, // a small answer must not become a huge file
		TLSHandshakeTimeout:    dialTimeout,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if cfg.hooks.dial != nil {
		c.transport.DialContext = cfg.hooks.dial
	}
	if cfg.AllowPrivate {
		c.transport.Proxy = http.ProxyFromEnvironment
	} else if os.Getenv("HTTPS_PROXY")+os.Getenv("https_proxy")+os.Getenv("HTTP_PROXY")+os.Getenv("http_proxy") != "" {
		c.proxyHint = " (the proxy of the environment is used only with MESHMILL_ALLOW_PRIVATE_URLS=true)"
	}
	return c
}

// Close closes idle connections. Downloads under way go on to their end.
func (c *Client) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}

func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{
		Timeout:  dialTimeout,
		Resolver: c.cfg.hooks.resolver,
		Control:  c.control(c.allowed(address)),
	}
	return d.DialContext(ctx, network, address)
}

// download is one download under way.
type download struct {
	c       *Client
	parent  context.Context // the caller's
	ctx     context.Context
	stall   *time.Timer
	at      *url.URL // the hop that is being read
	private atomic.Bool
}

// Download reads url, which must be http or https, with up to three redirects,
// and returns a file of 1 to max bytes. Every error is an *Error. When ctx
// ends, the download does.
func (c *Client) Download(ctx context.Context, url string, max int64) (*File, error) {
	limited, cancel := context.WithTimeoutCause(ctx, c.cfg.Limit, errLimit)
	defer cancel()
	run, stop := context.WithCancelCause(limited)
	defer stop(nil)
	d := &download{c: c, parent: ctx, ctx: run}
	d.stall = time.AfterFunc(c.cfg.Stall, func() { stop(errStalled) })
	defer d.stall.Stop()

	next := url
	for hop := 0; ; hop++ {
		u, err := c.parse(next, d.at)
		if u != nil {
			d.at = u
		}
		if err != nil {
			e := d.fail(Refused, "refused: %v", err)
			e.Err = err
			return nil, e
		}
		resp, err := d.get()
		if err != nil {
			return nil, d.broken(err, -1)
		}
		if !isRedirect(resp.StatusCode) {
			defer resp.Body.Close()
			return d.save(resp, max)
		}
		_ = resp.Body.Close()
		if next = resp.Header.Get("Location"); next == "" {
			return nil, d.status(Broken, resp, "HTTP %d without a destination", resp.StatusCode)
		}
		if hop == maxRedirects {
			return nil, d.status(Refused, resp, "refused: it redirects more than %d times", maxRedirects)
		}
	}
}

// get makes one request. A redirect is followed by another get, and not by
// http.Client, so that nothing of one request can reach the next: no cookie,
// no referrer, no header. An error of the bare transport holds no URL, either.
func (d *download) get() (*http.Response, error) {
	traced := httptrace.WithClientTrace(d.ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { d.private.Store(isPrivate(i.Conn.RemoteAddr())) },
	})
	req := (&http.Request{Method: http.MethodGet, URL: d.at, Host: d.at.Host, Header: http.Header{
		"User-Agent":      {"meshmill"},
		"Accept":          {"*/*"},
		"Accept-Encoding": {"identity"},
	}}).WithContext(traced)
	resp, err := d.c.transport.RoundTrip(req)
	if err == nil {
		d.stall.Reset(d.c.cfg.Stall)
	}
	return resp, err
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// save reads the body of the last answer.
func (d *download) save(resp *http.Response, max int64) (*File, error) {
	switch s := resp.StatusCode; s {
	case http.StatusOK:
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone:
		// Object stores disagree on the status of a signature that has run out:
		// S3 answers 403, or 400 when the signer's own session has ended.
		return nil, d.status(Expired, resp, "HTTP %d: the link is not valid, or not any more", s)
	default:
		return nil, d.status(BadStatus, resp, "HTTP %d", s)
	}
	switch e := strings.ToLower(strings.TrimSpace(resp.Header.Get("Content-Encoding"))); e {
	case "gzip", "x-gzip", "deflate", "compress", "br", "zstd":
		return nil, d.status(Broken, resp, "the file came compressed (%s), although plain was asked for", e)
	}
	if resp.ContentLength > max {
		return nil, d.status(TooLarge, resp, "the file has %d bytes, more than the limit of %d", resp.ContentLength, max)
	}

	s := newSpool(d.c.cfg.Scratch)
	if e := d.copy(s, resp, max); e != nil {
		_ = s.discard()
		return nil, e
	}
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if (err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter)) || len(mediaType) > maxMediaType {
		mediaType = ""
	}
	return &File{size: s.n, sum: s.sum(), mediaType: mediaType, spool: s, Private: d.private.Load()}, nil
}

// copy returns *Error, and not error, which a nil of that type would not be.
func (d *download) copy(s *spool, resp *http.Response, max int64) *Error {
	buf := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			d.stall.Reset(d.c.cfg.Stall)
			if s.n+int64(n) > max {
				return d.status(TooLarge, resp, "the file is larger than the limit of %d bytes", max)
			}
			if _, werr := s.Write(buf[:n]); werr != nil {
				e := d.status(Scratch, resp, "the scratch file cannot be written, see to the folder and its free space: %v", werr)
				e.Err = werr
				return e
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			e := d.broken(err, s.n)
			e.Status = resp.StatusCode
			return e
		}
		if err == nil {
			continue
		}
		switch {
		case resp.ContentLength >= 0 && s.n != resp.ContentLength:
			return d.status(Broken, resp, "the file ended after %d of %d bytes", s.n, resp.ContentLength)
		case s.n == 0:
			return d.status(Broken, resp, "the file is empty")
		}
		return nil
	}
}

func (d *download) fail(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Where: where(d.at), Text: fmt.Sprintf(format, args...)}
}

func (d *download) status(r Reason, resp *http.Response, format string, args ...any) *Error {
	e := d.fail(r, format, args...)
	e.Status = resp.StatusCode
	return e
}
