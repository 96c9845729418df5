package simulator

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (s *Simulator) csmRoutes(mux *http.ServeMux) {
	const root = CSMPath + "/image-to-3d-sessions"
	mux.HandleFunc("POST "+root, s.api(CSM, Create, s.csmCreate))
	mux.HandleFunc("GET "+root, s.api(CSM, List, s.csmList))
	mux.HandleFunc("GET "+root+"/{code}", s.api(CSM, Poll, s.csmGet))
	mux.HandleFunc("POST "+root+"/get-3d/preview/{code}", s.api(CSM, Preview, s.csmPreview))
	mux.HandleFunc("POST "+root+"/get-3d/refine/{code}", s.api(CSM, Refine, s.csmRefine))
}

// envelope is what every CSM v1 and v2 answer comes in: v1 create session,
// Response. "error" is an empty string on success.
type envelope struct {
	Error      string `json:"error"`
	Message    string `json:"message"`
	StatusCode int    `json:"statusCode"`
	Data       any    `json:"data"`
}

func csmOK(status int, message string, data any) reply {
	return asJSON(status, envelope{Message: message, StatusCode: status, Data: data})
}

// csmError follows the success shape; the documents show no error.
func csmError(status int, format string, args ...any) reply {
	return asJSON(status, envelope{Error: http.StatusText(status), Message: fmt.Sprintf(format, args...), StatusCode: status, Data: map[string]any{}})
}

// csmAuth checks the key and returns it.
func (s *Simulator) csmAuth(r *http.Request) (string, bool) {
	key := r.Header.Get("X-Api-Key")
	return key, key != "" && (s.cfg.CSMKey == "" || key == s.cfg.CSMKey)
}

// csmCall reads a stage call or a create call: key, then a JSON object.
func (s *Simulator) csmCall(r *http.Request) (key string, body map[string]any, refusal *reply) {
	key, ok := s.csmAuth(r)
	if !ok {
		return "", nil, new(csmError(http.StatusUnauthorized, "Unauthorized"))
	}
	dec := json.NewDecoder(r.Body)
	if err := dec.Decode(&body); err != nil || body == nil {
		return "", nil, new(csmError(http.StatusBadRequest, "the body is not a JSON object"))
	}
	return key, body, nil
}

type check func(v any) bool

func isBool(v any) bool { _, ok := v.(bool); return ok }

func oneOf(words ...string) check {
	return func(v any) bool { s, ok := v.(string); return ok && slices.Contains(words, s) }
}

func oneNumber(list ...float64) check {
	return func(v any) bool { f, ok := v.(float64); return ok && slices.Contains(list, f) }
}

func three(least, most float64) check {
	return func(v any) bool {
		list, ok := v.([]any)
		return ok && len(list) == 3 && !slices.ContainsFunc(list, func(e any) bool {
			f, ok := e.(float64)
			return !ok || f < least || f > most
		})
	}
}

// The fields of each generation: v1 create session, Parameters, and v2 create
// session, Parameters. generate_preview_mesh and manual_segmentation are known
// from the vendor's own client.
var (
	bothFields = map[string]check{
		"topology": oneOf("tris", "quads"), "resolution": oneOf("low_poly", "high_poly"),
		"scaled_bbox": three(-1, 1e6), "pivot_point": three(-0.5, 0.5), "manual_segmentation": isBool,
	}
	v1Fields = map[string]check{
		"creativity": oneOf("lowest", "moderate", "highest"), "generate_texture": isBool, "auto_refine": isBool,
		"refine_speed": oneOf("slow", "fast"), "preview_mesh": oneOf("fast_sculpt", "turbo"),
		"texture_resolution": oneNumber(128, 256, 512, 1024, 2048), "generate_preview_mesh": isBool,
	}
	v2Fields = map[string]check{
		"geometry_model": oneOf("base", "turbo"), "texture_model": oneOf("none", "baked", "pbr"),
		"preserve_aspect_ratio": isBool, "symmetry": oneOf("auto", "on", "off"),
	}
)

// csmOptions checks a create body and tells its generation. Real servers ignore
// unknown fields; this one refuses them, since they are mistakes of the client.
func csmOptions(body map[string]any) (generation, error) {
	var v1, v2 []string
	for _, name := range slices.Sorted(maps.Keys(body)) {
		ok := bothFields[name]
		switch {
		case name == "image_url":
			continue
		case v1Fields[name] != nil:
			ok, v1 = v1Fields[name], append(v1, name)
		case v2Fields[name] != nil:
			ok, v2 = v2Fields[name], append(v2, name)
		case ok == nil:
			return "", fmt.Errorf("%s is not a known parameter", name)
		}
		if !ok(body[name]) {
			return "", fmt.Errorf("%s has a value that is not allowed", name)
		}
	}
	switch {
	case len(v1) > 0 && len(v2) > 0:
		return "", fmt.Errorf("%s and %s cannot be used together", v1[0], v2[0])
	case len(v1) > 0:
		return csmV1, nil
	}
	return csmV2, nil
}

func (s *Simulator) csmCreate(w http.ResponseWriter, r *http.Request) {
	none := &Fault{}
	key, body, refusal := s.csmCall(r)
	if refusal != nil {
		s.perform(w, none, func() reply { return *refusal })
		return
	}
	gen, err := csmOptions(body)
	ref, _ := body["image_url"].(string)
	var img *picture
	if err == nil {
		if img, err = s.take(r.Context(), ref); err != nil {
			err = fmt.Errorf("image_url %w", err)
		}
	}
	if err != nil {
		s.perform(w, none, func() reply { return csmError(http.StatusBadRequest, "%v", err) })
		return
	}
	delete(body, "image_url")
	f := s.match(CSM, Create, img.sha, img.sha, false)
	s.perform(w, &f, func() reply {
		ss := &session{Provider: CSM, Gen: gen, Options: body, Image: img.sha, Media: img.media, ImageURL: img.url}
		err := s.buy(Create, ss, keyEnd(key), func(ss *session, now time.Time) {
			ss.plan(now, &s.cfg.Durations, s.cfg.Seed, &f, s.csmFirstSteps(ss)...)
		})
		if err != nil {
			return csmRefused(err)
		}
		return csmOK(http.StatusCreated, "Created", s.csmData(ss, r, &f, true))
	})
}

func csmRefused(err error) reply {
	if errors.Is(err, errLimit) {
		return csmError(http.StatusTooManyRequests, "Too many requests: %v", err)
	}
	return csmError(http.StatusInternalServerError, "the simulator is broken: %v", err)
}

// csmFirstSteps are the steps that a new session takes without a further call.
func (s *Simulator) csmFirstSteps(ss *session) []string {
	if ss.Gen == csmV2 {
		return []string{stepModel}
	}
	if ss.flag("generate_preview_mesh") {
		return afterPreview(ss)
	}
	if s.cfg.CSMAutoPreview {
		return append([]string{stepSpin}, afterPreview(ss)...)
	}
	return []string{stepSpin}
}

func afterPreview(ss *session) []string {
	if ss.flag("auto_refine") {
		return []string{stepPreview, stepRefine}
	}
	return []string{stepPreview}
}

func (s *Simulator) csmGet(w http.ResponseWriter, r *http.Request) {
	none := &Fault{}
	if _, ok := s.csmAuth(r); !ok {
		s.perform(w, none, func() reply { return csmError(http.StatusUnauthorized, "Unauthorized") })
		return
	}
	ss := s.find(CSM, r.PathValue("code"))
	if ss == nil {
		s.perform(w, none, func() reply { return csmError(http.StatusNotFound, "Session not found") })
		return
	}
	f := s.match(CSM, Poll, ss.Code, ss.Image, false)
	s.perform(w, &f, func() reply { return csmOK(http.StatusOK, "Retrieved", s.csmData(ss, r, &f, false)) })
}

// csmList shows the newest sessions first. The documents contradict each other
// on what page counts; here it counts pages from 1, and 0 is 1 too.
func (s *Simulator) csmList(w http.ResponseWriter, r *http.Request) {
	f := s.match(CSM, List, "", "", false)
	s.perform(w, &f, func() reply {
		if _, ok := s.csmAuth(r); !ok {
			return csmError(http.StatusUnauthorized, "Unauthorized")
		}
		limit, page := 10, 1
		for name, p := range map[string]*int{"limit": &limit, "page": &page} {
			if v := r.URL.Query().Get(name); v != "" {
				n, err := strconv.Atoi(v)
				if err != nil || n < 0 || n > 1e6 {
					return csmError(http.StatusBadRequest, "%s must be a number", name)
				}
				*p = n
			}
		}
		limit = min(max(limit, 1), 100)
		first := (max(page, 1) - 1) * limit
		results := []any{}
		for i, ss := range s.listed() {
			if i >= first && len(results) < limit {
				results = append(results, s.csmData(ss, r, &f, false))
			}
		}
		return csmOK(http.StatusOK, "Retrieved", map[string]any{"results": results})
	})
}

func (s *Simulator) listed() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*session
	before := time.Now().Add(-s.cfg.ListLag)
	for _, ss := range s.sessions {
		if ss.Provider == CSM && !ss.CreatedAt.After(before) {
			all = append(all, ss.clone())
		}
	}
	slices.SortFunc(all, func(a, b *session) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(b.Code, a.Code))
	})
	return all
}

func (s *Simulator) csmPreview(w http.ResponseWriter, r *http.Request) {
	s.csmStage(w, r, Preview, func(ss *session, body map[string]any, now time.Time) error {
		if !ss.done(stepSpin, now) {
			return errors.New("the spins of this session are not done")
		}
		// get-3d preview, Parameters: both are required for turbo, and for no
		// other preview_mesh.
		index, hasIndex := body["selected_spin_index"]
		spin, hasSpin := body["selected_spin"]
		if ss.text("preview_mesh", "fast_sculpt") == "turbo" && (!hasIndex || !hasSpin) {
			return errors.New("selected_spin_index and selected_spin are required for turbo")
		}
		n := 0.0
		if hasIndex {
			if !oneNumber(0, 1, 2, 3)(index) {
				return errors.New("selected_spin_index must be 0, 1, 2 or 3")
			}
			n, _ = index.(float64)
		}
		if hasSpin {
			text, _ := spin.(string)
			if !strings.HasSuffix(withoutQuery(text), fmt.Sprintf("%s%s/spin_%d.mp4", csmFilePath, ss.Code, int(n))) {
				return errors.New("selected_spin is not the spin of that index")
			}
		}
		return nil
	}, afterPreview)
}

func (s *Simulator) csmRefine(w http.ResponseWriter, r *http.Request) {
	s.csmStage(w, r, Refine, func(ss *session, _ map[string]any, now time.Time) error {
		if !ss.done(stepPreview, now) {
			return errors.New("the preview of this session is not done")
		}
		return nil
	}, func(*session) []string { return []string{stepRefine} })
}

// csmStage is a paid call that moves a v1 session on. A second call for a stage
// that runs or is done is not refused but billed again and starts it anew: the
// documents promise nothing better.
func (s *Simulator) csmStage(w http.ResponseWriter, r *http.Request, op Op,
	allowed func(ss *session, body map[string]any, now time.Time) error, steps func(*session) []string) {
	none := &Fault{}
	key, body, refusal := s.csmCall(r)
	ss := s.find(CSM, r.PathValue("code"))
	switch {
	case refusal != nil:
	case ss == nil || ss.Gen != csmV1:
		refusal = new(csmError(http.StatusNotFound, "Session not found"))
	default:
		if err := errors.Join(stageFields(op, body), allowed(ss, body, time.Now())); err != nil {
			refusal = new(csmError(http.StatusBadRequest, "%v", err))
		}
	}
	if refusal != nil {
		s.perform(w, none, func() reply { return *refusal })
		return
	}
	f := s.match(CSM, op, ss.Code, ss.Image, false)
	s.perform(w, &f, func() reply {
		err := s.buy(op, ss, keyEnd(key), func(ss *session, now time.Time) {
			ss.plan(now, &s.cfg.Durations, s.cfg.Seed, &f, steps(ss)...)
			for _, name := range []string{"scaled_bbox", "pivot_point"} {
				if v, ok := body[name]; ok {
					ss.Shape = withOption(ss.Shape, name, v)
				}
			}
		})
		if err != nil {
			return csmRefused(err)
		}
		return csmOK(http.StatusOK, "Generating Mesh", stageData(ss, &f))
	})
}

// stageFields checks the body of a stage call: get-3d preview, Parameters.
func stageFields(op Op, body map[string]any) error {
	for _, name := range slices.Sorted(maps.Keys(body)) {
		switch ok := bothFields[name]; {
		case (name == "selected_spin_index" || name == "selected_spin") && op == Preview:
		case name != "scaled_bbox" && name != "pivot_point":
			return fmt.Errorf("%s is not a known parameter", name)
		case !ok(body[name]):
			return fmt.Errorf("%s has a value that is not allowed", name)
		}
	}
	return nil
}
