// Package providertest is the conformance suite of provider adapters: what the
// engine relies on in every [jobs.Provider], asserted against the adapter's
// real HTTP calls to a scripted server.
//
// An adapter's test fills a [Harness] with its own words for a few abstract
// situations, and the suite plays them, whole, cut, late and garbled:
//
//	func TestConformance(t *testing.T) {
//		providertest.Run(t, providertest.Harness{
//			New: func(t *testing.T, base, key string) jobs.Provider {
//				c, err := acme.New(acme.Config{Key: key, BaseURL: base})
//				if err != nil {
//					t.Fatal(err)
//				}
//				return acme.NewProvider(c)
//			},
//			Image:      jobs.Delivery{URL: "https://images.example/oak.png"},
//			Options:    map[string]any{"quality": "high"},
//			Formats:    []string{"glb"},
//			Session:    "S1",
//			Accepted:   providertest.JSON(201, `{"id":"S1","status":"queued"}`),
//			NoID:       providertest.JSON(201, `{"status":"queued"}`),
//			Processing: providertest.JSON(200, `{"id":"S1","status":"busy","percent":40}`),
//			Done:       providertest.JSON(200, `{"id":"S1","status":"done","glb":"https://files.example/a.glb"}`),
//			Broken:     providertest.JSON(200, `{"id":"S1","status":"failed","message":"too dark"}`),
//			Refuse: func(status int, message string) providertest.Reply {
//				return providertest.JSON(status, fmt.Sprintf(`{"message":%q}`, message))
//			},
//		})
//	}
//
// The suite is provider-neutral. Wire formats, modes and request bodies are the
// adapter's own tests' business.
package providertest

import (
	"net/http"
	"testing"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// Key is the API key that the suite gives to the adapter. It is distinctive, so
// that it can be searched for in whatever the adapter says.
const Key = "k3y-0f-the-conformance-suite"

// Signature is the query of a signed URL that scripted answers mention.
const Signature = "sv=1&sig=s1gnature-0f-the-conformance-suite"

// Reply is one scripted HTTP answer.
type Reply struct {
	Status int
	Header http.Header
	Body   string
}

// JSON returns a Reply with a JSON body.
func JSON(status int, body string) Reply {
	return Reply{Status: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: body}
}

// Harness is what the suite must know of one adapter. Fields without "may be"
// are required.
type Harness struct {
	// New returns the adapter, addressed at base, an http URL of a server on
	// loopback without a trailing slash, with key as its API key. It is called
	// many times. The adapter must use no other host.
	New func(t *testing.T, base, key string) jobs.Provider

	// Image, Options and Formats make a valid request. Image.URL or the base64
	// of Image.Bytes must occur in the paid call's body. Options and Formats may
	// be empty.
	Image   jobs.Delivery
	Options map[string]any
	Formats []string

	// Session is the id that Accepted tells.
	Session string
	// Accepted answers the first paid call: the session is open and not ready.
	// Its Status is also used for garbled answers to that call.
	Accepted Reply
	// AcceptedDone answers the first paid call of a provider that may be done
	// at once. It may be nil. It tells the same Session.
	AcceptedDone *Reply
	// NoID answers the first paid call like Accepted, but tells no session.
	NoID Reply

	// Processing, Done and Broken answer a poll. Done has a file for every
	// format of the request. Broken has a reason.
	Processing, Done, Broken Reply
	// Refuse returns the provider's own form of an error, with the message where
	// the adapter looks for it.
	Refuse func(status int, message string) Reply

	// Next is the paid stage that a session needs that rests as Resting tells;
	// StageAccepted answers its call. They may be empty if the provider has no
	// further paid stages.
	Next          string
	Resting       Reply
	StageAccepted Reply

	// Lookup is a call that Reconcile can look up; Found shows its session
	// (Session) and Absent shows that there is none. They may be empty if the
	// adapter is no jobs.Reconciler.
	Lookup        *jobs.Call
	Found, Absent Reply

	// Companions are further options without which Plan would refuse an
	// option, by that option's name. It may be nil.
	Companions map[string]map[string]any
}

// Run runs the suite as parallel subtests of t.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for name, missing := range map[string]bool{
		"New": h.New == nil, "Session": h.Session == "", "Refuse": h.Refuse == nil,
		"Image": h.Image.URL == "" && len(h.Image.Bytes) == 0, "Accepted": h.Accepted.Status == 0, "NoID": h.NoID.Status == 0,
		"Processing": h.Processing.Status == 0, "Done": h.Done.Status == 0, "Broken": h.Broken.Status == 0,
	} {
		if missing {
			t.Errorf("Harness.%s is not set", name)
		}
	}
	if t.Failed() {
		return
	}
	t.Run("catalog", h.testCatalog)
	t.Run("options", h.testOptions)
	t.Run("submit", h.testSubmit)
	t.Run("poll", h.testPoll)
	if h.Next != "" {
		t.Run("stage", h.testStage)
	}
	if h.Lookup != nil {
		t.Run("reconcile", h.testReconcile)
	}
}
