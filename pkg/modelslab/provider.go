package modelslab

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// Name is the provider's name in requests and subjects.
const Name = "modelslab"

const stageCreate = "create"

// Provider is the adapter of a Client to jobs.Provider. It also is a
// jobs.Uploader, since the API takes images by URL only. It is no
// jobs.Reconciler: the API can neither list nor look up what was bought, so a
// create whose answer is lost stays unknown.
type Provider struct{ client *Client }

// NewProvider returns the adapter. With a nil client, Catalog and Plan work and
// everything else is a Permanent fault that asks for the key: that is enough
// to check requests where there is none.
func NewProvider(client *Client) *Provider { return &Provider{client} }

var (
	_ jobs.Provider = (*Provider)(nil)
	_ jobs.Uploader = (*Provider)(nil)
)

// Name returns "modelslab".
func (p *Provider) Name() string { return Name }

// Catalog describes the options of the seed and of the OpenAPI. Where a lower
// bound is not documented, it is the smallest value that has a meaning.
func (p *Provider) Catalog() jobs.Catalog { return catalog() }

// Plan checks options and formats. A job has one mesh format: that of
// output_format or of formats, which must agree; else glb, or obj for
// instantmesh. With render it has mp4 as well.
func (p *Provider) Plan(options map[string]any, formats []string) (*jobs.Plan, error) {
	o, err := read(options, formats)
	if err != nil {
		return nil, err
	}
	return o.plan(options), nil
}

// Submit makes the paid call. The answer can hold the result already; then the
// session's Status is Done.
func (p *Provider) Submit(ctx context.Context, call jobs.Call) (*jobs.Session, error) {
	const op = Name + ": create"
	if call.Stage != stageCreate {
		return nil, jobs.Faultf(jobs.Permanent, op, "there is no stage %.40q, the only one is %q", call.Stage, stageCreate)
	}
	o, err := read(call.Options, call.Formats)
	if err != nil {
		return nil, &jobs.Fault{Kind: jobs.Permanent, Op: op, Err: err}
	}
	if p.client == nil {
		return nil, noKey(op)
	}
	if call.Image.URL == "" {
		return nil, jobs.Faultf(jobs.Permanent, op, "the image has no URL; image bytes are uploaded first")
	}
	o.request.Image = call.Image.URL
	r, err := p.client.Create(ctx, o.request)
	if err != nil {
		return nil, err
	}
	return &jobs.Session{ID: r.ID, Status: r.status(o)}, nil
}

// Poll asks how a session stands.
func (p *Provider) Poll(ctx context.Context, ref jobs.Ref) (*jobs.Status, error) {
	if p.client == nil {
		return nil, noKey(Name + ": " + opFetch)
	}
	r, err := p.client.Fetch(ctx, ref.Session)
	if err != nil {
		return nil, err
	}
	o, err := read(ref.Options, ref.Formats)
	if err != nil {
		// What was bought under another version's rules is still fetched.
		o = &order{mesh: "glb"}
	}
	return r.status(o), nil
}

// Upload makes a URL of an image of at most MaxUpload bytes, good for 24 hours.
func (p *Provider) Upload(ctx context.Context, image []byte, mediaType string) (string, error) {
	if p.client == nil {
		return "", noKey(Name + ": upload image")
	}
	return p.client.Base64ToURL(ctx, image, mediaType)
}

func noKey(op string) error {
	return &jobs.Fault{Kind: jobs.Permanent, Op: op, Err: errors.New("there is no key; set MODELSLAB_API_KEY")}
}

// status translates a result.
func (r *Result) status(o *order) *jobs.Status {
	s := &jobs.Status{Phase: jobs.InProgress, Detail: r.Status, Percent: -1, ETA: r.ETA}
	switch {
	case r.Status == Failed:
		s.Phase, s.Message = jobs.Broken, r.Message
		if s.Message == "" {
			s.Message = "the provider gives no reason"
		}
	case r.Status == Success && len(r.Output) > 0:
		s.Phase, s.Percent, s.ETA, s.Files = jobs.Done, 100, 0, r.files(o.mesh)
	case r.Status == Success:
		// No document has a success without a file. It is not the end: the file
		// may be a moment late, and the job's time limit is the last word.
		s.Detail = "success without a file"
	case r.Status == Processing:
	case r.Status == "":
		s.Detail = "no status"
	default:
		s.Detail = fmt.Sprintf("unknown status %q", r.Status)
	}
	return s
}

// files lists the outputs with their alternatives. What stands beside the
// outputs is taken only where it adds a format.
func (r *Result) files(mesh string) []jobs.File {
	var files []jobs.File
	for i, u := range r.Output {
		files = append(files, jobs.File{Format: format(u, mesh), URL: u, Alternatives: r.twins(i)})
	}
	for _, u := range r.ExtraAssets {
		f := format(u, "")
		if f != "" && !slices.ContainsFunc(files, func(have jobs.File) bool { return have.Format == f }) {
			files = append(files, jobs.File{Format: f, URL: u})
		}
	}
	return files
}

// twins are the proxy links of an output: those of the same file name, or if
// there is none, the one in the same place of a list of the same length, unless
// it goes by the name of another output.
func (r *Result) twins(i int) []string {
	var out []string
	same := func(a, b string) bool { return base(a) != "" && base(a) == base(b) }
	for _, u := range r.ProxyLinks {
		if u != r.Output[i] && same(u, r.Output[i]) {
			out = append(out, u)
		}
	}
	if len(out) == 0 && len(r.ProxyLinks) == len(r.Output) {
		u := r.ProxyLinks[i]
		if u != r.Output[i] && !slices.ContainsFunc(r.Output, func(o string) bool { return same(u, o) }) {
			out = append(out, u)
		}
	}
	return out
}

func base(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Path == "" || strings.HasSuffix(u.Path, "/") {
		return ""
	}
	return path.Base(u.Path)
}

// extensions are those that name a format, rather than a script or a store's
// way of writing addresses.
var extensions = []string{"glb", "gltf", "obj", "mtl", "stl", "ply", "usdz", "fbx", "zip", "mp4", "webm", "gif", "png", "jpg", "jpeg", "webp"}

// format is the extension of a URL's path, or fallback if that says nothing.
func format(raw, fallback string) string {
	if ext := strings.ToLower(strings.TrimPrefix(path.Ext(base(raw)), ".")); slices.Contains(extensions, ext) {
		return ext
	}
	return fallback
}
