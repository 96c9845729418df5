// Package csm talks to CSM.ai, which turns an image into a 3D mesh.
//
// [Client] is the sessions API, call by call, in both generations that share
// its paths: v1, where a session passes the stages spin, preview and refine, and
// v2, where it runs to its end by itself. [Provider] adapts it to
// [jobs.Provider], the port through which Meshmill buys conversions.
//
// The client retries nothing, because creating a session and moving it on cost
// money. Its errors are [*jobs.Fault]: one of kind Unknown says that a paid
// call may have gone through.
//
// The facts come from CSM's documents: "CSM quick primer" (modes and the v1
// status machine), "CSM v1 create session", "CSM v1 get 3D preview" and "CSM v2
// create session". What they leave open is said where it matters. The service
// was reported closed in 2026, so none of it could be tried live.
package csm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/meshmill/meshmill/internal/apicall"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// DefaultBaseURL is where CSM.ai lives (CSM quick primer).
const DefaultBaseURL = "https://api.csm.ai"

// Limits of a call, for callers whose context has no earlier deadline. CSM's
// own client gave stage calls 100 s.
const (
	paidTimeout = 2 * time.Minute
	readTimeout = time.Minute
)

// Config is what a Client needs.
type Config struct {
	// Key is the API key. It is required.
	Key string
	// BaseURL is an http or https URL; empty is DefaultBaseURL.
	BaseURL string
	// Transport makes the calls; nil is one of the client's own. A transport
	// that is no *http.Transport must not make a POST on a pooled connection.
	Transport http.RoundTripper
}

// String hides the key.
func (c Config) String() string { return fmt.Sprintf("{BaseURL:%s Key:[secret]}", c.BaseURL) }

// GoString hides the key.
func (c Config) GoString() string { return "csm.Config" + c.String() }

// Client makes single calls to the sessions API. It is safe for concurrent
// use, follows no redirect and retries nothing.
type Client struct{ e *apicall.Endpoint }

// New returns a Client. It makes no call.
func New(cfg Config) (*Client, error) {
	if cfg.Key == "" {
		return nil, errors.New("csm: the API key is empty, set CSM_API_KEY")
	}
	if strings.ContainsFunc(cfg.Key, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, errors.New("csm: the API key holds spaces, line ends or other characters that no key has, check CSM_API_KEY")
	}
	if cfg.BaseURL == "" {
		cfg.BaseURL = DefaultBaseURL
	}
	e, err := apicall.New("csm", cfg.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("%w, check CSM_BASE_URL", err)
	}
	if cfg.Transport != nil {
		e.Transport = cfg.Transport
	}
	// "CSM v1 create session" shows both headers on every call.
	e.Header.Set("x-api-key", cfg.Key)
	e.Header.Set("Content-Type", "application/json")
	e.Secrets = []string{cfg.Key}
	return &Client{e}, nil
}

const sessionsPath = "/image-to-3d-sessions"

// CreateSession opens a session and costs money. The request is checked first;
// what is wrong with it is a Permanent fault that joins a *jobs.FieldError for
// each mistake, and nothing is sent. The session returned always has a Code,
// and may have failed already.
func (c *Client) CreateSession(ctx context.Context, r CreateRequest) (*Session, error) {
	call := apicall.Call{Op: "create session", Method: http.MethodPost, Path: sessionsPath, Body: r, Paid: true}
	if err := r.Validate(); err != nil {
		return nil, &jobs.Fault{Kind: jobs.Permanent, Op: "csm: " + call.Op, Err: err}
	}
	env, err := c.do(ctx, call)
	if err != nil {
		return nil, err
	}
	var s Session
	if err := json.Unmarshal(env.Data, &s); err != nil || !validCode(s.Code) {
		return nil, c.unclear(call, env, "the answer names no session")
	}
	return &s, nil
}

// GetSession asks how a session stands. It costs nothing.
func (c *Client) GetSession(ctx context.Context, code string) (*Session, error) {
	call := apicall.Call{Op: "get session", Method: http.MethodGet, Path: sessionsPath + "/" + url.PathEscape(code)}
	if err := checkCode(call, code); err != nil {
		return nil, err
	}
	env, err := c.do(ctx, call)
	if err != nil {
		return nil, err
	}
	var s Session
	if err := json.Unmarshal(env.Data, &s); err != nil {
		return nil, c.unclear(call, env, "the answer holds no session")
	}
	return &s, nil
}

// Get3DPreview moves a v1 session on from its spins to a preview mesh. It may
// cost money. The session must rest at spin_generate_done.
func (c *Client) Get3DPreview(ctx context.Context, code string, r PreviewRequest) (*Stage, error) {
	return c.stage(ctx, "get-3d preview", "/get-3d/preview/", code, r, r.Validate())
}

// Get3DRefine moves a v1 session on from its preview mesh to a refined one. It
// may cost money. The session must rest at preview_done.
func (c *Client) Get3DRefine(ctx context.Context, code string, r RefineRequest) (*Stage, error) {
	return c.stage(ctx, "get-3d refine", "/get-3d/refine/", code, r, r.Validate())
}

func (c *Client) stage(ctx context.Context, op, path, code string, body any, invalid error) (*Stage, error) {
	call := apicall.Call{Op: op, Method: http.MethodPost, Path: sessionsPath + path + url.PathEscape(code), Body: body, Paid: true}
	if err := checkCode(call, code); err != nil {
		return nil, err
	}
	if invalid != nil {
		return nil, &jobs.Fault{Kind: jobs.Permanent, Op: "csm: " + call.Op, Err: invalid}
	}
	env, err := c.do(ctx, call)
	if err != nil {
		return nil, err
	}
	var s Stage
	if err := json.Unmarshal(env.Data, &s); err != nil || s == (Stage{}) {
		return nil, c.unclear(call, env, "the answer does not say that the stage was started")
	}
	return &s, nil
}

// ListSessions returns a page of the account's sessions. Limit is the length of
// a page, from 1 to 100. CSM's documents contradict themselves on page: it may
// be the page's number, from 0 or from 1, or the number of sessions to skip; the
// order is not told either. It costs nothing.
func (c *Client) ListSessions(ctx context.Context, limit, page int) ([]Session, error) {
	call := apicall.Call{Op: "list sessions", Method: http.MethodGet, Path: sessionsPath}
	if limit < 1 || limit > 100 || page < 0 {
		return nil, jobs.Faultf(jobs.Permanent, "csm: "+call.Op, "limit %d or page %d is out of range", limit, page)
	}
	call.Query = url.Values{"limit": {strconv.Itoa(limit)}, "page": {strconv.Itoa(page)}}
	env, err := c.do(ctx, call)
	if err != nil {
		return nil, err
	}
	var list struct {
		Results *[]Session `json:"results"`
	}
	if err := json.Unmarshal(env.Data, &list); err != nil || list.Results == nil {
		return nil, c.unclear(call, env, "the answer holds no list")
	}
	return *list.Results, nil
}

// do makes a call and takes the envelope off its answer. An answer that is no
// success, or holds no data, is a fault.
func (c *Client) do(ctx context.Context, call apicall.Call) (*envelope, error) {
	limit := readTimeout
	if call.Paid {
		limit = paidTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
	defer cancel()
	a, err := c.e.Do(ctx, call)
	if err != nil {
		return nil, err
	}
	env, ok := decodeEnvelope(a.Body)
	if a.Status < 200 || a.Status > 299 {
		return nil, c.refusal(call, a, env)
	}
	if !ok {
		return nil, c.unclear(call, env, "the answer is not the JSON that CSM documents")
	}
	return env, nil
}

// checkCode keeps a hostile session code from naming another path.
func checkCode(call apicall.Call, code string) error {
	if validCode(code) {
		return nil
	}
	return jobs.Faultf(jobs.Permanent, "csm: "+call.Op, "%.40q cannot be a session code", code)
}

// validCode accepts any short printable word: the documents show two forms of
// session code, so it is opaque. A path segment of dots would be resolved away.
func validCode(s string) bool {
	return s != "" && len(s) <= 200 && strings.Trim(s, ".") != "" &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}
