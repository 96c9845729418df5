package jobs

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// RequestSchema is the value of "schema" in a request.
const RequestSchema = "meshmill.job.v1"

// MaxRequestBytes is the largest request that is taken.
const MaxRequestBytes = 64 << 10

// Lane is the queue of a job. Interactive jobs are taken before bulk ones.
type Lane string

// The lanes. Their text is part of the subjects.
const (
	Interactive Lane = "interactive"
	Bulk        Lane = "bulk"
)

// Lanes lists the lanes, the one that workers look at first in front.
var Lanes = []Lane{Interactive, Bulk}

// ParseLane returns the lane called s; the empty string is Bulk.
func ParseLane(s string) (Lane, error) {
	switch Lane(s) {
	case "", Bulk:
		return Bulk, nil
	case Interactive:
		return Interactive, nil
	}
	return "", fieldErrorf("lane", "is %q, must be interactive or bulk", s)
}

// Image is what is to be converted: an object in the bucket, or a URL.
// Exactly one of Object and URL is set.
type Image struct {
	// Object is the key of the image in the bucket, InputKey of its content.
	Object string `json:"object,omitempty"`
	// URL is an http or https address that the worker can read.
	URL string `json:"url,omitempty"`
	// MediaType is image/png, image/jpeg or image/webp. It may be empty.
	MediaType string `json:"media_type,omitempty"`
	// Name is what people call the image, such as a path below the folder it
	// came from. It is shown, never opened.
	Name string `json:"name,omitempty"`
}

// Public returns the image without what may be secret: the query of a URL, which
// is where presigned addresses carry their signature.
func (m Image) Public() Image {
	if m.URL == "" {
		return m
	}
	u, err := url.Parse(m.URL)
	if err != nil {
		m.URL = "" // nobody can say which part of it is secret
		return m
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	m.URL = u.String()
	return m
}

// Request asks for one conversion. Its JSON form is the body of a job message.
type Request struct {
	Schema   string `json:"schema"`
	ID       string `json:"id"`
	Provider string `json:"provider"`
	Image    Image  `json:"image"`
	// Options go by the provider's own field names; see Provider.Catalog.
	Options map[string]any `json:"options,omitempty"`
	// Formats are the wanted files, such as "glb". Empty leaves the choice to
	// the provider's plan.
	Formats    []string          `json:"formats,omitempty"`
	Batch      string            `json:"batch,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	EnqueuedAt time.Time         `json:"enqueued_at,omitzero"`
}

var (
	idPattern       = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	providerPattern = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}$`)
	objectPattern   = regexp.MustCompile(`^inputs/[0-9a-f]{64}\.[a-z0-9]{1,8}$`)
	formatPattern   = regexp.MustCompile(`^[a-z0-9]{1,8}$`)
)

// The limits of a request's free texts.
const (
	maxName       = 4096
	maxURL        = 8192
	maxBatch      = 128
	maxLabels     = 64
	maxLabelKey   = 64
	maxLabelValue = 256
	maxFormats    = 16
	maxOptions    = 64
)

// CheckID reports whether id can be a job's id.
func CheckID(id string) error {
	if !idPattern.MatchString(id) {
		return fieldErrorf("id", "is %q, must be 1 to 64 letters, digits, _ or -", clip(id))
	}
	return nil
}

// Validate checks everything but the options, which only the provider knows
// (Provider.Plan). It reports every mistake at once; each is a *FieldError.
func (r *Request) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fieldErrorf(field, format, args...))
	}
	if r.Schema != RequestSchema {
		bad("schema", "is %q, must be %q", clip(r.Schema), RequestSchema)
	}
	if err := CheckID(r.ID); err != nil {
		errs = append(errs, err)
	}
	if !providerPattern.MatchString(r.Provider) {
		bad("provider", "is %q, must be a provider's name such as csm", clip(r.Provider))
	}
	if err := r.Image.validate(); err != nil {
		errs = append(errs, err)
	}
	if len(r.Options) > maxOptions {
		bad("options", "has %d entries, at most %d are allowed", len(r.Options), maxOptions)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Options)) {
		if s, ok := r.Options[name].(string); ok && signed(s) {
			bad("options."+clip(name), "is a URL with a password or a signature, which would be kept with the job; give one without")
		}
	}
	if len(r.Formats) > maxFormats {
		bad("formats", "has %d entries, at most %d are allowed", len(r.Formats), maxFormats)
	}
	for i, f := range r.Formats {
		if !formatPattern.MatchString(f) {
			bad(fmt.Sprintf("formats[%d]", i), "is %q, must be a format such as glb", clip(f))
		}
	}
	if err := checkText(r.Batch, maxBatch); err != "" {
		bad("batch", "%s", err)
	}
	if len(r.Labels) > maxLabels {
		bad("labels", "has %d entries, at most %d are allowed", len(r.Labels), maxLabels)
	}
	for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
		v := r.Labels[k]
		if err := checkText(k, maxLabelKey); err != "" || k == "" {
			bad("labels", "has the key %q, keys must be 1 to %d bytes of printable text", clip(k), maxLabelKey)
		}
		if err := checkText(v, maxLabelValue); err != "" {
			bad("labels."+clip(k), "%s", err)
		}
	}
	return errors.Join(errs...)
}

func (m *Image) validate() error {
	switch {
	case m.Object == "" && m.URL == "":
		return fieldErrorf("image", "is empty, set object or url")
	case m.Object != "" && m.URL != "":
		return fieldErrorf("image", "has both object and url, set one")
	case m.Object != "" && !objectPattern.MatchString(m.Object):
		return fieldErrorf("image.object", "is %q, must be inputs/<sha256>.<ext>", clip(m.Object))
	case m.URL != "":
		if err := checkURL(m.URL); err != nil {
			return err
		}
	}
	if len(m.Name) > maxName || !utf8.ValidString(m.Name) {
		return fieldErrorf("image.name", "must be valid UTF-8 of at most %d bytes", maxName)
	}
	switch m.MediaType {
	case "", "image/png", "image/jpeg", "image/webp":
	default:
		return fieldErrorf("image.media_type", "is %q, must be image/png, image/jpeg or image/webp", clip(m.MediaType))
	}
	return nil
}

// signed reports whether s is a URL that carries a secret.
func signed(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return false
	}
	if _, password := u.User.Password(); password {
		return true
	}
	for name := range u.Query() {
		name = strings.ToLower(name)
		if name == "sig" || name == "token" || strings.Contains(name, "signature") {
			return true
		}
	}
	return false
}

func checkURL(s string) error {
	if len(s) > maxURL {
		return fieldErrorf("image.url", "is longer than %d bytes", maxURL)
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fieldErrorf("image.url", "must be an http or https URL")
	}
	if u.User != nil {
		return fieldErrorf("image.url", "must not hold a user name or password")
	}
	return nil
}

func checkText(s string, limit int) string {
	if len(s) > limit || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Sprintf("must be printable text of at most %d bytes", limit)
	}
	return ""
}

func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// DecodeRequest reads a request from JSON and validates it. Unknown fields are
// errors: a misspelt field must not silently become a default that costs money.
func DecodeRequest(data []byte) (*Request, error) {
	if len(data) > MaxRequestBytes {
		return nil, fmt.Errorf("the request has %d bytes, at most %d are taken", len(data), MaxRequestBytes)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var r Request
	if err := dec.Decode(&r); err != nil {
		return nil, fmt.Errorf("the request is not valid: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the request is not valid: something follows the JSON object")
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return &r, nil
}

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// DeriveID returns the id of a request that names none: 26 characters that
// depend on the image's content (or its URL), the provider and the options, and
// on nothing else. The same work has the same id everywhere, which is what
// keeps it from being bought twice. Options must hold JSON values.
func DeriveID(image Image, provider string, options map[string]any) (string, error) {
	key := image.URL
	if image.Object != "" {
		key = strings.TrimSuffix(image.Object, pathExt(image.Object))
	}
	if len(options) == 0 {
		options = nil
	}
	// Through JSON and back, so that a number is written alike whether a caller
	// built it as an int, a json.Number or a float64 (1, 1.0), and a request has
	// the same id before it is sent and after. encoding/json sorts map keys.
	sent, err := json.Marshal(options)
	var received map[string]any
	if err == nil {
		err = json.Unmarshal(sent, &received)
	}
	if err != nil {
		return "", fmt.Errorf("options: %w", err)
	}
	canonical, err := json.Marshal([]any{"meshmill.id.v1", key, provider, received})
	if err != nil {
		return "", fmt.Errorf("options: %w", err)
	}
	sum := sha256.Sum256(canonical)
	return idEncoding.EncodeToString(sum[:16]), nil
}

// FreshID returns an id that nothing else has: the way to buy the same work
// again on purpose.
func FreshID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return idEncoding.EncodeToString(b[:])
}

func pathExt(s string) string {
	if i := strings.LastIndexByte(s, '.'); i >= 0 {
		return s[i:]
	}
	return ""
}
