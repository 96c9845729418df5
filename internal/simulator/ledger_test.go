package simulator_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/internal/simulator"
)

// A simulator on the folder of an earlier one goes on with its sessions.
func TestRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := simulator.Config{Dir: dir, CSMKey: csmKey}
	first := start(t, cfg)
	v2 := text(csmCreate(t, first, object{"image_url": dataURI(disc(t, 1))}), "session_code")
	old := isGLB(t, text(csmPoll(t, first, v2, "session_status", "complete"), "mesh_url_glb"))
	v1 := text(csmCreate(t, first, object{"image_url": dataURI(disc(t, 2)), "preview_mesh": "fast_sculpt"}), "session_code")
	link := labUpload(t, first, disc(t, 3))
	lab := must(t, first.ModelsLabBaseURL()+"/3d/image_to_3d", "", object{"key": labKey, "image": link})
	bought := first.Ledger()
	stop(t, first)

	second := start(t, cfg)
	if diff := cmp.Diff(bought, second.Ledger()); diff != "" {
		t.Errorf("ledger (-before +after):\n%s", diff)
	}
	again := isGLB(t, text(csmPoll(t, second, v2, "session_status", "complete"), "mesh_url_glb"))
	if !bytes.Equal(old, again) {
		t.Error("the mesh is another after the restart")
	}
	csmPoll(t, second, v1, "status", "spin_generate_done")
	must(t, second.CSMBaseURL()+"/image-to-3d-sessions/get-3d/preview/"+v1, csmKey, object{})
	csmPoll(t, second, v1, "status", "preview_done")
	id, _ := lab.body["id"].(float64)
	done := labPoll(t, second, must(t, second.ModelsLabBaseURL()+"/3d/fetch/"+jsonNumber(id), "", object{"key": labKey}))
	isGLB(t, done["output"].([]any)[0].(string))
	// The upload's URL names the port of the first one.
	labPoll(t, second, must(t, second.ModelsLabBaseURL()+"/3d/image_to_3d", "", object{"key": labKey, "image": link, "resolution": 128}))
	onDisk, err := simulator.ReadLedger(filepath.Join(dir, simulator.LedgerFile))
	if err != nil || len(onDisk) != 5 {
		t.Errorf("%d lines in the ledger, %v", len(onDisk), err)
	}
	if d := simulator.Duplicates(onDisk); len(d) != 0 {
		t.Errorf("duplicates: %+v", d)
	}
}

// A crash between a session and its ledger line, or in the middle of the line,
// loses nothing.
func TestTornLedger(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, simulator.LedgerFile)
	cfg := simulator.Config{Dir: dir}
	s := start(t, cfg)
	for i := range 3 {
		csmCreate(t, s, object{"image_url": dataURI(disc(t, i))})
	}
	want := s.Ledger()
	stop(t, s)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw[:len(raw)-40], 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := simulator.ReadLedger(path); err != nil || len(p) != 2 {
		t.Errorf("%d purchases in a torn ledger, %v", len(p), err)
	}
	s = start(t, cfg)
	if diff := cmp.Diff(want, s.Ledger()); diff != "" {
		t.Errorf("ledger (-before +after):\n%s", diff)
	}
	if p, err := simulator.ReadLedger(path); err != nil || len(p) != 3 {
		t.Errorf("%d purchases in the repaired ledger, %v", len(p), err)
	}
}

func TestNothingSecretOnDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var log strings.Builder
	s := start(t, simulator.Config{Dir: dir, Log: logTo(&log)})
	csmCreate(t, s, object{"image_url": dataURI(disc(t, 1))})
	must(t, s.ModelsLabBaseURL()+"/3d/image_to_3d", "", object{"key": labKey, "image": labUpload(t, s, disc(t, 2))})
	stop(t, s)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, key := range []string{csmKey, labKey} {
			if bytes.Contains(raw, []byte(key)) {
				t.Errorf("%s holds a key", filepath.Base(path))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), csmKey) || strings.Contains(log.String(), labKey) || !strings.Contains(log.String(), "simulated purchase") {
		t.Errorf("log: %s", log.String())
	}
}

// Many clients at once: every purchase is in the ledger once, and the numbers
// agree.
func TestConcurrentClients(t *testing.T) {
	t.Parallel()
	s := start(t, simulator.Config{TinyMeshes: true})
	const clients, each = 8, 10
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				a, err := do(t, s.CSMBaseURL()+"/image-to-3d-sessions", csmKey, object{"image_url": dataURI(disc(t, c*each+i))})
				if err != nil || a.status != 201 {
					t.Errorf("create: %v, %v", a, err)
					return
				}
				d, _ := a.body["data"].(object)
				for a, err = nil, nil; err == nil && (a == nil || text(d, "session_status") != "complete"); {
					if a, err = do(t, s.CSMBaseURL()+"/image-to-3d-sessions/"+text(d, "session_code"), csmKey, nil); err == nil {
						d, _ = a.body["data"].(object)
					}
				}
				if a, err = do(t, text(d, "mesh_url_glb"), "", nil); err != nil || !bytes.HasPrefix(a.raw, []byte("glTF")) {
					t.Errorf("download: %v", err)
				}
			}
		})
	}
	wg.Wait()
	ledger := s.Ledger()
	if len(ledger) != clients*each || len(simulator.PerImage(ledger)) != clients*each || len(simulator.PerSession(ledger)) != clients*each {
		t.Errorf("%d purchases of %d images in %d sessions", len(ledger), len(simulator.PerImage(ledger)), len(simulator.PerSession(ledger)))
	}
}

func TestDuplicates(t *testing.T) {
	t.Parallel()
	p := func(stage, image, options, session string) simulator.Purchase {
		return simulator.Purchase{Provider: simulator.CSM, Stage: stage, Image: image, Options: options, Session: session, Time: time.Unix(1, 0)}
	}
	tests := map[string]struct {
		ledger []simulator.Purchase
		want   int
	}{
		"none":                     {nil, 0},
		"two images":               {[]simulator.Purchase{p("create", "a", "o", "1"), p("create", "b", "o", "2")}, 0},
		"one image, other options": {[]simulator.Purchase{p("create", "a", "o", "1"), p("create", "a", "x", "2")}, 0},
		"one image twice":          {[]simulator.Purchase{p("create", "a", "o", "1"), p("create", "a", "o", "2")}, 1},
		"all stages":               {[]simulator.Purchase{p("create", "a", "o", "1"), p("preview", "a", "o", "1"), p("refine", "a", "o", "1")}, 0},
		"a stage twice":            {[]simulator.Purchase{p("create", "a", "o", "1"), p("preview", "a", "o", "1"), p("preview", "a", "o", "1")}, 1},
	}
	for name, tc := range tests {
		if got := simulator.Duplicates(tc.ledger); len(got) != tc.want {
			t.Errorf("%s: %+v, want %d", name, got, tc.want)
		}
	}
}

func TestConfigAndStart(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]simulator.Config{
		"times":   {Durations: simulator.Each(2, 1)},
		"share":   {ModelsLabSync: 1.5},
		"address": {Listen: "127.0.0.1:99999"},
	} {
		if s, err := simulator.Start(t.Context(), cfg); err == nil {
			stop(t, s)
			t.Errorf("%s: started", name)
		}
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sessions"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sessions", "x.json"), []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := simulator.New(simulator.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "x.json") {
		t.Errorf("a foreign session: %v", err)
	}
}

func TestRoot(t *testing.T) {
	t.Parallel()
	s := start(t, simulator.Config{})
	csmCreate(t, s, object{"image_url": dataURI(disc(t, 1))})
	if a := must(t, "http://"+s.Host()+"/", "", nil); a.status != 404 || !strings.Contains(string(a.raw), "test double") {
		t.Errorf("HTTP %d: %s", a.status, a.raw)
	}
	a := must(t, "http://"+s.Host()+"/simulator/ledger", "", nil)
	var p simulator.Purchase
	if err := json.Unmarshal(a.raw, &p); err != nil || p != s.Ledger()[0] {
		t.Errorf("%v: %s", err, a.raw)
	}
}

func FuzzReadLedger(f *testing.F) {
	f.Add([]byte(`{"time":"2026-11-20T10:00:00Z","provider":"csm","stage":"create","session":"s","image_sha256":"a","options":"b"}` + "\n"))
	f.Add([]byte("{\n}\n\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "l")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		all, _ := simulator.ReadLedger(path)
		for _, p := range all {
			if p.Session == "" {
				t.Error("a purchase without a session")
			}
		}
		simulator.Duplicates(all)
	})
}

// No body makes a handler fail.
func FuzzCalls(f *testing.F) {
	s, err := simulator.New(simulator.Config{TinyMeshes: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Shutdown(f.Context()) })
	paths := []string{"/csm/image-to-3d-sessions", "/csm/image-to-3d-sessions/get-3d/preview/x", "/modelslab/api/v6/3d/image_to_3d", "/modelslab/api/v6/3d/fetch/1", "/modelslab/api/v6/base64_to_url"}
	f.Add(0, []byte(`{"image_url":"data:image/png;base64,AAAA","scaled_bbox":[1,2,3]}`))
	f.Add(2, []byte(`{"key":"k","image":"x","resolution":1e999}`))
	f.Add(4, []byte(`{"key":"k","base64_string":"data:image/png;base64,"}`))
	f.Add(1, []byte(`null`))
	f.Fuzz(func(t *testing.T, which int, body []byte) {
		if bytes.Contains(body, []byte("://")) || bytes.ContainsAny(body, "\\") {
			return // would fetch from somewhere
		}
		req := httptest.NewRequestWithContext(t.Context(), "POST", paths[uint(which)%uint(len(paths))], bytes.NewReader(body))
		req.Header.Set("X-Api-Key", "k")
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Errorf("HTTP %d: %s", w.Code, w.Body)
		}
	})
}

func ExampleDuplicates() {
	ledger := []simulator.Purchase{
		{Provider: "csm", Stage: "create", Session: "SESSION_1", Image: "c0ffee", Options: "01"},
		{Provider: "csm", Stage: "create", Session: "SESSION_2", Image: "c0ffee", Options: "01"},
	}
	for _, d := range simulator.Duplicates(ledger) {
		fmt.Printf("%s: image %s bought %d times\n", d.Provider, d.Image, d.Count)
	}
	// Output: csm: image c0ffee bought 2 times
}
