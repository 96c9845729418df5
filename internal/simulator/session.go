package simulator

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// generation is the wire shape that a session was bought with.
type generation string

const (
	csmV1 generation = "v1"
	csmV2 generation = "v2"
	lab   generation = "modelslab"
)

// The steps of a session, as Fault.FailStage names them.
const (
	stepSpin    = "spin"
	stepPreview = "preview"
	stepRefine  = "refine"
	stepModel   = "model"
	stepConvert = "convert"
)

// session is what was bought. Its progress is a function of the clock, so that
// nothing needs to run for it, and it survives a restart.
type session struct {
	Provider string     `json:"provider"`
	Code     string     `json:"code"`
	Gen      generation `json:"gen"`
	// Options are the body of the create call without key and image.
	Options map[string]any `json:"options"`
	Image   string         `json:"image_sha256"`
	Media   string         `json:"media_type"`
	// ImageURL is as it was sent, which is what the providers' lists show; empty
	// for an inline image.
	ImageURL  string    `json:"image_url,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	Steps     []step    `json:"steps"`
	FailStage string    `json:"fail_stage,omitempty"`
	// Shape is what stage calls said about size and origin; it overrides Options.
	Shape     map[string]any `json:"shape,omitempty"`
	Purchases []Purchase     `json:"purchases"`
}

// step is one stage of the work. Steps that follow each other without a call
// are planned when the first of them is bought.
type step struct {
	Name   string        `json:"name"`
	Begins time.Time     `json:"begins"`
	Takes  time.Duration `json:"takes_ns"`
	Fails  bool          `json:"fails,omitempty"`
}

func (p step) ends() time.Time { return p.Begins.Add(p.Takes) }

// progress is where a session stands.
type progress struct {
	step     string
	running  bool
	failed   bool
	fraction float64 // of the step, 0 to 1
}

func (ss *session) at(now time.Time) progress {
	var p progress
	for _, st := range ss.Steps {
		if now.Before(st.Begins) {
			break
		}
		p = progress{step: st.Name, running: now.Before(st.ends()), fraction: 1}
		if p.running {
			p.fraction = float64(now.Sub(st.Begins)) / float64(st.Takes)
		} else {
			p.failed = st.Fails
		}
	}
	return p
}

// done reports whether a step of that name has ended well.
func (ss *session) done(name string, now time.Time) bool {
	return slices.ContainsFunc(ss.Steps, func(st step) bool {
		return st.Name == name && !st.Fails && !now.Before(st.ends())
	})
}

// busyUntil is when the last planned step ends.
func (ss *session) busyUntil() time.Time {
	if len(ss.Steps) == 0 {
		return time.Time{}
	}
	return ss.Steps[len(ss.Steps)-1].ends()
}

// plan appends steps that follow each other, the first of them from now on. It
// ends with the first that is to fail.
func (ss *session) plan(now time.Time, d *Durations, seed uint64, f *Fault, names ...string) {
	if f.FailStage != "" {
		ss.FailStage = f.FailStage
	}
	begins := now
	for i, name := range names {
		takes := ss.takes(d, seed, name)
		if f.Takes > 0 {
			takes = f.Takes
		}
		if i > 0 {
			// A rest between chained stages, in which the status says
			// preview_done although the session is not: the trap of auto_refine.
			begins = begins.Add(takes / 10)
		}
		st := step{Name: name, Begins: begins, Takes: takes, Fails: ss.FailStage == name || ss.FailStage == "any"}
		ss.Steps = append(ss.Steps, st)
		if st.Fails {
			return
		}
		begins = st.ends()
	}
}

func (ss *session) takes(d *Durations, seed uint64, name string) time.Duration {
	span := map[string]Span{stepSpin: d.Spin, stepPreview: d.Preview, stepRefine: d.Refine, stepModel: d.Model, stepConvert: d.Convert}[name]
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return span.Min + time.Duration(roll(seed, h.Sum64(), ss.Code, len(ss.Steps))*float64(span.Max-span.Min))
}

func (ss *session) text(option, otherwise string) string {
	if s, ok := ss.Options[option].(string); ok {
		return s
	}
	return otherwise
}

func (ss *session) flag(option string) bool {
	b, _ := ss.Options[option].(bool)
	return b
}

func (ss *session) number(option string, otherwise float64) float64 {
	if f, ok := ss.Options[option].(float64); ok {
		return f
	}
	return otherwise
}

func (ss *session) numbers(option string) []float64 {
	list, ok := ss.Shape[option].([]any)
	if !ok {
		list, _ = ss.Options[option].([]any)
	}
	var out []float64
	for _, v := range list {
		f, ok := v.(float64)
		if !ok {
			return nil
		}
		out = append(out, f)
	}
	return out
}

func (ss *session) clone() *session {
	c := *ss
	c.Steps, c.Purchases, c.Options = slices.Clone(ss.Steps), slices.Clone(ss.Purchases), maps.Clone(ss.Options)
	return &c
}

// digest identifies options; encoding/json sorts the keys.
func digest(options map[string]any) string {
	raw, err := json.Marshal(options)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}

// find returns a copy of a session, or nil.
func (s *Simulator) find(provider, code string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ss := s.sessions[code]; ss != nil && ss.Provider == provider {
		return ss.clone()
	}
	return nil
}

// errLimit refuses a purchase that the account's limit has no room for.
var errLimit = errors.New("too many sessions in progress")

// buy makes a paid call take effect: it opens the session if it is new (its Code
// is empty), plans its next steps, and writes both to disk and to the ledger
// before it returns. The session is the caller's own copy, and is brought up to
// date. Prepare adds the steps.
func (s *Simulator) buy(op Op, ss *session, keyEnd string, prepare func(ss *session, now time.Time)) error {
	bought, err := s.open(op, ss, keyEnd, prepare)
	if err != nil {
		return err
	}
	s.cfg.Log.Info().Str("provider", bought.Provider).Str("stage", bought.Stage).Str("session", bought.Session).Msg("simulated purchase")
	return s.ledger.add(bought)
}

func (s *Simulator) open(op Op, ss *session, keyEnd string, prepare func(ss *session, now time.Time)) (Purchase, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	limit := s.cfg.CSMLimit
	if ss.Provider == ModelsLab {
		limit = s.cfg.ModelsLabLimit
	}
	busy := s.busyNow(ss.Provider, ss.Code, now)
	if limit > 0 && busy >= limit {
		s.violate(Violation{Time: now, Provider: ss.Provider, Kind: "limit", Detail: fmt.Sprintf("%s with %d sessions in progress, the limit is %d", op, busy, limit)})
		return Purchase{}, errLimit
	}
	if ss.Code == "" {
		ss.Code, ss.CreatedAt = s.newCode(ss.Gen, now), now.UTC()
	} else if current := s.sessions[ss.Code]; current != nil {
		*ss = *current.clone()
	}
	prepare(ss, now)
	bought := Purchase{
		Time: now.UTC(), Provider: ss.Provider, Stage: string(op), Session: ss.Code, Image: ss.Image,
		Options: digest(ss.Options), Marker: withoutQuery(ss.ImageURL), KeyEnd: keyEnd,
	}
	ss.Purchases = append(ss.Purchases, bought)
	// The session goes to disk first. The ledger line is made again from it if
	// the process dies in between; see load.
	if err := s.save(ss); err != nil {
		return Purchase{}, err
	}
	s.sessions[ss.Code] = ss.clone()
	if ss.Gen == lab {
		s.files[fileID(ss.Code)] = ss.Code
	}
	s.busy[ss.Provider][ss.Code] = ss.busyUntil()
	s.peak[ss.Provider] = max(s.peak[ss.Provider], busy+1)
	return bought, nil
}

// busyNow counts the sessions in progress, other than one.
func (s *Simulator) busyNow(provider, except string, now time.Time) int {
	n := 0
	for code, until := range s.busy[provider] {
		switch {
		case !now.Before(until):
			delete(s.busy[provider], code)
		case code != except:
			n++
		}
	}
	return n
}

// newCode makes up a session's name in the provider's form: CSM v1 create
// session, Response ("SESSION_<unix>_<7 digits>"); ModelsLab image_to_3d,
// Response (a whole number).
func (s *Simulator) newCode(gen generation, now time.Time) string {
	for {
		var code string
		if gen == lab {
			code = fmt.Sprint(100_000_000 + s.rng.IntN(900_000_000))
		} else {
			code = fmt.Sprintf("SESSION_%d_%07d", now.Unix(), s.rng.IntN(10_000_000))
		}
		if s.sessions[code] == nil {
			return code
		}
	}
}

func (s *Simulator) save(ss *session) error {
	if s.cfg.Dir == "" {
		return nil
	}
	raw, err := json.Marshal(ss)
	if err != nil {
		return fmt.Errorf("simulator: save session: %w", err)
	}
	return writeFile(filepath.Join(s.root, "sessions", ss.Code+".json"), raw)
}

// load reads the sessions of an earlier simulator on the same folder.
func (s *Simulator) load() error {
	dir := filepath.Join(s.root, "sessions")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("simulator: read the sessions: %w", err)
	}
	type call struct {
		session, stage string
		at             int64
	}
	have := map[call]bool{}
	for _, p := range s.ledger.list() {
		have[call{p.Session, p.Stage, p.Time.UnixNano()}] = true
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return fmt.Errorf("simulator: read the sessions: %w", err)
		}
		var ss session
		if err := json.Unmarshal(raw, &ss); err != nil || ss.Code+".json" != e.Name() || s.busy[ss.Provider] == nil {
			return fmt.Errorf("simulator: %s is not a session of this simulator; remove it", e.Name())
		}
		s.sessions[ss.Code] = &ss
		s.busy[ss.Provider][ss.Code] = ss.busyUntil()
		if ss.Gen == lab {
			s.files[fileID(ss.Code)] = ss.Code
		}
		for _, p := range ss.Purchases {
			if !have[call{p.Session, p.Stage, p.Time.UnixNano()}] {
				if err := s.ledger.add(p); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// writeFile replaces a file as a whole.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("simulator: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("simulator: %w", err)
	}
	return nil
}
