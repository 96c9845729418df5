package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"syscall"
	"unicode"
)

// Reason says why a download failed, for the caller to decide what to do next.
type Reason uint8

const (
	// None is the reason of an error that is not this package's.
	None Reason = iota
	// Expired: the server does not know the link any more (404, 410), or not
	// its signature (400, 401, 403). Ask whoever gave it for a fresh one.
	Expired
	// Refused: the URL, where it leads or where it redirects to is forbidden.
	// The same URL will be refused again.
	Refused
	// TooLarge: the file is larger than the caller takes.
	TooLarge
	// Broken: the file did not arrive whole, was empty, or came too slowly. Try
	// again.
	Broken
	// Unreachable: no answer came at all. Try again.
	Unreachable
	// BadStatus: any other HTTP status than 200; see Error.Status.
	BadStatus
	// Scratch: this machine could not keep the file, such as for a full disk.
	Scratch
	// Stopped: the caller's own context ended.
	Stopped
)

var reasons = [...]string{"none", "expired", "refused", "too large", "broken", "unreachable", "bad status", "scratch", "stopped"}

// String returns the reason in lower-case words.
func (r Reason) String() string {
	if int(r) < len(reasons) {
		return reasons[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Error is the one error of Download. Its text is made of our own words: it
// holds nothing that the server said, and of the URL only the host and, if it
// looks like a file's name, the last part of the path.
type Error struct {
	Reason Reason
	// Status is the HTTP status, 0 if none came.
	Status int
	// Where is the part of the URL that may be shown.
	Where string
	// Text says what happened and, where it helps, what to do.
	Text string
	// Err is the cause, or nil. Its text may name addresses: do not show it.
	Err error
}

// Error returns "where: text".
func (e *Error) Error() string { return e.Where + ": " + e.Text }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Retryable reports whether the same URL may well work later. It is false for
// Expired, where another URL is needed, and for Stopped.
func (e *Error) Retryable() bool {
	switch e.Reason {
	case Broken, Unreachable, Scratch:
		return true
	case BadStatus:
		return e.Status >= 500 || e.Status == http.StatusTooManyRequests ||
			e.Status == http.StatusRequestTimeout || e.Status == http.StatusTooEarly
	}
	return false
}

// ReasonOf returns the reason of the Error in err's chain, or None.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return None
}

var fileName = regexp.MustCompile(`^[\pL\pN _.()+-]{1,64}\.[A-Za-z0-9]{1,5}$`)

// where returns the part of u that may be shown. A last part of the path that
// is no file's name may be a secret: some services sign there.
func where(u *url.URL) string {
	if u == nil || u.Host == "" {
		return "download"
	}
	host := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, u.Host)
	const most = 100
	if len(host) > most {
		host = strings.ToValidUTF8(host[:most], "") + "…"
	}
	if name := path.Base(u.Path); fileName.MatchString(name) {
		return host + "/…/" + name
	}
	return host
}

// Causes that end the context of one download.
var (
	errStalled = errors.New("stalled")
	errLimit   = errors.New("out of time")
)

// broken classifies the failure of an exchange. got is the number of bytes
// that came, or -1 if no answer began.
func (d *download) broken(err error, got int64) *Error {
	reason := Broken
	if got < 0 {
		reason = Unreachable
	}
	if d.parent.Err() != nil {
		e := d.fail(Stopped, "the download was stopped")
		e.Err = context.Cause(d.parent)
		return e
	}
	var e *Error
	switch cause := context.Cause(d.ctx); {
	case errors.Is(cause, errStalled):
		e = d.fail(reason, "nothing came for %v", d.c.cfg.Stall)
	case errors.Is(cause, errLimit):
		e = d.fail(reason, "was not done after %v", d.c.cfg.Limit)
	case got >= 0:
		e = d.fail(reason, "the connection broke after %d bytes: %s", got, explain(err))
	default:
		if r, ok := refused(err); ok {
			e = d.fail(Refused, "refused: %s", r.what)
			break
		}
		e = d.fail(reason, "cannot be reached: %s%s", explain(err), d.c.proxyHint)
	}
	e.Err = err
	return e
}

// explain puts a network error in words that hold neither an address nor
// anything the server said: it may say our own signature back to us.
func explain(err error) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return "its name does not exist"
		}
		return "its name cannot be resolved at the moment"
	}
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		return no.Error()
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "its certificate is for another host"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "its certificate is signed by an unknown authority"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "its certificate is not valid"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "it does not speak TLS"
	}
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		return "it does not answer in time"
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it closed the connection early"
	}
	return "the exchange failed"
}
