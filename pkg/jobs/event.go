package jobs

import (
	"encoding/json"
	"fmt"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
)

// The short types of events. The CloudEvents type is "meshmill.job.<kind>.v1".
const (
	EventSubmitted = "submitted"
	EventCompleted = "completed"
	EventFailed    = "failed"
	EventParked    = "parked"
	EventCancelled = "cancelled"
)

var eventKinds = []string{EventSubmitted, EventCompleted, EventFailed, EventParked, EventCancelled}

// EventData is the data of every Meshmill event.
type EventData struct {
	ID       string            `json:"id"`
	State    State             `json:"state"`
	Batch    string            `json:"batch,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Provider string            `json:"provider"`
	Session  string            `json:"session,omitempty"`
	Attempt  int               `json:"attempt"`
	Image    Image             `json:"image"`
	Timings  Timings           `json:"timings"`
	Outputs  []Output          `json:"outputs,omitempty"`
	Missing  []string          `json:"missing,omitempty"`
	Manifest string            `json:"manifest,omitempty"`
	Error    *Problem          `json:"error,omitempty"`
}

// Timings are the times of a job's steps, those that it has reached.
type Timings struct {
	EnqueuedAt  time.Time `json:"enqueued_at,omitzero"`
	SubmittedAt time.Time `json:"submitted_at,omitzero"`
	StoringAt   time.Time `json:"storing_at,omitzero"`
	FinishedAt  time.Time `json:"finished_at,omitzero"`
}

// EventKind returns the short type of the event that announces a state, or ""
// for a state that none announces.
func EventKind(s State) string {
	switch s {
	case Running:
		return EventSubmitted
	case Completed:
		return EventCompleted
	case Failed:
		return EventFailed
	case Parked:
		return EventParked
	case Cancelled:
		return EventCancelled
	}
	return ""
}

// NewEvent builds the CloudEvent that announces the state of r. It depends on
// r alone, so that publishing it again repeats the same event, with the same
// id. It fails for a state that no event announces.
func NewEvent(r *Record) (*cloudevents.Event, error) {
	kind := EventKind(r.State)
	if kind == "" {
		return nil, fmt.Errorf("no event announces the state %q", r.State)
	}
	at := r.UpdatedAt
	switch {
	case kind == EventSubmitted && !r.SubmittedAt.IsZero():
		at = r.SubmittedAt
	case r.State.Final() && !r.FinishedAt.IsZero():
		at = r.FinishedAt
	}
	e := cloudevents.New(cloudevents.CloudEventsVersionV1)
	e.SetID(fmt.Sprintf("%s.%s.%d", kind, r.ID, r.Attempt))
	e.SetType("meshmill.job." + kind + ".v1")
	e.SetSource("/meshmill/" + r.Provider)
	e.SetSubject(r.ID)
	e.SetTime(at)
	data := EventData{
		ID: r.ID, State: r.State, Batch: r.Request.Batch, Labels: r.Request.Labels,
		Provider: r.Provider, Session: r.Session, Attempt: r.Attempt, Image: r.Request.Image.Public(),
		Timings: Timings{EnqueuedAt: r.Request.EnqueuedAt, SubmittedAt: r.SubmittedAt, StoringAt: r.StoringAt, FinishedAt: r.FinishedAt},
	}
	if r.State == Completed {
		data.Outputs, data.Missing, data.Manifest = r.Outputs, r.Missing, r.Manifest
	} else if r.State != Running {
		data.Error = r.Error
	}
	if err := e.SetData(cloudevents.ApplicationJSON, data); err != nil {
		return nil, fmt.Errorf("event %s: %w", kind, err)
	}
	return &e, e.Validate()
}

// DecodeEvent reads an event as it is published: structured JSON. It refuses
// what is not a CloudEvent about a job.
func DecodeEvent(data []byte) (*cloudevents.Event, *EventData, error) {
	var e cloudevents.Event
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, nil, fmt.Errorf("the event is not valid: %w", err)
	}
	if err := e.Validate(); err != nil {
		return nil, nil, fmt.Errorf("the event is not valid: %w", err)
	}
	var d EventData
	if err := e.DataAs(&d); err != nil {
		return nil, nil, fmt.Errorf("the event's data is not valid: %w", err)
	}
	if err := CheckID(d.ID); err != nil {
		return nil, nil, fmt.Errorf("the event's data is not valid: %w", err)
	}
	return &e, &d, nil
}
