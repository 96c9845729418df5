package csm

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/meshmill/meshmill/internal/apicall"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// Bounds of a search through the account's sessions.
const (
	listLimit = 50
	listPages = 10
	// clockSkew is how far CSM's clock may be behind ours.
	clockSkew = 10 * time.Minute
)

// Reconcile implements jobs.Reconciler. An opened session can be found only if
// its image went as a URL with the call's marker in it. For a later stage the
// session itself tells.
func (p *Provider) Reconcile(ctx context.Context, call jobs.Call, since time.Time) (*jobs.Session, error) {
	switch call.Stage {
	case stageCreate:
		if call.Marker == "" || !strings.Contains(call.Image.URL, call.Marker) {
			return nil, jobs.Faultf(jobs.Permanent, "csm: look for the session",
				"it cannot be looked up: CSM tells sessions apart by the URL of their image alone, and this one went inline; MESHMILL_IMAGE_DELIVERY=presign avoids that")
		}
		return p.search(ctx, call.Marker, since)
	case stagePreview, stageRefine:
		return p.movedOn(ctx, call)
	}
	return nil, jobs.Faultf(jobs.Permanent, "csm: look for the session", "CSM has no paid stage %.40q", call.Stage)
}

// movedOn reads from the session's word whether it has left the rest from
// which the stage moves it.
func (p *Provider) movedOn(ctx context.Context, call jobs.Call) (*jobs.Session, error) {
	s, err := p.c.GetSession(ctx, call.Session)
	if err != nil {
		return nil, err
	}
	rests := StatusSpinDone
	before := []string{"", StatusSpinProcessing, StatusQueued}
	if call.Stage == stageRefine {
		rests = StatusPreviewDone
		before = append(before, StatusSpinDone, StatusTrainingPreview)
	}
	if s.Status == rests {
		return nil, fmt.Errorf("csm: the session still rests at %s: %w", rests, jobs.ErrNotBought)
	}
	for _, word := range before {
		if s.Status == word {
			return nil, jobs.Faultf(jobs.Retryable, "csm: look for the stage", "the session is said to be at %q, which is before the %s stage", word, call.Stage)
		}
	}
	return &jobs.Session{ID: call.Session, Status: p.status(s, jobs.Ref{
		Session: call.Session, Stage: call.Stage, Options: call.Options, Formats: call.Formats,
	})}, nil
}

// search looks through the list of sessions for one whose image's URL holds the
// marker. What page means and how the list is ordered is not certain, so only
// two things prove absence: an empty page after the first, or a list that is
// seen to run from new to old and has reached a time before the call. And only
// of a list that is seen to show our URLs, not those of copies, or that is
// empty in so many words: an answer without a list is an error.
func (p *Provider) search(ctx context.Context, marker string, since time.Time) (*jobs.Session, error) {
	l := listing{seen: map[string]bool{}, sorted: true}
	unproven := func(why string) *jobs.Fault {
		return jobs.Faultf(jobs.Permanent, "csm: look for the session", "it cannot be told whether there is one: %s; look for the image %q in CSM's own list", why, marker)
	}
	page, cutoff := 0, since.Add(-clockSkew)
	for n := range listPages {
		sessions, err := p.c.ListSessions(ctx, listLimit, page)
		if n == 0 && firstPageRefused(err) {
			page = 1 // pages may count from 1
			continue
		}
		if err != nil {
			return nil, err
		}
		for i := range sessions {
			s := &sessions[i]
			switch {
			case !strings.Contains(plain(s.ImageURL), marker):
			case !holds(s.ImageURL, marker), !s.CreatedAt.IsZero() && s.CreatedAt.Before(cutoff):
				l.doubtful = true
			case !validCode(s.Code):
				return nil, unproven("CSM shows the image, but no session code that can be used")
			default:
				return &jobs.Session{ID: s.Code}, nil
			}
		}
		absent := (len(sessions) == 0 && n > 0) || l.add(sessions, cutoff)
		switch {
		case absent && l.doubtful:
			return nil, unproven("CSM shows a session with such an image, but from before the call or with another name")
		case absent && l.hidden:
			return nil, unproven("CSM does not show the image of every session")
		case absent && !l.echoes && len(l.seen) > 0:
			// The next look may show more: the call's own session, or another's.
			f := unproven("no session in CSM's list shows an image of Meshmill's by the URL it was sent with, so CSM may show copies")
			f.Kind = jobs.Retryable
			return nil, f
		case absent:
			return nil, fmt.Errorf("csm: none of %d sessions has the image: %w", len(l.seen), jobs.ErrNotBought)
		case n > 1 && !l.grew:
			return nil, unproven("CSM's list repeats itself")
		}
		if page = page + 1; l.skips {
			page = len(l.seen)
		}
	}
	return nil, unproven(fmt.Sprintf("it is not among the first %d sessions", len(l.seen)))
}

// markers finds the marker of any call, see jobs.Call.
var markers = regexp.MustCompile(`(^|[^A-Za-z0-9_.-])meshmill\.[A-Za-z0-9_-]{1,64}\.a[0-9]+\.`)

// plain undoes the escapes of a URL, which CSM may have added to.
func plain(u string) string {
	for range 3 {
		p, err := url.QueryUnescape(u)
		if err != nil || p == u {
			break
		}
		u = p
	}
	return u
}

// holds reports whether the marker is in the URL, and not the end of a longer
// word there.
func holds(u, marker string) bool {
	u = plain(u)
	for at := 0; ; at++ {
		i := strings.Index(u[at:], marker)
		if i < 0 {
			return false
		}
		at += i
		before := u[:at]
		if strings.TrimRightFunc(before, inWord) == before {
			return true
		}
	}
}

func inWord(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' || r == '.'
}

// firstPageRefused reports an answer that says that there is no page 0.
func firstPageRefused(err error) bool {
	status := apicall.StatusOf(err)
	return status == http.StatusBadRequest || status == http.StatusNotFound || status == http.StatusUnprocessableEntity
}

// listing is what has been seen of a list of sessions.
type listing struct {
	seen  map[string]bool
	pages [][]string // the codes of the first two
	// grew: the last page showed new sessions. skips: page is the number of
	// sessions to skip. hidden: a session that may be the one has no image URL.
	// echoes: a session shows the URL of some call of ours. doubtful: one
	// resembles the call that is looked for.
	grew, skips, hidden, echoes, doubtful bool
	// sorted: no session was younger than one before it; newest and oldest are
	// the first and last times of those with a time.
	sorted         bool
	newest, oldest time.Time
}

// add takes in a page and reports whether it proves that the whole list since
// cutoff has been seen.
func (l *listing) add(page []Session, cutoff time.Time) bool {
	l.grew = false
	var codes []string
	for _, s := range page {
		codes = append(codes, s.Code)
		if s.Code == "" || l.seen[s.Code] {
			continue
		}
		l.seen[s.Code], l.grew = true, true
		l.echoes = l.echoes || markers.MatchString(plain(s.ImageURL))
		at := s.CreatedAt
		if s.ImageURL == "" && (at.IsZero() || at.After(cutoff)) {
			l.hidden = true
		}
		if at.IsZero() {
			l.sorted = false
			continue
		}
		if l.newest.IsZero() {
			l.newest = at
		} else if at.After(l.oldest) {
			l.sorted = false
		}
		l.oldest = at
	}
	if len(l.pages) < 2 {
		l.pages = append(l.pages, codes)
		if len(l.pages) == 2 {
			// One step on and the same list moved by one.
			a, b := l.pages[0], codes
			l.skips = len(a) > 1 && len(b) > 0 && a[1] == b[0] && a[0] != b[0]
		}
	}
	return l.sorted && l.oldest.Before(l.newest) && l.oldest.Before(cutoff)
}
