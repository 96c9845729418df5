package csm_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/meshmill/meshmill/internal/providertest"
	"github.com/meshmill/meshmill/pkg/csm"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// ok is an answer in CSM's envelope.
func ok(status int, message, data string) providertest.Reply {
	return providertest.JSON(status, fmt.Sprintf(`{"error":"","message":%q,"statusCode":%d,"data":%s}`, message, status, data))
}

func refuse(status int, message string) providertest.Reply {
	text, err := json.Marshal(message)
	if err != nil {
		panic(err)
	}
	return providertest.JSON(status, fmt.Sprintf(`{"error":%s,"message":"Error","statusCode":%d,"data":null}`, text, status))
}

func newProvider(t *testing.T, base, key string) *csm.Provider {
	t.Helper()
	c, err := csm.New(csm.Config{Key: key, BaseURL: base})
	if err != nil {
		t.Fatal(err)
	}
	return csm.NewProvider(c)
}

const (
	marker   = "meshmill.oak.a1."
	imageURL = "https://images.example/" + marker + "/oak.png"
	session  = "SESSION_1721312476_7674068"
	v2Files  = `"mesh_url":"","mesh_url_obj":"https://files.example/a.obj","mesh_url_zip":"","mesh_url_glb":"https://files.example/a.glb?sig=1","mesh_url_fbx":"","mesh_url_usdz":"","mp4_url":""`
)

func TestConformance(t *testing.T) {
	t.Parallel()
	base := providertest.Harness{
		New:        func(t *testing.T, base, key string) jobs.Provider { return newProvider(t, base, key) },
		Image:      jobs.Delivery{URL: imageURL},
		Formats:    []string{"glb"},
		Session:    session,
		Refuse:     refuse,
		Companions: map[string]map[string]any{"preserve_aspect_ratio": {"scaled_bbox": []any{1.0, 1.0, -1.0}}},
		Lookup:     &jobs.Call{Stage: "create", Marker: marker, Image: jobs.Delivery{URL: imageURL}},
		Found:      ok(200, "Retrieved", `{"results":[{"session_code":"`+session+`","image_url":"`+imageURL+`"}]}`),
		Absent: ok(200, "Retrieved", `{"results":[`+
			`{"session_code":"SESSION_1_2","image_url":"https://images.example/?filename=meshmill.elm.a1.png","created_at":"2020-01-01T00:01:00Z"},`+
			`{"session_code":"SESSION_1_1","image_url":"https://images.example/?filename=meshmill.ash.a1.png","created_at":"2020-01-01T00:00:00Z"}]}`),
	}

	second := base
	second.Options = map[string]any{"geometry_model": "turbo", "texture_model": "pbr"}
	second.Accepted = ok(201, "Created", `{"session_code":"`+session+`","mesh_url_glb":"","session_status":"queued","percent_done":0}`)
	second.NoID = ok(201, "Created", `{"session_status":"queued"}`)
	second.Processing = ok(200, "Retrieved", `{"session_code":"`+session+`","session_status":"in_progress","percent_done":40}`)
	second.Done = ok(200, "Retrieved", `{"session_code":"`+session+`","session_status":"complete","percent_done":100,`+v2Files+`}`)
	second.Broken = ok(200, "Retrieved", `{"session_code":"`+session+`","session_status":"failed","percent_done":40}`)

	sculpt := base
	sculpt.Image = jobs.Delivery{Bytes: []byte("\x89PNG\r\n\x1a\n..."), MediaType: "image/png"}
	sculpt.Options = map[string]any{"preview_mesh": "fast_sculpt", "generate_preview_mesh": true}
	sculpt.Accepted = ok(201, "Created", `{"session_code":"`+session+`","status":"training_preview"}`)
	sculpt.AcceptedDone = new(ok(201, "Created", `{"session_code":"`+session+`","status":"preview_done","preview_mesh_url_glb":"https://files.example/p.glb"}`))
	sculpt.NoID = ok(201, "Created", `{"session_code":"","status":"training_preview"}`)
	sculpt.Processing = ok(200, "Retrieved", `{"session_code":"`+session+`","status":"training_preview","percentage":"12.5"}`)
	sculpt.Done = ok(200, "Retrieved", `{"session_code":"`+session+`","status":"preview_done","preview_mesh_url_glb":"https://files.example/p.glb"}`)
	sculpt.Broken = ok(200, "Retrieved", `{"session_code":"`+session+`","status":"preview_failed"}`)

	refine := base
	refine.Options = map[string]any{"preview_mesh": "turbo", "refine_speed": "slow"}
	refine.Accepted = ok(201, "Created", `{"session_code":"`+session+`","status":"spin_generate_processing"}`)
	refine.NoID = ok(201, "Created", `{"_id":"669924dCCCCCCCa04a493d12","status":"spin_generate_processing"}`)
	refine.Processing = ok(200, "Retrieved", `{"session_code":"`+session+`","status":"training_refine"}`)
	refine.Done = ok(200, "Retrieved", `{"session_code":"`+session+`","status":"refine_done","mesh_url_glb":"https://files.example/r.glb"}`)
	refine.Broken = ok(200, "Retrieved", `{"session_code":"`+session+`","status":"refine_failed"}`)
	refine.Next = "preview"
	refine.Resting = ok(200, "Retrieved", `{"session_code":"`+session+`","status":"spin_generate_done","spins":[{"image_url":"https://files.example/s0.mp4"}]}`)
	refine.StageAccepted = ok(200, "Generating Mesh", `{"scenario":"`+session+`","unique_trial_key":"k","status":"unprocessed","complete_job_data":{"job_priority":"2"}}`)
	refine.Lookup = &jobs.Call{Stage: "preview", Session: session, Options: refine.Options}
	refine.Found = refine.Processing
	refine.Absent = refine.Resting

	auto := refine
	auto.Options = map[string]any{"preview_mesh": "fast_sculpt", "auto_refine": true, "selected_spin_index": 0.0}
	auto.Processing = ok(200, "Retrieved", `{"session_code":"`+session+`","status":"preview_done","preview_mesh_url_glb":"https://files.example/p.glb"}`)

	last := refine
	last.Next = "refine"
	last.Resting = ok(200, "Retrieved", `{"session_code":"`+session+`","status":"preview_done","preview_mesh_url_glb":"https://files.example/p.glb"}`)
	last.Lookup = &jobs.Call{Stage: "refine", Session: session, Options: refine.Options}
	last.Absent = last.Resting

	for name, h := range map[string]providertest.Harness{
		"v2": second, "v1 sculpt": sculpt, "v1 turbo, preview": refine, "v1 turbo, refine": last, "v1 auto refine": auto,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Run(t, h)
		})
	}
}
