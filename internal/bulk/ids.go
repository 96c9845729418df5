package bulk

import (
	"crypto/sha256"
	"iter"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// IDs is a list of ids that takes about as much memory as their text: a call
// may have a hundred thousand. Its zero value is empty. It is not safe for
// concurrent use.
type IDs struct {
	text []byte
	ends []uint32
}

// Add appends an id.
func (l *IDs) Add(id string) {
	l.text = append(l.text, id...)
	l.ends = append(l.ends, uint32(len(l.text))) // 4 GiB of ids is more than a call can have
}

// Len returns the number of ids.
func (l *IDs) Len() int { return len(l.ends) }

// At returns the i-th id.
func (l *IDs) At(i int) string {
	from := uint32(0)
	if i > 0 {
		from = l.ends[i-1]
	}
	return string(l.text[from:l.ends[i]])
}

// All yields the ids in their order.
func (l *IDs) All() iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		for i := range l.ends {
			if !yield(i, l.At(i)) {
				return
			}
		}
	}
}

// fingerprint stands for an id, or for what an id is made of, in a set.
type fingerprint [16]byte

func fingerprintOf(id string) fingerprint {
	sum := sha256.Sum256([]byte(id))
	return fingerprint(sum[:16])
}

// nameMemory is how many names of images are kept for messages.
const nameMemory = 10_000

// seen finds ids that occur twice in one call.
type seen struct {
	at    map[fingerprint]uint32
	names []string
}

// add reports whether the id is new. If it is not, first names the image that
// it came with.
func (s *seen) add(id, name string) (first string, again bool) {
	if s.at == nil {
		s.at = map[fingerprint]uint32{}
	}
	key := fingerprintOf(id)
	n, again := s.at[key]
	switch {
	case again && int(n) < len(s.names):
		return s.names[n], true
	case again:
		return "an earlier image", true
	}
	s.at[key] = uint32(len(s.at))
	if len(s.names) < nameMemory {
		s.names = append(s.names, name)
	}
	return "", false
}

// Waiting is what people read of a job whose paid call was refused for now:
// "submitting" would sound as if money were being spent.
const Waiting jobs.State = "waiting"

// Shown is a job's state as people read it.
func Shown(r *jobs.Record) jobs.State {
	if r.Waiting() {
		return Waiting
	}
	return r.State
}

// shownStates gives each state that is shown a number.
var shownStates = append(append([]jobs.State{}, jobs.States...), Waiting)

// Tracker knows the shown state of each of many jobs. Its zero value knows
// none. It is not safe for concurrent use.
type Tracker struct {
	at   map[fingerprint]uint8
	open int
}

// Len returns the number of jobs, Open that of those which do not rest.
func (t *Tracker) Len() int  { return len(t.at) }
func (t *Tracker) Open() int { return t.open }

// Has reports whether a job is tracked.
func (t *Tracker) Has(id string) bool {
	_, ok := t.at[fingerprintOf(id)]
	return ok
}

// Add begins to track a job as queued, and reports whether it is new.
func (t *Tracker) Add(id string) bool {
	if t.at == nil {
		t.at = map[fingerprint]uint8{}
	}
	key := fingerprintOf(id)
	if _, known := t.at[key]; known {
		return false
	}
	t.at[key] = 0 // Queued
	t.open++
	return true
}

// Move takes in a record, and returns the state that was shown before. Ours is
// false for a job that is not tracked.
func (t *Tracker) Move(r *jobs.Record) (before jobs.State, ours bool) {
	key := fingerprintOf(r.ID)
	n, ours := t.at[key]
	if !ours {
		return "", false
	}
	before = shownStates[n]
	now := Shown(r)
	for i, s := range shownStates {
		if s == now {
			t.at[key] = uint8(i)
		}
	}
	switch {
	case Rests(now) && !Rests(before):
		t.open--
	case !Rests(now) && Rests(before):
		t.open++
	}
	return before, true
}
