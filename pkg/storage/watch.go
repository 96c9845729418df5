package storage

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// How long a transfer may stand still.
const (
	stallTimeout    = 30 * time.Second // no byte of a body moves
	replyTimeout    = 60 * time.Second // all is sent, no answer begins
	assembleTimeout = 10 * time.Minute // likewise, while the store joins parts
)

// newTransport keeps the certificate authorities of AWS_CA_BUNDLE, which the
// SDK has put into the client it made.
func newTransport(from aws.HTTPClient) *http.Transport {
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        60 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if made, ok := from.(*awshttp.BuildableClient); ok {
		t.TLSClientConfig = made.GetTransport().TLSClientConfig
	}
	return t
}

// refuseRedirect hands a redirect back as the answer: the SDK knows the ones
// that S3 sends, and a signature must not travel to another host.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// stalled is the end of a transfer that stood still. It is a net.Error, so the
// SDK takes it for what it is and tries again.
type stalled struct{}

func (stalled) Error() string   { return "nothing moved for too long" }
func (stalled) Timeout() bool   { return true }
func (stalled) Temporary() bool { return true }

// watch ends exchanges that stand still. An http.Client's own timeout would
// bound the whole transfer, which may rightly take long.
type watch struct {
	next                   http.RoundTripper
	stall, reply, assemble time.Duration
}

func (w *watch) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	reply := w.reply
	if req.Method == http.MethodPost {
		reply = w.assemble
	}
	sending := &phase{timer: time.AfterFunc(w.stall, func() { cancel(stalled{}) })}
	out := req.WithContext(ctx)
	wrap := func(body io.ReadCloser) io.ReadCloser {
		return &sentBody{body, sending, w.stall, reply}
	}
	if req.Body == nil || req.Body == http.NoBody {
		sending.reset(reply)
	} else {
		out.Body = wrap(req.Body)
		if get := req.GetBody; get != nil {
			out.GetBody = func() (io.ReadCloser, error) {
				body, err := get()
				if err != nil {
					return nil, err
				}
				return wrap(body), nil
			}
		}
	}
	resp, err := w.next.RoundTrip(out)
	sending.end()
	if err != nil {
		err = because(ctx, err)
		cancel(nil)
		return nil, err
	}
	resp.Body = &gotBody{body: resp.Body, ctx: ctx, cancel: cancel, stall: w.stall}
	return resp, nil
}

// because returns the stall that ended ctx, or err.
func because(ctx context.Context, err error) error {
	if s, ok := errors.AsType[stalled](context.Cause(ctx)); ok {
		return s
	}
	return err
}

// phase is the time limit of sending. A transport may go on reading a request
// body after the answer has begun, so the end must hold.
type phase struct {
	mu    sync.Mutex
	timer *time.Timer
	ended bool
}

func (p *phase) reset(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.timer.Reset(d)
	}
}

func (p *phase) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.timer.Stop()
}

type sentBody struct {
	io.ReadCloser
	phase        *phase
	stall, reply time.Duration
}

func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.phase.reset(b.reply)
	} else {
		b.phase.reset(b.stall)
	}
	return n, err
}

func (b *sentBody) Close() error {
	b.phase.reset(b.reply)
	return b.ReadCloser.Close()
}

// gotBody limits each Read, not the time between them: the reader may be slow.
type gotBody struct {
	body   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	stall  time.Duration
}

func (b *gotBody) Read(p []byte) (int, error) {
	t := time.AfterFunc(b.stall, func() { b.cancel(stalled{}) })
	n, err := b.body.Read(p)
	t.Stop()
	if err != nil && err != io.EOF {
		err = because(b.ctx, err)
	}
	return n, err
}

func (b *gotBody) Close() error {
	b.cancel(nil)
	return b.body.Close()
}
