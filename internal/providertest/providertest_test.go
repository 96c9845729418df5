package providertest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/meshmill/meshmill/internal/apicall"
	"github.com/meshmill/meshmill/internal/providertest"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// acme is a small adapter that obeys every rule but the one in breaks.
type acme struct {
	e      *apicall.Endpoint
	breaks string
}

type session struct {
	ID, Status, Message, GLB, Image string
	Percent                         float64
}

func (a *acme) Name() string { return "acme" }

func (a *acme) Catalog() jobs.Catalog {
	c := jobs.Catalog{
		Title: "Acme", FirstStage: "create", Formats: []string{"glb", "obj"},
		Options: []jobs.Option{
			{Name: "quality", Type: jobs.TypeString, Default: "low", Allowed: []any{"low", "high"}, Doc: "quality"},
			{Name: "steps", Type: jobs.TypeInt, Default: 12, Min: new(1.0), Max: new(50.0), Doc: "steps"},
			{Name: "box", Type: jobs.TypeNumbers, Length: 3, Min: new(0.0), Doc: "box"},
			{Name: "fit", Type: jobs.TypeBool, Doc: "fit into box"},
		},
		Presets: []jobs.Preset{
			{Name: "best", Doc: "best", Options: map[string]any{"quality": "high"}},
			{Name: "old", Doc: "old", Deprecated: "it is old", Options: map[string]any{"steps": 1}},
		},
	}
	if a.breaks == "default" {
		c.Options[1].Default = 99
	}
	return c
}

func (a *acme) Plan(options map[string]any, formats []string) (*jobs.Plan, error) {
	if a.breaks == "unchecked" {
		return &jobs.Plan{Formats: []string{"glb"}, Mode: "acme", SubmitTimeout: time.Minute}, nil
	}
	errs := []error{jobs.CheckOptions(options, a.Catalog().Options)}
	if options["fit"] == true && options["box"] == nil {
		errs = append(errs, &jobs.FieldError{Field: "options.fit", Problem: "needs box"})
	}
	for i, f := range formats {
		if f != "glb" && f != "obj" {
			errs = append(errs, &jobs.FieldError{Field: fmt.Sprintf("formats[%d]", i), Problem: "is unknown"})
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p := &jobs.Plan{Formats: formats, Mode: "acme", SubmitTimeout: time.Minute}
	if len(formats) == 0 {
		p.Formats = []string{"glb"}
	}
	if n, _ := jobs.Number(options["steps"]); n == 1 && a.breaks != "warning" {
		p.Warnings = []string{"old"}
	}
	return p, nil
}

func (a *acme) do(ctx context.Context, c apicall.Call) (*session, error) {
	if a.breaks == "free" {
		c.Paid = false
	}
	if a.breaks == "deadline" {
		ctx = context.WithoutCancel(ctx)
	}
	answer, err := a.e.Do(ctx, c)
	if err != nil && a.breaks == "again" {
		answer, err = a.e.Do(ctx, c)
	}
	if err != nil {
		if a.breaks == "unclassified" {
			return nil, errors.New("it broke")
		}
		return nil, err
	}
	var s session
	bad := json.Unmarshal(answer.Body, &s)
	if answer.Status > 299 {
		f := a.e.Refusal(c, answer, s.Message)
		if answer.Status == 401 && (a.breaks == "lose" && !c.Paid || a.breaks == "wrong key" && c.Paid) {
			f.Kind = jobs.Permanent
		}
		if answer.Status == 408 && a.breaks == "too late" {
			f.Kind = jobs.Retryable
		}
		return nil, f
	}
	if bad != nil || (s.ID == "" && a.breaks != "no id") {
		kind := jobs.Retryable
		if c.Paid && a.breaks != "garbage" {
			kind = jobs.Unknown
		}
		return nil, jobs.Faultf(kind, "acme: "+c.Op, "the answer names no session")
	}
	return &s, nil
}

func (a *acme) Submit(ctx context.Context, call jobs.Call) (*jobs.Session, error) {
	if _, err := a.Plan(call.Options, call.Formats); err != nil {
		return nil, &jobs.Fault{Kind: jobs.Permanent, Op: "acme: submit", Err: err}
	}
	c := apicall.Call{Op: call.Stage, Method: http.MethodPost, Path: "/" + call.Stage + call.Session, Body: map[string]any{"image": call.Image.URL}, Paid: true}
	s, err := a.do(ctx, c)
	if err != nil {
		return nil, err
	}
	return &jobs.Session{ID: s.ID, Status: a.status(s, call.Stage)}, nil
}

func (a *acme) Poll(ctx context.Context, ref jobs.Ref) (*jobs.Status, error) {
	s, err := a.do(ctx, apicall.Call{Op: "get", Method: http.MethodGet, Path: "/get/" + ref.Session})
	if err != nil {
		return nil, err
	}
	return a.status(s, ref.Stage), nil
}

func (a *acme) status(s *session, stage string) *jobs.Status {
	out := &jobs.Status{Detail: s.Status, Percent: s.Percent}
	switch s.Status {
	case "rests":
		if stage == "create" || a.breaks == "twice" {
			out.Phase, out.Next, out.NextInput = jobs.NeedsStage, "polish", json.RawMessage("{}")
		}
	case "done":
		out.Phase, out.Files = jobs.Done, []jobs.File{{Format: "glb", URL: s.GLB}}
	case "failed":
		out.Phase, out.Message = jobs.Broken, s.Message
	}
	return out
}

func (a *acme) Reconcile(ctx context.Context, call jobs.Call, _ time.Time) (*jobs.Session, error) {
	s, err := a.do(ctx, apicall.Call{Op: "find", Method: http.MethodGet, Path: "/find"})
	switch {
	case err != nil && a.breaks == "hide":
		return nil, jobs.ErrNotBought
	case err != nil:
		return nil, err
	case !strings.Contains(s.Image, call.Marker):
		return nil, fmt.Errorf("acme: %w", jobs.ErrNotBought)
	}
	return &jobs.Session{ID: s.ID}, nil
}

func harness(breaks string) providertest.Harness {
	ok := func(body string) providertest.Reply { return providertest.JSON(200, body) }
	return providertest.Harness{
		New: func(t *testing.T, base, key string) jobs.Provider {
			e, err := apicall.New("acme", base)
			if err != nil {
				t.Fatal(err)
			}
			e.Header.Set("Authorization", "Bearer "+key)
			if breaks != "leak" {
				e.Secrets = []string{key}
			}
			return &acme{e, breaks}
		},
		Image:   jobs.Delivery{URL: "https://images.example/marker-1/oak.png"},
		Options: map[string]any{"quality": "high"}, Formats: []string{"glb"},
		Session:      "S1",
		Accepted:     ok(`{"id":"S1","status":"queued"}`),
		AcceptedDone: new(ok(`{"id":"S1","status":"done","glb":"https://files.example/a.glb"}`)),
		NoID:         ok(`{"status":"queued"}`),
		Processing:   ok(`{"id":"S1","status":"busy","percent":40}`),
		Done:         ok(`{"id":"S1","status":"done","glb":"https://files.example/a.glb"}`),
		Broken:       ok(`{"id":"S1","status":"failed","message":"too dark"}`),
		Refuse: func(status int, message string) providertest.Reply {
			return providertest.JSON(status, fmt.Sprintf(`{"message":%s}`, quote(message)))
		},
		Next: "polish", Resting: ok(`{"id":"S1","status":"rests"}`), StageAccepted: ok(`{"id":"S1","status":"busy"}`),
		Lookup: &jobs.Call{Stage: "create", Marker: "marker-1"}, Found: ok(`{"id":"S1","image":"https://images.example/marker-1/oak.png"}`), Absent: ok(`{"id":"S2","image":"https://images.example/x.png"}`),
		Companions: map[string]map[string]any{"fit": {"box": []any{1.0, 1.0, 1.0}}},
	}
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

const breaksVar = "PROVIDERTEST_BREAKS"

// TestAcme runs the suite on the adapter, whole or broken as the environment
// says.
func TestAcme(t *testing.T) {
	providertest.Run(t, harness(os.Getenv(breaksVar)))
}

// TestSuiteNotices breaks the adapter, one rule at a time, and asserts that the
// suite fails, in another process, where it should.
func TestSuiteNotices(t *testing.T) {
	if os.Getenv(breaksVar) != "" {
		t.Skip("this is the other process")
	}
	t.Parallel()
	for breaks, where := range map[string]string{
		"default":      "options/steps",
		"unchecked":    "options/quality",
		"warning":      "catalog",
		"leak":         "submit/400",
		"free":         "submit/cut_after_send",
		"again":        "submit/cut_after_send",
		"deadline":     "submit/deadline_already_past",
		"unclassified": "poll/closed_port",
		"lose":         "poll/401",
		"wrong key":    "submit/401",
		"too late":     "submit/408",
		"no id":        "submit/no_id_in_the_answer",
		"garbage":      "submit/garbage",
		"twice":        "stage/resting",
		"hide":         "reconcile/500",
	} {
		t.Run(breaks, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAcme$/^"+strings.ReplaceAll(where, "/", "$/^")+"$")
			cmd.Env = append(os.Environ(), breaksVar+"="+breaks)
			out, err := cmd.CombinedOutput()
			if _, failed := errors.AsType[*exec.ExitError](err); !failed || !strings.Contains(string(out), "--- FAIL: TestAcme/"+where) {
				t.Errorf("the suite did not notice at %s: %v\n%s", where, err, out)
			}
		})
	}
}
