package csm

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/meshmill/meshmill/internal/apicall"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// envelope is what every v1 and v2 answer comes in. Error is empty on success.
type envelope struct {
	Error   json.RawMessage `json:"error"`
	Message json.RawMessage `json:"message"`
	Data    json.RawMessage `json:"data"`
}

// decodeEnvelope reports whether body is an envelope with data. Its result is
// never nil.
func decodeEnvelope(body []byte) (*envelope, bool) {
	var env envelope
	if err := json.Unmarshal(body, &env); err != nil {
		return &envelope{}, false
	}
	return &env, len(env.Data) > 0 && string(env.Data) != "null"
}

// text returns what the envelope says went wrong, or "". No sample of an error
// is documented: the words may be in either field, and not be a string.
func (env *envelope) text() string {
	for _, raw := range []json.RawMessage{env.Error, env.Message} {
		var s string
		switch {
		case len(raw) == 0 || string(raw) == "null" || string(raw) == "true" || string(raw) == "false" || string(raw) == "{}" || string(raw) == "[]":
		case json.Unmarshal(raw, &s) != nil:
			return string(raw)
		case strings.TrimSpace(s) != "":
			return s
		}
	}
	return ""
}

// The waits that CSM's behaviour asks for; its own words in Retry-After go
// before them if they are longer.
const (
	waitDisguised = 30 * time.Second
	waitURL       = 30 * time.Second
	waitCredits   = time.Minute
)

// refusal builds the fault for an answer that is no success.
func (c *Client) refusal(call apicall.Call, a *apicall.Answer, env *envelope) *jobs.Fault {
	f := c.e.Refusal(call, a, env.text())
	opens := call.Path == sessionsPath && call.Paid
	explain := func(words string) {
		f.Err = &apicall.StatusError{Status: a.Status, Text: f.Err.Error() + "; " + words}
	}
	switch a.Status {
	case http.StatusBadRequest:
		// CSM's own evaluation script: a 400 without helpful words is sometimes a
		// rate limit. Before there is a session, twice at most, in case it is not.
		if unhelpful(env.text()) {
			f.Kind, f.After = jobs.Retryable, max(f.After, waitDisguised)
			if opens {
				f.Tries = 2
			}
			explain("CSM answers so to bad options, and sometimes when it is called too often")
		}
	case http.StatusUnauthorized, http.StatusForbidden:
		// Neither a queue nor a session that is paid for must be lost to a
		// mistake with the key.
		explain("check CSM_API_KEY")
	case http.StatusNotFound:
		if opens {
			explain("check CSM_BASE_URL")
		} else {
			explain("CSM does not know the session")
		}
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		if !opens { // nor to one with the base URL
			f.Kind, f.After = jobs.Retryable, max(f.After, waitURL)
		}
	case http.StatusPaymentRequired:
		f.Kind, f.Pause, f.After = jobs.Retryable, true, max(f.After, waitCredits)
		explain("the CSM account has no credits left: buy some, or use another CSM_API_KEY")
	}
	return f
}

// unhelpful reports a message that names no mistake.
func unhelpful(message string) bool {
	return slices.Contains([]string{
		"", "400", "bad request", "error", "failed", "invalid request", "request failed", "something went wrong",
	}, strings.ToLower(strings.Trim(message, " .!\n")))
}

// unclear is the fault for a success that does not say what it should: Unknown
// after a paid call, else worth another try.
func (c *Client) unclear(call apicall.Call, env *envelope, what string) *jobs.Fault {
	f := &jobs.Fault{Kind: jobs.Retryable, Op: "csm: " + call.Op, Err: fmt.Errorf("%s", what)}
	if call.Paid {
		f.Kind = jobs.Unknown
	}
	if text := c.e.Clean(env.text()); text != "" {
		f.Err = fmt.Errorf("%s: %s", what, text)
	}
	return f
}
