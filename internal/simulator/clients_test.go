package simulator_test

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/meshmill/meshmill/internal/simulator"
	"github.com/meshmill/meshmill/pkg/csm"
	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/modelslab"
)

// refOf is how the session of a call is polled.
func refOf(call jobs.Call, session string) jobs.Ref {
	return jobs.Ref{Session: session, Stage: call.Stage, Options: call.Options, Formats: call.Formats}
}

// finish buys a conversion as a worker does, with every stage it needs, and
// returns the result and the stages bought.
func finish(t *testing.T, p jobs.Provider, call jobs.Call) (*jobs.Status, []string) {
	t.Helper()
	plan, err := p.Plan(call.Options, call.Formats)
	if err != nil {
		t.Fatal(err)
	}
	call.Formats = plan.Formats
	var bought []string
	for {
		s, err := p.Submit(t.Context(), call)
		if err != nil {
			t.Fatalf("submit %s: %v", call.Stage, err)
		}
		bought = append(bought, call.Stage)
		st := s.Status
		for st == nil || st.Phase == jobs.InProgress {
			if st, err = p.Poll(t.Context(), refOf(call, s.ID)); err != nil {
				t.Fatalf("poll after %s: %v", call.Stage, err)
			}
		}
		if st.Phase != jobs.NeedsStage {
			return st, bought
		}
		call.Session, call.Stage, call.Input = s.ID, st.Next, st.NextInput
	}
}

// The real clients understand the simulator in every preset, and what they bought
// is what the ledger says.
func TestRealClients(t *testing.T) {
	t.Parallel()
	for _, name := range []string{simulator.CSM, simulator.ModelsLab} {
		catalog := provider(t, name, start(t, simulator.Config{})).Catalog()
		presets := append(slices.Clone(catalog.Presets), jobs.Preset{Name: "no options"})
		for _, preset := range presets {
			t.Run(name+"/"+preset.Name, func(t *testing.T) {
				t.Parallel()
				s := start(t, simulator.Config{})
				p := provider(t, name, s)
				st, bought := finish(t, p, jobs.Call{Stage: catalog.FirstStage, Marker: "m1", Image: delivery(t, p, disc(t, 1)), Options: preset.Options})
				if st.Phase != jobs.Done || len(st.Files) == 0 {
					t.Fatalf("ended as %+v", st)
				}
				for _, f := range st.Files {
					if a := must(t, f.URL, "", nil); a.status != 200 || len(a.raw) < 500 {
						t.Errorf("%s: HTTP %d, %d bytes", f.Format, a.status, len(a.raw))
					}
				}
				var ledger []string
				for _, l := range s.Ledger() {
					ledger = append(ledger, l.Stage)
				}
				if len(ledger) != len(bought) || len(s.Violations()) != 0 {
					t.Errorf("bought %v, ledger %v, violations %v", bought, ledger, s.Violations())
				}
			})
		}
	}
}

func provider(t *testing.T, name string, s *simulator.Simulator) jobs.Provider {
	t.Helper()
	if name == simulator.CSM {
		c, err := csm.New(csm.Config{Key: csmKey, BaseURL: s.CSMBaseURL()})
		if err != nil {
			t.Fatal(err)
		}
		return csm.NewProvider(c)
	}
	c, err := modelslab.New(modelslab.Config{Key: labKey, BaseURL: s.ModelsLabBaseURL()})
	if err != nil {
		t.Fatal(err)
	}
	return modelslab.NewProvider(c)
}

func delivery(t *testing.T, p jobs.Provider, image []byte) jobs.Delivery {
	t.Helper()
	if u, ok := p.(jobs.Uploader); ok {
		link, err := u.Upload(t.Context(), image, "image/png")
		if err != nil {
			t.Fatal(err)
		}
		return jobs.Delivery{URL: link}
	}
	return jobs.Delivery{Bytes: image, MediaType: "image/png"}
}

// How the real clients judge the faults: money that may have been spent is
// Unknown, everything else is not.
func TestRealClientsUnderFaults(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fault simulator.Fault
		want  jobs.Kind
	}{
		"429":       {simulator.Fault{Answer: &simulator.Answer{Status: 429}}, jobs.Retryable},
		"401":       {simulator.Fault{Answer: &simulator.Answer{Status: 401}}, jobs.Retryable},
		"500":       {simulator.Fault{Answer: &simulator.Answer{Status: 500}}, jobs.Unknown},
		"lost":      {simulator.Fault{Cut: simulator.CutAfter}, jobs.Unknown},
		"half":      {simulator.Fault{Cut: simulator.CutBody}, jobs.Unknown},
		"garbage":   {simulator.Fault{Answer: &simulator.Answer{Status: 201, Body: "<html>"}, Billed: true}, jobs.Unknown},
		"no answer": {simulator.Fault{Answer: &simulator.Answer{Status: 201}, Billed: true}, jobs.Unknown},
	}
	for name, tc := range tests {
		for _, which := range []string{simulator.CSM, simulator.ModelsLab} {
			t.Run(which+"/"+name, func(t *testing.T) {
				t.Parallel()
				f := tc.fault
				f.Op = simulator.Create
				s := start(t, simulator.Config{Faults: []simulator.Fault{f}})
				p := provider(t, which, s)
				_, err := p.Submit(t.Context(), jobs.Call{Stage: p.Catalog().FirstStage, Marker: "m", Image: delivery(t, p, disc(t, 1)), Formats: []string{"glb"}})
				if err == nil || jobs.KindOf(err) != tc.want {
					t.Errorf("%v is %v, want %v", err, jobs.KindOf(err), tc.want)
				}
			})
		}
	}
}

// A CSM session whose answer was lost is found again by its marker.
func TestRealReconcile(t *testing.T) {
	t.Parallel()
	pictures := servePicture(t, disc(t, 5))
	s := start(t, simulator.Config{Faults: []simulator.Fault{{Op: simulator.Create, Cut: simulator.CutAfter, Times: 1}}})
	p := provider(t, simulator.CSM, s)
	r, ok := p.(jobs.Reconciler)
	if !ok {
		t.Fatal("the CSM provider reconciles nothing")
	}
	since := time.Now().Add(-time.Second)
	call := jobs.Call{Stage: p.Catalog().FirstStage, Marker: "meshmill.job1.a1.", Image: jobs.Delivery{URL: pictures + "/a.png?marker=meshmill.job1.a1."}, Formats: []string{"glb"}}
	if _, err := p.Submit(t.Context(), call); jobs.KindOf(err) != jobs.Unknown {
		t.Fatalf("submit: %v", err)
	}
	found, err := r.Reconcile(t.Context(), call, since)
	if err != nil || found.ID != s.Ledger()[0].Session {
		t.Errorf("found %+v, %v; ledger %+v", found, err, s.Ledger())
	}
	call.Marker, call.Image.URL = "meshmill.job2.a1.", pictures+"/a.png?marker=meshmill.job2.a1."
	if _, err := r.Reconcile(t.Context(), call, since); !errors.Is(err, jobs.ErrNotBought) {
		t.Errorf("another job: %v", err)
	}
}

// Faults come from a JSON file when a whole worker is tested from outside.
func TestFaultsFromJSON(t *testing.T) {
	t.Parallel()
	var f []simulator.Fault
	if err := json.Unmarshal([]byte(`[{"op":"create","times":1,"answer":{"status":503}}]`), &f); err != nil {
		t.Fatal(err)
	}
	s := start(t, simulator.Config{Faults: f})
	if a := must(t, s.CSMBaseURL()+"/image-to-3d-sessions", csmKey, object{"image_url": dataURI(disc(t, 1))}); a.status != 503 {
		t.Errorf("HTTP %d", a.status)
	}
}
