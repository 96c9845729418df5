package simulator

import (
	"fmt"
	"maps"
	"net/http"
	"time"
)

// stamp is the providers' form of a time: v1 create session, Response.
const stamp = "2006-01-02T15:04:05.000Z"

// csmData is the "data" of a session in create, get and list.
func (s *Simulator) csmData(ss *session, r *http.Request, f *Fault, created bool) map[string]any {
	if ss.Gen == csmV2 {
		return s.v2Data(ss, r, f)
	}
	return s.v1Data(ss, r, f, created)
}

func shownCode(ss *session, f *Fault) string {
	if f.WrongID {
		return "SESSION_1000000000_0000000"
	}
	return ss.Code
}

func (s *Simulator) shownImage(ss *session, r *http.Request) string {
	if ss.ImageURL != "" {
		return ss.ImageURL
	}
	return s.csmFile(ss, r, &Fault{}, "input")
}

func echo(ss *session, name string, otherwise any) any {
	if v, ok := ss.Options[name]; ok {
		return v
	}
	return otherwise
}

// v2Data has the fields of v2 create session, Response. URLs are empty strings,
// not null, until they are ready. No FBX and no video is made.
func (s *Simulator) v2Data(ss *session, r *http.Request, f *Fault) map[string]any {
	p := ss.at(time.Now())
	status, percent := "in_progress", float64(int(100*p.fraction))
	switch {
	case p.failed:
		status = "failed"
	case !p.running:
		status = "complete"
	case p.fraction < 0.1:
		status, percent = "queued", 0
	}
	d := map[string]any{
		"session_code": shownCode(ss, f), "image_url": s.shownImage(ss, r),
		"manual_segmentation": echo(ss, "manual_segmentation", false), "texture_model": echo(ss, "texture_model", "none"),
		"geometry_model": echo(ss, "geometry_model", "base"), "topology": echo(ss, "topology", "tris"),
		"resolution": echo(ss, "resolution", "high_poly"), "symmetry": echo(ss, "symmetry", "auto"),
		"scaled_bbox": echo(ss, "scaled_bbox", []int{-1, -1, -1}), "preserve_aspect_ratio": echo(ss, "preserve_aspect_ratio", false),
		"pivot_point": echo(ss, "pivot_point", []int{0, 0, 0}),
		"mesh_url":    "", "mesh_url_obj": "", "mesh_url_zip": "", "mesh_url_glb": "", "mesh_url_fbx": "", "mesh_url_usdz": "", "mp4_url": "",
		"updated_at": time.Now().UTC().Format(stamp), "created_at": ss.CreatedAt.UTC().Format(stamp),
		"session_status": status, "percent_done": percent,
	}
	if status == "complete" {
		d["mesh_url"] = s.csmFile(ss, r, f, "mesh.glb")
		for _, format := range []string{"obj", "zip", "glb", "usdz"} {
			d["mesh_url_"+format] = s.csmFile(ss, r, f, "mesh."+format)
		}
	}
	return d
}

// v1Status is the word for where a v1 session stands: primer, "Mesh generation
// involves four main stages".
func v1Status(p progress) string {
	words := map[string][3]string{
		stepSpin:    {"spin_generate_processing", "spin_generate_done", "spin_generate_failed"},
		stepPreview: {"training_preview", "preview_done", "preview_failed"},
		stepRefine:  {"training_refine", "refine_done", "refine_failed"},
	}[p.step]
	switch {
	case p.running:
		return words[0]
	case p.failed:
		return words[2]
	}
	return words[1]
}

// v1Data has the fields of v1 create session, Response, and those that the get
// call adds.
func (s *Simulator) v1Data(ss *session, r *http.Request, f *Fault, created bool) map[string]any {
	now := time.Now()
	p := ss.at(now)
	d := map[string]any{
		"_id": idOf(ss.Code, "session"), "user_id": idOf("user", "user"), "session_code": shownCode(ss, f),
		"image_url": s.shownImage(ss, r), "texture_resolution": echo(ss, "texture_resolution", 2048), "status": v1Status(p),
		"topology": echo(ss, "topology", "tris"), "source": "external", "creativity": echo(ss, "creativity", "lowest"),
		"refine_speed": echo(ss, "refine_speed", "slow"),
		"created_at":   ss.CreatedAt.UTC().Format(stamp), "updated_at": now.UTC().Format(stamp),
	}
	if created {
		return d
	}
	d["percentage"] = int(100 * p.fraction)
	d["preview_mesh"] = echo(ss, "preview_mesh", "fast_sculpt")
	d["spins"] = []any{}
	for _, name := range []string{"preview_mesh_url", "preview_mesh_url_zip", "preview_mesh_url_glb", "preview_mesh_url_usdz",
		"mesh_url", "mesh_url_glb", "mesh_url_usdz", "mesh_url_zip", "mesh_url_obj", "mp4_url"} {
		d[name] = ""
	}
	if ss.done(stepSpin, now) {
		var spins []any
		for i := range 4 {
			spins = append(spins, map[string]any{"image_url": s.csmFile(ss, r, f, fmt.Sprintf("spin_%d.mp4", i))})
		}
		d["spins"] = spins
	}
	if ss.done(stepPreview, now) {
		d["preview_mesh_url"] = s.csmFile(ss, r, f, "preview_mesh.glb")
		d["preview_mesh_url_glb"] = d["preview_mesh_url"]
		d["preview_mesh_url_usdz"] = s.csmFile(ss, r, f, "preview_mesh.usdz")
		d["preview_mesh_url_zip"] = s.csmFile(ss, r, f, "preview_mesh.zip")
		if ss.text("preview_mesh", "fast_sculpt") == "fast_sculpt" {
			// The vendor's own client had to know that this "zip" is an .obj.
			d["preview_mesh_url_zip"] = s.csmFile(ss, r, f, "preview_mesh.obj")
		}
	}
	if ss.done(stepRefine, now) {
		d["mesh_url"] = s.csmFile(ss, r, f, "mesh.glb")
		for _, format := range []string{"glb", "usdz", "zip", "obj"} {
			d["mesh_url_"+format] = s.csmFile(ss, r, f, "mesh."+format)
		}
	}
	return d
}

// stageData is the "data" of a stage call: get-3d preview, Response. Some of its
// numbers are strings, and task_data is JSON in a string.
func stageData(ss *session, f *Fault) map[string]any {
	code, trial := shownCode(ss, f), idOf(ss.Code, "trial")
	return map[string]any{
		"scenario": code, "unique_trial_key": trial, "status": "unprocessed",
		"complete_job_data": map[string]any{
			"scenario": code, "job_priority": "2", "call": "dreamfusion", "user_id": "000000", "status": "unprocessed",
			"start_time": fmt.Sprintf("%.7f", float64(time.Now().UnixMicro())/1e6), "unique_trial_key": trial,
			"task_data": fmt.Sprintf(`{"scenario": %q, "unique_trial_key": %q}`, code, trial),
			"id":        "job:dreamfusion:" + code + "_" + trial,
		},
	}
}

func withOption(m map[string]any, name string, v any) map[string]any {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]any{}
	}
	m[name] = v
	return m
}
