package simulator_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/internal/simulator"
)

func decode(a *answer) { _ = json.Unmarshal(a.raw, &a.body) }

func sha(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// What a fault does to a paid call: what the client sees, and whether it was
// billed all the same.
func TestFaultsOfPaidCalls(t *testing.T) {
	t.Parallel()
	retry := http.Header{"Retry-After": {"7"}}
	tests := map[string]struct {
		fault  simulator.Fault
		status int // 0: no answer
		billed bool
		check  func(a *answer) bool
	}{
		"refused":           {simulator.Fault{Answer: &simulator.Answer{Status: 429, Header: retry, Body: "slow down"}}, 429, false, func(a *answer) bool { return a.header.Get("Retry-After") == "7" }},
		"5xx, not billed":   {simulator.Fault{Answer: &simulator.Answer{Status: 502}}, 502, false, nil},
		"5xx, billed":       {simulator.Fault{Answer: &simulator.Answer{Status: 500, Body: "oops"}, Billed: true}, 500, true, nil},
		"garbage":           {simulator.Fault{Answer: &simulator.Answer{Body: "<html>hello"}, Billed: true}, 200, true, func(a *answer) bool { return a.body == nil }},
		"empty":             {simulator.Fault{Answer: &simulator.Answer{Status: 201}, Billed: true}, 201, true, func(a *answer) bool { return len(a.raw) == 0 }},
		"cut unread":        {simulator.Fault{Cut: simulator.CutUnread}, 0, false, nil},
		"cut before":        {simulator.Fault{Cut: simulator.CutBefore}, 0, false, nil},
		"cut after":         {simulator.Fault{Cut: simulator.CutAfter}, 0, true, nil},
		"cut in the answer": {simulator.Fault{Cut: simulator.CutBody}, 0, true, nil},
		"wrong id": {simulator.Fault{WrongID: true}, 201, true, func(a *answer) bool {
			d, _ := a.body["data"].(object)
			return text(d, "session_code") == "SESSION_1000000000_0000000"
		}},
		"slow":      {simulator.Fault{Delay: 20 * time.Millisecond, Hold: 20 * time.Millisecond}, 201, true, nil},
		"elsewhere": {simulator.Fault{Provider: simulator.ModelsLab, Answer: &simulator.Answer{Status: 500}}, 201, true, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.fault.Op, tc.fault.Times = simulator.Create, 1
			s := start(t, simulator.Config{Faults: []simulator.Fault{tc.fault}})
			body := object{"image_url": dataURI(disc(t, 1))}
			a, err := do(t, s.CSMBaseURL()+"/image-to-3d-sessions", csmKey, body)
			switch {
			case tc.status == 0 && err == nil:
				t.Fatalf("HTTP %d, want a broken connection", a.status)
			case tc.status != 0 && (err != nil || a.status != tc.status):
				t.Fatalf("%+v, %v; want HTTP %d", a, err, tc.status)
			case tc.check != nil && !tc.check(a):
				t.Errorf("HTTP %d %v: %s", a.status, a.header, a.raw)
			}
			if billed := len(s.Ledger()) == 1; billed != tc.billed {
				t.Errorf("billed %v, want %v", billed, tc.billed)
			}
			// The fault was for one call.
			csmCreate(t, s, body)
			if s.Calls(simulator.CSM, simulator.Create) != 2 {
				t.Errorf("%d calls counted", s.Calls(simulator.CSM, simulator.Create))
			}
		})
	}
}

// A client that gives up during the delay is billed, as with a real server.
func TestDelayOutlivesTheClient(t *testing.T) {
	t.Parallel()
	s := start(t, simulator.Config{Faults: []simulator.Fault{{Op: simulator.Create, Delay: 100 * time.Millisecond}}})
	raw, _ := json.Marshal(object{"image_url": dataURI(disc(t, 1))})
	hc := http.Client{Timeout: 30 * time.Millisecond}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, s.CSMBaseURL()+"/image-to-3d-sessions", bytes.NewReader(raw))
	req.Header.Set("X-Api-Key", csmKey)
	if resp, err := hc.Do(req); err == nil {
		resp.Body.Close()
		t.Fatal("the client did not time out")
	}
	for len(s.Ledger()) == 0 && t.Context().Err() == nil {
		s.Calls(simulator.CSM, simulator.Create)
	}
}

// results buys a session, waits for it under the faults and downloads its GLB.
func result(t *testing.T, s *simulator.Simulator) (string, *answer, error) {
	t.Helper()
	code := text(csmCreate(t, s, object{"image_url": dataURI(disc(t, 1))}), "session_code")
	link := text(csmPoll(t, s, code, "session_status", "complete"), "mesh_url_glb")
	a, err := do(t, link, "", nil)
	return link, a, err
}

func TestFaultsOfDownloads(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fault simulator.Fault
		check func(link string, a *answer, err error) bool
	}{
		"expired":  {simulator.Fault{Answer: &simulator.Answer{Status: 403, Body: "expired"}}, func(_ string, a *answer, err error) bool { return err == nil && a.status == 403 }},
		"redirect": {simulator.Fault{Answer: &simulator.Answer{Status: 302, Header: http.Header{"Location": {"http://192.0.2.1/x.glb"}}}}, func(_ string, a *answer, err error) bool { return err == nil && a.status == 302 }},
		"html": {simulator.Fault{Answer: &simulator.Answer{Body: "<html>"}}, func(_ string, a *answer, err error) bool {
			return err == nil && a.status == 200 && string(a.raw) == "<html>"
		}},
		"short":   {simulator.Fault{Cut: simulator.CutBody}, func(_ string, a *answer, err error) bool { return err != nil && a != nil && len(a.raw) > 0 }},
		"no body": {simulator.Fault{Cut: simulator.CutAfter}, func(_ string, _ *answer, err error) bool { return err != nil }},
		"endless": {simulator.Fault{Endless: true}, func(_ string, a *answer, err error) bool { return err == nil && len(a.raw) == 8<<20 }},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.fault.Op, tc.fault.Times = simulator.Download, 1
			s := start(t, simulator.Config{Faults: []simulator.Fault{tc.fault}})
			link, a, err := result(t, s)
			if !tc.check(link, a, err) {
				t.Errorf("%s: %v, %v", link, a, err)
			}
			isGLB(t, link)
		})
	}
	t.Run("private address", func(t *testing.T) {
		t.Parallel()
		const private = "http://169.254.169.254/latest"
		s := start(t, simulator.Config{Faults: []simulator.Fault{{Op: simulator.Poll, ResultURL: private}}})
		code := text(csmCreate(t, s, object{"image_url": dataURI(disc(t, 1))}), "session_code")
		if d := csmPoll(t, s, code, "session_status", "complete"); text(d, "mesh_url_glb") != private {
			t.Errorf("mesh_url_glb = %v", d["mesh_url_glb"])
		}
	})
	t.Run("a query that was changed", func(t *testing.T) {
		t.Parallel()
		s := start(t, simulator.Config{})
		link, _, _ := result(t, s)
		bare, _, _ := strings.Cut(link, "?")
		if a := must(t, bare, "", nil); a.status != 403 {
			t.Errorf("HTTP %d without the signature", a.status)
		}
	})
	t.Run("a key that was sent along", func(t *testing.T) {
		t.Parallel()
		s := start(t, simulator.Config{})
		link, _, _ := result(t, s)
		if a := must(t, link, csmKey, nil); a.status != 400 {
			t.Errorf("HTTP %d", a.status)
		}
		if v := s.Violations(); len(v) != 1 || v[0].Kind != "key" {
			t.Errorf("violations: %+v", v)
		}
	})
}

// statuses makes n calls for each image and tells which of them were hit.
func statuses(t *testing.T, f simulator.Fault, seed uint64, images, n int) [][]int {
	t.Helper()
	f.Op, f.Answer = simulator.Create, &simulator.Answer{Status: 503}
	s := start(t, simulator.Config{Seed: seed, TinyMeshes: true, Faults: []simulator.Fault{f}})
	out := make([][]int, images)
	for i := range images {
		body := object{"image_url": dataURI(disc(t, i))}
		for k := range n {
			if must(t, s.CSMBaseURL()+"/image-to-3d-sessions", csmKey, body).status == 503 {
				out[i] = append(out[i], k)
			}
		}
	}
	return out
}

func TestWhichCallsAreHit(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fault simulator.Fault
		want  [][]int
	}{
		"all":              {simulator.Fault{}, [][]int{{0, 1, 2}, {0, 1, 2}}},
		"the second":       {simulator.Fault{Skip: 1, Times: 1}, [][]int{{1}, nil}},
		"from the fifth":   {simulator.Fault{Skip: 4}, [][]int{nil, {1, 2}}},
		"first of each":    {simulator.Fault{Times: 1, Each: true}, [][]int{{0}, {0}}},
		"third of each":    {simulator.Fault{Skip: 2, Each: true}, [][]int{{2}, {2}}},
		"one image's":      {simulator.Fault{Image: sha(disc(t, 1))}, [][]int{nil, {0, 1, 2}}},
		"another op":       {simulator.Fault{Op: simulator.Poll}, [][]int{{0, 1, 2}, {0, 1, 2}}}, // statuses sets the op
		"another provider": {simulator.Fault{Provider: simulator.ModelsLab}, [][]int{nil, nil}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, statuses(t, tc.fault, 1, 2, 3)); diff != "" {
				t.Errorf("calls hit, by image (-want +got):\n%s", diff)
			}
		})
	}
}

// Chance follows the seed, and hits about the share it says.
func TestChance(t *testing.T) {
	t.Parallel()
	count := func(hit [][]int) (n int) {
		for _, h := range hit {
			n += len(h)
		}
		return n
	}
	a, b := statuses(t, simulator.Fault{Chance: 0.3}, 1, 10, 6), statuses(t, simulator.Fault{Chance: 0.3}, 1, 10, 6)
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("the same seed hits other calls:\n%s", diff)
	}
	if n := count(a); n < 8 || n > 30 {
		t.Errorf("%d of 60 calls hit, want about 18", n)
	}
	if cmp.Equal(a, statuses(t, simulator.Fault{Chance: 0.3}, 2, 10, 6)) {
		t.Error("another seed hits the same calls")
	}
}

func TestSetFaultsReplaces(t *testing.T) {
	t.Parallel()
	s := start(t, simulator.Config{Faults: []simulator.Fault{{Answer: &simulator.Answer{Status: 500}}}})
	body := object{"image_url": dataURI(disc(t, 1))}
	if a := must(t, s.CSMBaseURL()+"/image-to-3d-sessions", csmKey, body); a.status != 500 || s.Faulted() != 1 {
		t.Errorf("HTTP %d, %d faulted", a.status, s.Faulted())
	}
	s.SetFaults()
	csmCreate(t, s, body)
	s.AddFaults(simulator.Fault{Op: simulator.Create, Takes: time.Hour})
	code := text(csmCreate(t, s, body), "session_code")
	if d := must(t, s.CSMBaseURL()+"/image-to-3d-sessions/"+code, csmKey, nil).data(t); text(d, "session_status") != "queued" {
		t.Errorf("a session of an hour is %v", d["session_status"])
	}
}

// logTo makes a logger that is safe to read once the simulator is shut down.
func logTo(w io.Writer) zerolog.Logger { return zerolog.New(zerolog.SyncWriter(w)) }
