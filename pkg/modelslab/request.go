package modelslab

import (
	"errors"
	"net/url"
	"strings"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// InstantMesh is the one documented model id (seed, Body Attributes).
const InstantMesh = "instantmesh"

// CreateRequest asks for one conversion. A nil or empty field is not sent, and
// leaves the choice to the provider; the defaults named here are the
// provider's. Fields marked "seed" are in the seed and no longer in the OpenAPI.
type CreateRequest struct {
	// Image is an http or https URL that the provider can read. No document
	// says that image bytes are taken here: see Client.Base64ToURL.
	Image string

	ModelID         string   // seed: the model; InstantMesh is the only documented one
	OutputFormat    string   // glb (default), obj, stl or ply
	Render          *bool    // also make a video that turns around the mesh; default false
	ForegroundRatio *float64 // seed: size of the subject in the image, used only with RemoveBG; default 0.85
	RemoveBG        *bool    // seed: remove the background; default false
	Resolution      *int     // up to 512; default 256
	ChunkSize       *int     // up to 12000; default 8192
	Seed            *int64   // 0 (default) is a random one
	// Temp is "yes" or "no" (default). With "yes" the files are kept in a
	// temporary place, for about a day. It is text on the wire, not a boolean.
	Temp string

	MultiImage           *bool    // the image holds several views; default false
	SSGuidanceStrength   *float64 // default 7.5
	SSSamplingSteps      *int     // 1 to 50; default 12
	SlatGuidanceStrength *float64 // 0 to 10; default 3
	SlatSamplingSteps    *int     // 1 to 50; default 12
	MeshSimplify         *float64 // 0.9 (default) to 0.98

	// Webhook is an https URL that is told of the end, best effort and without
	// a signature; TrackID is repeated to it.
	Webhook string
	TrackID string
}

// Validate checks every field against the documented types, values and ranges.
// Its error joins one *jobs.FieldError for each mistake, by name on the wire.
func (r CreateRequest) Validate() error {
	var errs []error
	u, err := url.Parse(r.Image)
	switch {
	case r.Image == "":
		errs = append(errs, &jobs.FieldError{Field: "image", Problem: "is empty, must be a URL that the provider can read"})
	case err != nil, u.Host == "", u.Scheme != "http" && u.Scheme != "https", u.User != nil:
		// The value itself may carry a signature: it is not shown.
		errs = append(errs, &jobs.FieldError{Field: "image", Problem: "must be an http or https URL without user name; for image bytes make one with base64_to_url"})
	}
	for _, e := range list(checkOptions(r.options())) {
		if f, ok := errors.AsType[*jobs.FieldError](e); ok {
			e = &jobs.FieldError{Field: strings.TrimPrefix(f.Field, "options."), Problem: f.Problem}
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

// list takes a joined error apart.
func list(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return j.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// options returns the request's options under their wire names.
func (r CreateRequest) options() map[string]any {
	m := map[string]any{}
	put(m, "model_id", text(r.ModelID))
	put(m, "output_format", text(r.OutputFormat))
	put(m, "render", r.Render)
	put(m, "foreground_ratio", r.ForegroundRatio)
	put(m, "remove_bg", r.RemoveBG)
	put(m, "resolution", r.Resolution)
	put(m, "chunk_size", r.ChunkSize)
	put(m, "seed", r.Seed)
	put(m, "temp", text(r.Temp))
	put(m, "multi_image", r.MultiImage)
	put(m, "ss_guidance_strength", r.SSGuidanceStrength)
	put(m, "ss_sampling_steps", r.SSSamplingSteps)
	put(m, "slat_guidance_strength", r.SlatGuidanceStrength)
	put(m, "slat_sampling_steps", r.SlatSamplingSteps)
	put(m, "mesh_simplify", r.MeshSimplify)
	put(m, "webhook", text(r.Webhook))
	put(m, "track_id", text(r.TrackID))
	return m
}

func put[T any](m map[string]any, name string, v *T) {
	if v != nil {
		m[name] = *v
	}
}

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// fromOptions builds the request for checked options.
func fromOptions(o map[string]any) CreateRequest {
	return CreateRequest{
		ModelID:              word(o, "model_id"),
		OutputFormat:         word(o, "output_format"),
		Render:               flag(o, "render"),
		ForegroundRatio:      number[float64](o, "foreground_ratio"),
		RemoveBG:             flag(o, "remove_bg"),
		Resolution:           number[int](o, "resolution"),
		ChunkSize:            number[int](o, "chunk_size"),
		Seed:                 number[int64](o, "seed"),
		Temp:                 word(o, "temp"),
		MultiImage:           flag(o, "multi_image"),
		SSGuidanceStrength:   number[float64](o, "ss_guidance_strength"),
		SSSamplingSteps:      number[int](o, "ss_sampling_steps"),
		SlatGuidanceStrength: number[float64](o, "slat_guidance_strength"),
		SlatSamplingSteps:    number[int](o, "slat_sampling_steps"),
		MeshSimplify:         number[float64](o, "mesh_simplify"),
		Webhook:              word(o, "webhook"),
		TrackID:              word(o, "track_id"),
	}
}

func word(o map[string]any, name string) string {
	s, _ := o[name].(string)
	return s
}

func flag(o map[string]any, name string) *bool {
	if b, ok := o[name].(bool); ok {
		return &b
	}
	return nil
}

func number[T int | int64 | float64](o map[string]any, name string) *T {
	if f, ok := jobs.Number(o[name]); ok {
		return new(T(f))
	}
	return nil
}

// createBody is a create request on the wire: the seed's fields in the seed's
// order, then the OpenAPI's.
type createBody struct {
	Key                  string   `json:"key"`
	ModelID              string   `json:"model_id,omitempty"`
	Image                string   `json:"image,omitempty"`
	InitImage            string   `json:"init_image,omitempty"`
	Render               *bool    `json:"render,omitempty"`
	ForegroundRatio      *float64 `json:"foreground_ratio,omitempty"`
	RemoveBG             *bool    `json:"remove_bg,omitempty"`
	Resolution           *int     `json:"resolution,omitempty"`
	ChunkSize            *int     `json:"chunk_size,omitempty"`
	Seed                 *int64   `json:"seed,omitempty"`
	Temp                 string   `json:"temp,omitempty"`
	OutputFormat         string   `json:"output_format,omitempty"`
	MultiImage           *bool    `json:"multi_image,omitempty"`
	SSGuidanceStrength   *float64 `json:"ss_guidance_strength,omitempty"`
	SSSamplingSteps      *int     `json:"ss_sampling_steps,omitempty"`
	SlatGuidanceStrength *float64 `json:"slat_guidance_strength,omitempty"`
	SlatSamplingSteps    *int     `json:"slat_sampling_steps,omitempty"`
	MeshSimplify         *float64 `json:"mesh_simplify,omitempty"`
	Webhook              string   `json:"webhook,omitempty"`
	TrackID              string   `json:"track_id,omitempty"`
}

type keyBody struct {
	Key string `json:"key"`
}

type uploadBody struct {
	Key          string `json:"key"`
	Base64String string `json:"base64_string"`
}

func (c *Client) body(r CreateRequest) createBody {
	b := createBody{
		Key: *c.key, ModelID: r.ModelID, Render: r.Render, ForegroundRatio: r.ForegroundRatio,
		RemoveBG: r.RemoveBG, Resolution: r.Resolution, ChunkSize: r.ChunkSize, Seed: r.Seed, Temp: r.Temp,
		OutputFormat: r.OutputFormat, MultiImage: r.MultiImage, SSGuidanceStrength: r.SSGuidanceStrength,
		SSSamplingSteps: r.SSSamplingSteps, SlatGuidanceStrength: r.SlatGuidanceStrength,
		SlatSamplingSteps: r.SlatSamplingSteps, MeshSimplify: r.MeshSimplify, Webhook: r.Webhook, TrackID: r.TrackID,
	}
	if c.fields != OnlyInitImage {
		b.Image = r.Image
	}
	if c.fields != OnlyImage {
		b.InitImage = r.Image
	}
	// The seed marks foreground_ratio and resolution as required, and gives
	// them defaults; the OpenAPI does not list the first and does not require
	// the second. So the seed's required fields go with the seed's model, which
	// may refuse a request without them, and are left out of every other call.
	if r.ModelID == InstantMesh {
		if b.ForegroundRatio == nil {
			b.ForegroundRatio = new(0.85)
		}
		if b.Resolution == nil {
			b.Resolution = new(256)
		}
	}
	return b
}
