package modelslab_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/meshmill/meshmill/internal/providertest"
	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/modelslab"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	done := providertest.JSON(200, `{"status":"success","generationTime":10.62,"id":109655545,
		"output":["https://files.example/out/a.glb?`+providertest.Signature+`","https://files.example/out/a.mp4"],
		"proxy_links":["https://cdn.example/out/a.glb"],"meta":{"seed":3480183101}}`)
	providertest.Run(t, providertest.Harness{
		New: func(t *testing.T, base, key string) jobs.Provider {
			c, err := modelslab.New(modelslab.Config{Key: key, BaseURL: base + "/api/v6"})
			if err != nil {
				t.Fatal(err)
			}
			return modelslab.NewProvider(c)
		},
		Image:        jobs.Delivery{URL: "https://images.example/oak.png"},
		Options:      map[string]any{"render": true, "resolution": 512.0, "temp": "no"},
		Formats:      []string{"glb", "mp4"},
		Session:      "109655545",
		Accepted:     providertest.JSON(200, `{"status":"processing","id":109655545,"eta":4,"message":"processing","output":[],"future_links":["https://files.example/out/a.glb"]}`),
		AcceptedDone: &done,
		NoID:         providertest.JSON(200, `{"status":"processing","eta":4,"output":[]}`),
		Processing:   providertest.JSON(200, `{"status":"processing","id":109655545,"eta":2.5,"output":""}`),
		Done:         done,
		Broken:       providertest.JSON(200, `{"status":"failed","id":109655545,"message":"no object in `+providertest.Key+` https://images.example/oak.png?`+providertest.Signature+`"}`),
		Refuse: func(status int, message string) providertest.Reply {
			body, err := json.Marshal(map[string]any{"status": "error", "message": message})
			if err != nil {
				panic(err)
			}
			return providertest.Reply{Status: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: string(body)}
		},
	})
}
