package csm_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshmill/meshmill/pkg/csm"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// entry is a session in a list.
type entry struct {
	Code      string `json:"session_code"`
	ImageURL  string `json:"image_url,omitempty"`
	CreatedAt string `json:"created_at,omitempty"`
}

var since = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// sessions makes n sessions, newest first, a minute apart from begin on.
func sessions(n int, begin time.Time) []entry {
	list := make([]entry, n)
	for i := range list {
		list[i] = entry{fmt.Sprintf("S%d", i), fmt.Sprintf("https://images.example/other/%d.png?filename%%3D%%22meshmill.other-%d.a1.png", i, i), begin.Add(-time.Duration(i) * time.Minute).Format(time.RFC3339)}
	}
	return list
}

// withMarker puts the marker into the image of session i.
func withMarker(list []entry, i int) []entry {
	list[i].ImageURL = imageURL
	return list
}

func reversed(list []entry) []entry {
	out := make([]entry, len(list))
	for i, e := range list {
		out[len(list)-1-i] = e
	}
	return out
}

// paging turns a page into the offset at which it begins, or refuses it.
type paging func(page, limit int) (offset int, ok bool)

var (
	fromZero = func(page, limit int) (int, bool) { return page * limit, true }
	fromOne  = func(page, limit int) (int, bool) { return max(page-1, 0) * limit, true }
	strict   = func(page, limit int) (int, bool) { return (page - 1) * limit, page > 0 }
	skipping = func(page, _ int) (int, bool) { return page, true }
	ignoring = func(int, int) (int, bool) { return 0, true }
	hollow   = func(page, limit int) (int, bool) { // an empty page 0
		if page == 0 {
			return 1 << 20, true
		}
		return (page - 1) * limit, true
	}
)

// listServer lists sessions, at most most of them to a page.
func listServer(t *testing.T, list []entry, most int, pages paging) (string, *atomic.Int64) {
	t.Helper()
	var calls atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
		if err != nil || limit != 50 {
			t.Errorf("limit %q", r.URL.RawQuery)
		}
		page, err := strconv.Atoi(r.URL.Query().Get("page"))
		if err != nil {
			t.Errorf("page %q", r.URL.RawQuery)
		}
		limit = min(limit, most)
		offset, ok := pages(page, limit)
		if !ok {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		part := list[min(offset, len(list)):min(offset+limit, len(list))]
		data, err := json.Marshal(map[string]any{"error": "", "data": map[string]any{"results": append([]entry{}, part...)}})
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, &calls
}

func TestReconcileCreate(t *testing.T) {
	t.Parallel()
	const found, absent, unproven, lookAgain = "found", "absent", "unproven", "look again"
	now, busy, old := since.Add(30*time.Minute), since.Add(200*time.Minute), since.Add(-24*time.Hour)
	blank := func(list []entry, i int) []entry { list[i].ImageURL = ""; return list }
	timeless := func(list []entry) []entry {
		for i := range list {
			list[i].CreatedAt = ""
		}
		return list
	}
	copied := func(list []entry) []entry { // CSM shows its own copies of the images
		for i := range list {
			list[i].ImageURL = fmt.Sprintf("https://copies.example/%d.png", i)
		}
		return list
	}
	once := func(list []entry, i int, image string) []entry { list[i].ImageURL = image; return list }
	early := func(list []entry, i int) []entry {
		list[i].CreatedAt = since.Add(-11 * time.Minute).Format(time.RFC3339)
		return list
	}
	swapped := func(list []entry) []entry { list[0], list[1] = list[1], list[0]; return list }
	for name, tc := range map[string]struct {
		list   []entry
		most   int
		pages  paging
		want   string
		within int64 // calls at most
	}{
		"first":                         {withMarker(sessions(120, now), 0), 50, fromZero, found, 1},
		"third page, from 0":            {withMarker(sessions(120, busy), 110), 50, fromZero, found, 3},
		"third page, from 1":            {withMarker(sessions(120, busy), 110), 50, fromOne, found, 4},
		"third page, no page 0":         {withMarker(sessions(120, busy), 110), 50, strict, found, 4},
		"third page, empty page 0":      {withMarker(sessions(120, busy), 110), 50, hollow, found, 4},
		"far, by skipping":              {withMarker(sessions(120, busy), 110), 50, skipping, found, 5},
		"short pages":                   {withMarker(sessions(60, now), 38), 10, fromZero, found, 4},
		"list runs from old to new":     {reversed(withMarker(sessions(120, now), 0)), 50, fromZero, found, 3},
		"no times":                      {timeless(withMarker(sessions(120, busy), 110)), 50, fromZero, found, 3},
		"absent, past the time":         {sessions(1000, now), 50, fromZero, absent, 3},
		"absent, all older":             {sessions(1000, old), 50, fromZero, absent, 1},
		"absent, end of the list":       {sessions(30, now), 50, fromZero, absent, 2},
		"absent, end, from 1":           {sessions(30, now), 50, fromOne, absent, 3},
		"absent, end, no page 0":        {sessions(30, now), 50, strict, absent, 3},
		"absent, end, by skipping":      {sessions(30, now), 50, skipping, absent, 3},
		"absent, one session":           {sessions(1, now), 50, skipping, absent, 2},
		"absent, one old session":       {sessions(1, old), 50, fromZero, absent, 2},
		"an empty list":                 {nil, 50, fromZero, absent, 2},
		"copies, past the time":         {copied(sessions(1000, now)), 50, fromZero, lookAgain, 3},
		"copies, end of the list":       {copied(sessions(30, now)), 50, fromZero, lookAgain, 2},
		"copies, but one":               {once(copied(sessions(30, now)), 20, "https://b.example/?f=meshmill.elm.a12.png"), 50, fromZero, absent, 2},
		"copies, with such a name":      {once(copied(sessions(30, now)), 20, "https://b.example/my-meshmill.elm.a1.png"), 50, fromZero, lookAgain, 2},
		"of a job with a longer id":     {once(sessions(30, now), 3, "https://b.example/?f=meshmill.meshmill-oak.a1.png"), 50, fromZero, absent, 2},
		"of another attempt":            {once(sessions(30, now), 3, "https://b.example/?f=meshmill.oak.a11.png"), 50, fromZero, absent, 2},
		"in a longer word":              {once(sessions(30, now), 3, "https://b.example/?f=my-"+marker+"png"), 50, fromZero, unproven, 2},
		"before the call":               {early(withMarker(sessions(30, now), 29), 29), 50, fromZero, unproven, 2},
		"before the call, and of it":    {early(withMarker(withMarker(sessions(120, busy), 70), 60), 60), 50, fromZero, found, 2},
		"absent, old one without image": {blank(sessions(120, now), 100), 50, fromZero, absent, 3},
		"too many":                      {sessions(2000, now.Add(1000*time.Hour)), 50, fromZero, unproven, 10},
		"from old to new, too many":     {reversed(sessions(2000, now)), 50, fromZero, unproven, 10},
		"no times, too many":            {timeless(sessions(2000, now)), 50, fromZero, unproven, 10},
		"order is not by time":          {swapped(sessions(2000, now)), 50, fromZero, unproven, 10},
		"pages are ignored":             {sessions(30, now), 10, ignoring, unproven, 3},
		"an image is hidden":            {blank(sessions(30, now), 3), 50, fromZero, unproven, 2},
		"unusable code":                 {[]entry{{Code: "a b", ImageURL: imageURL}}, 50, fromZero, unproven, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base, calls := listServer(t, tc.list, tc.most, tc.pages)
			s, err := newProvider(t, base, "the-key").Reconcile(t.Context(), jobs.Call{
				Stage: "create", Marker: marker, Image: jobs.Delivery{URL: imageURL},
			}, since)
			got := unproven
			switch {
			case err == nil:
				got = found
			case errors.Is(err, jobs.ErrNotBought):
				got = absent
			case jobs.KindOf(err) == jobs.Retryable:
				got = lookAgain
			case jobs.KindOf(err) != jobs.Permanent:
				t.Errorf("kind %v, want permanent", jobs.KindOf(err))
			}
			if got != tc.want {
				t.Errorf("%s (%v, %v), want %s", got, s, err, tc.want)
			}
			if got == found {
				i := 0
				for early := since.Add(-10 * time.Minute).Format(time.RFC3339); tc.list[i].ImageURL != imageURL || tc.list[i].CreatedAt != "" && tc.list[i].CreatedAt < early; {
					i++
				}
				if s.ID != tc.list[i].Code {
					t.Errorf("session %q, want %q", s.ID, tc.list[i].Code)
				}
			}
			if n := calls.Load(); n > tc.within {
				t.Errorf("%d calls, want at most %d", n, tc.within)
			}
		})
	}
}

// The marker comes in a presigned URL's query, more or less escaped.
func TestReconcileFindsAnEscapedMarker(t *testing.T) {
	t.Parallel()
	for _, image := range []string{
		`https://b.example/a.png?response-content-disposition=inline%3B+filename%3D%22meshmill.oak.a1.png%22&X-Amz-Signature=1`,
		`https://b.example/a.png?response-content-disposition=inline%253B%2520filename%253D%2522meshmill.oak.a1.png%2522`,
		`https://b.example/a.png?filename=meshmill%2Eoak%2Ea1%2Epng`,
		`https://b.example/100%/a.png?filename="meshmill.oak.a1.png"`,
	} {
		base, _ := listServer(t, []entry{{Code: "S1", ImageURL: image}}, 50, fromZero)
		s, err := newProvider(t, base, "the-key").Reconcile(t.Context(), jobs.Call{
			Stage: "create", Marker: marker, Image: jobs.Delivery{URL: imageURL},
		}, since)
		if err != nil || s.ID != "S1" {
			t.Errorf("%s: %v, %v", image, s, err)
		}
	}
}

func TestReconcileCannotLookUp(t *testing.T) {
	t.Parallel()
	a := newAccount(t, nil)
	p := csm.NewProvider(a.client(t))
	for name, call := range map[string]jobs.Call{
		"image in line":     {Stage: "create", Marker: marker, Image: jobs.Delivery{Bytes: []byte("x")}},
		"URL without":       {Stage: "create", Marker: marker, Image: jobs.Delivery{URL: photo}},
		"no marker":         {Stage: "create", Image: jobs.Delivery{URL: photo}},
		"no such stage":     {Stage: "polish", Marker: marker, Image: jobs.Delivery{URL: imageURL}},
		"stage, no session": {Stage: "preview"},
	} {
		s, err := p.Reconcile(t.Context(), call, since)
		if s != nil || err == nil || jobs.KindOf(err) != jobs.Permanent || errors.Is(err, jobs.ErrNotBought) {
			t.Errorf("%s: %v, %v; want a permanent fault", name, s, err)
		}
	}
	if seen := a.requests(); len(seen) > 0 {
		t.Errorf("requests were sent: %v", seen)
	}
}

func TestReconcileStage(t *testing.T) {
	t.Parallel()
	refine := map[string]any{"preview_mesh": "turbo", "refine_speed": "slow"}
	for _, tc := range []struct {
		stage, word string
		want        string // the phase, or what the error is
	}{
		{"preview", "spin_generate_done", "absent"},
		{"preview", "training_preview", "running"},
		{"preview", "some_new_preview_word", "running"},
		{"preview", "preview_done", "needs refine"},
		{"preview", "preview_failed", "broken"},
		{"preview", "spin_generate_failed", "broken"},
		{"preview", "spin_generate_processing", "retryable"},
		{"preview", "", "retryable"},
		{"preview", "refine_done", "done"},
		{"refine", "preview_done", "absent"},
		{"refine", "training_refine", "running"},
		{"refine", "refine_done", "done"},
		{"refine", "refine_failed", "broken"},
		{"refine", "preview_failed", "broken"},
		{"refine", "spin_generate_done", "retryable"},
		{"refine", "training_preview", "retryable"},
	} {
		t.Run(tc.stage+" "+tc.word, func(t *testing.T) {
			t.Parallel()
			a := newAccount(t, map[string]string{"GET " + sessionPath: fmt.Sprintf(`{"data":{"session_code":%q,"status":%q,%s}}`, code, tc.word, strings.Join([]string{spins, previews, meshes}, ","))})
			s, err := csm.NewProvider(a.client(t)).Reconcile(t.Context(), jobs.Call{Stage: tc.stage, Session: code, Options: refine}, since)
			var got string
			switch {
			case errors.Is(err, jobs.ErrNotBought):
				got = "absent"
			case err != nil:
				got = jobs.KindOf(err).String()
			case s.ID != code || s.Status == nil:
				t.Fatalf("session %+v", s)
			default:
				got = map[jobs.Phase]string{jobs.InProgress: "running", jobs.NeedsStage: "needs " + s.Status.Next, jobs.Done: "done", jobs.Broken: "broken"}[s.Status.Phase]
			}
			if got != tc.want {
				t.Errorf("%s (%v), want %s", got, err, tc.want)
			}
		})
	}
}
