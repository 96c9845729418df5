package csm

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// CreateRequest opens a session: a CreateV1Request or a CreateV2Request.
type CreateRequest interface {
	// Validate returns nil, or joins a *jobs.FieldError for each mistake.
	Validate() error
	generation() string
}

// CreateV1Request is the body of "CSM v1 create session". A zero field is not
// sent, and leaves the default to CSM. Fields marked † need an enterprise
// account.
type CreateV1Request struct {
	// ImageURL is an http or https URL, or a data URI: data:image/png;base64,…
	ImageURL string `json:"image_url"`
	// PreviewMesh is fast_sculpt (CSM's default) or turbo.
	PreviewMesh string `json:"preview_mesh,omitempty"`
	// GenerateTexture applies to fast_sculpt only.
	GenerateTexture *bool `json:"generate_texture,omitempty"`
	// AutoRefine makes CSM refine the preview by itself.
	AutoRefine *bool `json:"auto_refine,omitempty"`
	// RefineSpeed is slow (CSM's default) or fast; turbo with fast is deprecated.
	RefineSpeed string `json:"refine_speed,omitempty"`
	// Creativity is lowest (CSM's default), moderate or highest.
	Creativity string `json:"creativity,omitempty"`
	// GeneratePreviewMesh makes CSM skip the choice of a spin. It is not in the
	// document, but CSM's own client sends it.
	GeneratePreviewMesh *bool `json:"generate_preview_mesh,omitempty"`
	// Topology † is tris (CSM's default) or quads.
	Topology string `json:"topology,omitempty"`
	// Resolution † is high_poly (CSM's default) or low_poly.
	Resolution string `json:"resolution,omitempty"`
	// TextureResolution † is 128, 256, 512, 1024 or 2048 (CSM's default).
	TextureResolution int `json:"texture_resolution,omitempty"`
	// ScaledBBox † is width, height and depth, each above 0.
	ScaledBBox *[3]float64 `json:"scaled_bbox,omitempty"`
	// PivotPoint † is the origin, each coordinate from -0.5 to 0.5 of the mesh's
	// bounding box; CSM's default is its centre.
	PivotPoint *[3]float64 `json:"pivot_point,omitempty"`
	// ManualSegmentation is not in the document, but CSM echoes it.
	ManualSegmentation *bool `json:"manual_segmentation,omitempty"`
}

// CreateV2Request is the body of "CSM v2 create session". A zero field is not
// sent, and leaves the default to CSM.
type CreateV2Request struct {
	// ImageURL is an http or https URL, or a data URI: data:image/png;base64,…
	ImageURL string `json:"image_url"`
	// GeometryModel is base (CSM's default) or turbo.
	GeometryModel string `json:"geometry_model,omitempty"`
	// TextureModel is none (CSM's default), baked or pbr.
	TextureModel string `json:"texture_model,omitempty"`
	// ScaledBBox is width, height and depth in metres, each above 0, or -1 to
	// leave that dimension to CSM.
	ScaledBBox *[3]float64 `json:"scaled_bbox,omitempty"`
	// PreserveAspectRatio scales into ScaledBBox without stretching.
	PreserveAspectRatio *bool `json:"preserve_aspect_ratio,omitempty"`
	// Topology is tris (CSM's default) or quads.
	Topology string `json:"topology,omitempty"`
	// Resolution is high_poly (CSM's default) or low_poly.
	Resolution string `json:"resolution,omitempty"`
	// Symmetry, PivotPoint and ManualSegmentation are echoed by CSM; that they
	// can be set is not documented. Symmetry is auto (CSM's default) or off.
	Symmetry           string      `json:"symmetry,omitempty"`
	PivotPoint         *[3]float64 `json:"pivot_point,omitempty"`
	ManualSegmentation *bool       `json:"manual_segmentation,omitempty"`
}

// PreviewRequest is the body of "CSM v1 get 3D preview". Its zero value is the
// empty object, which suits every mesh but turbo.
type PreviewRequest struct {
	// SelectedSpinIndex is the chosen spin, from 0 to 3. Turbo needs it.
	SelectedSpinIndex *int `json:"selected_spin_index,omitempty"`
	// SelectedSpin is that spin's URL. Turbo needs it.
	SelectedSpin string      `json:"selected_spin,omitempty"`
	ScaledBBox   *[3]float64 `json:"scaled_bbox,omitempty"`
	PivotPoint   *[3]float64 `json:"pivot_point,omitempty"`
}

// RefineRequest is the body of the get-3d refine call. Its zero value is the
// empty object.
type RefineRequest struct {
	ScaledBBox *[3]float64 `json:"scaled_bbox,omitempty"`
	PivotPoint *[3]float64 `json:"pivot_point,omitempty"`
}

func (r CreateV1Request) generation() string { return v1 }
func (r CreateV2Request) generation() string { return v2 }

// Validate implements CreateRequest.
func (r CreateV1Request) Validate() error {
	bad := checkImageURL(r.ImageURL)
	r.ImageURL = "" // it may be megabytes, and is no option
	return errors.Join(bad, validate(r, v1))
}

// Validate implements CreateRequest.
func (r CreateV2Request) Validate() error {
	bad := checkImageURL(r.ImageURL)
	r.ImageURL = ""
	return errors.Join(bad, validate(r, v2))
}

// Validate returns nil, or joins a *jobs.FieldError for each mistake.
func (r PreviewRequest) Validate() error { return validate(r, v1) }

// Validate returns nil, or joins a *jobs.FieldError for each mistake.
func (r RefineRequest) Validate() error { return validate(r, v1) }

// validate checks a request by the rules for options: its fields are named
// alike on the wire.
func validate(r any, generation string) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err // NaN and infinities
	}
	var o options
	if err := json.Unmarshal(raw, &o); err != nil {
		return err
	}
	delete(o, "image_url")
	var errs []error
	for _, f := range o.check(generation) {
		errs = append(errs, &jobs.FieldError{Field: strings.TrimPrefix(f.Field, "options."), Problem: f.Problem})
	}
	return errors.Join(errs...)
}

func checkImageURL(s string) error {
	if media, ok := strings.CutPrefix(s, "data:image/"); ok {
		if kind, data, ok := strings.Cut(media, ";base64,"); ok && kind != "" && data != "" {
			return nil
		}
	} else if u, err := url.Parse(s); err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") {
		return nil
	}
	return &jobs.FieldError{Field: "image_url", Problem: "must be an http or https URL, or data:<media type>;base64,<image>"}
}
