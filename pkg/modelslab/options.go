package modelslab

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// Groups of options: what only the seed lists, and what only the OpenAPI lists.
// The second set are the parameters of another model, so the back end was
// probably changed; nobody documents what happens to a mix of the two.
const (
	groupSeed    = "instantmesh"
	groupCurrent = "current"
)

// meshFormats are what output_format takes, the public API's default first
// (OpenAPI, output_format; the enterprise pages have obj as the default).
var meshFormats = []string{"glb", "obj", "stl", "ply"}

const videoFormat = "mp4"

var known = []jobs.Option{
	{Name: "model_id", Type: jobs.TypeString, Default: InstantMesh, Group: groupSeed,
		Doc: "model to be used", Note: "instantmesh is the only documented id; the current reference no longer lists the option"},
	{Name: "output_format", Type: jobs.TypeString, Default: "glb", Allowed: []any{"glb", "obj", "stl", "ply"},
		Doc: "format of the mesh; one for each job"},
	{Name: "render", Type: jobs.TypeBool, Default: false, Doc: "also make a video that turns around the mesh (mp4)"},
	{Name: "foreground_ratio", Type: jobs.TypeNumber, Default: 0.85, Min: new(0.0), Max: new(1.0), Group: groupSeed,
		Doc: "size of the subject relative to the image", Note: "used only with remove_bg"},
	{Name: "remove_bg", Type: jobs.TypeBool, Default: false, Group: groupSeed, Doc: "remove the background of the image"},
	{Name: "resolution", Type: jobs.TypeInt, Default: 256, Min: new(1.0), Max: new(512.0), Doc: "resolution of the mesh"},
	{Name: "chunk_size", Type: jobs.TypeInt, Default: 8192, Min: new(1.0), Max: new(12000.0),
		Doc: "size of the chunks of the computation; affects memory"},
	{Name: "seed", Type: jobs.TypeInt, Default: 0, Min: new(0.0), Doc: "random seed; 0 is a random one"},
	// Text, because that is what the documents say: the booleans true and false
	// are refused rather than translated. Otherwise the same work could be
	// asked for in two ways, and would have two ids and be bought twice.
	{Name: "temp", Type: jobs.TypeString, Default: "no", Allowed: []any{"yes", "no"},
		Doc: "keep the files in a temporary place, for about a day"},
	{Name: "multi_image", Type: jobs.TypeBool, Default: false, Group: groupCurrent,
		Doc: "the image holds several views of the object"},
	{Name: "ss_guidance_strength", Type: jobs.TypeNumber, Default: 7.5, Group: groupCurrent,
		Doc: "guidance of the first step, which finds the structure"},
	{Name: "ss_sampling_steps", Type: jobs.TypeInt, Default: 12, Min: new(1.0), Max: new(50.0), Group: groupCurrent,
		Doc: "sampling steps of the first step"},
	{Name: "slat_guidance_strength", Type: jobs.TypeNumber, Default: 3.0, Min: new(0.0), Max: new(10.0), Group: groupCurrent,
		Doc: "guidance of the second step, which finds the details"},
	{Name: "slat_sampling_steps", Type: jobs.TypeInt, Default: 12, Min: new(1.0), Max: new(50.0), Group: groupCurrent,
		Doc: "sampling steps of the second step"},
	{Name: "mesh_simplify", Type: jobs.TypeNumber, Default: 0.9, Min: new(0.9), Max: new(0.98), Group: groupCurrent,
		Doc: "how far the mesh is simplified"},
	{Name: "webhook", Type: jobs.TypeURL, Doc: "URL that is told of the end", Note: "https only; Meshmill does not need it"},
	{Name: "track_id", Type: jobs.TypeString, Doc: "text that is repeated to the webhook"},
}

// catalog is built anew for each caller, who may change it.
func catalog() jobs.Catalog {
	return jobs.Catalog{
		Title:      "ModelsLab",
		Options:    slices.Clone(known),
		Formats:    append(slices.Clone(meshFormats), videoFormat),
		FirstStage: stageCreate,
		Presets: []jobs.Preset{
			{Name: "default", Doc: "the provider's own defaults", Options: map[string]any{}},
			{Name: "draft", Doc: "fewer sampling steps and the simplest mesh, to look at a shape",
				Options: map[string]any{"ss_sampling_steps": 6, "slat_sampling_steps": 6, "mesh_simplify": 0.98}},
			{Name: "fine", Doc: "the highest resolution, and twice the sampling steps",
				Options: map[string]any{"resolution": 512, "ss_sampling_steps": 25, "slat_sampling_steps": 25}},
			{Name: "instantmesh", Doc: "the InstantMesh call of the original v6 documentation, which makes an obj", Options: map[string]any{
				"model_id": InstantMesh, "foreground_ratio": 0.85, "remove_bg": false, "resolution": 256,
				"chunk_size": 8192, "seed": 0, "temp": "no"}},
		},
	}
}

// checkOptions checks names, types, values and ranges.
func checkOptions(o map[string]any) error {
	errs := list(jobs.CheckOptions(o, known))
	add := func(name, problem string) {
		if _, ok := o[name].(string); ok {
			errs = append(errs, &jobs.FieldError{Field: "options." + name, Problem: problem})
		}
	}
	if _, named := o["model_id"]; named && strings.TrimSpace(word(o, "model_id")) == "" {
		add("model_id", "is empty, must be a model's id such as instantmesh")
	}
	if hook := word(o, "webhook"); strings.HasPrefix(strings.ToLower(hook), "http://") {
		add("webhook", "must be an https URL")
	}
	return errors.Join(errs...)
}

// order is what a request comes down to: a request to make, but for its image,
// and the files that it will yield.
type order struct {
	request CreateRequest
	mesh    string // the one mesh format
	formats []string
}

// read checks options and formats together.
func read(options map[string]any, formats []string) (*order, error) {
	errs := list(checkOptions(options))
	named := word(options, "output_format")
	if !slices.Contains(meshFormats, named) {
		named = "" // already reported, if there is one
	}
	var wanted []string
	for i, f := range formats {
		switch {
		case slices.Contains(wanted, f):
		case f != videoFormat && !slices.Contains(meshFormats, f):
			errs = append(errs, &jobs.FieldError{Field: fmt.Sprintf("formats[%d]", i),
				Problem: fmt.Sprintf("is %.20q, must be one of %s, or %s with options.render", f, strings.Join(meshFormats, ", "), videoFormat)})
		case f == videoFormat && options["render"] != true:
			errs = append(errs, &jobs.FieldError{Field: fmt.Sprintf("formats[%d]", i),
				Problem: "is mp4, which is made only with options.render=true"})
		default:
			wanted = append(wanted, f)
		}
	}
	meshes := slices.DeleteFunc(slices.Clone(wanted), func(f string) bool { return f == videoFormat })
	switch {
	case len(meshes) > 1:
		errs = append(errs, &jobs.FieldError{Field: "formats",
			Problem: fmt.Sprintf("has %s, must be one mesh format, since the provider makes one for each job (options.output_format)", strings.Join(meshes, " and "))})
	case len(meshes) == 1 && named != "" && named != meshes[0]:
		errs = append(errs, &jobs.FieldError{Field: "formats",
			Problem: fmt.Sprintf("has %s but options.output_format is %s, must be the same", meshes[0], named)})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	o := &order{request: fromOptions(options), mesh: "glb", formats: wanted}
	switch {
	case named != "":
		o.mesh = named
	case len(meshes) == 1:
		o.mesh = meshes[0]
	case o.request.ModelID == InstantMesh:
		o.mesh = "obj" // what the seed's example makes
	}
	if len(wanted) == 0 {
		o.formats = []string{o.mesh}
		if options["render"] == true {
			o.formats = append(o.formats, videoFormat)
		}
	}
	// Always sent: the default is glb for the public API and obj for the
	// enterprise one, and the files must be what the plan says.
	o.request.OutputFormat = o.mesh
	return o, nil
}

// warnings tell what is legal but unwise.
func (o *order) warnings(options map[string]any) []string {
	var out []string
	warn := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	var seed, current []string
	for _, k := range known {
		if _, set := options[k.Name]; set && k.Group == groupSeed {
			seed = append(seed, k.Name)
		} else if set && k.Group == groupCurrent {
			current = append(current, k.Name)
		}
	}
	if len(seed) > 0 && len(current) > 0 {
		warn("%s are of the older InstantMesh interface and %s of the current one; the provider may ignore either", strings.Join(seed, ", "), strings.Join(current, ", "))
	}
	if id := o.request.ModelID; id != "" && id != InstantMesh {
		warn("model_id %.40q is not documented for this endpoint", id)
	} else if id == InstantMesh && o.mesh != "obj" {
		warn("instantmesh is documented to make obj; the provider may not make %s", o.mesh)
	}
	if o.request.ForegroundRatio != nil && options["remove_bg"] != true && o.request.ModelID != InstantMesh {
		warn("foreground_ratio has an effect only with remove_bg=true")
	}
	if o.request.Temp == "yes" {
		warn("temp=yes: the provider deletes the files after about a day, so a job that is parked longer may lose them")
	}
	return out
}

// submitTimeout leaves room for the answer that comes with the result in it
// (the seed's example took 10.6 s; images and queues take more).
const submitTimeout = 180 * time.Second

// implied adds the mesh format to the options, where it is not the one that
// they would give anyway.
func (o *order) implied(options map[string]any) map[string]any {
	plain, err := read(options, nil)
	if err != nil || plain.mesh == o.mesh {
		return options
	}
	out := maps.Clone(options)
	if out == nil {
		out = map[string]any{}
	}
	out["output_format"] = o.mesh
	return out
}

func (o *order) plan(options map[string]any) *jobs.Plan {
	mode := "image-to-3d " + o.mesh
	if o.request.ModelID != "" {
		mode = fmt.Sprintf("%.40s %s", o.request.ModelID, o.mesh)
	}
	// Typical stays unknown: the seed shows 10 seconds, newer texts 5 to 15
	// minutes. An answer that is not the result carries an eta.
	return &jobs.Plan{Formats: o.formats, Options: o.implied(options), Warnings: o.warnings(options), Mode: mode, SubmitTimeout: submitTimeout}
}
