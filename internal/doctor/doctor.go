// Package doctor looks for what keeps Meshmill from working, or from working
// safely, before jobs meet it. It buys nothing, and leaves nothing behind.
package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/meshmill/meshmill/internal/config"
)

// Status says how grave a finding is.
type Status string

// The statuses. Their text is stable.
const (
	OK   Status = "ok"
	Info Status = "info" // worth knowing
	Warn Status = "warn" // works, but not as safely as it could
	Fail Status = "fail" // does not work
)

// Finding is the outcome of one check.
type Finding struct {
	// Name is the stable name of the check, such as "broker".
	Name   string
	Status Status
	// Message says in words what was found, and what to do about it.
	Message string
}

func found(name string, s Status, format string, args ...any) Finding {
	return Finding{name, s, fmt.Sprintf(format, args...)}
}

// maxSkew is how far clocks may be apart. Workers allow for five seconds when
// they take over a paid call; a store refuses requests that are minutes off.
const maxSkew = 2 * time.Second

// clock compares a clock with ours. It was read at some time between two of
// ours, and tells no more than grain.
func clock(name, whose string, theirs, before, after time.Time, grain time.Duration) Finding {
	skew := time.Duration(0)
	switch {
	case theirs.Before(before.Add(-grain)):
		skew = before.Sub(theirs) - grain
	case theirs.After(after.Add(grain)):
		skew = theirs.Sub(after) - grain
	}
	switch {
	case theirs.IsZero():
		return found(name, Info, "%s does not tell its time", whose)
	case skew > maxSkew:
		direction := "behind"
		if theirs.After(after) {
			direction = "ahead of"
		}
		return found(name, Warn, "the clock of %s is %s %s this machine's: leases and deadlines need clocks that agree; run a time service on both", whose, skew.Round(time.Second), direction)
	}
	return found(name, OK, "the clocks of %s and of this machine agree", whose)
}

// Account is a provider's account, as far as a check needs it.
type Account struct {
	Name, KeyVariable string
	config.Account
}

// connectTimeout bounds the look at one provider.
const connectTimeout = 10 * time.Second

// Provider checks that there is a key, and that the provider's host can be
// reached: its name is resolved and a connection opened, and with https the
// certificate checked. Nothing is sent over it, so that it costs nothing, and
// whether the key is valid stays unknown.
func Provider(ctx context.Context, a Account) []Finding {
	name := "provider " + a.Name
	key := found(name+" key", OK, "%s is set; whether it is valid only a purchase would tell", a.KeyVariable)
	if a.APIKey == "" {
		key = found(name+" key", Info, "%s is not set here: only workers that buy from %s need it", a.KeyVariable, a.Name)
	}
	return []Finding{key, reach(ctx, name, a)}
}

func reach(ctx context.Context, name string, a Account) Finding {
	u, err := url.Parse(a.BaseURL)
	if err != nil {
		return found(name, Fail, "its address is not a URL")
	}
	if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err == nil && proxy != nil {
		return found(name, Info, "%s is reached through a proxy, which was not tried", u.Hostname())
	}
	status := Fail
	if a.APIKey == "" {
		status = Warn // it may not be needed from here
	}
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, errors.New("no answer in time"))
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, u.Hostname())
	if err != nil {
		return found(name, status, "%s cannot be resolved: check the network, or whether the provider still exists", u.Hostname())
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	began := time.Now()
	conn, err := dial(ctx, u, net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return found(name, status, "%s (%s) cannot be connected to: %s", u.Hostname(), strings.Join(addresses, ", "), plain(ctx, err))
	}
	_ = conn.Close() // it has told what it could
	return found(name, OK, "%s answers within %s", u.Host, time.Since(began).Round(time.Millisecond))
}

func dial(ctx context.Context, u *url.URL, address string) (net.Conn, error) {
	if u.Scheme == "https" {
		return (&tls.Dialer{Config: &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}}).DialContext(ctx, "tcp", address)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

// plain says what went wrong without the addresses that net repeats.
func plain(ctx context.Context, err error) string {
	if ctx.Err() != nil {
		return context.Cause(ctx).Error()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err.Error()
	}
	return err.Error()
}
