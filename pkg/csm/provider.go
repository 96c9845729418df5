package csm

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// Provider buys conversions from CSM.ai for jobs. Which generation of sessions
// a request uses follows from its options; with none that belongs to one alone,
// it is v2. It is safe for concurrent use.
type Provider struct{ c *Client }

var (
	_ jobs.Provider   = (*Provider)(nil)
	_ jobs.Reconciler = (*Provider)(nil)
)

// NewProvider returns the adapter of c.
func NewProvider(c *Client) *Provider { return &Provider{c} }

// Name implements jobs.Provider: it returns "csm".
func (p *Provider) Name() string { return "csm" }

// Catalog implements jobs.Provider. The caller may keep and change the result.
func (p *Provider) Catalog() jobs.Catalog { return newCatalog() }

// Plan implements jobs.Provider. Without formats it takes glb.
func (p *Provider) Plan(opts map[string]any, formats []string) (*jobs.Plan, error) {
	o := options(opts)
	var errs []error
	for _, e := range o.check(o.generation()) {
		errs = append(errs, e)
	}
	for i, f := range formats {
		field := fmt.Sprintf("formats[%d]", i)
		if !slices.Contains(catalog.Formats, f) {
			errs = append(errs, &jobs.FieldError{Field: field, Problem: fmt.Sprintf("is %.20q, CSM makes %s", f, strings.Join(catalog.Formats, ", "))})
		} else if slices.Contains(formats[:i], f) {
			errs = append(errs, &jobs.FieldError{Field: field, Problem: "repeats " + f})
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	plan := &jobs.Plan{Formats: slices.Clone(formats), Options: opts, Warnings: o.warnings(), Mode: o.mode(), SubmitTimeout: paidTimeout}
	if len(plan.Formats) == 0 {
		plan.Formats = []string{catalog.Formats[0]}
	}
	// CSM quick primer: a minute for the spins, one for the preview, and up to
	// 10 or 90 for the refinement. Nothing is told of v2.
	if o.generation() == v1 {
		plan.Typical = 2 * time.Minute
		switch {
		case o.refined() && o.text("refine_speed") == fast:
			plan.Typical += 10 * time.Minute
		case o.refined():
			plan.Typical += 90 * time.Minute
		}
	}
	return plan, nil
}

// Submit implements jobs.Provider. The stages are create, preview and refine.
func (p *Provider) Submit(ctx context.Context, call jobs.Call) (*jobs.Session, error) {
	const op = "csm: submit"
	if _, err := p.Plan(call.Options, call.Formats); err != nil {
		return nil, &jobs.Fault{Kind: jobs.Permanent, Op: op, Err: err}
	}
	o := options(call.Options)
	switch call.Stage {
	case stageCreate:
		image, err := imageURL(call.Image)
		if err != nil {
			return nil, &jobs.Fault{Kind: jobs.Permanent, Op: op, Err: err}
		}
		r, err := o.create(image)
		if err != nil {
			return nil, &jobs.Fault{Kind: jobs.Permanent, Op: op, Err: err}
		}
		s, err := p.c.CreateSession(ctx, r)
		if err != nil {
			return nil, err
		}
		return &jobs.Session{ID: s.Code, Status: p.status(s, jobs.Ref{Session: s.Code, Stage: stageCreate, Options: call.Options})}, nil
	case stagePreview:
		r, err := p.previewRequest(ctx, o, call)
		if err != nil {
			return nil, err
		}
		if _, err := p.c.Get3DPreview(ctx, call.Session, r); err != nil {
			return nil, err
		}
		return &jobs.Session{ID: call.Session}, nil
	case stageRefine:
		r := RefineRequest{ScaledBBox: o.numbers("scaled_bbox"), PivotPoint: o.numbers("pivot_point")}
		if _, err := p.c.Get3DRefine(ctx, call.Session, r); err != nil {
			return nil, err
		}
		return &jobs.Session{ID: call.Session}, nil
	}
	return nil, jobs.Faultf(jobs.Permanent, op, "CSM has no paid stage %.40q", call.Stage)
}

// imageURL is the image in the form in which CSM takes it (CSM v1 create
// session, image_url): a URL, or a data URI with its media type.
func imageURL(d jobs.Delivery) (string, error) {
	if d.URL != "" {
		return d.URL, nil
	}
	if len(d.Bytes) == 0 {
		return "", errors.New("there is no image to send")
	}
	media := d.MediaType
	if media == "" {
		media = http.DetectContentType(d.Bytes)
	}
	if !strings.HasPrefix(media, "image/") {
		return "", fmt.Errorf("the image has the media type %.40q, which is no image", media)
	}
	return "data:" + media + ";base64," + base64.StdEncoding.EncodeToString(d.Bytes), nil
}

// spinChoice is the input of the preview stage. It lies in the job's record, so
// its URL is left out if it may carry a signature, and asked for again.
type spinChoice struct {
	Index int    `json:"selected_spin_index"`
	URL   string `json:"selected_spin,omitempty"`
}

// choosesSpin reports whether the preview call names a spin: for turbo it must
// (CSM v1 get 3D preview), else only if the request did.
func (o options) choosesSpin() bool {
	return o.turbo() || o.has("selected_spin_index") || o.has("selected_spin")
}

// spin chooses from the spins of a session. URL is empty if they do not have it.
func (o options) spin(spins []string) spinChoice {
	var c spinChoice
	if n, ok := jobs.Number(o["selected_spin_index"]); ok {
		c.Index = int(n)
	}
	if c.URL = o.text("selected_spin"); c.URL != "" {
		if i := slices.Index(spins, c.URL); i >= 0 && !o.has("selected_spin_index") {
			c.Index = i
		}
		return c
	}
	if c.Index >= 0 && c.Index < len(spins) {
		c.URL = spins[c.Index]
	}
	return c
}

func (p *Provider) previewRequest(ctx context.Context, o options, call jobs.Call) (PreviewRequest, error) {
	r := PreviewRequest{ScaledBBox: o.numbers("scaled_bbox"), PivotPoint: o.numbers("pivot_point")}
	if !o.choosesSpin() {
		return r, nil
	}
	var choice spinChoice
	if len(call.Input) > 0 {
		if err := json.Unmarshal(call.Input, &choice); err != nil {
			return r, jobs.Faultf(jobs.Permanent, "csm: preview", "the input of the stage is not valid: %w", err)
		}
	}
	if choice.URL == "" {
		choice.URL = o.text("selected_spin")
	}
	if choice.URL == "" {
		s, err := p.c.GetSession(ctx, call.Session)
		if f, ok := errors.AsType[*jobs.Fault](err); ok && f.Kind == jobs.Permanent {
			// Nothing has been asked for yet, and the session has been paid for.
			again := *f
			again.Kind = jobs.Retryable
			err = &again
		}
		if err != nil {
			return r, err
		}
		choice = o.spin(s.Spins)
		if _, ok := webURL(choice.URL); !ok {
			if len(s.Spins) == 0 {
				return r, jobs.Faultf(jobs.Retryable, "csm: preview", "CSM does not show the spins of the session yet")
			}
			return r, jobs.Faultf(jobs.Permanent, "csm: preview", "the session has %d spins, and options.selected_spin_index is %d", len(s.Spins), choice.Index)
		}
	}
	r.SelectedSpinIndex, r.SelectedSpin = new(choice.Index), choice.URL
	return r, nil
}

// Poll implements jobs.Provider.
func (p *Provider) Poll(ctx context.Context, ref jobs.Ref) (*jobs.Status, error) {
	s, err := p.c.GetSession(ctx, ref.Session)
	if err != nil {
		return nil, err
	}
	return p.status(s, ref), nil
}
