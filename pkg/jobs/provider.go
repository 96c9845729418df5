package jobs

import (
	"context"
	"encoding/json"
	"time"
)

// Provider buys conversions from one paid service. Its methods are safe for
// concurrent use, return *Fault errors and retry nothing: whether a call may
// be made again is the job's decision, never the client's.
type Provider interface {
	// Name is the provider's name in requests and subjects, such as "csm".
	Name() string
	// Catalog describes what can be asked for. It is constant.
	Catalog() Catalog
	// Plan checks options and formats before anything is bought, without any
	// call, and says what buying them will take. Its error joins a *FieldError
	// for each mistake.
	Plan(options map[string]any, formats []string) (*Plan, error)
	// Submit makes the paid call. Its context carries the submit deadline,
	// after which nothing may be sent any more. A fault of kind Retryable or
	// Permanent promises that nothing was bought.
	Submit(ctx context.Context, call Call) (*Session, error)
	// Poll asks how a session stands. It costs nothing. A session that the
	// provider reports as failed is a Status, not an error; an error is about
	// the call itself, and the session may be fine.
	Poll(ctx context.Context, ref Ref) (*Status, error)
}

// Uploader is implemented by providers that take no image bytes in the paid
// call itself, and have a free call that makes a URL of them.
type Uploader interface {
	// Upload returns a URL under which the provider can read the image. It may
	// be repeated freely.
	Upload(ctx context.Context, image []byte, mediaType string) (string, error)
}

// Reconciler is implemented by providers that can tell what became of a paid
// call whose answer was lost.
type Reconciler interface {
	// Reconcile looks for the effect of a call made at or after since. It
	// returns the session if there is one, an error that is ErrNotBought if the
	// provider shows no trace of the call (lists may lag: look again), and a
	// Fault otherwise: Retryable if asking again may help, Permanent if this
	// call can never be looked up.
	Reconcile(ctx context.Context, call Call, since time.Time) (*Session, error)
}

// Catalog is what a provider offers.
type Catalog struct {
	Title   string // "CSM.ai"
	Options []Option
	Presets []Preset
	// Formats lists every format the provider can make, the default first.
	Formats []string
	// FirstStage is the name of the paid call that opens a session.
	FirstStage string
}

// Preset is a named set of options.
type Preset struct {
	Name       string         `json:"name"`
	Doc        string         `json:"doc"`
	Options    map[string]any `json:"options"`
	Deprecated string         `json:"deprecated,omitempty"` // why, if it is
}

// Plan is what buying a request will take.
type Plan struct {
	// Formats are the files to fetch: the wanted ones, or the provider's choice.
	Formats []string
	// Options are the options to enqueue with: the given ones, and what the
	// formats imply about what is bought. The id of a job is derived from them,
	// so without this two orders for different meshes would be one job.
	Options map[string]any
	// Warnings tell the user what is legal but unwise, such as a deprecated mode.
	Warnings []string
	// Mode is a short name of what will be bought, such as "v1 refine".
	Mode string
	// SubmitTimeout bounds the paid call.
	SubmitTimeout time.Duration
	// Typical is how long such a session usually takes; zero if nobody knows.
	Typical time.Duration
}

// Delivery is an image in the form in which it goes to a provider: either a
// URL, or bytes with their media type.
type Delivery struct {
	URL       string
	Bytes     []byte
	MediaType string
}

// Call is one paid call.
type Call struct {
	// Stage is Catalog.FirstStage for the call that opens a session, and
	// Status.Next for those that move it on.
	Stage string
	// Session is empty for the first stage.
	Session string
	// Marker is unique to this job and attempt: "meshmill.<id>.a<attempt>.". It
	// occurs in Image.URL under presigned delivery, which makes the call
	// recognisable afterwards.
	Marker  string
	Image   Delivery // first stage only
	Options map[string]any
	Formats []string
	// Input is Status.NextInput for the later stages.
	Input json.RawMessage
}

// Ref names a session to poll, with the options it was bought with.
type Ref struct {
	Session string
	Stage   string // the stage bought last
	Options map[string]any
	Formats []string
}

// Session is what a paid call returned.
type Session struct {
	// ID is the provider's name for the session, never empty.
	ID string
	// Status is set if the answer already told how the session stands.
	Status *Status
}

// Phase is where a session stands.
type Phase uint8

const (
	// InProgress: poll again.
	InProgress Phase = iota
	// NeedsStage: the session rests until the paid call Next is made.
	NeedsStage
	// Done: Files are ready.
	Done
	// Broken: the provider failed; Message says why.
	Broken
)

// Status is what a provider says about a session.
type Status struct {
	Phase Phase
	// Detail is the provider's own word, such as "spin_generate_processing".
	Detail string
	// Percent is the progress from 0 to 100, or negative if unknown.
	Percent float64
	// ETA is the provider's estimate of the time left; zero if unknown.
	ETA time.Duration
	// Next and NextInput name the paid call that a resting session needs.
	Next      string
	NextInput json.RawMessage
	// Files are the results of a session that is Done.
	Files []File
	// Message is the provider's reason for a broken session.
	Message string
}

// File is one result of a session.
type File struct {
	// Format is what the provider calls it. The content decides in the end.
	Format string
	// URL may carry a signature: never log or record it.
	URL string
	// Alternatives are further URLs of the same content, tried in order.
	Alternatives []string
}
