package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/internal/cost"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// A parser puts a value into the configuration, or says what the value must be:
// its error completes the sentence "NAME is VALUE, must be …".
type parser func(c *Config, s string) error

func text(field func(*Config) *string) parser {
	return func(c *Config, s string) error {
		*field(c) = s
		return nil
	}
}

func secret(field func(*Config) *Secret) parser {
	return func(c *Config, s string) error {
		if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return errors.New("without spaces and line ends")
		}
		*field(c) = Secret(s)
		return nil
	}
}

func duration(field func(*Config) *time.Duration, least, most time.Duration) parser {
	return func(c *Config, s string) error {
		d, err := time.ParseDuration(s)
		if err != nil || d < least || d > most {
			return fmt.Errorf("a duration from %s to %s", short(least), short(most))
		}
		*field(c) = d
		return nil
	}
}

// short prints a duration without its zero parts: 2h instead of 2h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

func whole(field func(*Config) *int, least, most int) parser {
	return func(c *Config, s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < least || n > most {
			return fmt.Errorf("a whole number from %d to %d", least, most)
		}
		*field(c) = n
		return nil
	}
}

func truth(field func(*Config) *bool) parser {
	return func(c *Config, s string) error {
		b, err := strconv.ParseBool(s)
		if err != nil {
			return errors.New("true or false")
		}
		*field(c) = b
		return nil
	}
}

func choice(field func(*Config) *string, allowed ...string) parser {
	return func(c *Config, s string) error {
		if !slices.Contains(allowed, s) {
			return errors.New("one of " + strings.Join(allowed, ", "))
		}
		*field(c) = s
		return nil
	}
}

var sizePattern = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([KMGT]i?)?B?$`)

func bytesOf(s string) (int64, bool) {
	m := sizePattern.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	f, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, false
	}
	base := 1000.0
	if strings.HasSuffix(m[2], "i") {
		base = 1024
	}
	if m[2] != "" {
		f *= math.Pow(base, float64(1+strings.IndexByte("KMGT", m[2][0])))
	}
	if f > 1<<62 {
		return 0, false
	}
	return int64(f), true
}

func size(field func(*Config) *int64, least, most int64) parser {
	return func(c *Config, s string) error {
		n, ok := bytesOf(s)
		if !ok || n < least || n > most {
			return errors.New("a size from 1KiB to 1TiB, in bytes or with KiB, MiB, GiB, TiB, KB, MB, GB or TB")
		}
		*field(c) = n
		return nil
	}
}

func httpURL(field func(*Config) *string) parser {
	return func(c *Config, s string) error {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") ||
			u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return errors.New("an http or https address without user name, query or fragment")
		}
		*field(c) = strings.TrimRight(s, "/")
		return nil
	}
}

func prices(field func(*Config) *cost.Prices) parser {
	return func(c *Config, s string) error {
		p, err := cost.ParsePrices(s)
		*field(c) = p
		return err
	}
}

func askAbove(c *Config, s string) error {
	t, err := cost.ParseThreshold(s)
	c.AskAbove = t
	return err
}

func brokerURLs(c *Config, s string) error {
	const must = "one or more broker addresses, separated by commas"
	var list []string
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if !strings.Contains(part, "://") {
			part = "nats://" + part
		}
		u, err := url.Parse(part)
		if err != nil || u.Hostname() == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			return errors.New(must)
		}
		list = append(list, part)
	}
	c.NATSURL = strings.Join(list, ",")
	return nil
}

func prefix(c *Config, s string) error {
	names, err := jobs.NewNames(s)
	if err != nil {
		return errors.New("1 to 32 lower-case letters, digits, _ or -, beginning with a letter")
	}
	c.Names = names
	return nil
}

var bucketPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

func bucket(c *Config, s string) error {
	if !bucketPattern.MatchString(s) || strings.Contains(s, "..") {
		return errors.New("the name of a bucket: 3 to 63 lower-case letters, digits, dots or hyphens")
	}
	c.Bucket = s
	return nil
}

func listen(c *Config, s string) error {
	if s == "" {
		c.Listen = ""
		return nil
	}
	if !IsListenAddress(s) {
		return errors.New("an address to listen on, or empty for none")
	}
	c.Listen = s
	return nil
}

// IsListenAddress reports whether s is an address to listen on: a host, which
// may be empty, and a port from 0 to 65535, where 0 lets the system choose.
func IsListenAddress(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	n, err := strconv.Atoi(port)
	return err == nil && n >= 0 && n <= 65535
}

func logLevel(c *Config, s string) error {
	switch s {
	case "debug", "info", "warn", "error":
	default:
		return errors.New("one of debug, info, warn, error")
	}
	level, err := zerolog.ParseLevel(s)
	c.LogLevel = level
	return err
}
