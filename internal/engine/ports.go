package engine

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

// Queue delivers job messages under leases. A lease is not an authority: the
// broker may deliver a message again while its holder still lives, and takes
// an ack from either. The journal decides.
type Queue interface {
	// Fetch waits at most wait for messages of a provider's lane, and returns
	// at most n. None is not an error.
	Fetch(ctx context.Context, provider string, lane jobs.Lane, n int, wait time.Duration) ([]Message, error)
	// Requeue puts the message of a record back in the queue. One that is
	// there already is left alone.
	Requeue(ctx context.Context, r *jobs.Record) error
	// Bury keeps a message that is no request in the dead stream. The caller
	// acks it afterwards.
	Bury(ctx context.Context, id string, body []byte, reason string) error
}

// Message is one delivery of a job message.
type Message interface {
	Subject() string
	Body() []byte
	// Renew restarts the lease. Nil means that the broker confirmed it, not
	// that nobody else holds the message.
	Renew(ctx context.Context) error
	// Release hands the message back, to be delivered again after delay.
	Release(ctx context.Context, delay time.Duration) error
	// Ack removes the message from the queue; nil means that it is gone.
	Ack(ctx context.Context) error
}

// ErrConflict is returned by Journal.Save when somebody else wrote first.
var ErrConflict = errors.New("the record has been changed by somebody else")

// Journal keeps the records.
type Journal interface {
	// Load returns the record of a job and its revision. A job without one has
	// a nil record; its revision is then still right for Save. The answer may
	// be stale, which Save will find out.
	Load(ctx context.Context, id string) (*jobs.Record, uint64, error)
	// Save writes the record if its revision is still rev, and returns the new
	// one. It is durable when Save returns nil. ErrConflict means that nothing
	// was written; after any other error the write may have happened.
	Save(ctx context.Context, r *jobs.Record, rev uint64) (uint64, error)
}

// Fleet is what the workers share about a provider's account.
type Fleet interface {
	// Acquire waits for a slot of the provider and returns its number, from 1.
	// A slot belongs to the job, not to the caller: a job that holds one gets
	// it again, from whatever worker. It is held for the time from now to until,
	// counted from when it is had, however long that takes; then the slot is free
	// to be taken.
	Acquire(ctx context.Context, provider string, lane jobs.Lane, id string, until time.Time) (int, error)
	// Release frees the slot if the job holds it.
	Release(ctx context.Context, provider string, slot int, id string) error
	// Pause stops the whole fleet from buying from the provider for at least d.
	Pause(ctx context.Context, provider string, d time.Duration, reason string) error
	// Await waits until the provider is not paused.
	Await(ctx context.Context, provider string) error
}

// Events announces what happened.
type Events interface {
	// Publish announces the state of the record. Nil means that the event is
	// stored, now or by an earlier call for the same fact.
	Publish(ctx context.Context, r *jobs.Record) error
	// Progress tells whoever listens; it may be lost.
	Progress(p jobs.Progress)
}

// Store is the bucket.
type Store interface {
	// Put stores size bytes of r under key, whole or not at all.
	Put(ctx context.Context, key string, r io.Reader, size int64, mediaType string) (storage.Object, error)
	// GetBytes returns an object of at most limit bytes. A missing one is
	// storage.ErrNotFound.
	GetBytes(ctx context.Context, key string, limit int64) ([]byte, error)
	// PutJSON and GetJSON store and read a document.
	PutJSON(ctx context.Context, key string, v any) error
	GetJSON(ctx context.Context, key string, v any, limit int64) error
	// Stat returns an object without its content.
	Stat(ctx context.Context, key string) (storage.Object, error)
	// List yields the objects under a prefix.
	List(ctx context.Context, prefix string) iter.Seq2[storage.Object, error]
	// Presign returns a URL that reads the object until ttl has passed.
	Presign(ctx context.Context, key string, ttl time.Duration, filename string) (string, error)
	URI(key string) string
}

// Download is a file that was fetched whole.
type Download interface {
	io.ReaderAt
	io.Closer
	Size() int64
	SHA256() string
	// Private reports whether it came from a private address.
	Private() bool
}

// Fetcher reads URLs that strangers hand over.
type Fetcher interface {
	// Fetch returns the file at url, if it has at most limit bytes. Its errors
	// are *FetchError or say nothing about the link.
	Fetch(ctx context.Context, url string, limit int64) (Download, error)
}

// FetchError tells what a failed download means for the job.
type FetchError struct {
	// Expired: the link is no longer good, but a fresh one may be.
	Expired bool
	// Permanent: no other try can succeed.
	Permanent bool
	Err       error
}

func (e *FetchError) Error() string { return e.Err.Error() }
func (e *FetchError) Unwrap() error { return e.Err }

// Content says what files are, by their content.
type Content interface {
	// Image checks that data is a picture which providers take.
	Image(data []byte) (mediaType, ext string, err error)
	// Mesh returns the format of a result file and its media type. A file that
	// is at fault is a *ContentError; any other error is about reading it.
	Mesh(r io.ReaderAt, size int64) (format, mediaType string, err error)
}

// ContentError reports a result file that is not what it should be.
type ContentError struct{ Err error }

func (c *ContentError) Error() string { return c.Err.Error() }
func (c *ContentError) Unwrap() error { return c.Err }

// Observer counts what the engine does. Its methods are called concurrently
// and must not block.
type Observer interface {
	// Held changes the number of jobs in hand.
	Held(provider string, delta int)
	// Bought counts paid calls by outcome: "ok", "retryable", "permanent" or
	// "unknown".
	Bought(provider, stage, outcome string)
	// Polled counts polls.
	Polled(provider string, err error)
	// Ended counts jobs by the state in which this worker left them, and the
	// time from purchase.
	Ended(provider string, state jobs.State, took time.Duration)
	// Stored counts the bytes of results.
	Stored(provider string, bytes int64)
}

// NoObserver observes nothing.
type NoObserver struct{}

func (NoObserver) Held(string, int)                        {}
func (NoObserver) Bought(string, string, string)           {}
func (NoObserver) Polled(string, error)                    {}
func (NoObserver) Ended(string, jobs.State, time.Duration) {}
func (NoObserver) Stored(string, int64)                    {}
