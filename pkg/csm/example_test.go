package csm_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/meshmill/meshmill/pkg/csm"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// fakeCSM stands in for CSM.ai: each call takes the next answer's data.
func fakeCSM(data ...string) *httptest.Server {
	answers := make(chan string, len(data))
	for _, d := range data {
		answers <- d
	}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Println(strings.TrimSpace(fmt.Sprint(r.Method, " ", r.URL, " ", string(body))))
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusCreated)
		}
		fmt.Fprintf(w, `{"error":"","message":"","data":%s}`, <-answers)
	}))
}

func ExampleNew() {
	_, err := csm.New(csm.Config{Key: ""})
	fmt.Println(err)
	// Output: csm: the API key is empty, set CSM_API_KEY
}

func ExampleClient_CreateSession() {
	srv := fakeCSM(`{"session_code":"SESSION_1","session_status":"queued","percent_done":0}`)
	defer srv.Close()
	c, err := csm.New(csm.Config{Key: "my-key", BaseURL: srv.URL})
	if err != nil {
		log.Fatal(err)
	}
	s, err := c.CreateSession(context.Background(), csm.CreateV2Request{
		ImageURL:      "https://images.example/oak.png",
		GeometryModel: "turbo",
		TextureModel:  "pbr",
	})
	if err != nil {
		log.Fatal(err) // jobs.KindOf(err) is Unknown if it may have been bought
	}
	fmt.Println(s.Code, s.Status)
	// Output:
	// POST /image-to-3d-sessions {"image_url":"https://images.example/oak.png","geometry_model":"turbo","texture_model":"pbr"}
	// SESSION_1 queued
}

func ExampleClient_GetSession() {
	srv := fakeCSM(`{"session_code":"SESSION_1","session_status":"complete","percent_done":100,"mesh_url_glb":"https://files.example/oak.glb"}`)
	defer srv.Close()
	c, err := csm.New(csm.Config{Key: "my-key", BaseURL: srv.URL})
	if err != nil {
		log.Fatal(err)
	}
	s, err := c.GetSession(context.Background(), "SESSION_1")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Status, s.Percent, s.Mesh["glb"])
	// Output:
	// GET /image-to-3d-sessions/SESSION_1
	// complete 100 https://files.example/oak.glb
}

func ExampleClient_Get3DPreview() {
	srv := fakeCSM(`{"scenario":"SESSION_1","status":"unprocessed"}`)
	defer srv.Close()
	c, err := csm.New(csm.Config{Key: "my-key", BaseURL: srv.URL})
	if err != nil {
		log.Fatal(err)
	}
	stage, err := c.Get3DPreview(context.Background(), "SESSION_1", csm.PreviewRequest{
		SelectedSpinIndex: new(2),
		SelectedSpin:      "https://files.example/spin2.mp4",
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(stage.Status)
	// Output:
	// POST /image-to-3d-sessions/get-3d/preview/SESSION_1 {"selected_spin_index":2,"selected_spin":"https://files.example/spin2.mp4"}
	// unprocessed
}

func ExampleClient_Get3DRefine() {
	srv := fakeCSM(`{"scenario":"SESSION_1","status":"unprocessed"}`)
	defer srv.Close()
	c, err := csm.New(csm.Config{Key: "my-key", BaseURL: srv.URL})
	if err != nil {
		log.Fatal(err)
	}
	stage, err := c.Get3DRefine(context.Background(), "SESSION_1", csm.RefineRequest{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(stage.Status)
	// Output:
	// POST /image-to-3d-sessions/get-3d/refine/SESSION_1 {}
	// unprocessed
}

func ExampleClient_ListSessions() {
	srv := fakeCSM(`{"results":[{"session_code":"SESSION_2","session_status":"in_progress"},{"session_code":"SESSION_1","session_status":"complete"}]}`)
	defer srv.Close()
	c, err := csm.New(csm.Config{Key: "my-key", BaseURL: srv.URL})
	if err != nil {
		log.Fatal(err)
	}
	list, err := c.ListSessions(context.Background(), 10, 0)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range list {
		fmt.Println(s.Code, s.Status)
	}
	// Output:
	// GET /image-to-3d-sessions?limit=10&page=0
	// SESSION_2 in_progress
	// SESSION_1 complete
}

func ExampleProvider_Plan() {
	plan, err := csm.NewProvider(nil).Plan(map[string]any{"preview_mesh": "turbo", "refine_speed": "slow"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(plan.Mode, plan.Formats)

	_, err = csm.NewProvider(nil).Plan(map[string]any{"preview_mesh": "turbo", "texture_model": "pbr"}, nil)
	fmt.Println(err)
	// Output:
	// v1 refine [glb]
	// options.preview_mesh belongs to CSM's v1 sessions, but options.texture_model to its v2 sessions: use options of one of them
}

// A v1 turbo session rests twice on its way to the refined mesh. Each further
// stage is a paid call of its own.
func ExampleProvider() {
	srv := fakeCSM(
		`{"session_code":"SESSION_1","status":"spin_generate_processing"}`,
		`{"status":"spin_generate_done","spins":[{"image_url":"https://files.example/spin0.mp4"}]}`,
		`{"scenario":"SESSION_1","status":"unprocessed"}`,
		`{"status":"preview_done","preview_mesh_url_glb":"https://files.example/preview.glb"}`,
		`{"scenario":"SESSION_1","status":"unprocessed"}`,
		`{"status":"refine_done","mesh_url_glb":"https://files.example/refined.glb"}`,
	)
	defer srv.Close()
	c, err := csm.New(csm.Config{Key: "my-key", BaseURL: srv.URL})
	if err != nil {
		log.Fatal(err)
	}
	var p jobs.Provider = csm.NewProvider(c)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	options := map[string]any{"preview_mesh": "turbo", "refine_speed": "slow"}
	call := jobs.Call{Stage: p.Catalog().FirstStage, Image: jobs.Delivery{URL: "https://images.example/oak.png"}, Options: options}
	for {
		s, err := p.Submit(ctx, call)
		if err != nil {
			log.Fatal(err)
		}
		status, err := p.Poll(ctx, jobs.Ref{Session: s.ID, Stage: call.Stage, Options: options})
		if err != nil {
			log.Fatal(err)
		}
		if status.Phase == jobs.Done {
			fmt.Println(status.Files[0].Format, status.Files[0].URL)
			return
		}
		call = jobs.Call{Stage: status.Next, Session: s.ID, Options: options, Input: status.NextInput}
	}
	// Output:
	// POST /image-to-3d-sessions {"image_url":"https://images.example/oak.png","preview_mesh":"turbo","refine_speed":"slow"}
	// GET /image-to-3d-sessions/SESSION_1
	// POST /image-to-3d-sessions/get-3d/preview/SESSION_1 {"selected_spin_index":0,"selected_spin":"https://files.example/spin0.mp4"}
	// GET /image-to-3d-sessions/SESSION_1
	// POST /image-to-3d-sessions/get-3d/refine/SESSION_1 {}
	// GET /image-to-3d-sessions/SESSION_1
	// glb https://files.example/refined.glb
}
