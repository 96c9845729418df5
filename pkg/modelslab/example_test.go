package modelslab_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/modelslab"
)

// standIn answers as the API does, for the examples.
func standIn() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/base64_to_url"):
			_, _ = io.WriteString(w, `{"status":"success","id":1,"output":["https://files.example/oak.png"]}`)
		case strings.HasSuffix(r.URL.Path, "/3d/image_to_3d"):
			_, _ = io.WriteString(w, `{"status":"processing","id":109655545,"eta":4}`)
		default:
			_, _ = io.WriteString(w, `{"status":"success","id":109655545,"output":["https://files.example/oak.glb"],"meta":{"seed":3480183101}}`)
		}
	}))
}

func ExampleClient() {
	api := standIn()
	defer api.Close()
	ctx := context.Background()

	client, err := modelslab.New(modelslab.Config{Key: "my-key", BaseURL: api.URL}) // no BaseURL: the real one
	if err != nil {
		fmt.Println(err)
		return
	}
	image, err := client.Base64ToURL(ctx, []byte("\x89PNG\r\n\x1a\n"), "image/png")
	if err != nil {
		fmt.Println(err)
		return
	}
	made, err := client.Create(ctx, modelslab.CreateRequest{Image: image, OutputFormat: "glb", Resolution: new(512)})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(made.Status, made.ID, made.ETA)
	got, err := client.Fetch(ctx, made.ID)
	if err != nil {
		fmt.Println(err)
		return
	}
	seed, _ := got.Seed()
	fmt.Println(got.Status, got.Output[0], seed)
	// Output:
	// processing 109655545 4s
	// success https://files.example/oak.glb 3480183101
}

func ExampleProvider() {
	api := standIn()
	defer api.Close()
	ctx := context.Background()

	client, err := modelslab.New(modelslab.Config{Key: "my-key", BaseURL: api.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	var provider jobs.Provider = modelslab.NewProvider(client)
	options := map[string]any{"resolution": 512}
	session, err := provider.Submit(ctx, jobs.Call{
		Stage: "create", Image: jobs.Delivery{URL: "https://images.example/oak.png"}, Options: options,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	status, err := provider.Poll(ctx, jobs.Ref{Session: session.ID, Stage: "create", Options: options})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(session.ID, status.Phase == jobs.Done, status.Files[0].Format)
	// Output: 109655545 true glb
}

// A provider without a key can still say what it takes.
func ExampleProvider_Plan() {
	provider := modelslab.NewProvider(nil)
	plan, err := provider.Plan(map[string]any{"render": true}, nil)
	fmt.Println(plan.Formats, err)
	_, err = provider.Plan(map[string]any{"resolution": 600, "output_format": "glb"}, []string{"obj"})
	fmt.Println(err)
	// Output:
	// [glb mp4] <nil>
	// options.resolution is 600, must be a whole number from 1 to 512
	// formats has obj but options.output_format is glb, must be the same
}

func ExampleCreateRequest_Validate() {
	err := modelslab.CreateRequest{Image: "oak.png", Temp: "true"}.Validate()
	fmt.Println(err)
	// Output:
	// image must be an http or https URL without user name; for image bytes make one with base64_to_url
	// temp is "true", must be one of yes, no
}
