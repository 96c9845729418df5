package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// Journal keeps the records in the state bucket. It is safe for concurrent use.
type Journal struct{ kv jetstream.KeyValue }

var _ engine.Journal = (*Journal)(nil)

// NewJournal binds to the state bucket.
func NewJournal(ctx context.Context, js jetstream.JetStream, names jobs.Names) (*Journal, error) {
	kv, err := js.KeyValue(ctx, names.StateBucket())
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", names.StateBucket(), err)
	}
	return &Journal{kv}, nil
}

// Load implements engine.Journal.
func (j *Journal) Load(ctx context.Context, id string) (*jobs.Record, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	e, err := j.kv.Get(ctx, id)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return nil, 0, nil
	case err != nil:
		return nil, 0, fmt.Errorf("read record %s: %w", id, err)
	}
	r, err := jobs.DecodeRecord(e.Value())
	if err != nil {
		return nil, 0, fmt.Errorf("record %s: %w", id, err)
	}
	return r, e.Revision(), nil
}

// Save implements engine.Journal.
func (j *Journal) Save(ctx context.Context, r *jobs.Record, rev uint64) (uint64, error) {
	body, err := r.Encode()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if rev == 0 {
		rev, err = j.kv.Create(ctx, r.ID, body) // also over a deletion mark
	} else {
		rev, err = j.kv.Update(ctx, r.ID, body, rev)
	}
	switch {
	case isConflict(err):
		return 0, engine.ErrConflict
	case err != nil:
		return 0, fmt.Errorf("write record %s: %w", r.ID, err)
	}
	return rev, nil
}

// isConflict reports a compare-and-set that found another revision.
func isConflict(err error) bool {
	if errors.Is(err, jetstream.ErrKeyExists) {
		return true
	}
	e, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// Events publishes to the events stream. It is safe for concurrent use.
type Events struct {
	nc     *nats.Conn
	names  jobs.Names
	client *jobs.Client
}

var _ engine.Events = (*Events)(nil)

// NewEvents returns the publisher.
func NewEvents(nc *nats.Conn, names jobs.Names, client *jobs.Client) *Events {
	return &Events{nc, names, client}
}

// Publish implements engine.Events. The stream keeps one message per subject
// and refuses a second, which is how a repeated event is told from a lost one.
func (e *Events) Publish(ctx context.Context, r *jobs.Record) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return e.client.Announce(ctx, r)
}

// Progress implements engine.Events.
func (e *Events) Progress(p jobs.Progress) {
	if body, err := json.Marshal(p); err == nil {
		_ = e.nc.Publish(e.names.ProgressSubject(p.ID), body) // nobody relies on it
	}
}
