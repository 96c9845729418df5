package csm

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The words that CSM has for where a session stands. New ones have kept
// appearing, and count as running.
const (
	// v1 (CSM quick primer).
	StatusSpinProcessing  = "spin_generate_processing"
	StatusSpinDone        = "spin_generate_done"
	StatusSpinFailed      = "spin_generate_failed"
	StatusTrainingPreview = "training_preview"
	StatusPreviewDone     = "preview_done"
	StatusPreviewFailed   = "preview_failed"
	StatusTrainingRefine  = "training_refine"
	StatusRefineDone      = "refine_done"
	StatusRefineFailed    = "refine_failed"
	statusDone            = "done" // in an old sample of get session
	// v2 (CSM v2 create session).
	StatusQueued     = "queued"
	StatusInProgress = "in_progress"
	StatusComplete   = "complete"
	StatusFailed     = "failed"
)

// Session is what CSM says of a session, of either generation. It is foreign
// input: nothing in it has been checked. A field that CSM leaves out, or sends
// as an empty string, is zero here.
type Session struct {
	// Code names the session in calls. It is opaque.
	Code string
	// Status is session_status (v2) or else status (v1).
	Status string
	// Percent is CSM's progress, or -1 if it tells none.
	Percent float64
	// ImageURL is the image as CSM echoes it.
	ImageURL string
	// Spins are the URLs of the spin videos, by index.
	Spins []string
	// Preview, Mesh and Polished hold the URLs of preview_mesh_url_<format>,
	// mesh_url_<format> and polished_mesh_url_<format> by format, and that of the
	// field without a format under "". They may carry signatures.
	Preview, Mesh, Polished map[string]string
	// VideoURL and GIFURL are mp4_url and session_gif.
	VideoURL, GIFURL string
	// Options are the options that CSM echoes, by name.
	Options map[string]any
	// Message is what CSM says of a failure. No field for it is documented.
	Message string
	// ID, UserID and Source are CSM's own.
	ID, UserID, Source   string
	CreatedAt, UpdatedAt time.Time
}

// UnmarshalJSON reads a session object. Unknown fields are ignored, and a field
// of an unexpected type is left out: an answer that costs money is worth more
// than its form.
func (s *Session) UnmarshalJSON(data []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil || raw == nil {
		return fmt.Errorf("a session is not an object")
	}
	*s = Session{
		Code: text(raw["session_code"]), Status: first(text(raw["session_status"]), text(raw["status"])), Percent: -1,
		ImageURL: text(raw["image_url"]), VideoURL: text(raw["mp4_url"]), GIFURL: text(raw["session_gif"]),
		Message: first(text(raw["error_message"]), text(raw["error"]), text(raw["message"])),
		ID:      text(raw["_id"]), UserID: text(raw["user_id"]), Source: text(raw["source"]),
		CreatedAt: timestamp(raw["created_at"]), UpdatedAt: timestamp(raw["updated_at"]),
	}
	for _, name := range []string{"percentage", "percent_done"} {
		if f, err := strconv.ParseFloat(strings.TrimSuffix(text(raw[name]), "%"), 64); err == nil && !math.IsNaN(f) {
			s.Percent = min(max(f, 0), 100)
		}
	}
	var spins []json.RawMessage
	if json.Unmarshal(raw["spins"], &spins) == nil {
		for _, r := range spins {
			s.Spins = append(s.Spins, spin(r))
		}
	}
	for name, r := range raw {
		s.file(name, text(r))
		s.echo(name, r)
	}
	return nil
}

// spin reads {"image_url": …}, or the bare URL that CSM's webhooks have.
func spin(raw json.RawMessage) string {
	var o struct {
		ImageURL json.RawMessage `json:"image_url"`
	}
	if json.Unmarshal(raw, &o) == nil {
		return text(o.ImageURL)
	}
	return text(raw)
}

// file sorts in the URL of a field such as preview_mesh_url_glb.
func (s *Session) file(name, address string) {
	kind, format, ok := strings.Cut(name, "mesh_url")
	if !ok || address == "" || (format != "" && format[0] != '_') {
		return
	}
	var m *map[string]string
	switch kind {
	case "":
		m = &s.Mesh
	case "preview_":
		m = &s.Preview
	case "polished_":
		m = &s.Polished
	default:
		return
	}
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[strings.TrimPrefix(format, "_")] = address
}

func (s *Session) echo(name string, raw json.RawMessage) {
	for i := range catalog.Options {
		if catalog.Options[i].Name != name {
			continue
		}
		var v any
		if json.Unmarshal(raw, &v) == nil && v != nil && v != "" {
			if s.Options == nil {
				s.Options = map[string]any{}
			}
			s.Options[name] = v
		}
	}
}

// Stage is the answer of a get-3d call.
type Stage struct {
	// Scenario is the session's code.
	Scenario string
	// UniqueTrialKey is CSM's own.
	UniqueTrialKey string
	// Status is "unprocessed" in CSM's sample. GetSession tells more.
	Status string
}

// UnmarshalJSON reads the answer as tolerantly as Session's does.
func (s *Stage) UnmarshalJSON(data []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("a stage is not an object")
	}
	*s = Stage{Scenario: text(raw["scenario"]), UniqueTrialKey: text(raw["unique_trial_key"]), Status: text(raw["status"])}
	return nil
}

// text returns a JSON string, or a number as it is written; else "".
func text(raw json.RawMessage) string {
	if len(raw) == 0 {
		return ""
	}
	switch raw[0] {
	case '"':
		var s string
		if json.Unmarshal(raw, &s) == nil {
			return s
		}
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return string(raw)
	}
	return ""
}

func first(texts ...string) string {
	for _, s := range texts {
		if s != "" {
			return s
		}
	}
	return ""
}

func timestamp(raw json.RawMessage) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text(raw))
	if err != nil {
		return time.Time{}
	}
	return t
}

// webURL reports an address that may be fetched at all.
func webURL(s string) (*url.URL, bool) {
	u, err := url.Parse(s)
	if err != nil || len(s) > 8192 || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, false
	}
	return u, true
}
