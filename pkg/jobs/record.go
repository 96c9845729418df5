package jobs

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// RecordSchema is the value of "schema" in a record.
const RecordSchema = "meshmill.state.v1"

// State is where a job stands. Its text is part of the stored format.
type State string

// The states of a job. A job with no record is queued.
const (
	// Queued: the request is in the queue and nothing has been bought.
	Queued State = "queued"
	// Submitting: a paid call is about to be made, is being made, or has an
	// outcome that is not known yet; or it was refused for certain and will be
	// made again (SubmitDeadline is zero then).
	Submitting State = "submitting"
	// Running: the provider is at work on Session.
	Running State = "running"
	// Storing: the provider is done, and its files are being copied.
	Storing State = "storing"
	// Completed: every file that was wanted and made is in the bucket.
	Completed State = "completed"
	// Failed: the job will not be completed; Error says why.
	Failed State = "failed"
	// Parked: it needs a person, see Error and Client.Resolve.
	Parked State = "parked"
	// Cancelled: somebody cancelled it.
	Cancelled State = "cancelled"
)

// States lists every state in the order in which a job passes them.
var States = []State{Queued, Submitting, Running, Storing, Completed, Failed, Parked, Cancelled}

var moves = map[State][]State{
	// To Running or Completed without a purchase: a receipt or a manifest in
	// the bucket shows what a lost broker had known.
	Queued: {Submitting, Running, Completed, Failed, Cancelled},
	// To itself: a take-over, a certain refusal, the next attempt.
	Submitting: {Submitting, Running, Failed, Parked, Cancelled},
	// To Submitting: the next paid stage of the same session.
	Running: {Running, Submitting, Storing, Failed, Parked, Cancelled},
	Storing: {Storing, Completed, Failed, Parked, Cancelled},
	Parked:  {Submitting, Running, Failed, Cancelled},
	// A person may retry what failed or was cancelled. To itself: a slot is freed.
	Failed:    {Submitting, Running, Failed},
	Cancelled: {Submitting, Running, Cancelled},
	Completed: {Completed},
}

// CanMove reports whether a record may go from one state to another.
func CanMove(from, to State) bool { return slices.Contains(moves[from], to) }

// Final reports whether the job has ended. A parked job has not: it waits for
// a person.
func (s State) Final() bool { return s == Completed || s == Failed || s == Cancelled }

// Output is one stored file of a job.
type Output struct {
	// Format is what the file's content was found to be, such as "glb".
	Format string `json:"format"`
	// Key is the object's key in the bucket.
	Key string `json:"key"`
	// URI is "s3://bucket/key".
	URI       string `json:"uri"`
	SizeBytes int64  `json:"size_bytes"`
	// SHA256 is the content's hash in lower-case hexadecimal.
	SHA256    string `json:"sha256"`
	MediaType string `json:"media_type"`
}

// Problem is why a job failed or was parked, or why its last call was refused.
type Problem struct {
	// Kind is "unknown", "retryable" or "permanent".
	Kind    string `json:"kind"`
	Message string `json:"message"`
	// Reason is ReasonProvider, or empty if the failure was of another sort.
	Reason string `json:"reason,omitempty"`
}

// ReasonProvider is the reason of a failure that the provider reported of the
// session itself: there is nothing in it to fetch.
const ReasonProvider = "provider"

// Record is the journal of one job: the value under its id in the state
// bucket, changed only by compare-and-set. It holds no secret and no signed
// URL.
type Record struct {
	Schema   string `json:"schema"`
	ID       string `json:"id"`
	State    State  `json:"state"`
	Attempt  int    `json:"attempt"` // 1 for the first purchase
	Provider string `json:"provider"`
	Lane     Lane   `json:"lane"`
	// Session is the provider's name for what was bought.
	Session string `json:"session,omitempty"`
	// Stage is the paid call that State is about, such as "create".
	Stage   string  `json:"stage,omitempty"`
	Percent float64 `json:"percent"`
	// Detail is the provider's own word for its status.
	Detail string `json:"detail,omitempty"`
	// Owner is the worker that last wrote the record, and Epoch counts the
	// owners, so that a worker that was paused finds itself replaced.
	Owner string `json:"owner,omitempty"`
	Epoch uint64 `json:"epoch"`
	// SubmitDeadline is when a paid call in flight is given up. After it, that
	// call can no longer be sent. Zero means that no call is open.
	SubmitDeadline time.Time `json:"submit_deadline,omitzero"`
	// SubmittingAt is when that call was journalled: the provider cannot have
	// heard of it before.
	SubmittingAt time.Time `json:"submitting_at,omitzero"`
	// Delivery is how the image went to the provider: "inline", "presign" or
	// "url".
	Delivery string `json:"delivery,omitempty"`
	// StageInput is what the provider needs for the paid call of Stage.
	StageInput json.RawMessage `json:"stage_input,omitempty"`
	// SessionDeadline is when a session that is still running is given up.
	SessionDeadline time.Time `json:"session_deadline,omitzero"`
	// RefusedSince is when the provider began to refuse the call of Stage.
	RefusedSince time.Time `json:"refused_since,omitzero"`
	// Refusals counts those that are bounded in number (Fault.Tries).
	Refusals int `json:"refusals,omitempty"`
	// Retries counts how often the job bought again by itself since it last had
	// an answer.
	Retries int `json:"retries,omitempty"`
	// Slot is the fleet slot that the job holds, by number from 1; 0 is none.
	Slot int `json:"slot,omitempty"`
	// CancelRequested is set by a client; the owner acts on it at its next step.
	CancelRequested bool `json:"cancel_requested,omitempty"`
	// KeepResult is set by a client that cancels: what has been bought is stored
	// all the same, see Client.CancelKeeping.
	KeepResult bool     `json:"keep_result,omitempty"`
	Outputs    []Output `json:"outputs,omitempty"`
	// Missing lists wanted formats that the provider did not make.
	Missing  []string `json:"missing,omitempty"`
	Manifest string   `json:"manifest,omitempty"`
	Error    *Problem `json:"error,omitempty"`
	Request  Request  `json:"request"`

	CreatedAt   time.Time `json:"created_at,omitzero"`
	SubmittedAt time.Time `json:"submitted_at,omitzero"` // first session id known
	StoringAt   time.Time `json:"storing_at,omitzero"`   // provider done
	FinishedAt  time.Time `json:"finished_at,omitzero"`
	UpdatedAt   time.Time `json:"updated_at"`
}

// Waiting reports whether the provider has refused the job's paid call for
// certain, and it will be made again: no call is open, and Error is the refusal.
func (r *Record) Waiting() bool {
	return r.State == Submitting && r.SubmitDeadline.IsZero() && r.Error != nil
}

// DecodeRecord reads a record from JSON.
func DecodeRecord(data []byte) (*Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("the record is not valid: %w", err)
	}
	if r.Schema != RecordSchema {
		return nil, fmt.Errorf("the record has schema %q, this program knows %q", clip(r.Schema), RecordSchema)
	}
	if _, ok := moves[r.State]; !ok {
		return nil, fmt.Errorf("the record has the unknown state %q", clip(string(r.State)))
	}
	if err := CheckID(r.ID); err != nil {
		return nil, errors.Join(errors.New("the record is not valid"), err)
	}
	return &r, nil
}

// Encode returns the record as JSON.
func (r *Record) Encode() ([]byte, error) { return json.Marshal(r) }
