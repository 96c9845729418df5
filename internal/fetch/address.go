package fetch

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
)

// reach tells from where an address can be reached.
type reach uint8

const (
	never   reach = iota // no download has business there, whatever is configured
	private              // loopback and private networks: only where they are allowed
	public
)

// refusal is the reason why an address may not be read. Its text names no
// address: what a foreign name resolves to inside is nobody's business.
type refusal struct{ what string }

func (r *refusal) Error() string { return r.what }

type network struct {
	prefix netip.Prefix
	reach  reach
	what   string
}

// networks are the addresses that are not public, from the IANA special-purpose
// address registries for IPv4 and IPv6, and the fixed addresses of the clouds'
// metadata services. The first match counts.
var networks = []network{
	// These hand out the machine's own credentials to whoever asks.
	in("169.254.0.0/16", never, "link-local, where clouds keep their metadata"),
	in("168.63.129.16/32", never, "a cloud's metadata service"),
	in("100.100.100.200/32", never, "a cloud's metadata service"),
	in("fd00:ec2::/32", never, "a cloud's metadata service"),
	in("fd20:ce::254/128", never, "a cloud's metadata service"),
	in("fd00:c1::a9fe:a9fe/128", never, "a cloud's metadata service"),

	in("0.0.0.0/8", never, "unspecified"),
	in("10.0.0.0/8", private, "private"),
	in("100.64.0.0/10", private, "private (shared by a carrier)"),
	in("127.0.0.0/8", private, "loopback"),
	in("172.16.0.0/12", private, "private"),
	in("192.168.0.0/16", private, "private"),
	in("198.18.0.0/15", private, "private (for benchmarks)"), // also what some VPN clients answer for every name
	in("192.0.0.0/24", never, "reserved for protocols"),
	in("192.0.2.0/24", never, "for documentation"),
	in("198.51.100.0/24", never, "for documentation"),
	in("203.0.113.0/24", never, "for documentation"),
	in("192.88.99.0/24", never, "a 6to4 relay"),
	in("224.0.0.0/4", never, "multicast"),
	in("240.0.0.0/4", never, "reserved"),
	in("0.0.0.0/0", public, ""),

	in("::1/128", private, "loopback"),
	in("fc00::/7", private, "private"),
	in("fe80::/10", never, "link-local"),
	in("ff00::/8", never, "multicast"),
	in("2001::/23", never, "reserved for protocols"), // Teredo and benchmarks among them
	in("2001:db8::/32", never, "for documentation"),
	in("2002::/16", never, "6to4, which may lead anywhere"),
	in("3fff::/20", never, "for documentation"),
	in("2000::/3", public, ""), // all that IANA has given out as global unicast
	in("::/0", never, "reserved"),
}

func in(prefix string, r reach, what string) network {
	return network{netip.MustParsePrefix(prefix), r, what}
}

// nat64 is the well-known prefix under which networks without IPv4 reach IPv4
// hosts; the last four bytes are the host's address.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// classify tells what kind of address a is, in a word for people unless it is
// public. Addresses that carry an IPv4 address within are what that one is.
// It cannot know a NAT64 prefix of the network's own choice, nor which public
// addresses lead to one's own machines: there, filters in the network must help.
func classify(a netip.Addr) (reach, string) {
	if a.Zone() != "" {
		return never, "link-local"
	}
	if a = a.Unmap(); nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	for _, n := range networks {
		if n.prefix.Contains(a) {
			return n.reach, n.what
		}
	}
	return never, "not valid"
}

// judge refuses the address unless it is public, or private and allowed is true.
func judge(to netip.AddrPort, allowed bool) error {
	r, what := classify(to.Addr())
	switch {
	case r == public, r == private && allowed:
		return nil
	case r == private:
		return &refusal{"its address is " + what + "; MESHMILL_ALLOW_PRIVATE_URLS=true would allow it"}
	}
	return &refusal{"its address is " + what}
}

// maxURL is above what any provider or object store is known to sign.
const maxURL = 16 << 10

// parse reads an address and checks what can be told from its text. The rest,
// above all where its name leads, is checked when the connection is made.
// Errors hold no part of the text.
func (c *Client) parse(raw string, base *url.URL) (*url.URL, error) {
	if len(raw) > maxURL {
		return nil, &refusal{"the URL is longer than 16 KiB"}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, &refusal{"the URL is not valid"} // err repeats the whole URL
	}
	if base != nil {
		u = base.ResolveReference(u)
	}
	u.Fragment, u.RawFragment = "", ""
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return u, &refusal{"the URL must begin with https:// or http://"}
	case u.Opaque != "" || u.Hostname() == "":
		return u, &refusal{"the URL names no host"}
	case u.User != nil:
		return u, &refusal{"the URL carries a user name or password"}
	case strings.Contains(u.Host, "%"):
		return u, &refusal{"the URL's host is not valid"}
	}
	port := uint64(443)
	if u.Scheme == "http" {
		port = 80
	}
	if s := u.Port(); s != "" {
		if port, err = strconv.ParseUint(s, 10, 16); err != nil || port == 0 {
			return u, &refusal{"the URL's port is not valid"}
		}
	}
	host := u.Hostname()
	allowed := c.allowed(net.JoinHostPort(host, strconv.FormatUint(port, 10)))
	if port < 1024 && port != 80 && port != 443 && !allowed {
		// Mail, shells and the like can be made to act on a line of HTTP.
		return u, &refusal{"the URL's port belongs to another service than HTTP"}
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case err == nil:
		// The dialer looks too, but not behind a proxy.
		return u, c.judge(netip.AddrPortFrom(addr, uint16(port)), allowed)
	case endsInNumber(host):
		// 0x7f.1, 2130706433, 127.0.0.1.: no name of the DNS ends so, and
		// resolvers differ on what such an address means.
		return u, &refusal{"the URL's host is an address in an unusual form"}
	}
	return u, nil
}

func endsInNumber(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndexByte(host, '.')+1:]
	if hex, ok := strings.CutPrefix(strings.ToLower(last), "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}

// allowed reports whether hostport may be private.
func (c *Client) allowed(hostport string) bool {
	return c.cfg.AllowPrivate || c.hosts[strings.ToLower(hostport)]
}

// control returns what the dialer asks before it sends anything to an address
// that it has resolved. There is no second resolution that could differ.
func (c *Client) control(allowed bool) func(string, string, syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return &refusal{"its address is not valid"}
		}
		return c.judge(to, allowed)
	}
}

// isPrivate reports whether a connection's other end is not a public address.
// An end that is not understood counts as private.
func isPrivate(remote net.Addr) bool {
	to, err := netip.ParseAddrPort(remote.String())
	if err != nil {
		return true
	}
	r, _ := classify(to.Addr())
	return r != public
}

func refused(err error) (*refusal, bool) { return errors.AsType[*refusal](err) }
