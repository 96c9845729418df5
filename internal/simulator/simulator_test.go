package simulator_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/meshmill/meshmill/internal/simulator"
)

var quick = simulator.Each(time.Millisecond, 3*time.Millisecond)

func start(t *testing.T, cfg simulator.Config) *simulator.Simulator {
	t.Helper()
	if cfg.Durations == (simulator.Durations{}) {
		cfg.Durations = quick
	}
	s, err := simulator.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *simulator.Simulator) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// disc is a PNG of a disc; the same n is the same image.
func disc(t *testing.T, n int) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, 40, 40))
	for y := range 40 {
		for x := range 40 {
			if math.Hypot(float64(x)-19.5, float64(y)-19.5) < 12 {
				img.SetNRGBA(x, y, color.NRGBA{uint8(n), uint8(n >> 8), 90, 255})
			}
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func dataURI(data []byte) string {
	return "data:image/png;base64," + base64.StdEncoding.EncodeToString(data)
}

// object is decoded JSON.
type object = map[string]any

type answer struct {
	status int
	header http.Header
	raw    []byte
	body   object
}

// do makes a call; a non-nil body is sent as JSON by POST. It may return an
// error: that is what some faults are for.
func do(t *testing.T, url, key string, body any) (*answer, error) {
	t.Helper()
	method, r := http.MethodGet, io.Reader(nil)
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		method, r = http.MethodPost, bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("X-Api-Key", key)
	}
	req.Close = true
	hc := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	a := &answer{status: resp.StatusCode, header: resp.Header, raw: raw}
	_ = json.Unmarshal(raw, &a.body)
	return a, err
}

func must(t *testing.T, url, key string, body any) *answer {
	t.Helper()
	a, err := do(t, url, key, body)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *answer) data(t *testing.T) object {
	t.Helper()
	d, ok := a.body["data"].(object)
	if !ok {
		t.Fatalf("HTTP %d without data: %s", a.status, a.raw)
	}
	return d
}

func text(o object, name string) string { s, _ := o[name].(string); return s }

const csmKey = "csm-key-0123456789"

// csmPoll polls until a status field has the wanted value.
func csmPoll(t *testing.T, s *simulator.Simulator, code, field, want string) object {
	t.Helper()
	for ctx := t.Context(); ctx.Err() == nil; {
		a := must(t, s.CSMBaseURL()+"/image-to-3d-sessions/"+code, csmKey, nil)
		if a.status != 200 {
			t.Fatalf("poll: HTTP %d: %s", a.status, a.raw)
		}
		d := a.data(t)
		if text(d, field) == want {
			return d
		}
		if strings.HasSuffix(text(d, field), "failed") {
			t.Fatalf("session ended as %s", text(d, field))
		}
	}
	t.Fatal("timeout")
	return nil
}

func csmCreate(t *testing.T, s *simulator.Simulator, body object) object {
	t.Helper()
	a := must(t, s.CSMBaseURL()+"/image-to-3d-sessions", csmKey, body)
	if a.status != 201 || a.body["error"] != "" || a.body["message"] != "Created" {
		t.Fatalf("create: HTTP %d: %s", a.status, a.raw)
	}
	return a.data(t)
}

func isGLB(t *testing.T, url string) []byte {
	t.Helper()
	a := must(t, url, "", nil)
	if a.status != 200 || !bytes.HasPrefix(a.raw, []byte("glTF\x02\x00\x00\x00")) {
		t.Fatalf("HTTP %d, body begins %.40q", a.status, a.raw)
	}
	return a.raw
}

func TestCSMV2(t *testing.T) {
	t.Parallel()
	s := start(t, simulator.Config{CSMKey: csmKey})
	img := disc(t, 1)
	d := csmCreate(t, s, object{"image_url": dataURI(img), "geometry_model": "turbo", "texture_model": "pbr"})
	if text(d, "mesh_url_glb") != "" || d["mesh_url_fbx"] == nil || text(d, "texture_model") != "pbr" {
		t.Errorf("create: %v", d)
	}
	code := text(d, "session_code")
	d = csmPoll(t, s, code, "session_status", "complete")
	isGLB(t, text(d, "mesh_url_glb"))
	if d["percent_done"] != 100.0 {
		t.Errorf("percent_done = %v", d["percent_done"])
	}
	if l := s.Ledger(); len(l) != 1 || l[0].Session != code || l[0].Stage != "create" || l[0].KeyEnd != "6789" {
		t.Errorf("ledger: %+v", l)
	}
}

func TestCSMV1Stages(t *testing.T) {
	t.Parallel()
	s := start(t, simulator.Config{CSMKey: csmKey})
	code := text(csmCreate(t, s, object{"image_url": dataURI(disc(t, 2)), "preview_mesh": "turbo", "refine_speed": "slow"}), "session_code")
	d := csmPoll(t, s, code, "status", "spin_generate_done")
	spins, _ := d["spins"].([]any)
	if len(spins) != 4 {
		t.Fatalf("spins: %v", d["spins"])
	}
	spin := text(spins[2].(object), "image_url")
	base := s.CSMBaseURL() + "/image-to-3d-sessions/get-3d/"
	if a := must(t, base+"preview/"+code, csmKey, object{}); a.status != 400 {
		t.Errorf("preview of turbo without a spin: HTTP %d", a.status)
	}
	if a := must(t, base+"refine/"+code, csmKey, object{}); a.status != 400 {
		t.Errorf("refine before preview: HTTP %d", a.status)
	}
	a := must(t, base+"preview/"+code, csmKey, object{"selected_spin_index": 2, "selected_spin": spin})
	if a.status != 200 || text(a.data(t), "scenario") != code {
		t.Fatalf("preview: HTTP %d: %s", a.status, a.raw)
	}
	d = csmPoll(t, s, code, "status", "preview_done")
	isGLB(t, text(d, "preview_mesh_url_glb"))
	if text(d, "mesh_url_glb") != "" {
		t.Error("a refined mesh before refine")
	}
	must(t, base+"refine/"+code, csmKey, object{})
	d = csmPoll(t, s, code, "status", "refine_done")
	isGLB(t, text(d, "mesh_url_glb"))
	if n := simulator.PerSession(s.Ledger())[code]; n != 3 {
		t.Errorf("%d paid calls, want 3", n)
	}
}

const labKey = "lab-key-0123456789"

func labPoll(t *testing.T, s *simulator.Simulator, a *answer) object {
	t.Helper()
	for ctx := t.Context(); ctx.Err() == nil; {
		if a.status != 200 {
			t.Fatalf("HTTP %d: %s", a.status, a.raw)
		}
		switch text(a.body, "status") {
		case "processing":
			id, _ := a.body["id"].(float64)
			a = must(t, s.ModelsLabBaseURL()+"/3d/fetch/"+jsonNumber(id), "", object{"key": labKey})
		case "success":
			return a.body
		default:
			t.Fatalf("status %s: %s", text(a.body, "status"), a.raw)
		}
	}
	t.Fatal("timeout")
	return nil
}

func jsonNumber(f float64) string { b, _ := json.Marshal(int64(f)); return string(b) }

func labUpload(t *testing.T, s *simulator.Simulator, img []byte) string {
	t.Helper()
	a := must(t, s.ModelsLabBaseURL()+"/base64_to_url", "", object{"key": labKey, "base64_string": dataURI(img)})
	out, _ := a.body["output"].([]any)
	if len(out) != 1 {
		t.Fatalf("upload: %s", a.raw)
	}
	link, _ := out[0].(string)
	return link
}

func TestModelsLab(t *testing.T) {
	t.Parallel()
	for name, sync := range map[string]float64{"processing": 0, "success at once": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := simulator.Config{ModelsLabKey: labKey, ModelsLabSync: sync}
			if sync == 0 { // long enough for the create call to find it unfinished
				cfg.Durations = simulator.Each(2*time.Second, 2*time.Second)
			}
			s := start(t, cfg)
			link := labUpload(t, s, disc(t, 3))
			a := must(t, s.ModelsLabBaseURL()+"/3d/image_to_3d", "", object{"key": labKey, "image": link, "init_image": link, "output_format": "glb"})
			if got := text(a.body, "status"); (got == "success") != (sync == 1) {
				t.Errorf("create: status %s", got)
			}
			done := labPoll(t, s, a)
			out, _ := done["output"].([]any)
			if len(out) != 1 {
				t.Fatalf("output: %v", done["output"])
			}
			isGLB(t, out[0].(string))
			if l := s.Ledger(); len(l) != 1 || l[0].Marker != link {
				t.Errorf("ledger: %+v", l)
			}
		})
	}
}
