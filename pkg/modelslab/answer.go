package modelslab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshmill/meshmill/internal/apicall"
)

// The documented words of Result.Status.
const (
	Success    = "success"
	Processing = "processing"
	Failed     = "failed"
	Error      = "error"
)

// Result is an answer of the API, read tolerantly: of a field with an
// unexpected type, what can be used is used and the rest is as if absent.
// Everything in it is the provider's word, and foreign input.
type Result struct {
	// Status is the answer's word in lower case, one of the four above or an
	// undocumented one.
	Status string
	// ID names the session, digit for digit; empty if the answer has none that
	// could be one.
	ID string
	// Output are the files' http and https URLs. A success may have none: then
	// the session is not done, because success without a file is nothing that
	// any document describes.
	Output []string
	// ProxyLinks are further URLs of the same files. FutureLinks say where
	// files will be, and are never results. ExtraAssets come with no documented
	// meaning.
	ProxyLinks, FutureLinks, ExtraAssets []string
	// ETA is the provider's estimate of the time left, zero if unknown, at most
	// a day.
	ETA time.Duration
	// RetryAfter is the body's retry_after, bounded; zero if there is none.
	RetryAfter time.Duration
	// GenerationTime is how long the work took; zero if unknown.
	GenerationTime time.Duration
	// FetchResult is the address that the answer offers for polling, if it is
	// on the configured host; otherwise it is empty. It is shown, never called:
	// the key goes to the configured address only.
	FetchResult string
	// Message is the provider's text, without the key, the queries of URLs or
	// control characters, and cut to about 200 bytes.
	Message string
	// Meta is the provider's account of the request, unread: its types vary
	// (the seed's example has foreground_ratio as text).
	Meta json.RawMessage

	message string // whole, for classification only
}

// Seed returns the random seed that was used, from Meta. It can exceed 32 bits.
func (r *Result) Seed() (int64, bool) {
	var m struct{ Seed json.RawMessage }
	if json.Unmarshal(r.Meta, &m) != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(scalar(m.Seed), 10, 64)
	return n, err == nil
}

// wire is an answer before its fields are interpreted. All are raw, so that no
// type can make the whole unreadable.
type wire struct {
	Status         json.RawMessage `json:"status"`
	ID             json.RawMessage `json:"id"`
	Output         json.RawMessage `json:"output"`
	ProxyLinks     json.RawMessage `json:"proxy_links"`
	FutureLinks    json.RawMessage `json:"future_links"`
	ExtraAssets    json.RawMessage `json:"extra_assets"`
	ETA            json.RawMessage `json:"eta"`
	RetryAfter     json.RawMessage `json:"retry_after"`
	GenerationTime json.RawMessage `json:"generationTime"`
	FetchResult    json.RawMessage `json:"fetch_result"`
	Message        json.RawMessage `json:"message"`
	Messege        json.RawMessage `json:"messege"` // sic: error codes page
	Error          json.RawMessage `json:"error"`
	Meta           json.RawMessage `json:"meta"`
}

var errNotAnswer = errors.New("the answer cannot be understood: it is no JSON object")

// decode reads an answer. Its error quotes nothing of the body.
func (c *Client) decode(a *apicall.Answer) (*Result, error) {
	body := bytes.TrimPrefix(a.Body, []byte("\xef\xbb\xbf"))
	var w *wire
	if json.Unmarshal(body, &w) != nil || w == nil {
		return nil, errNotAnswer
	}
	r := &Result{
		Status:         c.ep.Clean(strings.ToLower(strings.TrimSpace(scalar(w.Status)))),
		ID:             sessionID(w.ID),
		Output:         links(w.Output),
		ProxyLinks:     links(w.ProxyLinks),
		FutureLinks:    links(w.FutureLinks),
		ExtraAssets:    links(w.ExtraAssets),
		ETA:            seconds(w.ETA),
		RetryAfter:     apicall.Bound(seconds(w.RetryAfter)),
		GenerationTime: seconds(w.GenerationTime),
		Meta:           w.Meta,
	}
	if len(r.Output) == 0 && r.Status == Success {
		r.Output, r.ProxyLinks = r.ProxyLinks, nil // the twins are all there is
	}
	for _, raw := range []json.RawMessage{w.Message, w.Messege, w.Error} {
		if r.message = prose(raw, maxDepth); r.message != "" {
			break
		}
	}
	r.Message = c.ep.Clean(r.message)
	if u, ok := c.own(scalar(w.FetchResult)); ok {
		r.FetchResult = c.ep.Clean(u.String())
		if dir, id := path.Split(u.Path); r.ID == "" && path.Base(dir) == "fetch" && idPattern.MatchString(id) {
			r.ID = id // the session has a name after all
		}
	}
	return r, nil
}

// Bounds of what is taken from one answer.
const (
	maxDepth = 8
	maxLinks = 64
	maxLink  = 8 << 10
	maxProse = 4 << 10
	maxETA   = 24 * time.Hour
)

// scalar returns the text of a JSON string, number or boolean, and "" for
// anything else.
func scalar(raw json.RawMessage) string {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return ""
	}
	switch raw[0] {
	case '"':
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return ""
		}
		return s
	case '{', '[', 'n':
		return ""
	}
	return string(raw)
}

// sessionID returns an id that came as a number or as text. Digits are kept as
// they are, so ids beyond 2^53 stay what they were. Zero is no id.
func sessionID(raw json.RawMessage) string {
	id := strings.TrimSpace(scalar(raw))
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte(`"`)) {
		if id == "0" || !idPattern.MatchString(id) {
			return ""
		}
		return id
	}
	if id != "" && strings.Trim(id, "0123456789") != "" { // 1.09655545e8, 5.0
		f, err := strconv.ParseFloat(id, 64)
		if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			return ""
		}
		id = strconv.FormatFloat(f, 'f', -1, 64)
	}
	if id == "" || id == "0" || id[0] == '-' || !idPattern.MatchString(id) {
		return ""
	}
	return id
}

// seconds reads a number, or a number as text, bounded to 0 … maxETA.
func seconds(raw json.RawMessage) time.Duration {
	f, err := strconv.ParseFloat(strings.TrimSpace(scalar(raw)), 64)
	if err != nil || !(f > 0) {
		return 0
	}
	return time.Duration(min(f, maxETA.Seconds()) * float64(time.Second))
}

// links collects the http and https URLs of a value: text, a list, or either
// nested, in the order in which they stand (objects by name). Empty texts, null
// and everything else yield none.
func links(raw json.RawMessage) []string {
	var out []string
	walk(raw, maxDepth, func(_, s string) bool {
		s = strings.TrimSpace(s)
		u, err := url.Parse(s)
		if err == nil && len(s) <= maxLink && u.Host != "" && u.User == nil &&
			(u.Scheme == "https" || u.Scheme == "http") && !slices.Contains(out, s) {
			out = append(out, s)
		}
		return len(out) < maxLinks
	})
	return out
}

// prose makes one text of a message: text as it is, a list joined, an object of
// field → texts as "field: text".
func prose(raw json.RawMessage, depth int) string {
	var b strings.Builder
	walk(raw, depth, func(field, s string) bool {
		s = strings.TrimSpace(s)
		if s == "" {
			return true
		}
		if b.Len() > 0 {
			b.WriteString("; ")
		}
		if field != "" {
			fmt.Fprintf(&b, "%s: ", field)
		}
		b.WriteString(s)
		return b.Len() < maxProse
	})
	return b.String()
}

// walk yields every scalar in a value with the nearest field name above it,
// until yield returns false.
func walk(raw json.RawMessage, depth int, yield func(field, s string) bool) {
	walkField("", raw, depth, yield)
}

func walkField(field string, raw json.RawMessage, depth int, yield func(field, s string) bool) bool {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || depth == 0 {
		return true
	}
	switch raw[0] {
	case '[':
		var items []json.RawMessage
		if json.Unmarshal(raw, &items) != nil {
			return true
		}
		for _, item := range items {
			if !walkField(field, item, depth-1, yield) {
				return false
			}
		}
		return true
	case '{':
		var fields map[string]json.RawMessage
		if json.Unmarshal(raw, &fields) != nil {
			return true
		}
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			if !walkField(name, fields[name], depth-1, yield) {
				return false
			}
		}
		return true
	case 'n':
		return true
	}
	return yield(field, scalar(raw))
}
