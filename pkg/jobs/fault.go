package jobs

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what may safely be done after a failure. Its zero value is the
// safe one: a failure that nobody classified can park a job, but can never buy
// it twice.
type Kind uint8

const (
	// Unknown: the call may or may not have had its effect, so money may have
	// been spent. Find out; never send it again blindly.
	Unknown Kind = iota
	// Retryable: the call certainly had no effect, and may succeed later.
	Retryable
	// Permanent: the call certainly had no effect, and the same call can
	// never succeed.
	Permanent
)

// String returns "unknown", "retryable" or "permanent".
func (k Kind) String() string {
	switch k {
	case Retryable:
		return "retryable"
	case Permanent:
		return "permanent"
	default:
		return "unknown"
	}
}

// Fault is the error that crosses package boundaries in Meshmill. Its text
// never holds a secret or a signed URL.
type Fault struct {
	Kind Kind
	// Op names what was tried, in lower case: "csm: create session".
	Op string
	// After is the earliest useful time for another try, counted from now.
	// Zero leaves it to the caller's policy. It is never more than MaxAfter.
	After time.Duration
	// Pause reports that the provider as a whole refuses or cannot be reached,
	// so that the fleet should stop buying from it for a while.
	Pause bool
	// Tries bounds how often the job meets this refusal before it fails; zero
	// leaves it to the caller's policy.
	Tries int
	// Err is the cause. It is never nil.
	Err error
}

// MaxAfter bounds how long a provider's own advice may hold a job back.
const MaxAfter = 5 * time.Minute

// Error returns "op: cause".
func (f *Fault) Error() string {
	if f.Op == "" {
		return f.Err.Error()
	}
	return f.Op + ": " + f.Err.Error()
}

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.Err }

// Faultf builds a Fault of the given kind.
func Faultf(kind Kind, op, format string, args ...any) *Fault {
	return &Fault{Kind: kind, Op: op, Err: fmt.Errorf(format, args...)}
}

// KindOf classifies err: the kind of the outermost Fault in its chain, or
// Unknown if there is none.
func KindOf(err error) Kind {
	if f, ok := errors.AsType[*Fault](err); ok {
		return f.Kind
	}
	return Unknown
}

// FieldError reports one field of a request, by its name in the JSON, with
// what is allowed there.
type FieldError struct {
	Field   string // "options.resolution"
	Problem string // "is 600, must be a whole number from 1 to 512"
}

// Error returns "field problem".
func (e *FieldError) Error() string { return e.Field + " " + e.Problem }

func fieldErrorf(field, format string, args ...any) error {
	return &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

// ErrNotBought is returned by [Reconciler.Reconcile] when the provider shows
// no trace of the call.
var ErrNotBought = errors.New("the provider shows no trace of the call")
