package csm

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// options are a request's options. Its readers take what CheckOptions has not
// seen, too: a value of the wrong type counts as absent.
type options map[string]any

func (o options) text(name string) string { s, _ := o[name].(string); return s }
func (o options) flag(name string) bool   { b, _ := o[name].(bool); return b }
func (o options) has(name string) bool    { return o[name] != nil }

func (o options) numbers(name string) *[3]float64 {
	list, ok := jobs.Numbers(o[name])
	if !ok || len(list) != 3 {
		return nil
	}
	return (*[3]float64)(list)
}

// member returns the first option, by name, that belongs to one generation
// alone, or "".
func (o options) member(generation string) string {
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if slices.ContainsFunc(catalog.Options, func(k jobs.Option) bool { return k.Name == name && k.Group == generation }) {
			return name
		}
	}
	return ""
}

// generation follows from the options; with none of one generation alone it
// is v2, the later one.
func (o options) generation() string {
	if o.member(v1) != "" {
		return v1
	}
	return v2
}

// turbo reports a v1 session whose preview call must name a spin.
func (o options) turbo() bool { return o.text("preview_mesh") == turbo }

// refined reports a v1 session that ends with the refined mesh (CSM quick
// primer: the refine modes are set by refine_speed).
func (o options) refined() bool {
	return o.flag("auto_refine") || (o.turbo() && o.has("refine_speed"))
}

// check checks the options for a generation: each by itself, then together.
func (o options) check(generation string) []*jobs.FieldError {
	errs := fieldErrors(jobs.CheckOptions(o, catalog.Options))
	bad := func(name, format string, args ...any) {
		errs = append(errs, &jobs.FieldError{Field: "options." + name, Problem: fmt.Sprintf(format, args...)})
	}
	other := v1
	if generation == v1 {
		other = v2
	}
	if name := o.member(other); name != "" {
		if mine := o.member(generation); mine != "" {
			bad(mine, "belongs to CSM's %s sessions, but options.%s to its %s sessions: use options of one of them", generation, name, other)
		} else {
			bad(name, "belongs to CSM's %s sessions, this is a %s session", other, generation)
		}
	}
	if o.flag("generate_texture") && o.has("preview_mesh") && o.text("preview_mesh") != fastSculpt {
		bad("generate_texture", "goes with options.preview_mesh fast_sculpt only")
	}
	if o.flag("preserve_aspect_ratio") && !o.has("scaled_bbox") {
		bad("preserve_aspect_ratio", "needs options.scaled_bbox")
	}
	if box := o.numbers("scaled_bbox"); box != nil {
		for _, f := range box {
			if f > 0 || (f == -1 && generation == v2) || f < -1 || f != f { // below -1 and NaN are reported already
				continue
			}
			must := "each must be above 0"
			if generation == v2 {
				must += ", or -1 to leave that dimension to CSM"
			}
			bad("scaled_bbox", "has %v, %s", f, must)
			break
		}
	}
	for _, name := range []string{"selected_spin_index", "selected_spin"} {
		if o.has(name) && o.flag("generate_preview_mesh") {
			bad(name, "contradicts options.generate_preview_mesh, with which CSM chooses the spin")
		}
	}
	return errs
}

// warnings tell what is legal but unwise.
func (o options) warnings() []string {
	var out []string
	if o.turbo() && o.text("refine_speed") == fast {
		out = append(out, deprecatedFast)
	}
	if o.has("refine_speed") && !o.refined() {
		out = append(out, "refine_speed has no effect: without auto_refine, or preview_mesh turbo, the preview mesh is the result")
	}
	return out
}

// mode is a short name of what is bought.
func (o options) mode() string {
	if o.generation() == v2 {
		geometry, texture := o.text("geometry_model"), o.text("texture_model")
		if geometry == "" {
			geometry = "base"
		}
		if texture == "" || texture == "none" {
			return "v2 " + geometry
		}
		return "v2 " + geometry + " with " + texture + " texture"
	}
	name := "v1 sculpt"
	switch {
	case o.turbo() && o.refined() && o.text("refine_speed") == fast:
		return "v1 fast refine"
	case o.turbo() && o.refined():
		return "v1 refine"
	case o.turbo():
		name = "v1 turbo preview"
	case o.flag("generate_texture"):
		name = "v1 sculpt with textures"
	}
	if o.refined() {
		name += ", refined"
	}
	return name
}

// create builds the request that opens a session.
func (o options) create(imageURL string) (CreateRequest, error) {
	fields := maps.Clone(o)
	// These belong to the preview call.
	delete(fields, "selected_spin_index")
	delete(fields, "selected_spin")
	raw, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	if o.generation() == v1 {
		r := CreateV1Request{}
		err = json.Unmarshal(raw, &r)
		r.ImageURL = imageURL
		return r, err
	}
	r := CreateV2Request{}
	err = json.Unmarshal(raw, &r)
	r.ImageURL = imageURL
	return r, err
}

// fieldErrors takes a joined error apart.
func fieldErrors(err error) []*jobs.FieldError {
	var out []*jobs.FieldError
	switch e := err.(type) {
	case *jobs.FieldError:
		out = append(out, e)
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			out = append(out, fieldErrors(one)...)
		}
	}
	return out
}
