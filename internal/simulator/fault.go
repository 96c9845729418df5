package simulator

import (
	"encoding/binary"
	"hash/fnv"
	"net/http"
	"time"
)

// Op is a kind of call, as faults and counters name it.
type Op string

// The calls. Create, Preview and Refine are the ones that cost money.
const (
	Create   Op = "create"   // CSM create session; ModelsLab image_to_3d
	Preview  Op = "preview"  // CSM v1 get-3d preview
	Refine   Op = "refine"   // CSM v1 get-3d refine
	Poll     Op = "poll"     // CSM get session; ModelsLab fetch
	List     Op = "list"     // CSM list sessions
	Upload   Op = "upload"   // ModelsLab base64_to_url
	Download Op = "download" // a file, of either provider
)

// Cut says where a connection is cut.
type Cut uint8

const (
	// NoCut leaves the connection alone.
	NoCut Cut = iota
	// CutUnread cuts before the request's body is read. Such a fault cannot be
	// tied to an image, and counts calls over all.
	CutUnread
	// CutBefore cuts after the request was read, before it has any effect.
	CutBefore
	// CutAfter cuts once the call has had its effect (it was billed), with
	// nothing answered.
	CutAfter
	// CutBody cuts in the middle of the answer's body.
	CutBody
)

// Answer replaces the answer of a call.
type Answer struct {
	Status int // 0 is 200
	Header http.Header
	Body   string
}

// Fault is one rule of the script. The first half says which calls it is about,
// the second what happens to them; every part left zero does not matter.
type Fault struct {
	// Provider and Op select calls; empty is any.
	Provider string
	Op       Op
	// Image selects calls about one image, by the SHA-256 of its bytes in hex.
	Image string
	// Skip lets that many selected calls pass first, and Times bounds how many
	// are hit after that; 0 is all.
	Skip, Times int
	// Each counts Skip and Times for each session (for Create and Upload: for
	// each image) instead of over all.
	Each bool
	// Chance hits a call with this probability, decided by Config.Seed and the
	// call's session or image; 0 is always.
	Chance float64

	// Delay passes before the call has its effect. It has it even if the client
	// has gone away by then, as with a real server.
	Delay time.Duration
	// Hold passes after the effect, before the answer.
	Hold time.Duration
	// Answer is given instead of the call's own. Without Billed the call has no
	// effect.
	Answer *Answer
	// Billed lets the call have its effect although Answer says otherwise.
	Billed bool
	// Cut cuts the connection. On a Download, CutBody gives a short body.
	Cut Cut
	// WrongID names another session in the answer.
	WrongID bool
	// FailStage makes the session end as failed in that stage: "spin",
	// "preview" or "refine" for CSM v1, "model" for CSM v2, "convert" for
	// ModelsLab, "any" for whatever comes first. Only on paid calls.
	FailStage string
	// Takes replaces the time of the stages bought. Only on paid calls.
	Takes time.Duration
	// ResultURL replaces every result URL in the answer, to lead a client to a
	// forbidden place. Only on polls.
	ResultURL string
	// Endless sends a body that never ends. Only on downloads.
	Endless bool
}

// rule is a Fault with its counters.
type rule struct {
	Fault
	index uint64
	seen  map[string]int
	total int
}

// SetFaults replaces the script. Counters begin anew.
func (s *Simulator) SetFaults(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = nil
	s.addFaults(faults)
}

// AddFaults appends to the script. For each call the first fault that hits it
// is used, alone.
func (s *Simulator) AddFaults(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addFaults(faults)
}

func (s *Simulator) addFaults(faults []Fault) {
	for _, f := range faults {
		s.rules = append(s.rules, &rule{Fault: f, index: uint64(len(s.rules)), seen: map[string]int{}})
	}
}

// match returns the fault that hits a call, or the zero Fault. Key is the
// session, or the image where there is no session yet.
func (s *Simulator) match(provider string, op Op, key, image string, unread bool) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rules {
		if (r.Cut == CutUnread) != unread ||
			(r.Provider != "" && r.Provider != provider) ||
			(r.Op != "" && r.Op != op) ||
			(r.Image != "" && r.Image != image) {
			continue
		}
		n := r.seen[key]
		r.seen[key]++
		count := n
		if !r.Each {
			count = r.total
		}
		r.total++
		if count < r.Skip || (r.Times > 0 && count >= r.Skip+r.Times) {
			continue
		}
		if r.Chance > 0 && roll(s.cfg.Seed, r.index, key, n) >= r.Chance {
			continue
		}
		s.faulted++
		s.cfg.Log.Info().Str("provider", provider).Str("op", string(op)).Str("session", key).Msg("simulated fault")
		return r.Fault
	}
	return Fault{}
}

// roll returns a number in [0, 1) that depends on its arguments alone, so that
// the script does not depend on how concurrent calls interleave.
func roll(seed, rule uint64, key string, n int) float64 {
	h := fnv.New64a()
	var b [24]byte
	binary.LittleEndian.PutUint64(b[0:], seed)
	binary.LittleEndian.PutUint64(b[8:], rule)
	binary.LittleEndian.PutUint64(b[16:], uint64(n))
	_, _ = h.Write(b[:])
	_, _ = h.Write([]byte(key))
	x := h.Sum64()
	// FNV leaves its high bits poorly mixed for short input.
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}
