package simulation

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// checker holds what happens against the promises. Each violation text begins
// with the promise.
type checker struct {
	s          *sim
	jobs       []*history
	violations []string
	swept1     int  // jobs that the sweeper had to put back
	reclaimed1 int  // slots that it had to take back
	dropped    bool // the broker has lost everything, slots included
	// robbed: a worker stood still between seeing that a job was its own and
	// freeing the job's slot, and freed that of the job's next owner.
	robbed bool
}

// history is what is known of one job.
type history struct {
	id      string
	key     string // of its image
	flow    *flow
	request jobs.Request
	sales   []sale
	// more is how many purchases of a stage the policy or a person has allowed
	// beyond the first.
	more int
	// finals holds the final events by attempt.
	finals map[int]jobs.State
	events map[string]bool
	parked bool // ever
	closed bool // parked or ended, ever
	edited bool // by a client, ever
	// doubted: the broker was lost while a paid call was open.
	doubted bool
	told    map[string][]*worker // by session: who has learnt of it
	// ackedBy took the message away while the record was open, at the pick
	// ackedAt.
	ackedBy *worker
	ackedAt int
	slotBy  *worker // the last to acquire a slot for the job
}

// The promises, as violations name them.
const (
	onlyOnce  = "paid once"
	journaled = "journalled before paid"
	oneEnd    = "one end"
	whole     = "completed is whole"
	kept      = "no session abandoned"
	queueKept = "no message lost"
	slotsKept = "slots exact"
	lawful    = "records move lawfully"
	parkLast  = "parked only if it must be"
)

func newChecker(s *sim) *checker { return &checker{s: s} }

func (c *checker) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if c.s.trace != nil {
		c.s.trace("!!!! %s", text)
	}
	c.violations = append(c.violations, fmt.Sprintf("at call %d: %s", c.s.picks, text))
}

func (c *checker) job(id string) *history {
	for _, h := range c.jobs {
		if h.id == id {
			return h
		}
	}
	panic("no job " + id)
}

// spent is called when a paid call leaves its worker: the journal must know.
func (c *checker) spent(id, stage string) {
	rec := c.s.world.Record(id)
	switch {
	case c.job(id).doubted: // it was journalled, with a broker that is no more
	case rec == nil || rec.State != jobs.Submitting || rec.Stage != stage || rec.SubmitDeadline.IsZero():
		c.violate("%s: the %s call of job %s leaves while its record is %s", journaled, stage, id, brief(rec))
	case time.Now().After(rec.SubmitDeadline):
		c.violate("%s: the %s call of job %s leaves after its deadline", journaled, stage, id)
	}
}

func brief(r *jobs.Record) string {
	if r == nil {
		return "missing"
	}
	text := fmt.Sprintf("%s stage %s attempt %d session %q owner %s/%d slot %d", r.State, r.Stage, r.Attempt, r.Session, r.Owner, r.Epoch, r.Slot)
	if r.Error != nil {
		text += " error " + r.Error.Message
	}
	return text
}

// sold is called when an account has sold a stage.
func (c *checker) sold(a *account, w *worker, h *history, ss *session, stage string) {
	n := 1
	for _, s := range h.sales {
		if s.stage == stage {
			n++
		}
	}
	attempt := 0
	if rec := c.s.world.Record(h.id); rec != nil {
		attempt = rec.Attempt
	}
	sale := sale{h, ss.code, stage, attempt}
	h.sales = append(h.sales, sale)
	a.sales = append(a.sales, sale)
	if n > 1+h.more {
		c.violate("%s: stage %s of job %s was bought %d times, by %s now", onlyOnce, stage, h.id, n, w.name)
	}
	busy, excused := 0, false
	for _, ss := range a.sessions {
		if ss.working() {
			busy++
		}
		excused = excused || ss.job.more > 0
	}
	if busy > c.s.plan.Limit && !excused && !c.dropped && !c.robbed {
		c.violate("%s: %d sessions run at %s, the limit is %d", slotsKept, busy, a.name, c.s.plan.Limit)
	}
}

// releasing is called when a slot is freed. There is no fencing of slots: what
// is tolerated is a worker that stood still at the very call, or at the look at
// the record just before.
func (c *checker) releasing(p *pending) {
	rec := c.s.world.Record(p.ID)
	if rec == nil || rec.Owner == p.Worker || rec.Slot == 0 || rec.State.Final() || rec.State == jobs.Storing {
		return
	}
	if !p.notBefore.IsZero() || p.w.hitAt == "fleet.release" || p.w.hitAt == "journal.load" {
		c.robbed = true
	}
}

// told is called, by a worker, when it has learnt of a session.
func (c *checker) told(code string, w *worker) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for _, a := range []*account{c.s.csm, c.s.lab} {
		if ss := a.find(code); ss != nil {
			if ss.job.told == nil {
				ss.job.told = map[string][]*worker{}
			}
			ss.job.told[code] = append(ss.job.told[code], w)
		}
	}
}

// saved is called when a record is written; the worker's name is empty if a
// client did.
func (c *checker) saved(worker string, old, now *jobs.Record) {
	h := c.job(now.ID)
	from, attempt := jobs.Queued, 1
	var epoch uint64
	if old != nil {
		from, attempt, epoch = old.State, old.Attempt, old.Epoch
	}
	if c.s.trace != nil {
		c.s.trace("%20s record %s: %s", "", now.ID, brief(now))
	}
	h.closed = h.closed || now.State.Final() || now.State == jobs.Parked
	if now.State == jobs.Parked {
		h.parked = true
		if now.Error == nil || now.Error.Message == "" {
			c.violate("%s: job %s is parked without a reason", parkLast, h.id)
		}
	}
	if worker == "" {
		h.edited = true
		return
	}
	// A session that comes late is written into a record that has ended, too.
	if from == now.State && from.Final() && old.Session == "" && now.Session != "" {
		return
	}
	if !jobs.CanMove(from, now.State) || from.Final() && from != now.State {
		c.violate("%s: %s moves job %s from %s to %s", lawful, worker, h.id, from, now.State)
	}
	if now.Attempt < attempt || now.Epoch < epoch {
		c.violate("%s: %s takes job %s back to attempt %d, epoch %d", lawful, worker, h.id, now.Attempt, now.Epoch)
	}
	if old != nil && now.Attempt > attempt {
		bought := slices.ContainsFunc(h.sales, func(s sale) bool { return s.stage == old.Stage && s.attempt == attempt })
		switch {
		case c.s.plan.Policy == engine.Resubmit:
			h.more++
		case bought:
			c.violate("%s: %s begins attempt %d of job %s, though the one before was sold", onlyOnce, worker, now.Attempt, h.id)
		}
	}
	if now.Session != "" && !slices.ContainsFunc(h.sales, func(s sale) bool { return s.session == now.Session }) {
		c.violate("%s: job %s has the session %s of another", kept, h.id, now.Session)
	}
	if now.State == jobs.Completed {
		c.stored(h, now)
	}
}

// stored checks the bucket of a completed job.
func (c *checker) stored(h *history, rec *jobs.Record) {
	w := c.s.world
	var m jobs.Manifest
	if err := json.Unmarshal(w.Object(jobs.ManifestKey(h.id)), &m); err != nil || m.Session != rec.Session || len(m.Outputs) == 0 {
		c.violate("%s: job %s has no manifest of its session", whole, h.id)
	}
	if len(rec.Outputs) == 0 {
		c.violate("%s: job %s has no file", whole, h.id)
	}
	for _, o := range append(slices.Clone(rec.Outputs), m.Outputs...) {
		if data := w.Object(o.Key); int64(len(data)) != o.SizeBytes || string(data) != "MESH_glb_"+rec.Session {
			c.violate("%s: job %s has %d bytes under %s, %d are recorded", whole, h.id, len(data), o.Key, o.SizeBytes)
		}
	}
	if !slices.Contains(c.receipts(h), rec.Session) {
		c.violate("%s: job %s has no receipt of session %s", whole, h.id, rec.Session)
	}
}

// receipts are the sessions that the job's receipts name.
func (c *checker) receipts(h *history) []string {
	var out []string
	for _, key := range c.s.world.Objects() {
		var r jobs.Receipt
		if strings.HasPrefix(key, jobs.ReceiptPrefix(h.id)) && json.Unmarshal(c.s.world.Object(key), &r) == nil {
			out = append(out, r.Session)
		}
	}
	return out
}

// published is called when an event is stored.
func (c *checker) published(_ string, r *jobs.Record) {
	h := c.job(r.ID)
	if h.events == nil {
		h.events, h.finals = map[string]bool{}, map[int]jobs.State{}
	}
	h.events[fmt.Sprint(jobs.EventKind(r.State), r.Attempt)] = true
	if !r.State.Final() {
		return
	}
	if other := h.finals[r.Attempt]; other != "" && other != r.State {
		c.violate("%s: attempt %d of job %s is announced as %s and as %s", oneEnd, r.Attempt, h.id, other, r.State)
	}
	h.finals[r.Attempt] = r.State
}

// acked is called when a message has left the queue.
func (c *checker) acked(worker, id string) {
	h := c.job(id)
	rec := c.s.world.Record(id)
	switch {
	case !h.closed:
		c.violate("%s: %s takes the message of job %s away, which is %s", queueKept, worker, id, brief(rec))
	case rec == nil || !(rec.State.Final() || rec.State == jobs.Parked):
		// Somebody has opened it again. It may be put back at once.
		h.ackedBy, h.ackedAt = c.s.byName[worker], c.s.picks
	}
}

// doubts is called before the broker loses everything. What is lost with it is
// whether a paid call that is open was made: that one may be made again.
func (c *checker) doubts(h *history) {
	rec := c.s.world.Record(h.id)
	if rec != nil && rec.State == jobs.Submitting && !rec.SubmitDeadline.IsZero() {
		h.more++
		h.doubted = true
	}
	if rec != nil && rec.Session != "" && !slices.Contains(c.receipts(h), rec.Session) {
		h.more++ // it was to be written next
	}
	if rec != nil && rec.State == jobs.Parked {
		h.more++
	}
}

// lost is called when the broker has lost everything.
func (c *checker) lost(h *history) {
	h.events, h.finals = nil, nil
	c.dropped = true
}

// swept is called when only the sweeper can put a job back into the queue. That
// is how it must be only if whoever should have done it could not.
func (c *checker) swept(h *history) {
	c.swept1++
	if w := h.ackedBy; w != nil && !w.dead && w.hit < h.ackedAt {
		c.violate("%s: %s took the message of job %s away, which is %s", queueKept, w.name, h.id, brief(c.s.world.Record(h.id)))
	}
}

// end checks what is left when nothing happens any more.
func (c *checker) end() {
	w := c.s.world
	if n := w.Queued(); n > 0 {
		c.violate("%s: %d messages are left", queueKept, n)
	}
	for _, h := range c.jobs {
		rec := w.Record(h.id)
		switch {
		case rec == nil:
			c.violate("%s: job %s has no record", queueKept, h.id)
			continue
		case rec.State == jobs.Parked:
			c.parkedRightly(h, rec)
		case !rec.State.Final():
			c.violate("%s: job %s ends %s", oneEnd, h.id, brief(rec))
		case h.finals[rec.Attempt] != rec.State:
			c.violate("%s: job %s is %s in attempt %d, its events are %v", oneEnd, h.id, rec.State, rec.Attempt, slices.Sorted(maps.Keys(h.events)))
		}
		c.sessions(h, rec)
	}
	for _, a := range []*account{c.s.csm, c.s.lab} {
		for _, id := range w.Holders(a.name) {
			if rec := w.Record(id); rec == nil || rec.State != jobs.Parked {
				c.violate("%s: job %s still holds a slot of %s: %s", slotsKept, id, a.name, brief(rec))
			}
		}
	}
}

// reclaimed is called when only the sweeper can free a slot: one that a worker
// took for a job that others have ended, or could not free when something else
// befell it.
func (c *checker) reclaimed(id string) {
	c.reclaimed1++
	if h := c.job(id); h.slotBy != nil && h.slotBy.hit == 0 && !h.slotBy.dead && !h.slotBy.left && !h.edited {
		c.violate("%s: %s has left the slot of job %s behind: %s", slotsKept, h.slotBy.name, id, brief(c.s.world.Record(id)))
	}
}

// parkedRightly checks that nobody could have known better.
func (c *checker) parkedRightly(h *history, rec *jobs.Record) {
	switch {
	case h.flow.lookup || rec.Session != "":
		c.violate("%s: job %s is parked, though its provider can be asked: %s", parkLast, h.id, brief(rec))
	case c.s.plan.Policy == engine.Resubmit && rec.Retries < 2 && !rec.CancelRequested:
		// Under that policy only a job that has bought thrice, or that somebody
		// wants to be cancelled, waits for a person.
		c.violate("%s: job %s is parked against the policy", parkLast, h.id)
	case c.s.fired == 0:
		c.violate("%s: job %s is parked, though nothing happened: %s", parkLast, h.id, brief(rec))
	case !h.events["parked"+fmt.Sprint(rec.Attempt)]:
		c.violate("%s: job %s is parked in silence", oneEnd, h.id)
	}
	for _, sale := range h.sales {
		for _, w := range h.told[sale.session] {
			if sale.attempt == rec.Attempt && !w.dead && !w.left {
				c.violate("%s: job %s is parked, though %s has been told of session %s", parkLast, h.id, w.name, sale.session)
			}
		}
	}
}

// sessions checks that whatever was sold is named somewhere.
func (c *checker) sessions(h *history, rec *jobs.Record) {
	receipts := c.receipts(h)
	for _, s := range h.sales {
		if s.session == rec.Session || slices.Contains(receipts, s.session) {
			continue
		}
		survived := slices.ContainsFunc(h.told[s.session], func(w *worker) bool { return !w.dead && !w.left })
		if h.flow.lookup || survived || !(h.parked || h.more > 0) {
			c.violate("%s: session %s of job %s is named nowhere; the job is %s", kept, s.session, h.id, brief(rec))
		}
	}
}
