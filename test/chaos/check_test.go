//go:build chaos

package chaos

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

// settle waits until every job has ended, acts as the operator for those that
// are parked, checks everything and counts the scenario in the table. A worker
// must be running.
func (w *world) settle(patience time.Duration) {
	w.t.Helper()
	w.finish(patience, "")
}

func (w *world) finish(patience time.Duration, note string) {
	w.t.Helper()
	one, problems := w.judge(patience)
	one.note = note
	results.add(w.row, one)
	for _, p := range problems {
		w.t.Error(p)
	}
}

// judge waits for the end of all jobs and says what is wrong with it.
func (w *world) judge(patience time.Duration) (one tally, problems []string) {
	w.t.Helper()
	one = tally{runs: 1, jobs: len(w.orders)}
	open := w.await(time.Now().Add(patience))
	for range 3 { // an operator's answer can meet another fault
		if len(open) > 0 || !w.operate() {
			break
		}
		open = w.await(time.Now().Add(time.Minute))
	}
	lose := func(o *order, format string, args ...any) {
		one.lost++
		problems = append(problems, fmt.Sprintf("LOST %s (%s): %s", o.id, o.flow.name, fmt.Sprintf(format, args...)))
	}
	records := w.records()
	bought := w.bought()
	events := w.events()
	for _, o := range w.orders {
		r := records[o.id]
		for stage, list := range bought[o.image] {
			one.purchases += len(list)
			if extra := len(list) - 1; extra > 0 {
				one.double += extra
				problems = append(problems, fmt.Sprintf("DOUBLE %s (%s): %s was bought %d times: %v", o.id, o.flow.name, stage, len(list), list))
			}
		}
		switch {
		case r == nil:
			lose(o, "it has neither a record nor a message")
			continue
		case open[o.id]:
			lose(o, "it is %s after %v%s", r.State, patience, reason(r))
			continue
		case r.State != o.want:
			lose(o, "it is %s, not %s%s", r.State, o.want, reason(r))
			continue
		}
		if err := w.whole(o, r, bought[o.image], events[o.id]); err != nil {
			lose(o, "%v", err)
		}
	}
	problems = append(problems, w.leftovers()...)
	one.parked = len(w.parked)
	return one, problems
}

func reason(r *jobs.Record) string {
	if r.Error == nil {
		return ""
	}
	return ": " + r.Error.Message
}

// await waits until every job has ended or is parked and its message is gone,
// and returns the ids of those that have not.
func (w *world) await(deadline time.Time) map[string]bool {
	w.t.Helper()
	for {
		open := w.open()
		if len(open) == 0 || time.Now().After(deadline) {
			return open
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (w *world) open() map[string]bool {
	open := map[string]bool{}
	records := w.records()
	for _, o := range w.orders {
		if r := records[o.id]; r == nil || !(r.State.Final() || r.State == jobs.Parked) {
			open[o.id] = true
		}
	}
	if len(open) > 0 {
		return open
	}
	for subject := range w.subjects(w.names.JobsStream(), w.names.JobAll()) {
		open[subject[strings.LastIndexByte(subject, '.')+1:]] = true
	}
	return open
}

// call bounds a request of the test itself.
func (w *world) call() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 30*time.Second)
}

func (w *world) records() map[string]*jobs.Record {
	ctx, cancel := w.call()
	defer cancel()
	out := map[string]*jobs.Record{}
	for r, err := range w.client.List(ctx, jobs.Filter{}) {
		if err != nil {
			w.t.Errorf("list the jobs: %v", err)
			break
		}
		out[r.ID] = r
	}
	return out
}

// subjects counts a stream's messages by subject.
func (w *world) subjects(stream, filter string) map[string]uint64 {
	ctx, cancel := w.call()
	defer cancel()
	s, err := w.js.Stream(ctx, stream)
	if err == nil {
		var info *jetstream.StreamInfo
		if info, err = s.Info(ctx, jetstream.WithSubjectFilter(filter)); err == nil {
			return info.State.Subjects
		}
	}
	w.t.Errorf("read the subjects of %s: %v", stream, err)
	return nil
}

// bought is the ledger: sessions by image and stage.
func (w *world) bought() map[string]map[string][]string {
	out := map[string]map[string][]string{}
	for _, p := range w.sim.Ledger() {
		if out[p.Image] == nil {
			out[p.Image] = map[string][]string{}
		}
		out[p.Image][p.Stage] = append(out[p.Image][p.Stage], p.Session)
	}
	return out
}

// events lists the kinds of events by job, those of each attempt.
func (w *world) events() map[string][]string {
	out := map[string][]string{}
	for subject, n := range w.subjects(w.names.EventsStream(), w.names.EventAll()) {
		parts := strings.Split(subject, ".")
		if len(parts) < 4 {
			continue
		}
		kind, id := parts[len(parts)-3], parts[len(parts)-2]
		for range n {
			out[id] = append(out[id], kind)
		}
	}
	return out
}

// operate does what a person would with parked jobs, with the ledger for the
// provider's own list of sessions. It reports whether there were any.
func (w *world) operate() bool {
	w.t.Helper()
	records, bought := w.records(), w.bought()
	found := false
	for _, o := range w.orders {
		r := records[o.id]
		if r == nil || r.State != jobs.Parked || o.want == jobs.Parked {
			continue
		}
		found = true
		w.parked[o.id] = true
		// Only a call that cannot be looked up may leave a job to a person.
		if o.flow.provider == "csm" && !w.cfg.inline {
			w.t.Errorf("job %s (%s) was parked although its calls can be looked up%s", o.id, o.flow.name, reason(r))
		}
		how := jobs.Resolution{Resubmit: true}
		if sessions := bought[o.image][r.Stage]; len(sessions) > 0 {
			how = jobs.Resolution{Session: sessions[0]}
		}
		ctx, cancel := w.call()
		_, err := w.client.Resolve(ctx, o.id, how)
		cancel()
		if err != nil {
			w.t.Errorf("resolve job %s: %v", o.id, err)
		}
	}
	return found
}

var finalKinds = []string{jobs.EventCompleted, jobs.EventFailed, jobs.EventCancelled}

// whole checks a job that has ended as it should: what was bought for it, its
// one final event and its files.
func (w *world) whole(o *order, r *jobs.Record, bought map[string][]string, events []string) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	finals := slices.DeleteFunc(slices.Clone(events), func(k string) bool { return !slices.Contains(finalKinds, k) })
	if len(finals) != 1 || finals[0] != jobs.EventKind(r.State) {
		bad("it is %s, and its final events are %v", r.State, finals)
	}
	for stage, sessions := range bought {
		if !slices.Contains(o.flow.stages, stage) || slices.ContainsFunc(sessions, func(s string) bool { return s != r.Session }) {
			bad("%s was bought as %v, and the record names session %q", stage, sessions, r.Session)
		}
	}
	if r.State == jobs.Completed {
		if stages := slices.Collect(maps.Keys(bought)); len(stages) != len(o.flow.stages) {
			bad("bought was %v, not %v", stages, o.flow.stages)
		}
		if err := w.files(o, r); err != nil {
			bad("%v", err)
		}
	}
	return errors.Join(errs...)
}

// files checks that manifest and objects are there and whole.
func (w *world) files(o *order, r *jobs.Record) error {
	ctx, cancel := w.call()
	defer cancel()
	var m jobs.Manifest
	if err := w.bucket.GetJSON(ctx, jobs.ManifestKey(o.id), &m, 1<<20); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if m.ID != o.id || m.Session != r.Session || len(m.Outputs) == 0 || len(r.Outputs) != len(m.Outputs) || len(m.Missing) > 0 {
		return fmt.Errorf("the manifest does not fit the record: %+v", m)
	}
	for _, out := range m.Outputs {
		body, _, err := w.bucket.Get(ctx, out.Key)
		if err != nil {
			return fmt.Errorf("output: %w", err)
		}
		h := sha256.New()
		n, err := io.Copy(h, body)
		body.Close()
		if sum := hex.EncodeToString(h.Sum(nil)); err != nil || n != out.SizeBytes || n == 0 || sum != out.SHA256 {
			return fmt.Errorf("output %s: %d bytes with hash %s, the manifest says %d and %s: %v", out.Key, n, sum, out.SizeBytes, out.SHA256, err)
		}
	}
	var receipt jobs.Receipt
	err := w.bucket.GetJSON(ctx, jobs.ReceiptKey(o.id, r.Attempt), &receipt, 1<<20)
	if errors.Is(err, storage.ErrNotFound) && w.parked[o.id] {
		return nil // a person named the session
	}
	if err != nil || receipt.Session != r.Session {
		return fmt.Errorf("receipt: %v, it names session %q, the record %q", err, receipt.Session, r.Session)
	}
	return nil
}

// leftovers looks for what no job accounts for: sessions of nobody's, slots
// that are still taken, broken promises to the provider.
func (w *world) leftovers() []string {
	var out []string
	images := map[string]bool{}
	for _, o := range w.orders {
		images[o.image] = true
	}
	for _, p := range w.sim.Ledger() {
		if !images[p.Image] {
			out = append(out, fmt.Sprintf("session %s belongs to no job", p.Session))
		}
	}
	for _, v := range w.sim.Violations() {
		out = append(out, fmt.Sprintf("the provider complains: %s %s", v.Kind, v.Detail))
	}
	// A slot whose job ended just as its worker died is freed by the sweeper.
	deadline := time.Now().Add(40 * time.Second)
	for {
		taken := w.takenSlots()
		if len(taken) == 0 {
			return out
		}
		if time.Now().After(deadline) {
			return append(out, fmt.Sprintf("slots are still taken: %v", taken))
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func (w *world) takenSlots() []string {
	ctx, cancel := w.call()
	defer cancel()
	kv, err := w.js.KeyValue(ctx, w.names.FleetBucket())
	if err != nil {
		w.t.Errorf("fleet: %v", err)
		return nil
	}
	keys, err := kv.ListKeysFiltered(ctx, "slot.>")
	if err != nil {
		w.t.Errorf("fleet: %v", err)
		return nil
	}
	var out []string
	for key := range keys.Keys() {
		e, err := kv.Get(ctx, key)
		if err != nil {
			continue // given back just now
		}
		var v struct{ Job string }
		_ = json.Unmarshal(e.Value(), &v) // for the message only
		out = append(out, key+"="+v.Job)
	}
	return out
}
