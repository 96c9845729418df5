package modelslab

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/meshmill/meshmill/internal/apicall"
	"github.com/meshmill/meshmill/pkg/jobs"
)

const (
	// creditWait: nothing but a person's top-up helps, so ask seldom.
	creditWait = time.Minute
	// authWait: a refused key says nothing about the job or its session, and a
	// person may put it right.
	authWait = apicall.KeyWait
)

// meaning is what a message is about. The API answers refusals with HTTP 200
// too, so the words must tell what the status does not.
type meaning uint8

const (
	unclear      meaning = iota
	badKey               // the key is wrong
	noCredit             // the account has no money
	busy                 // rate limit, full queue, overload
	serverFault          // it broke on their side, at an unknown point
	badRequest           // this request can never succeed
	tryLater             // no more is known than that it may succeed later
	noSuchObject         // there is no session of that id
)

// The words, from the error codes page (Common Issues and samples), the rate
// limits page and billing texts seen by other clients. The first match counts:
// "Internal server error. Please try again." is a server fault, and "invalid
// image, try again" a bad request.
var meanings = []struct {
	meaning meaning
	words   *regexp.Regexp
}{
	{badKey, regexp.MustCompile(`(?i)\b(invalid|wrong|incorrect|expired|revoked|missing|inactive|disabled)\b.{0,20}\b(api[ _-]?)?key\b|\bapi[ _-]?key\b.{0,40}\b(invalid|required|missing|expired|revoked|incorrect|wrong|inactive|disabled|not|does)\b|^key (is|field is)\b|\bthe key field is required|\bunauthori[sz]ed\b|\bunauthenticated\b`)},
	{noCredit, regexp.MustCompile(`(?i)\binsufficient\b.{0,20}\b(credits?|balance|funds?)\b|\b(no|not enough|out of|low on)\b.{0,20}\b(credits?|balance|funds?)\b|\bcredits?\b.{0,30}\b(insufficient|finished|expired|used up|too low)\b|\bsubscribe\b|\bsubscription\b.{0,20}\bexpired\b|\bfund your wallet\b|\bexhausted\b|\btop[ -]?up\b|\bpayment required\b`)},
	{busy, regexp.MustCompile(`(?i)\brate[ -]?limit|\btoo many\b.{0,20}\brequests?\b|\boverload|\bqueue\b.{0,20}\bfull\b|\bqueue(d requests?)? limit\b|\bqueued requests\b`)},
	{serverFault, regexp.MustCompile(`(?i)\b(internal|server) error\b|\bbad gateway\b|\bgateway time-?out\b`)},
	{noSuchObject, regexp.MustCompile(`(?i)(\b|_)id\b.{0,40}\b(not found|unknown|invalid|(does|do) ?n[o'’]?t exist|does not exist)|\b(invalid|unknown|no such|wrong)\b (\w+[ _-])?id\b|\b(request|task|job|generation)( \W?[\w-]*\d[\w-]*\W?)?( was| is)? (not found|doesn['’]?t exist|does not exist)|\bno such (request|task|job|generation)\b|\bno (request|task|job|generation) (was |is )?found\b`)},
	{badRequest, regexp.MustCompile(`(?i)\brequired\b|\bmust (not )?(be|have)\b|\binvalid\b|\bnot (a )?valid\b|\bunsupported\b|\bnot (supported|allowed|found)\b|\bmalformed\b|\bout of range\b|\bunable to fetch\b`)},
	{tryLater, regexp.MustCompile(`(?i)\btry(ing)? again\b|\bbusy\b|\bat capacity\b|\b(temporarily|currently) unavailable\b|\bmodel\b.{0,20}\bloading\b`)},
}

func judge(message string) meaning {
	for _, m := range meanings {
		if m.words.MatchString(message) {
			return m.meaning
		}
	}
	return unclear
}

// judgeAll takes the HTTP status into account: where it is specific, it counts
// more than words.
func judgeAll(a *apicall.Answer, message string) meaning {
	m := judge(message)
	switch a.Status {
	case http.StatusPaymentRequired:
		return noCredit
	case http.StatusTooManyRequests:
		if m != noCredit {
			return busy
		}
	case http.StatusUnauthorized:
		if m != noCredit && m != busy {
			return badKey
		}
	}
	return m
}

func (c *Client) fault(call apicall.Call, kind jobs.Kind, err error) *jobs.Fault {
	return &jobs.Fault{Kind: kind, Op: c.ep.Name + ": " + call.Op, Err: err}
}

// base is the fault for an answer that is no success, before its words count.
func (c *Client) base(call apicall.Call, a *apicall.Answer, r *Result) *jobs.Fault {
	f := c.ep.Refusal(call, a, r.message)
	if success(a) {
		text := r.Message
		if text == "" {
			text = "without a reason"
		}
		f = c.fault(call, jobs.Permanent, &apicall.StatusError{Status: a.Status, Text: "the provider refused: " + text})
	}
	f.After = max(f.After, apicall.RetryAfter(a.Header), r.RetryAfter)
	return f
}

// refusal classifies an answer to create or to an upload that is no success. A
// result is Retryable or Permanent only where the answer proves that nothing
// was bought.
func (c *Client) refusal(call apicall.Call, a *apicall.Answer, r *Result) *jobs.Fault {
	f := c.base(call, a, r)
	kind := f.Kind
	f.Kind = jobs.Permanent
	switch m := judgeAll(a, r.message); {
	case a.Status >= 300 && a.Status < 400:
		f.Kind = kind // never followed, see apicall.Refusal
	case a.Status == http.StatusRequestTimeout, a.Status == http.StatusProxyAuthRequired:
		f.Kind = kind // these may not be ModelsLab's own
	case a.Status >= 500:
		// A 5xx proves nothing, even with a readable error in it.
		f.Kind, f.Pause = c.lost(call), true
	case r.ID != "" && success(a):
		// Nor do words, where the answer names a session.
		f.Kind, f.Pause = c.lost(call), m == noCredit || m == busy || m == serverFault || m == tryLater || m == badKey
	case m == noCredit:
		outOfCredit(f)
	case m == busy, a.Status == http.StatusTooEarly:
		f.Kind, f.Pause = jobs.Retryable, true
	case m == badKey:
		noAccess(f)
		f.Err = fmt.Errorf("the provider refuses the key, check MODELSLAB_API_KEY: %w", f.Err)
	case a.Status == http.StatusForbidden:
		noAccess(f)
		f.Err = fmt.Errorf("the account may not do this, check its plan and MODELSLAB_API_KEY: %w", f.Err)
	case m == serverFault && success(a):
		f.Kind, f.Pause = c.lost(call), true
	case m == tryLater:
		f.Kind, f.Pause = jobs.Retryable, true
	case a.Status == http.StatusNotFound && r.message == "":
		f.Err = fmt.Errorf("%w; check MODELSLAB_BASE_URL", f.Err)
	}
	if f.Kind == jobs.Unknown && r.ID != "" {
		f.Err = fmt.Errorf("%w; the answer names the session %s", f.Err, r.ID)
	}
	return f
}

// lost is the kind of a call whose effect is not known.
func (c *Client) lost(call apicall.Call) jobs.Kind {
	if call.Paid {
		return jobs.Unknown
	}
	return jobs.Retryable
}

// noAccess: a matter of the key or the account, which would be the same for
// every other job.
func noAccess(f *jobs.Fault) {
	f.Kind, f.Pause, f.After = jobs.Retryable, true, max(f.After, authWait)
}

func outOfCredit(f *jobs.Fault) {
	f.Kind, f.Pause, f.After = jobs.Retryable, true, max(f.After, creditWait)
	f.Err = fmt.Errorf("the ModelsLab account is out of credits, top it up: %w", f.Err)
}

// nameless is the fault for a purchase that the answer confirms without naming
// it. What can be said of it is said, so that a person can fetch it.
func (c *Client) nameless(call apicall.Call, r *Result) *jobs.Fault {
	text := "the answer has no id to poll"
	if r.Status != "" {
		text = fmt.Sprintf("the answer says %q, but has no id to poll", r.Status)
	}
	if len(r.Output) > 0 {
		text += "; its files are " + c.ep.Clean(strings.Join(r.Output, " "))
	}
	return c.fault(call, jobs.Unknown, errors.New(text))
}

// noAnswer is the fault for a body that is no answer of the API: a proxy's
// page, or a torn document. It is never quoted.
func (c *Client) noAnswer(call apicall.Call, a *apicall.Answer, err error) *jobs.Fault {
	switch {
	case success(a):
		return c.fault(call, c.lost(call), err)
	case call.Op == opFetch:
		return c.unfetched(call, a, &Result{})
	}
	return c.refusal(call, a, &Result{})
}

// meansCall reports whether a fetch that says "failed" speaks about the call
// rather than about the session: it names no session, and its status or words
// are those of a refused call.
func (c *Client) meansCall(a *apicall.Answer, r *Result) bool {
	switch a.Status {
	case http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusForbidden, http.StatusTooManyRequests:
		return true
	}
	if r.ID != "" {
		return false
	}
	switch judge(r.message) {
	case badKey, noCredit, busy, tryLater:
		return true
	}
	return !success(a)
}

// unfetched classifies a fetch that told nothing about the session. It is paid
// for, so only a clear word that it does not exist ends it.
func (c *Client) unfetched(call apicall.Call, a *apicall.Answer, r *Result) *jobs.Fault {
	f := c.base(call, a, r)
	f.Kind = jobs.Retryable
	switch m := judgeAll(a, r.message); {
	case a.Status >= 500:
		f.Pause = true
	case m == noCredit:
		outOfCredit(f)
	case m == busy:
		f.Pause = true
	case m == badKey, a.Status == http.StatusForbidden:
		f.After = max(f.After, authWait)
		f.Err = fmt.Errorf("the provider refuses the key, check MODELSLAB_API_KEY: %w", f.Err)
	case m == noSuchObject && (success(a) || a.Status >= 400):
		f.Kind = jobs.Permanent
	}
	return f
}
