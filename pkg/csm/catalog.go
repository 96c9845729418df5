package csm

import (
	"github.com/meshmill/meshmill/pkg/jobs"
)

// The generations of the sessions API.
const (
	v1 = "v1"
	v2 = "v2"
)

// The paid calls of a session, as jobs name them.
const (
	stageCreate  = "create"
	stagePreview = "preview"
	stageRefine  = "refine"
)

const enterprise = "enterprise accounts only"

var catalog = newCatalog()

func newCatalog() jobs.Catalog {
	return jobs.Catalog{
		Title:      "CSM.ai",
		FirstStage: stageCreate,
		Formats:    []string{"glb", "obj", "fbx", "usdz", "zip", "mp4"},
		Options: []jobs.Option{
			// Of v2 alone (CSM v2 create session).
			{Name: "geometry_model", Type: jobs.TypeString, Group: v2, Default: "base", Allowed: []any{"base", "turbo"},
				Doc: "model that makes the geometry"},
			{Name: "texture_model", Type: jobs.TypeString, Group: v2, Default: "none", Allowed: []any{"none", "baked", "pbr"},
				Doc: "model that makes the texture: baked may keep highlights and shadows, pbr has metallic and roughness maps"},
			{Name: "preserve_aspect_ratio", Type: jobs.TypeBool, Group: v2, Default: false,
				Doc: "scale into scaled_bbox without stretching", Note: "needs scaled_bbox"},
			{Name: "symmetry", Type: jobs.TypeString, Group: v2, Default: "auto", Allowed: []any{"auto", "off"},
				Doc: "whether the mesh is made symmetric", Note: "echoed by CSM, but not documented as an option"},

			// Of v1 alone (CSM v1 create session).
			{Name: "preview_mesh", Type: jobs.TypeString, Group: v1, Default: fastSculpt, Allowed: []any{fastSculpt, turbo},
				Doc: "model that makes the preview mesh"},
			{Name: "generate_texture", Type: jobs.TypeBool, Group: v1, Default: false,
				Doc: "texture the preview mesh", Note: "with preview_mesh fast_sculpt only"},
			{Name: "auto_refine", Type: jobs.TypeBool, Group: v1, Default: false,
				Doc: "refine the preview mesh without a further call"},
			{Name: "refine_speed", Type: jobs.TypeString, Group: v1, Default: slow, Allowed: []any{slow, fast},
				Doc: "slow takes up to 90 minutes, fast up to 10", Note: "named together with preview_mesh turbo, it asks for the refined mesh"},
			{Name: "creativity", Type: jobs.TypeString, Group: v1, Default: "lowest", Allowed: []any{"lowest", "moderate", "highest"},
				Doc: "how freely the spins are made"},
			{Name: "generate_preview_mesh", Type: jobs.TypeBool, Group: v1,
				Doc: "go from the spins to the preview mesh without a further call", Note: "sent by CSM's own client, but not documented"},
			{Name: "selected_spin_index", Type: jobs.TypeInt, Group: v1, Default: 0, Allowed: []any{0, 1, 2, 3},
				Doc: "which of the four spins the preview mesh is made from"},
			{Name: "selected_spin", Type: jobs.TypeURL, Group: v1,
				Doc: "the URL of that spin, if it is not the session's own"},
			{Name: "texture_resolution", Type: jobs.TypeInt, Group: v1, Default: 2048, Allowed: []any{128, 256, 512, 1024, 2048},
				Doc: "pixels along an edge of the texture", Note: enterprise},

			// Of both.
			{Name: "topology", Type: jobs.TypeString, Default: "tris", Allowed: []any{"tris", "quads"},
				Doc: "faces of the mesh", Note: "in v1 " + enterprise},
			{Name: "resolution", Type: jobs.TypeString, Default: "high_poly", Allowed: []any{"low_poly", "high_poly"},
				Doc: "how fine the mesh is", Note: "in v1 " + enterprise},
			{Name: "scaled_bbox", Type: jobs.TypeNumbers, Length: 3, Min: new(-1.0),
				Doc: "width, height and depth that the mesh is scaled to, each above 0; in v2 metres, or -1 to leave one to CSM", Note: "in v1 " + enterprise},
			{Name: "pivot_point", Type: jobs.TypeNumbers, Length: 3, Min: new(-0.5), Max: new(0.5), Default: []any{0.0, 0.0, 0.0},
				Doc: "origin of the mesh: x, y and z as parts of its bounding box", Note: "in v1 " + enterprise + "; in v2 echoed by CSM, but not documented as an option"},
			{Name: "manual_segmentation", Type: jobs.TypeBool,
				Doc: "keep CSM from cutting the image out by itself", Note: "echoed by CSM, but not documented as an option"},
		},
		Presets: []jobs.Preset{
			// The four modes of the CSM quick primer.
			{Name: "sculpt", Doc: "v1: best geometry, fastest, most consistent; no texture",
				Options: map[string]any{"preview_mesh": fastSculpt}},
			{Name: "sculpt-textured", Doc: "v1: fastest with textures, geometry slightly less consistent",
				Options: map[string]any{"preview_mesh": fastSculpt, "generate_texture": true}},
			{Name: "refine", Doc: "v1: slow refine, better textures, up to 90 minutes",
				Options: map[string]any{"preview_mesh": turbo, "refine_speed": slow}},
			{Name: "refine-fast", Doc: "v1: fast refine, lower quality", Deprecated: deprecatedFast,
				Options: map[string]any{"preview_mesh": turbo, "refine_speed": fast}},
			{Name: "base", Doc: "v2: CSM's defaults, no texture",
				Options: map[string]any{"geometry_model": "base"}},
			{Name: "turbo-baked", Doc: "v2: turbo geometry, texture with the light baked in",
				Options: map[string]any{"geometry_model": turbo, "texture_model": "baked"}},
			{Name: "turbo-pbr", Doc: "v2: turbo geometry, texture with metallic and roughness maps",
				Options: map[string]any{"geometry_model": turbo, "texture_model": "pbr"}},
		},
	}
}

// Words that options take.
const (
	fastSculpt = "fast_sculpt"
	turbo      = "turbo"
	slow       = "slow"
	fast       = "fast"
)

const deprecatedFast = "CSM has deprecated fast refine (turbo with refine_speed fast): its quality is lower; use refine_speed slow, or the sculpt preset"
