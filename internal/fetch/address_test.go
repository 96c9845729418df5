package fetch_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/meshmill/meshmill/internal/fetch"
)

func TestAddressesThatAreNotPublic(t *testing.T) {
	t.Parallel()
	for a := range strings.FieldsSeq(`
		127.0.0.1 127.255.255.254 10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1
		169.254.169.254 169.254.0.1 168.63.129.16 100.64.0.1 100.127.255.255 100.100.100.200
		0.0.0.0 0.1.2.3 192.0.0.1 192.0.2.1 198.51.100.7 203.0.113.9 198.18.0.1 198.19.255.255
		192.88.99.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
		:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254
		fc00::1 fd00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fec0::1 ff02::1 ff0e::1
		64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::a00:1
		2001::1 2001:2::1 2001:db8::1 2002:7f00:1::1 2002:a00:1::1 2002:808:808::1 3fff::1 100::1 4000::1 5f00::1
		fe80::1%eth0 2606:4700::1%eth0`) {
		if fetch.IsPublic(netip.MustParseAddr(a)) {
			t.Errorf("%s counts as public", a)
		}
	}
	for a := range strings.FieldsSeq(`
		8.8.8.8 1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 172.15.255.255
		172.32.0.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 169.253.255.255 169.255.0.0
		::ffff:8.8.8.8 64:ff9b::808:808 2606:4700::1111 2001:4860:4860::8888 2a00::1`) {
		if !fetch.IsPublic(netip.MustParseAddr(a)) {
			t.Errorf("%s does not count as public", a)
		}
	}
}

func FuzzAddress(f *testing.F) {
	for _, a := range []string{"127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "fe80::1", "2606:4700::1111", "8.8.8.8"} {
		f.Add(netip.MustParseAddr(a).AsSlice())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		if fetch.IsPublic(a) && (!a.IsGlobalUnicast() && !a.Is4In6() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() ||
			a.IsMulticast() || a.IsUnspecified() || a.IsInterfaceLocalMulticast()) {
			t.Errorf("%v counts as public", a)
		}
		if fetch.IsPublic(a) && fetch.IsNever(a) {
			t.Errorf("%v is both public and forbidden", a)
		}
		if !a.Is4() {
			return
		}
		mapped := netip.AddrFrom16(a.As16())
		b := a.As4()
		sixtyfour := netip.AddrFrom16([16]byte{0, 0x64, 0xff, 0x9b, 12: b[0], 13: b[1], 14: b[2], 15: b[3]})
		sixToFour := netip.AddrFrom16([16]byte{0x20, 0x02, b[0], b[1], b[2], b[3]})
		for _, form := range []netip.Addr{mapped, sixtyfour, sixToFour} {
			if fetch.IsPublic(form) && !fetch.IsPublic(a) {
				t.Errorf("%v counts as public, but %v within does not", form, a)
			}
		}
	})
}

// hidden are URLs that must be refused by their text alone.
var hidden = map[string]string{
	"empty":                  "",
	"no scheme":              "cdn.example.com/x.glb",
	"scheme-relative":        "//cdn.example.com/x.glb",
	"file":                   "file:///etc/passwd",
	"file with host":         "file://localhost/etc/passwd",
	"ftp":                    "ftp://cdn.example.com/x.glb",
	"gopher":                 "gopher://cdn.example.com:70/_x",
	"data":                   "data:text/plain,hello",
	"javascript":             "javascript:alert(1)",
	"opaque":                 "https:cdn.example.com/x.glb",
	"no host":                "https:///x.glb",
	"only a port":            "https://:443/x.glb",
	"user":                   "https://SECRET@cdn.example.com/x.glb",
	"user and password":      "https://me:SECRET@cdn.example.com/x.glb",
	"port 0":                 "https://cdn.example.com:0/x.glb",
	"port 65536":             "https://cdn.example.com:65536/x.glb",
	"port not a number":      "https://cdn.example.com:http/x.glb",
	"mail port":              "http://cdn.example.com:25/x.glb",
	"ssh port":               "https://cdn.example.com:22/x.glb",
	"loopback":               "http://127.0.0.1/x.glb",
	"loopback, odd port":     "http://127.0.0.1:8080/x.glb",
	"any address":            "http://0.0.0.0/x.glb",
	"private":                "https://10.1.2.3/x.glb",
	"carrier":                "https://100.64.1.1/x.glb",
	"metadata":               "http://169.254.169.254/latest/meta-data/?SECRET",
	"IPv6 loopback":          "http://[::1]/x.glb",
	"IPv6 unspecified":       "http://[::]:8080/x.glb",
	"IPv6 private":           "http://[fd00::1]/x.glb",
	"IPv6 zone":              "http://[fe80::1%25eth0]/x.glb",
	"mapped":                 "http://[::ffff:127.0.0.1]/x.glb",
	"mapped, in hexadecimal": "http://[::ffff:7f00:1]/x.glb",
	"NAT64":                  "http://[64:ff9b::169.254.169.254]/x.glb",
	"6to4":                   "http://[2002:7f00:1::]/x.glb",
	"hexadecimal":            "http://0x7f.1/x.glb",
	"hexadecimal whole":      "http://0x7f000001/x.glb",
	"bare 0x":                "http://0x/x.glb",
	"decimal whole":          "http://2130706433/x.glb",
	"octal":                  "http://0177.0.0.1/x.glb",
	"short":                  "http://127.1/x.glb",
	"trailing dot":           "http://127.0.0.1./x.glb",
	"escaped host":           "http://%31%32%37.0.0.1/x.glb",
	"control character":      "http://cdn.example.com/\x00SECRET",
	"very long":              "https://cdn.example.com/" + strings.Repeat("SECRET", 4000),
}

func TestRefusedURLs(t *testing.T) {
	t.Parallel()
	for name, u := range hidden {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := fetch.New(fetch.Config{}.WithDial(func(_ context.Context, _, address string) (net.Conn, error) {
				t.Errorf("dialled %s", address)
				return nil, errors.New("no network in this test")
			}))
			defer c.Close()
			mustFail(t, c, u, fetch.Refused)
		})
	}
}

func TestAllowPrivateDoesNotAllowEverything(t *testing.T) {
	t.Parallel()
	c := fetch.New(fetch.Config{AllowPrivate: true})
	defer c.Close()
	for _, u := range []string{
		"http://169.254.169.254/latest/", "http://[fd00:ec2::254]/", "http://100.100.100.200/", "http://[::ffff:169.254.169.254]/",
		"http://0.0.0.0:8080/", "http://[ff02::1]/", "http://0x7f.1/", "file:///etc/passwd", "http://me:SECRET@127.0.0.1/",
	} {
		mustFail(t, c, u, fetch.Refused)
	}
	for _, u := range []string{"http://127.0.0.1:8080/", "http://10.0.0.1/", "http://[::1]:81/", "http://[fd12::1]/", "http://100.64.0.1/", "http://minio.local:9000/"} {
		if err := c.Check(u); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func TestAllowHostsIsExact(t *testing.T) {
	t.Parallel()
	c := fetch.New(fetch.Config{AllowHosts: []string{"127.0.0.1:9000", "[::1]:9000", "Simulator:80", "169.254.169.254:80"}})
	defer c.Close()
	for _, u := range []string{"http://127.0.0.1:9000/x", "https://127.0.0.1:9000/x", "http://[::1]:9000/x", "http://simulator/x", "http://SIMULATOR:80/x"} {
		if err := c.Check(u); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
	for _, u := range []string{"http://127.0.0.1:9001/x", "http://127.0.0.1/x", "http://127.0.0.2:9000/x", "http://127.0.0.1.:9000/x", "http://169.254.169.254/x"} {
		mustFail(t, c, u, fetch.Refused)
	}
}

func FuzzURL(f *testing.F) {
	for _, u := range hidden {
		f.Add(u)
	}
	f.Add("https://cdn.example.com:8443/a/b.glb?X-Amz-Signature=0123#f")
	c := fetch.New(fetch.Config{})
	f.Fuzz(func(t *testing.T, raw string) {
		if c.Check(raw) != nil {
			return
		}
		u, err := url.Parse(raw)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.Hostname() == "" {
			t.Fatalf("%q was let through", raw)
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && !fetch.IsPublic(a) {
			t.Fatalf("%q was let through", raw)
		}
	})
}

func TestNamesThatLeadInside(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{
		"127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "198.18.0.1",
		"::1", "fd00::1", "fe80::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
	} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			s := serve(t, hello)
			dns := &fakeDNS{answers: [][]netip.Addr{{netip.MustParseAddr(addr)}}}
			c := fetch.New(fetch.Config{}.WithResolver(dns.resolver()))
			defer c.Close()
			for _, host := range []string{"inside.test", "inside.test."} {
				e := mustFail(t, c, "http://"+host+":"+s.port+"/x.glb?SECRET", fetch.Refused)
				if strings.Contains(e.Error(), addr) {
					t.Errorf("the error tells what the name resolves to: %v", e)
				}
			}
			if n := s.hits.Load(); n != 0 {
				t.Errorf("the server was asked %d times", n)
			}
		})
	}
}

// A name that is public when it is first looked at and private the next time:
// every connection asks anew, and the answer that counts is the dialled one.
func TestRebinding(t *testing.T) {
	t.Parallel()
	var s *server
	s = serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		if r.URL.Path == "/redirect" {
			http.Redirect(w, r, "http://rebind.test:"+s.port+"/x.glb", 302)
			return
		}
		hello(w, r)
	})
	// The test server's own address stands for a public one.
	asPublic := netip.MustParseAddrPort(s.addr)
	judge := func(to netip.AddrPort, allowed bool) error {
		if to == asPublic {
			return nil
		}
		return fetch.PolicyJudge(to, allowed)
	}
	client := func(answers ...string) *fetch.Client {
		dns := &fakeDNS{}
		for _, a := range answers {
			dns.answers = append(dns.answers, []netip.Addr{netip.MustParseAddr(a)})
		}
		c := fetch.New(fetch.Config{}.WithJudge(judge).WithResolver(dns.resolver()))
		t.Cleanup(func() { c.Close() })
		return c
	}
	base := "http://rebind.test:" + s.port

	steady := client("127.0.0.1")
	f, err := steady.Download(t.Context(), base+"/redirect", 100)
	if err != nil {
		t.Fatalf("without rebinding: %v", err)
	}
	f.Close()

	for _, second := range []string{"10.0.0.1", "127.0.0.2", "169.254.169.254", "::1"} {
		mustFail(t, client("127.0.0.1", second), base+"/redirect?SECRET", fetch.Refused)
		c := client("127.0.0.1", second)
		f, err := c.Download(t.Context(), base+"/x.glb", 100)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		mustFail(t, c, base+"/x.glb?SECRET", fetch.Refused)
	}
}

// fakeDNS answers the n-th question for an address with the n-th answer, and
// all later ones with the last.
type fakeDNS struct {
	answers [][]netip.Addr
	asked   [2]atomic.Int32 // A, AAAA
}

func (d *fakeDNS) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go d.serve(server) // ends when the resolver closes its end
		return client, nil
	}}
}

// serve speaks DNS as over TCP: each message after its length in two bytes.
func (d *fakeDNS) serve(conn net.Conn) {
	defer conn.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		q := make([]byte, int(size[0])<<8|int(size[1]))
		if _, err := io.ReadFull(conn, q); err != nil {
			return
		}
		end := 12
		for q[end] != 0 {
			end += int(q[end]) + 1
		}
		end += 5 // the root label, type and class
		is6 := q[end-3] == 28
		i := 0
		if is6 {
			i = 1
		}
		n := min(int(d.asked[i].Add(1)), len(d.answers)) - 1
		reply := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end]...)
		for _, a := range d.answers[n] {
			raw := a.AsSlice()
			if (len(raw) == 16) != is6 {
				continue
			}
			reply[7]++
			reply = append(reply, 0xc0, 12, 0, q[end-3], 0, 1, 0, 0, 0, 0, 0, byte(len(raw)))
			reply = append(reply, raw...)
		}
		if _, err := conn.Write(append([]byte{byte(len(reply) >> 8), byte(len(reply))}, reply...)); err != nil {
			return
		}
	}
}
