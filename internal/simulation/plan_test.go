package simulation

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshmill/meshmill/internal/engine"
)

// Kind is a kind of fault.
type Kind string

// Faults of one call.
const (
	None        Kind = ""
	Fail        Kind = "fail"         // no effect, an error
	Lose        Kind = "lose"         // the effect, and an error
	Late        Kind = "late"         // an error, and the effect three seconds later
	Refuse      Kind = "refuse"       // a provider says 429; of another call it is fail
	Stale       Kind = "stale"        // a record is read as it was before its last change
	CrashBefore Kind = "crash-before" // the process ends, without the effect
	CrashAfter  Kind = "crash-after"  // the process ends, after the effect
	PauseBefore Kind = "pause-before" // the process stands still, and then has the effect
	PauseAfter  Kind = "pause-after"  // it has the effect, stands still, and gets the answer
	PauseLost   Kind = "pause-lost"   // it has the effect, stands still, and gets no answer
)

// Incidents happen just before a call.
const (
	Drain     Kind = "drain"     // the worker of the call gets a SIGTERM
	Redeliver Kind = "redeliver" // the broker forgets who holds what
	Cancel    Kind = "cancel"    // a client cancels the first job
	Resolve   Kind = "resolve"   // a client resolves or retries what is parked or has failed
	Enqueue   Kind = "enqueue"   // a client sends the first job again
	Sweep     Kind = "sweep"     // the sweeper makes its round
	// LoseBroker: the broker loses all that it has, and a client sends every job
	// again. It is tried alone: with another fault, a purchase that is repeated
	// in doubt can overwrite the receipt of the first.
	LoseBroker Kind = "lose-broker"
)

func (k Kind) incident() bool {
	return k == Drain || k == Redeliver || k == Cancel || k == Resolve || k == Enqueue || k == Sweep || k == LoseBroker
}
func (k Kind) pauses() bool { return k == PauseBefore || k == PauseAfter || k == PauseLost }

// Fault is one thing that goes wrong, at the nth call of a schedule.
type Fault struct {
	At   int
	Kind Kind
	// A pause lasts For, or until the call Until if that is sooner.
	For   time.Duration
	Until int
}

// String returns "17:pause-after/45s", with the pick at which a pause ends as
// "@40".
func (f Fault) String() string {
	text := fmt.Sprintf("%d:%s", f.At, f.Kind)
	if f.For > 0 {
		text += "/" + f.For.String()
	}
	if f.Until > 0 {
		text += "@" + strconv.Itoa(f.Until)
	}
	return text
}

func parseFault(text string) (f Fault, err error) {
	text, until, hasUntil := strings.Cut(text, "@")
	text, length, hasLength := strings.Cut(text, "/")
	at, kind, _ := strings.Cut(text, ":")
	f.Kind = Kind(kind)
	f.At, err = strconv.Atoi(at)
	if err == nil && hasUntil {
		f.Until, err = strconv.Atoi(until)
	}
	if err == nil && hasLength {
		f.For, err = time.ParseDuration(length)
	}
	return f, err
}

// flow is a way in which a session is bought.
type flow struct {
	name     string
	provider string
	options  map[string]any
	stages   []string
	atOnce   bool
	presign  bool
	// lookup: the outcome of every paid call can be found out.
	lookup bool
}

var (
	sculpt = map[string]any{"preview_mesh": "fast_sculpt"}
	turbo  = map[string]any{"preview_mesh": "turbo", "refine_speed": "slow"}
)

// flows are all that there are.
var flows = []*flow{
	{name: "csm-v2", provider: "csm", stages: []string{"create"}, presign: true, lookup: true},
	{name: "csm-v2-inline", provider: "csm", stages: []string{"create"}},
	{name: "csm-sculpt", provider: "csm", options: sculpt, stages: []string{"create", "preview"}, presign: true, lookup: true},
	{name: "csm-sculpt-inline", provider: "csm", options: sculpt, stages: []string{"create", "preview"}},
	{name: "csm-refine", provider: "csm", options: turbo, stages: []string{"create", "preview", "refine"}, presign: true, lookup: true},
	{name: "lab-at-once", provider: "modelslab", stages: []string{"create"}, atOnce: true},
	{name: "lab-processing", provider: "modelslab", stages: []string{"create"}},
	{name: "lab-presign", provider: "modelslab", stages: []string{"create"}, presign: true},
}

func flowNamed(name string) *flow {
	i := slices.IndexFunc(flows, func(f *flow) bool { return f.name == name })
	if i < 0 {
		return nil
	}
	return flows[i]
}

// Plan is all that a schedule depends on.
type Plan struct {
	Flows   []*flow // of the jobs
	Workers int
	Limit   int // slots of each account
	Policy  engine.OnUnknown
	// Order is the seed of what happens next; 0 is a fixed order.
	Order uint64
	// Slow is the share of calls that take up to four seconds.
	Slow float64
	// Lag is how long CSM's list lags, and Answer how long a paid call takes.
	Lag, Answer time.Duration
	Faults      []Fault
	seed        uint64 // that it was made of, or 0
}

// String returns the plan as parsePlan reads it.
func (p *Plan) String() string {
	var names, faults []string
	for _, f := range p.Flows {
		names = append(names, f.name)
	}
	for _, f := range p.Faults {
		faults = append(faults, f.String())
	}
	return fmt.Sprintf("flows=%s workers=%d limit=%d policy=%s order=%d slow=%g lag=%v answer=%v faults=%s",
		strings.Join(names, ","), p.Workers, p.Limit, p.Policy, p.Order, p.Slow, p.Lag, p.Answer, strings.Join(faults, ","))
}

func parsePlan(text string) (*Plan, error) {
	p := basicPlan(nil)
	for _, field := range strings.Fields(text) {
		name, value, _ := strings.Cut(field, "=")
		var err error
		switch name {
		case "flows":
			for _, n := range strings.Split(value, ",") {
				f := flowNamed(n)
				if f == nil {
					return nil, fmt.Errorf("there is no flow %q", n)
				}
				p.Flows = append(p.Flows, f)
			}
		case "workers":
			p.Workers, err = strconv.Atoi(value)
		case "limit":
			p.Limit, err = strconv.Atoi(value)
		case "policy":
			p.Policy = engine.OnUnknown(value)
		case "order":
			p.Order, err = strconv.ParseUint(value, 10, 64)
		case "slow":
			p.Slow, err = strconv.ParseFloat(value, 64)
		case "lag":
			p.Lag, err = time.ParseDuration(value)
		case "answer":
			p.Answer, err = time.ParseDuration(value)
		case "faults":
			for _, n := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' }) {
				f, ferr := parseFault(n)
				if ferr != nil {
					return nil, ferr
				}
				p.Faults = append(p.Faults, f)
			}
		default:
			err = fmt.Errorf("there is no %q in a plan", name)
		}
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

// basicPlan is a job of a flow with two workers and no fault.
func basicPlan(f *flow) *Plan {
	p := &Plan{Workers: 2, Limit: 1, Policy: engine.Park, Answer: 2 * time.Second}
	if f != nil {
		p.Flows = []*flow{f}
	}
	return p
}

// callFaults are the faults that are tried at every call.
var callFaults = []Kind{Fail, Lose, Late, Refuse, Stale, CrashBefore, CrashAfter, PauseBefore, PauseAfter, PauseLost}

// applies reports whether a fault can make a difference at a call.
func applies(k Kind, op string) bool {
	switch k {
	case Stale:
		return op == "journal.load"
	case Late:
		return !reads(op) && !waits(op)
	case Lose, PauseLost, CrashAfter:
		return !reads(op) && op != "http.connect"
	case Refuse:
		return sent(op)
	case PauseBefore:
		return !sent(op)
	}
	return true
}

// waits reports calls that wait for something at the other side.
func waits(op string) bool {
	return op == "queue.fetch" || op == "fleet.acquire" || op == "fleet.await" || op == "http.answer"
}
