// Package apicall makes single calls to a provider's JSON API and says, of a
// call that failed, whether it can have had an effect. It retries nothing.
package apicall

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// MaxBody is the longest answer that is read. Answers are status documents;
// meshes come by their own URLs.
const MaxBody = 8 << 20

// Endpoint is where a provider's API lives. It is safe for concurrent use, and
// must not be changed or copied after its first call.
type Endpoint struct {
	// Name begins the Op of every fault: "csm".
	Name string
	// Base is the address that paths are joined to.
	Base *url.URL
	// Transport makes the calls; nil is a new one. Redirects are never followed:
	// they would carry the key to another host. Only an *http.Transport can be
	// kept from making a paid call on a pooled connection, see Call.Paid.
	Transport http.RoundTripper
	// Header is sent with every call, authentication included.
	Header http.Header
	// Secrets are removed from every error text.
	Secrets []string

	once         sync.Once
	pooled, solo http.RoundTripper
}

// transport returns what makes a call. A paid call gets a connection of its
// own: on a pooled one that the server has just closed it would end as a
// needless Unknown. Request.Close is not enough, it only closes afterwards.
func (e *Endpoint) transport(paid bool) http.RoundTripper {
	e.once.Do(func() {
		e.pooled = e.Transport
		if e.pooled == nil {
			e.pooled = NewTransport()
		}
		e.solo = e.pooled
		if t, ok := e.pooled.(*http.Transport); ok {
			t = t.Clone()
			t.DisableKeepAlives = true
			e.solo = t
		}
	})
	if paid {
		return e.solo
	}
	return e.pooled
}

// New checks base and returns an Endpoint with a transport of its own.
func New(name, base string) (*Endpoint, error) {
	u, err := url.Parse(strings.TrimRight(base, "/"))
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("%s: the base URL must be like https://api.example.com/v1", name)
	}
	return &Endpoint{Name: name, Base: u, Header: http.Header{}, Transport: NewTransport()}, nil
}

// NewTransport returns a transport with a deadline on each step of connecting.
func NewTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    15 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        60 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// Call is one call to make.
type Call struct {
	Op     string // "create session"; completes the fault's Op
	Method string
	Path   string     // joined to the base; its segments must be escaped
	Query  url.Values // may be nil
	Body   any        // encoded as JSON; nil sends none
	// Paid marks a call that costs money: a broken exchange is then Unknown
	// once the request may have left, and no pooled connection is used.
	Paid bool
}

// Answer is a complete answer, whatever its HTTP status.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	// unsent: it came before any of the request's body had left.
	unsent bool
}

// Do makes the call and returns the answer with its body whole. Every error is
// a *jobs.Fault. Nothing is sent under a context that has ended.
func (e *Endpoint) Do(ctx context.Context, c Call) (*Answer, error) {
	x := exchange{e: e, ctx: ctx, op: e.Name + ": " + c.Op, paid: c.Paid}
	if err := ended(ctx); err != nil {
		return nil, &jobs.Fault{Kind: jobs.Retryable, Op: x.op, Err: fmt.Errorf("not sent: %w", err)}
	}
	var raw []byte
	if c.Body != nil {
		var err error
		if raw, err = json.Marshal(c.Body); err != nil {
			return nil, jobs.Faultf(jobs.Permanent, x.op, "encode the request: %w", err)
		}
	}
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.connected, x.left = true, x.left || raw == nil
		},
	})
	u := e.Base.JoinPath(c.Path)
	u.RawQuery = c.Query.Encode()
	req, err := http.NewRequestWithContext(traced, c.Method, u.String(), nil)
	if err != nil {
		return nil, &jobs.Fault{Kind: jobs.Permanent, Op: x.op, Err: fmt.Errorf("build the request: %w", e.cleanError(err))}
	}
	for k, v := range e.Header {
		req.Header[k] = v
	}
	req.Header.Set("Accept", "application/json")
	if raw != nil {
		req.Header.Set("Content-Type", "application/json")
		// With a length and without GetBody: the body goes out whole or not at
		// all, and is never sent again.
		req.ContentLength = int64(len(raw))
		req.Body = io.NopCloser(&body{x: &x, r: bytes.NewReader(raw)})
	}
	hc := http.Client{
		Transport:     e.transport(c.Paid),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, x.broken(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	switch {
	case err != nil:
		return nil, x.broken(err)
	case len(got) > MaxBody:
		kind, _, _ := x.judge()
		return nil, &jobs.Fault{Kind: kind, Op: x.op, Err: fmt.Errorf("the answer is longer than %d bytes", MaxBody)}
	}
	_, _, left := x.judge() // from here on nothing more goes out
	return &Answer{Status: resp.StatusCode, Header: resp.Header, Body: got, unsent: !left}, nil
}

// exchange is a call being made.
type exchange struct {
	e    *Endpoint
	ctx  context.Context
	op   string
	paid bool

	mu sync.Mutex
	// Did it get a connection, and may the request have left?
	connected, left bool
	// Once the call has been judged, not another byte goes out.
	judged bool
}

// ended returns why nothing may be sent any more, or nil. A deadline counts by
// the wall clock too: a process that was paused, or a machine that slept, may
// come here before its timers do.
func ended(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// Round drops the monotonic reading, which stands still in sleep.
	if at, ok := ctx.Deadline(); ok && !time.Now().Round(0).Before(at.Round(0)) {
		return context.DeadlineExceeded
	}
	return nil
}

// body is a request's body. It yields nothing once its context has ended.
type body struct {
	x *exchange
	r *bytes.Reader
}

func (b *body) Read(p []byte) (int, error) {
	b.x.mu.Lock()
	defer b.x.mu.Unlock()
	if err := ended(b.x.ctx); err != nil {
		return 0, err
	}
	if b.x.judged {
		return 0, net.ErrClosed
	}
	n, err := b.r.Read(p)
	b.x.left = b.x.left || n > 0
	return n, err
}

// judge returns the kind of a broken exchange, and how far it had come.
func (x *exchange) judge() (kind jobs.Kind, connected, left bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.judged = true
	if x.paid && x.left {
		return jobs.Unknown, x.connected, x.left
	}
	return jobs.Retryable, x.connected, x.left
}

func (x *exchange) broken(err error) *jobs.Fault {
	// The *url.Error repeats method and URL, which say nothing new.
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	host := x.e.Base.Host
	kind, connected, left := x.judge()
	f := &jobs.Fault{Kind: kind, Op: x.op, Pause: true}
	dns, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case connected && !left && ended(x.ctx) != nil:
		f.Pause = false
		f.Err = fmt.Errorf("not sent: %w", ended(x.ctx))
	case errors.Is(x.ctx.Err(), context.Canceled):
		f.Pause = false
		f.Err = fmt.Errorf("stopped: %w", context.Cause(x.ctx))
	case isDNS && dns.IsNotFound:
		f.Err = &UnreachableError{Host: host, Reason: "its name cannot be resolved", Err: err}
	case !connected:
		f.Err = &UnreachableError{Host: host, Reason: x.e.Clean(err.Error()), Err: err}
	case kind == jobs.Unknown:
		f.Err = fmt.Errorf("the connection to %s broke after the request was sent: %w", host, x.e.cleanError(err))
	default:
		f.Err = fmt.Errorf("the connection to %s broke: %w", host, x.e.cleanError(err))
	}
	return f
}

// UnreachableError reports a provider that could not be reached at all.
type UnreachableError struct {
	Host   string
	Reason string
	Err    error
}

// Error names the host and the reason.
func (u *UnreachableError) Error() string {
	return fmt.Sprintf("%s cannot be reached: %s", u.Host, u.Reason)
}

// Unwrap returns the network error.
func (u *UnreachableError) Unwrap() error { return u.Err }

type cleanError struct {
	text string
	err  error
}

func (c *cleanError) Error() string { return c.text }
func (c *cleanError) Unwrap() error { return c.err }

func (e *Endpoint) cleanError(err error) error { return &cleanError{e.Clean(err.Error()), err} }

// queryPattern finds the query of a URL, with or without its host.
var queryPattern = regexp.MustCompile(`(?i)(https?://[^\s"'<>?\\]*)\?[^\s"'<>\\]*|\?[^\s"'<>\\=]*=[^\s"'<>\\]*`)

// Clean makes foreign text fit for an error: no secret, no query of a URL (it
// may be a signature), no control characters, at most about 200 bytes.
func (e *Endpoint) Clean(text string) string {
	// First what could hide a secret from the search.
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == 0x2028 || r == 0x2029
	}), " ")
	for _, s := range e.Secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "[secret]")
		}
	}
	text = queryPattern.ReplaceAllString(text, "$1?…")
	const most = 200
	if len(text) > most {
		// Of the cut text only a rune at the end can have become invalid.
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// KeyWait is how long to wait after a key was refused: only a person can help.
const KeyWait = time.Minute

// Refusal builds the fault for an answer that is not a success. The message is
// the provider's own, already taken out of the body.
//
// A paid call that ends in 5xx, or in a redirect other than a permanent one, may
// have had its effect: Unknown. So may one that ends in 408 once its body has begun
// to leave: a proxy says that too when the server behind it is slow. 408 otherwise,
// 425 and 429 are refusals that may be tried again; so are 401, 403 and 407, as a
// person can put a key right while jobs wait. Any other 4xx is permanent.
func (e *Endpoint) Refusal(c Call, a *Answer, message string) *jobs.Fault {
	f := &jobs.Fault{Op: e.Name + ": " + c.Op, After: RetryAfter(a.Header)}
	text := fmt.Sprintf("HTTP %d", a.Status)
	if message = e.Clean(message); message != "" {
		text += ": " + message
	}
	f.Err = &StatusError{Status: a.Status, Text: text}
	switch s := a.Status; {
	case s == http.StatusRequestTimeout && c.Paid && !a.unsent:
		f.Kind, f.Pause = jobs.Unknown, true
	case s == http.StatusTooManyRequests, s == http.StatusRequestTimeout, s == http.StatusTooEarly:
		f.Kind, f.Pause = jobs.Retryable, true
	case s == http.StatusProxyAuthRequired:
		f.Kind, f.Pause, f.After = jobs.Retryable, true, max(f.After, KeyWait)
		f.Err = &StatusError{Status: s, Text: text + "; the proxy before " + e.Base.Host + " wants credentials: check HTTPS_PROXY"}
	case s == http.StatusUnauthorized, s == http.StatusForbidden:
		// A read that is refused may be about one session, and stops no purchases.
		f.Kind, f.Pause, f.After = jobs.Retryable, c.Paid, max(f.After, KeyWait)
	case s == http.StatusMovedPermanently, s == http.StatusPermanentRedirect, s == http.StatusTemporaryRedirect:
		f.Kind = jobs.Permanent
		f.Err = &StatusError{Status: s, Text: fmt.Sprintf("HTTP %d: %s redirects elsewhere, which is never followed; correct the base URL", s, e.Base.Host)}
	case s >= 400 && s < 500:
		f.Kind = jobs.Permanent
	case c.Paid:
		f.Kind, f.Pause = jobs.Unknown, s >= 500
	default:
		f.Kind, f.Pause = jobs.Retryable, s >= 500
	}
	return f
}

// StatusError is an answer with an HTTP status that is not a success.
type StatusError struct {
	Status int
	Text   string
}

// Error returns the status and the provider's message.
func (s *StatusError) Error() string { return s.Text }

// StatusOf returns the HTTP status that err reports, or 0.
func StatusOf(err error) int {
	if s, ok := errors.AsType[*StatusError](err); ok {
		return s.Status
	}
	return 0
}

// RetryAfter reads Retry-After (seconds or a date) or X-RateLimit-Reset (Unix
// time, or seconds from now). The result is 0 if there is none, and never more
// than jobs.MaxAfter: the server's word is advice, not a command.
func RetryAfter(h http.Header) time.Duration {
	if v := strings.TrimSpace(h.Get("Retry-After")); v != "" {
		if at, err := http.ParseTime(v); err == nil {
			return Bound(time.Until(at))
		}
		return Seconds(v)
	}
	v := strings.TrimSpace(h.Get("X-RateLimit-Reset"))
	if n, err := strconv.ParseInt(v, 10, 64); err == nil && n > 1_000_000_000 && n < 1<<40 { // a time.Time holds these
		return Bound(time.Until(time.Unix(n, 0)))
	}
	return Seconds(v)
}

// Seconds reads a number of seconds as a bounded duration; 0 if it is none.
func Seconds(s string) time.Duration {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n > 0) {
		return 0
	}
	if n >= jobs.MaxAfter.Seconds() {
		return jobs.MaxAfter
	}
	return time.Duration(n * float64(time.Second))
}

// Bound clamps d to 0 … jobs.MaxAfter.
func Bound(d time.Duration) time.Duration { return min(max(d, 0), jobs.MaxAfter) }
