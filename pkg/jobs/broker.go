package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Reading goes through batched direct gets: a work queue allows no second
// consumer, and one request answers for hundreds of jobs.

const (
	// pageMessages and pageBytes bound one page of answers.
	pageMessages = 256
	pageBytes    = 4 << 20
)

// errCodeStoreFailed is how the broker refuses to store: a queue that is full,
// a subject that has its one message, and also failures of its disk. Only the
// description tells them apart.
const errCodeStoreFailed jetstream.ErrorCode = 10077

var (
	errShortReply = errors.New("the broker's answer is incomplete")
	errTooMany    = errors.New("too many messages match")
	errConflict   = errors.New("the record has changed")
)

// stored is one message of a stream.
type stored struct {
	subject string
	seq     uint64
	data    []byte
	deleted bool // it is a bucket's mark that the key is gone
	at      time.Time
}

// directGet is the request of a batched direct get (NATS ADR-31).
type directGet struct {
	Seq      uint64   `json:"seq,omitempty"`
	Batch    int      `json:"batch,omitempty"`
	MaxBytes int      `json:"max_bytes,omitempty"`
	NextFor  string   `json:"next_by_subj,omitempty"`
	LastFor  []string `json:"multi_last,omitempty"`
}

// page makes one direct get. It reports whether more messages match after
// those it returns.
func (c *Client) page(ctx context.Context, stream string, req directGet) (msgs []stored, more bool, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, false, err
	}
	err = c.retry(ctx, "read "+stream, func(ctx context.Context) error {
		msgs, more, err = c.pageOnce(ctx, stream, body, len(req.LastFor) > 0)
		return err
	})
	return msgs, more, err
}

// pageOnce makes one direct get; multi says that it is one for last messages.
func (c *Client) pageOnce(ctx context.Context, stream string, body []byte, multi bool) (msgs []stored, more bool, err error) {
	inbox := c.nc.NewInbox()
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is gone
	if err := c.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, body); err != nil {
		return nil, false, err
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, false, err
		}
		// A message may carry a "Status" header of its own; only what the stream
		// adds to a stored message tells it from a status.
		if m.Header.Get(jetstream.SequenceHeader) != "" {
			s, err := parseStored(m)
			if err != nil {
				return nil, false, err
			}
			msgs = append(msgs, s)
			continue
		}
		switch status := m.Header.Get("Status"); status {
		case "204":
			more = m.Header.Get("Nats-Num-Pending") != "0" && len(msgs) > 0
			return msgs, more, nil
		case "404":
			if multi && (len(msgs) > 0 || m.Header.Get("Description") == "Message Not Found") {
				// The broker knows of a message that it could not load.
				return nil, false, errShortReply
			}
			return nil, false, nil
		case "413":
			return nil, false, errTooMany
		case "503":
			return nil, false, nats.ErrNoResponders
		default:
			return nil, false, fmt.Errorf("the broker refuses a direct get: %s %s", status, m.Header.Get("Description"))
		}
	}
}

func parseStored(m *nats.Msg) (stored, error) {
	seq, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return stored{}, fmt.Errorf("sequence of a stored message: %w", err)
	}
	at, _ := time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer)) // zero if it is not there
	return stored{
		subject: m.Header.Get(jetstream.SubjectHeader), seq: seq, data: m.Data, at: at,
		deleted: isMarker(m.Header),
	}, nil
}

// isMarker reports whether a message of a bucket says that its key is gone.
func isMarker(h nats.Header) bool {
	return h.Get("KV-Operation") != "" || h.Get(jetstream.MarkerReasonHeader) != ""
}

// last calls each with the last message of every subject that one of the
// filters matches, in no particular order.
func (c *Client) last(ctx context.Context, stream string, filters []string, each func(stored)) error {
	for chunk := range slices.Chunk(filters, pageMessages) {
		req := directGet{LastFor: chunk, MaxBytes: pageBytes}
		for {
			msgs, more, err := c.page(ctx, stream, req)
			if errors.Is(err, errTooMany) && len(chunk) > 1 {
				half := len(chunk) / 2
				if err := c.last(ctx, stream, chunk[:half], each); err != nil {
					return err
				}
				if err := c.last(ctx, stream, chunk[half:], each); err != nil {
					return err
				}
				break
			}
			if err != nil {
				return err
			}
			for _, m := range msgs {
				each(m)
			}
			if !more {
				break
			}
			req.Seq = msgs[len(msgs)-1].seq + 1
		}
	}
	return nil
}

// scan calls each with pages of the messages that filter matches, in the order
// in which they are stored, until it returns false.
func (c *Client) scan(ctx context.Context, stream, filter string, each func([]stored) bool) error {
	req := directGet{Seq: 1, Batch: pageMessages, MaxBytes: pageBytes, NextFor: filter}
	for {
		msgs, more, err := c.page(ctx, stream, req)
		if err != nil {
			return err
		}
		if len(msgs) > 0 && !each(msgs) {
			return nil
		}
		if !more {
			return nil
		}
		req.Seq = msgs[len(msgs)-1].seq + 1
	}
}

// record reads a job's record and its revision. Without a record it returns
// nil, and the revision under which one can be created.
func (c *Client) record(ctx context.Context, id string) (r *Record, revision uint64, err error) {
	var found stored
	err = c.last(ctx, c.stateStream(), []string{c.stateSubject(id)}, func(m stored) { found = m })
	if err != nil || found.seq == 0 || found.deleted {
		return nil, found.seq, err
	}
	r, err = DecodeRecord(found.data)
	if err != nil {
		return nil, found.seq, fmt.Errorf("job %s: %w", id, err)
	}
	return r, found.seq, nil
}

// save writes a record if its revision is still the one given, and fails with
// errConflict otherwise. If the answer to a first try was lost, errConflict may
// also mean that this very write went through: read again.
func (c *Client) save(ctx context.Context, r *Record, revision uint64) error {
	body, err := r.Encode()
	if err != nil {
		return fmt.Errorf("job %s: encode the record: %w", r.ID, err)
	}
	return c.retry(ctx, "write the record of job "+r.ID, func(ctx context.Context) error {
		_, err := c.js.Publish(ctx, c.stateSubject(r.ID), body, jetstream.WithExpectLastSequencePerSubject(revision))
		if e, ok := errors.AsType[*jetstream.APIError](err); ok &&
			(e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant) {
			return errConflict
		}
		return err
	})
}

// refusal tells apart why the broker would not store a message: its subject has
// one already,
// there is no room (with the reason), or something else.
func refusal(err error) (twice bool, full string) {
	e, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return false, ""
	}
	switch {
	case e.ErrorCode == errCodeStoreFailed && strings.Contains(e.Description, "per subject"):
		return true, ""
	case e.ErrorCode == errCodeStoreFailed && strings.Contains(e.Description, "maximum"):
		return false, e.Description // of messages, or of bytes
	case slices.Contains(resourceCodes, e.ErrorCode):
		return false, e.Description
	}
	return false, ""
}

// resourceCodes are the broker's errors for an account or a server without
// room: 10002 account, 10023 server, 10028 memory, 10047 storage.
var resourceCodes = []jetstream.ErrorCode{10002, 10023, 10028, 10047}
