package jobs

import (
	"fmt"
	"time"
)

// The layout of the bucket.

// InputKey is where an image lies: its hash in lower-case hexadecimal and its
// extension without a dot.
func InputKey(sha256, ext string) string { return "inputs/" + sha256 + "." + ext }

// MeshKey is where a result file of a job lies. Name is a base name.
func MeshKey(id, name string) string { return "meshes/" + id + "/" + name }

// MeshName is the base name of a job's main file in a format.
func MeshName(id, format string) string { return id + "." + format }

// ManifestKey is where a job's manifest lies. It is written last: where it is,
// every file it names is whole.
func ManifestKey(id string) string { return MeshKey(id, "manifest.json") }

// ReceiptKey is where the proof of a purchase lies.
func ReceiptKey(id string, attempt int) string {
	return fmt.Sprintf("receipts/%s/%d.json", id, attempt)
}

// ReceiptPrefix is the common prefix of a job's receipts.
func ReceiptPrefix(id string) string { return "receipts/" + id + "/" }

// The schemas of the objects that Meshmill writes beside the meshes.
const (
	ManifestSchema = "meshmill.manifest.v1"
	ReceiptSchema  = "meshmill.receipt.v1"
)

// Manifest describes the stored result of a job.
type Manifest struct {
	Schema   string   `json:"schema"`
	ID       string   `json:"id"`
	Provider string   `json:"provider"`
	Session  string   `json:"session"`
	Attempt  int      `json:"attempt"`
	Request  Request  `json:"request"`
	Outputs  []Output `json:"outputs"`
	Missing  []string `json:"missing,omitempty"`
	// Times of the steps, in UTC.
	EnqueuedAt  time.Time `json:"enqueued_at,omitzero"`
	SubmittedAt time.Time `json:"submitted_at,omitzero"`
	StoringAt   time.Time `json:"storing_at,omitzero"`
	StoredAt    time.Time `json:"stored_at"`
}

// Receipt is the proof of a purchase, kept in the bucket so that the loss of
// the broker does not lose what was paid for.
type Receipt struct {
	Schema      string    `json:"schema"`
	ID          string    `json:"id"`
	Provider    string    `json:"provider"`
	Session     string    `json:"session"`
	Stage       string    `json:"stage"`
	Attempt     int       `json:"attempt"`
	Request     Request   `json:"request"`
	SubmittedAt time.Time `json:"submitted_at"`
}
