package bulk_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/internal/bulk"
	"github.com/meshmill/meshmill/internal/picture"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// pngOf returns an image that differs from those of other seeds, if only by
// what follows its end.
func pngOf(t *testing.T, seed int) []byte {
	t.Helper()
	base, err := onePNG()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(bytes.Clone(base), "%d", seed)
}

var onePNG = sync.OnceValues(func() ([]byte, error) {
	var b bytes.Buffer
	err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 16, 16)))
	return b.Bytes(), err
})

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// store is a bulk.Store that counts, and fails as it is told.
type store struct {
	mu       sync.Mutex
	puts     int
	now, top int // uploads at a time
	fail     func(n int) error
}

func (s *store) PutInput(ctx context.Context, data io.ReadSeeker, ext, mediaType string) (string, bool, error) {
	s.mu.Lock()
	s.puts++
	n := s.puts
	s.now++
	s.top = max(s.top, s.now)
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.now--; s.mu.Unlock() }()
	if s.fail != nil {
		if err := s.fail(n); err != nil {
			return "", false, err
		}
	}
	raw, err := io.ReadAll(data)
	sum := sha256.Sum256(raw)
	return jobs.InputKey(hex.EncodeToString(sum[:]), ext), true, err
}

// queue is a bulk.Queue that knows what it has taken.
type queue struct {
	known  map[string]bool
	chunks []int
	items  []jobs.Item
	err    error
}

func (q *queue) EnqueueMany(_ context.Context, items []jobs.Item) ([]jobs.Result, error) {
	if q.err != nil {
		return nil, q.err
	}
	q.chunks = append(q.chunks, len(items))
	out := make([]jobs.Result, len(items))
	for i, it := range items {
		out[i] = jobs.Result{ID: it.Request.ID, Outcome: jobs.Enqueued, State: jobs.Queued}
		if q.known[it.Request.ID] {
			out[i].Outcome, out[i].State = jobs.Skipped, jobs.Completed
			continue
		}
		if q.known == nil {
			q.known = map[string]bool{}
		}
		q.known[it.Request.ID] = true
		q.items = append(q.items, it)
	}
	return out, nil
}

func template() bulk.Template {
	return bulk.Template{Provider: "csm", Options: map[string]any{"resolution": 5.0}, Batch: "b", Labels: map[string]string{"k": "v"}, Lane: jobs.Interactive}
}

func run(t *testing.T, p bulk.Pipeline, sources iter.Seq[bulk.Source]) ([]string, error) {
	t.Helper()
	var got []string
	p.Limits = picture.DefaultLimits
	p.Done = func(o bulk.Outcome) {
		text := o.Source.Name + " " + string(o.Result.Outcome)
		switch {
		case o.Err != nil:
			text = o.Source.Name + ": " + o.Err.Error()
		case o.SameAs != "":
			text += " same as " + o.SameAs
		case o.ID == "":
			text += " without an id"
		}
		got = append(got, text)
	}
	err := p.Run(t.Context(), sources)
	return got, err
}

func TestFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.png", pngOf(t, 1))
	write(t, dir, "b.png", pngOf(t, 2))
	write(t, dir, "c/copy of a.png", pngOf(t, 1))
	write(t, dir, "cut.png", pngOf(t, 3)[:40])
	write(t, dir, "text.png", []byte("hello"))
	s, q := &store{}, &queue{}
	var mu sync.Mutex
	found, uploaded := 0, 0
	count := func(n *int) func() { return func() { mu.Lock(); defer mu.Unlock(); *n++ } }
	p := bulk.Pipeline{Template: template(), Store: s, Queue: q, Found: count(&found), Uploaded: count(&uploaded)}
	want := []string{
		"a.png enqueued", "b.png enqueued", "c/copy of a.png skipped same as a.png",
		"cut.png: is a PNG image that was cut off: its end is missing",
		"text.png: is not a PNG, JPEG or WebP image: it begins like text",
	}
	got, err := run(t, p, bulk.Folders([]string{dir}, picture.Filter{}))
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("error %v, outcomes (-want +got):\n%s", err, diff)
	}
	if found != 4 || uploaded != 3 {
		t.Errorf("found %d, uploaded %d; want 4 and 3", found, uploaded)
	}
	req := q.items[0].Request
	if err := req.Validate(); err != nil {
		t.Error(err)
	}
	if req.Image.Name != "a.png" || req.Image.MediaType != "image/png" || req.Batch != "b" || req.Labels["k"] != "v" ||
		q.items[0].Lane != jobs.Interactive || req.EnqueuedAt.IsZero() {
		t.Errorf("request %+v in lane %s", req, q.items[0].Lane)
	}
	if id, _ := jobs.DeriveID(req.Image, "csm", req.Options); id != req.ID {
		t.Errorf("id %s, want the derived one, %s", req.ID, id)
	}

	t.Run("again", func(t *testing.T) {
		got, err := run(t, p, bulk.Folders([]string{dir}, picture.Filter{Include: []string{"[ab].png"}}))
		if diff := cmp.Diff([]string{"a.png skipped", "b.png skipped"}, got); diff != "" || err != nil {
			t.Errorf("error %v, outcomes (-want +got):\n%s", err, diff)
		}
	})
	t.Run("by force", func(t *testing.T) {
		p := p
		p.Template.Force = true
		before := len(q.items)
		got, err := run(t, p, bulk.Folders([]string{dir}, picture.Filter{Exclude: []string{"cut*", "text*"}}))
		if diff := cmp.Diff([]string{"a.png enqueued", "b.png enqueued", "c/copy of a.png skipped same as a.png"}, got); diff != "" || err != nil {
			t.Errorf("error %v, outcomes (-want +got):\n%s", err, diff)
		}
		if len(q.items) != before+2 {
			t.Errorf("%d jobs, want 2 more: the same image in one call is one job even by force", len(q.items)-before)
		}
	})
	t.Run("dry", func(t *testing.T) {
		dry := bulk.Pipeline{Template: template(), Limits: picture.DefaultLimits}
		var ids []string
		dry.Done = func(o bulk.Outcome) { ids = append(ids, o.ID) }
		if err := dry.Run(t.Context(), bulk.Files([]string{filepath.Join(dir, "a.png")})); err != nil {
			t.Fatal(err)
		}
		if len(ids) != 1 || ids[0] != req.ID {
			t.Errorf("ids %v, want %s", ids, req.ID)
		}
	})
	t.Run("two folders", func(t *testing.T) {
		var names []string
		for s := range bulk.Folders([]string{filepath.Join(dir, "c") + "/", dir}, picture.Filter{Include: []string{"*a.png"}}) {
			names = append(names, s.Name)
		}
		want := []string{"c/copy of a.png", filepath.Base(dir) + "/a.png", filepath.Base(dir) + "/c/copy of a.png"}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("names (-want +got):\n%s", diff)
		}
	})
}

func TestManyStayInOrderAndBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var paths, want []string
	for i := range 1203 {
		name := fmt.Sprintf("%04d.png", i)
		write(t, dir, name, pngOf(t, i))
		paths = append(paths, filepath.Join(dir, name))
		want = append(want, filepath.ToSlash(filepath.Join(dir, name))+" enqueued")
	}
	s, q := &store{}, &queue{}
	got, err := run(t, bulk.Pipeline{Template: template(), Store: s, Queue: q}, bulk.Files(paths))
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v, outcomes (-want +got):\n%s", err, diff)
	}
	if slices.Max(q.chunks) > 500 || len(q.chunks) < 3 {
		t.Errorf("chunks of %v, want at most 500 each", q.chunks)
	}
	if s.top > 16 {
		t.Errorf("%d uploads at a time", s.top)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 30 {
		write(t, dir, fmt.Sprintf("%02d.png", i), pngOf(t, i))
	}
	gone := errors.New("gone")
	tests := map[string]struct {
		store func(n int) error
		queue error
		err   error
		done  int
	}{
		"store": {
			store: func(int) error { return jobs.Faultf(jobs.Retryable, "storage", "down: %w", gone) }, err: gone,
		},
		"store for one": {
			store: func(n int) error {
				if n == 3 {
					return jobs.Faultf(jobs.Permanent, "storage", "too large")
				}
				return nil
			}, done: 30,
		},
		"queue": {queue: gone, err: gone},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := bulk.Pipeline{Template: template(), Store: &store{fail: tc.store}, Queue: &queue{err: tc.queue}}
			got, err := run(t, p, bulk.Folders([]string{dir}, picture.Filter{}))
			if !errors.Is(err, tc.err) || len(got) != tc.done {
				t.Errorf("error %v after %d outcomes, want %v after %d", err, len(got), tc.err, tc.done)
			}
		})
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 100 {
		write(t, dir, fmt.Sprintf("%02d.png", i), pngOf(t, i))
	}
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	s := &store{fail: func(n int) error {
		if n == 5 {
			cancel(stop)
		}
		return nil
	}}
	p := bulk.Pipeline{Template: template(), Store: s, Queue: &queue{}, Limits: picture.DefaultLimits}
	if err := p.Run(ctx, bulk.Folders([]string{dir}, picture.Filter{})); !errors.Is(err, stop) {
		t.Errorf("error %v, want the cause", err)
	}
	if s.puts > 40 {
		t.Errorf("%d uploads after the interrupt", s.puts)
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	q := &queue{}
	got, err := run(t, bulk.Pipeline{Template: template(), Queue: q}, bulk.URLs([]string{"https://example.com/a.png?sig=secret", "https://example.com/a.png?sig=secret"}))
	want := []string{"https://example.com/a.png enqueued", "https://example.com/a.png skipped same as https://example.com/a.png"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v, outcomes (-want +got):\n%s", err, diff)
	}
	if u := q.items[0].Request.Image.URL; u != "https://example.com/a.png?sig=secret" {
		t.Errorf("the job has the URL %s, want it whole", u)
	}
}

func TestChecks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "good/a.png", pngOf(t, 1))
	write(t, dir, "bad/a.png", []byte("%PDF-1"))
	write(t, dir, "worse/a.png", []byte("%PDF-1"))
	write(t, dir, "worse/b.png", nil)
	write(t, dir, "other/notes.txt", []byte("x"))
	in := func(name string) string { return filepath.Join(dir, name) }
	tests := map[string]struct {
		err  error
		want []string
	}{
		"folders": {bulk.CheckFolders([]string{in("good"), in("none"), in("good/a.png"), in("bad"), in("worse"), in("other")}, picture.Filter{}), []string{
			`the folder "DIR/none" does not exist`,
			`"DIR/good/a.png" is not a folder; use: enqueue file "DIR/good/a.png"`,
			`the folder "DIR/bad" has no PNG, JPEG or WebP image in it: "a.png" is not a PNG, JPEG or WebP image: it begins like a PDF`,
			`the folder "DIR/worse" has no PNG, JPEG or WebP image in it: "a.png" is not a PNG, JPEG or WebP image: it begins like a PDF, and 1 more`,
			`the folder "DIR/other" has no PNG, JPEG or WebP image in it`,
		}},
		"filter": {bulk.CheckFolders([]string{in("good")}, picture.Filter{Include: []string{"*.jpg"}}), []string{
			`the folder "DIR/good" has no PNG, JPEG or WebP image in it that --include and --exclude let through`,
		}},
		"files": {bulk.CheckFiles([]string{in("good/a.png"), in("none.png"), in("bad/a.png"), in("good")}, picture.DefaultLimits), []string{
			`"DIR/none.png" does not exist`,
			`"DIR/bad/a.png" is not a PNG, JPEG or WebP image: it begins like a PDF`,
			`"DIR/good" is a folder, not an image`,
		}},
		"urls": {bulk.CheckURLs([]string{"https://example.com/a.png", "ftp://example.com/a", "oak.png", "https://u:hunter2@example.com/a", ":", "http://127.0.0.1/a.png?sig=hunter2", "http://[::1]/a", "http://10.1.2.3/a", "http://localhost:80/a", "http://8.8.8.8/a"}, false), []string{
			`"ftp://example.com/a" is not an http or https URL, must be like https://example.com/oak.png`,
			`"oak.png" is not an http or https URL, must be like https://example.com/oak.png`,
			`"https://example.com/a" holds a user name or password, which would be stored with the job`,
			"an address is not a URL, must be like https://example.com/oak.png",
			`"http://127.0.0.1/a.png" is on this machine or a private network; MESHMILL_ALLOW_PRIVATE_URLS=true would allow it`,
			`"http://[::1]/a" is on this machine or a private network; MESHMILL_ALLOW_PRIVATE_URLS=true would allow it`,
			`"http://10.1.2.3/a" is on this machine or a private network; MESHMILL_ALLOW_PRIVATE_URLS=true would allow it`,
			`"http://localhost:80/a" is on this machine or a private network; MESHMILL_ALLOW_PRIVATE_URLS=true would allow it`,
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tc.err == nil {
				t.Fatal("no error")
			}
			got := strings.Split(strings.ReplaceAll(tc.err.Error(), dir, "DIR"), "\n")
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("mistakes (-want +got):\n%s", diff)
			}
		})
	}
	if err := bulk.CheckURLs([]string{"http://127.0.0.1/a.png"}, true); err != nil {
		t.Errorf("private addresses are allowed: %v", err)
	}
	bad := template()
	bad.Batch = "a\nb"
	good := template()
	if bad.Check() == nil || good.Check() != nil {
		t.Errorf("Check: %v for a bad batch, %v for a good one", bad.Check(), good.Check())
	}
}

// watcher yields scripted records, then waits for ctx or fails.
type watcher struct {
	records []*jobs.Record
	err     error
}

func (w *watcher) Watch(ctx context.Context, _ jobs.Filter) iter.Seq2[*jobs.Record, error] {
	return func(yield func(*jobs.Record, error) bool) {
		for _, r := range w.records {
			if !yield(r, nil) {
				return
			}
		}
		if w.err != nil {
			yield(nil, w.err)
			return
		}
		<-ctx.Done()
		yield(nil, ctx.Err())
	}
}

func idsOf(ids ...string) *bulk.IDs {
	var l bulk.IDs
	for _, id := range ids {
		l.Add(id)
	}
	return &l
}

func TestFollow(t *testing.T) {
	t.Parallel()
	at := func(id string, s jobs.State) *jobs.Record { return &jobs.Record{ID: id, State: s} }
	w := &watcher{records: []*jobs.Record{
		at("a", jobs.Queued), at("b", jobs.Running), at("x", jobs.Failed),
		at("b", jobs.Parked), at("b", jobs.Running), // a session that arrived late
		at("a", jobs.Completed), at("b", jobs.Failed),
	}}
	var got []string
	err := bulk.Follow(t.Context(), w, idsOf("a", "b"), func(before jobs.State, r *jobs.Record) {
		got = append(got, fmt.Sprintf("%s %s-%s", r.ID, before, r.State))
	})
	want := []string{"a queued-queued", "b queued-running", "b running-parked", "b parked-running", "a queued-completed", "b running-failed"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v, changes (-want +got):\n%s", err, diff)
	}
	nothing := func(jobs.State, *jobs.Record) {}
	if err := bulk.Follow(t.Context(), nil, idsOf(), nothing); err != nil {
		t.Errorf("nothing to follow: %v", err)
	}
	broken := errors.New("broken")
	if err := bulk.Follow(t.Context(), &watcher{err: broken}, idsOf("a"), nothing); !errors.Is(err, broken) {
		t.Errorf("error %v, want that of the watch", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if err := bulk.Follow(ctx, &watcher{}, idsOf("a"), nothing); !errors.Is(err, broken) {
		t.Errorf("error %v, want the context's cause", err)
	}
}
