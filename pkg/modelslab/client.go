package modelslab

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"github.com/meshmill/meshmill/internal/apicall"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// DefaultBaseURL is where the API lives (seed, Request). Enterprise accounts
// have the same 3D calls under https://modelslab.com/api/v1/enterprise.
const DefaultBaseURL = "https://modelslab.com/api/v6"

// MaxUpload is the largest image that Base64ToURL takes, in bytes: "5MB" in the
// documentation (Base64 to URL), read in the smaller of its two meanings.
const MaxUpload = 5_000_000

// ImageField says under which name the image's URL is sent.
type ImageField string

// The names of the image. The seed, the enterprise pages and the provider's
// own libraries say image; the OpenAPI has called it init_image since November
// 2025, while still listing image as required. Nobody can tell which one the
// server reads, so both are sent unless told otherwise.
const (
	BothFields    ImageField = ""
	OnlyImage     ImageField = "image"
	OnlyInitImage ImageField = "init_image"
)

// Config is what New needs.
type Config struct {
	// Key is the account's API key. Required.
	Key string
	// BaseURL is what paths are joined to; empty is DefaultBaseURL.
	BaseURL string
	// Transport makes the calls; nil is a new one. Redirects are never followed.
	Transport http.RoundTripper
	// ImageField is BothFields unless set.
	ImageField ImageField
}

// String describes the configuration without the key.
func (c Config) String() string {
	return fmt.Sprintf("modelslab.Config{BaseURL: %q, ImageField: %q}", c.BaseURL, c.ImageField)
}

// GoString is String, so that no verb of fmt prints the key.
func (c Config) GoString() string { return c.String() }

// Client calls the API. It is safe for concurrent use and retries nothing. It
// sets no deadline of its own: every call ends with its context.
type Client struct {
	ep     *apicall.Endpoint
	key    *string // behind a pointer, so that printing a Client does not print it
	fields ImageField
}

// New checks cfg and returns a Client. It makes no call.
func New(cfg Config) (*Client, error) {
	key := strings.TrimSpace(cfg.Key)
	switch {
	case key == "":
		return nil, errors.New("modelslab: there is no key; set MODELSLAB_API_KEY")
	case strings.ContainsFunc(key, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }):
		return nil, errors.New("modelslab: the key has blanks or control characters in it; set MODELSLAB_API_KEY to the key alone")
	}
	switch cfg.ImageField {
	case BothFields, OnlyImage, OnlyInitImage:
	default:
		return nil, fmt.Errorf("modelslab: the image field is %q, must be image, init_image or empty for both", cfg.ImageField)
	}
	base := cfg.BaseURL
	if base == "" {
		base = DefaultBaseURL
	}
	ep, err := apicall.New("modelslab", base)
	if err != nil {
		return nil, fmt.Errorf("%w; set MODELSLAB_BASE_URL, such as %s", err, DefaultBaseURL)
	}
	if cfg.Transport != nil {
		ep.Transport = cfg.Transport
	}
	ep.Secrets = []string{key, url.QueryEscape(key), url.PathEscape(key)}
	return &Client{ep: ep, key: &key, fields: cfg.ImageField}, nil
}

const opFetch = "fetch"

// The paths of the calls (seed, Request; OpenAPI, paths; Base64 to URL).
const (
	createPath = "3d/image_to_3d"
	fetchPath  = "3d/fetch/"
	uploadPath = "base64_to_url"
)

// Create makes the paid call. It returns an answer only if that names a
// session: one that is done at once, one that is being worked on, or one that
// failed (see Result.Status). A fault of kind Retryable or Permanent means that
// nothing was bought; Unknown means that something may have been.
func (c *Client) Create(ctx context.Context, r CreateRequest) (*Result, error) {
	call := apicall.Call{Op: "create", Method: http.MethodPost, Path: createPath, Paid: true}
	if err := r.Validate(); err != nil {
		return nil, c.fault(call, jobs.Permanent, err)
	}
	call.Body = c.body(r)
	a, err := c.ep.Do(ctx, call)
	if err != nil {
		return nil, err
	}
	res, err := c.decode(a)
	if err != nil {
		return nil, c.noAnswer(call, a, err)
	}
	switch ok := success(a); res.Status {
	case Success, Processing:
		// The word counts whatever the HTTP status: a session that has a name
		// was bought, and must not be lost.
		if res.ID == "" {
			return nil, c.nameless(call, res)
		}
		return res, nil
	case Failed:
		if res.ID != "" {
			return res, nil
		}
		return nil, c.refusal(call, a, res)
	case Error:
		return nil, c.refusal(call, a, res)
	default: // a word that no document has, or none
		switch {
		case !ok:
			return nil, c.refusal(call, a, res)
		case res.ID == "":
			return nil, c.nameless(call, res)
		}
		return res, nil
	}
}

// Fetch asks how a session stands. It costs nothing. It calls the fetch path
// under the configured address and no other (see Result.FetchResult).
//
// A session that the provider reports as failed is a Result. The word "error"
// is not such a report, because the same word answers a wrong key, a rate limit
// or an outage: it is a Retryable fault, unless the message clearly says that
// no such session exists, which is Permanent.
func (c *Client) Fetch(ctx context.Context, id string) (*Result, error) {
	call := apicall.Call{Op: opFetch, Method: http.MethodPost}
	if !idPattern.MatchString(id) {
		return nil, c.fault(call, jobs.Permanent, fmt.Errorf("%q cannot be a session's id", c.ep.Clean(id)))
	}
	call.Path = fetchPath + url.PathEscape(id)
	call.Body = keyBody{*c.key}
	a, err := c.ep.Do(ctx, call)
	if err != nil {
		return nil, err
	}
	res, err := c.decode(a)
	if err != nil {
		return nil, c.noAnswer(call, a, err)
	}
	switch res.Status {
	case Success, Processing:
		return res, nil
	case Failed:
		if !c.meansCall(a, res) {
			return res, nil
		}
	case "":
		if success(a) {
			return nil, c.fault(call, jobs.Retryable, errors.New("the answer has no status"))
		}
	case Error:
	default:
		if success(a) {
			return res, nil
		}
	}
	return nil, c.unfetched(call, a, res)
}

// Base64ToURL makes a URL of an image, under which the provider can read it for
// 24 hours (Base64 to URL). It costs nothing and may be repeated. The image has
// at most MaxUpload bytes; mediaType is image/png, image/jpeg or image/webp, or
// empty to have it read from the bytes.
func (c *Client) Base64ToURL(ctx context.Context, image []byte, mediaType string) (string, error) {
	call := apicall.Call{Op: "upload image", Method: http.MethodPost, Path: uploadPath}
	if mediaType == "" {
		mediaType = http.DetectContentType(image)
	}
	switch mediaType {
	case "image/png", "image/jpeg", "image/webp":
	default:
		return "", c.fault(call, jobs.Permanent, fmt.Errorf("the media type is %q, must be image/png, image/jpeg or image/webp", c.ep.Clean(mediaType)))
	}
	switch {
	case len(image) == 0:
		return "", c.fault(call, jobs.Permanent, errors.New("the image is empty"))
	case len(image) > MaxUpload:
		return "", c.fault(call, jobs.Permanent, fmt.Errorf(
			"the image has %d bytes, the provider's upload takes %d; use a smaller image, or set MESHMILL_IMAGE_DELIVERY=presign to have it read from the bucket", len(image), MaxUpload))
	}
	call.Body = uploadBody{*c.key, "data:" + mediaType + ";base64," + base64.StdEncoding.EncodeToString(image)}
	a, err := c.ep.Do(ctx, call)
	if err != nil {
		return "", err
	}
	res, err := c.decode(a)
	switch {
	case err != nil:
		return "", c.noAnswer(call, a, err)
	case res.Status == Success && len(res.Output) > 0:
		return res.Output[0], nil
	case res.Status == Success || res.Status == Processing:
		f := c.fault(call, jobs.Retryable, errors.New("the answer has no URL"))
		f.After = apicall.Bound(res.ETA)
		return "", f
	}
	return "", c.refusal(call, a, res)
}

// idPattern is what an id may look like: the numbers of the seed, the texts of
// the error codes page ("abc123-def456"), and nothing that could change a path.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}$`)

// success tells whether the HTTP status is one.
func success(a *apicall.Answer) bool { return a.Status >= 200 && a.Status < 300 }

// own reports whether an address handed over by the provider is the configured
// one: https, or the scheme that was configured, and exactly the same host.
func (c *Client) own(raw string) (*url.URL, bool) {
	u, err := url.Parse(raw)
	if err != nil || u.User != nil || u.Host == "" || !strings.EqualFold(u.Host, c.ep.Base.Host) {
		return nil, false
	}
	return u, u.Scheme == "https" || u.Scheme == c.ep.Base.Scheme
}
