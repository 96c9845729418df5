//go:build chaos

package worker

import (
	"context"
	"io"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

// instrument puts the kill points around everything the engine does outside
// the process.
func instrument(p engine.Ports) engine.Ports {
	ps, submit := chaosFromEnv()
	p.Queue = &chaosQueue{p.Queue, ps}
	p.Journal = &chaosJournal{Journal: p.Journal, ps: ps, owners: map[string]string{}}
	p.Fleet = &chaosFleet{p.Fleet, ps}
	p.Events = &chaosEvents{p.Events, ps}
	p.Store = &chaosStore{p.Store, ps}
	p.Fetcher = &chaosFetcher{p.Fetcher, ps}
	providers := make([]jobs.Provider, len(p.Providers))
	for i, inner := range p.Providers {
		providers[i] = newChaosProvider(inner, ps, submit)
	}
	p.Providers = providers
	return p
}

type chaosQueue struct {
	engine.Queue
	ps points
}

func (q *chaosQueue) Fetch(ctx context.Context, provider string, lane jobs.Lane, n int, wait time.Duration) ([]engine.Message, error) {
	q.ps.pass(ctx, "job.fetch.before")
	got, err := q.Queue.Fetch(ctx, provider, lane, n, wait)
	for i := range got {
		got[i] = &chaosMessage{got[i], q.ps}
	}
	if len(got) > 0 {
		q.ps.pass(ctx, "job.fetch.after")
	}
	return got, err
}

func (q *chaosQueue) Requeue(ctx context.Context, r *jobs.Record) (err error) {
	q.ps.around(ctx, "job.requeue", func() { err = q.Queue.Requeue(ctx, r) })
	return err
}

func (q *chaosQueue) Bury(ctx context.Context, id string, body []byte, reason string) (err error) {
	q.ps.around(ctx, "job.bury", func() { err = q.Queue.Bury(ctx, id, body, reason) })
	return err
}

type chaosMessage struct {
	engine.Message
	ps points
}

func (m *chaosMessage) Renew(ctx context.Context) (err error) {
	m.ps.around(ctx, "lease.renew", func() { err = m.Message.Renew(ctx) })
	return err
}

func (m *chaosMessage) Release(ctx context.Context, delay time.Duration) (err error) {
	m.ps.around(ctx, "job.release", func() { err = m.Message.Release(ctx, delay) })
	return err
}

func (m *chaosMessage) Ack(ctx context.Context) (err error) {
	m.ps.around(ctx, "job.ack", func() { err = m.Message.Ack(ctx) })
	return err
}

type chaosJournal struct {
	engine.Journal
	ps     points
	mu     sync.Mutex
	owners map[string]string // as loaded or saved last
}

func (j *chaosJournal) Load(ctx context.Context, id string) (r *jobs.Record, rev uint64, err error) {
	j.ps.around(ctx, "record.load", func() { r, rev, err = j.Journal.Load(ctx, id) })
	if r != nil {
		j.mu.Lock()
		j.owners[id] = r.Owner
		j.mu.Unlock()
	}
	return r, rev, err
}

func (j *chaosJournal) Save(ctx context.Context, r *jobs.Record, rev uint64) (now uint64, err error) {
	j.ps.around(ctx, "record.save."+j.what(r), func() { now, err = j.Journal.Save(ctx, r, rev) })
	return now, err
}

// what tells what a write is about.
func (j *chaosJournal) what(r *jobs.Record) string {
	j.mu.Lock()
	before, known := j.owners[r.ID]
	j.owners[r.ID] = r.Owner
	j.mu.Unlock()
	switch {
	case known && before != "" && before != r.Owner:
		return "claim"
	case r.State != jobs.Submitting:
		return string(r.State)
	case r.SubmitDeadline.IsZero():
		return "due"
	case r.Error != nil && r.Error.Kind == jobs.Unknown.String():
		return "unknown"
	}
	return "submitting"
}

type chaosFleet struct {
	engine.Fleet
	ps points
}

func (f *chaosFleet) Acquire(ctx context.Context, provider string, lane jobs.Lane, id string, until time.Time) (n int, err error) {
	f.ps.around(ctx, "slot.acquire", func() { n, err = f.Fleet.Acquire(ctx, provider, lane, id, until) })
	return n, err
}

func (f *chaosFleet) Release(ctx context.Context, provider string, slot int, id string) (err error) {
	f.ps.around(ctx, "slot.release", func() { err = f.Fleet.Release(ctx, provider, slot, id) })
	return err
}

func (f *chaosFleet) Pause(ctx context.Context, provider string, d time.Duration, reason string) (err error) {
	f.ps.around(ctx, "fleet.pause", func() { err = f.Fleet.Pause(ctx, provider, d, reason) })
	return err
}

type chaosEvents struct {
	engine.Events
	ps points
}

func (e *chaosEvents) Publish(ctx context.Context, r *jobs.Record) (err error) {
	e.ps.around(ctx, "event."+jobs.EventKind(r.State), func() { err = e.Events.Publish(ctx, r) })
	return err
}

type chaosStore struct {
	engine.Store
	ps points
}

// about names an object by its place in the bucket.
func about(key string) string {
	switch {
	case strings.HasPrefix(key, "inputs/"):
		return "input"
	case strings.HasPrefix(key, "receipts/"):
		return "receipt"
	case strings.HasSuffix(key, "/manifest.json"):
		return "manifest"
	}
	return "mesh"
}

func (s *chaosStore) Put(ctx context.Context, key string, r io.Reader, size int64, mediaType string) (o storage.Object, err error) {
	s.ps.around(ctx, "put."+about(key), func() { o, err = s.Store.Put(ctx, key, r, size, mediaType) })
	return o, err
}

func (s *chaosStore) PutJSON(ctx context.Context, key string, v any) (err error) {
	s.ps.around(ctx, "put."+about(key), func() { err = s.Store.PutJSON(ctx, key, v) })
	return err
}

func (s *chaosStore) GetBytes(ctx context.Context, key string, limit int64) (b []byte, err error) {
	s.ps.around(ctx, "get."+about(key), func() { b, err = s.Store.GetBytes(ctx, key, limit) })
	return b, err
}

func (s *chaosStore) GetJSON(ctx context.Context, key string, v any, limit int64) (err error) {
	s.ps.around(ctx, "get."+about(key), func() { err = s.Store.GetJSON(ctx, key, v, limit) })
	return err
}

func (s *chaosStore) Stat(ctx context.Context, key string) (o storage.Object, err error) {
	s.ps.around(ctx, "stat."+about(key), func() { o, err = s.Store.Stat(ctx, key) })
	return o, err
}

func (s *chaosStore) List(ctx context.Context, prefix string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		s.ps.around(ctx, "list."+about(prefix)+"s", func() {
			for o, err := range s.Store.List(ctx, prefix) {
				if !yield(o, err) {
					return
				}
			}
		})
	}
}

func (s *chaosStore) Presign(ctx context.Context, key string, ttl time.Duration, filename string) (u string, err error) {
	s.ps.around(ctx, "presign", func() { u, err = s.Store.Presign(ctx, key, ttl, filename) })
	return u, err
}

type chaosFetcher struct {
	engine.Fetcher
	ps points
}

func (f *chaosFetcher) Fetch(ctx context.Context, url string, limit int64) (d engine.Download, err error) {
	f.ps.around(ctx, "fetch", func() { d, err = f.Fetcher.Fetch(ctx, url, limit) })
	return d, err
}

// newChaosProvider keeps what else the provider can do.
func newChaosProvider(inner jobs.Provider, ps points, submit time.Duration) jobs.Provider {
	p := &chaosProvider{inner, ps, submit}
	up, uploads := inner.(jobs.Uploader)
	re, reconciles := inner.(jobs.Reconciler)
	switch {
	case uploads && reconciles:
		return struct {
			*chaosProvider
			chaosUploader
			chaosReconciler
		}{p, chaosUploader{p, up}, chaosReconciler{p, re}}
	case uploads:
		return struct {
			*chaosProvider
			chaosUploader
		}{p, chaosUploader{p, up}}
	case reconciles:
		return struct {
			*chaosProvider
			chaosReconciler
		}{p, chaosReconciler{p, re}}
	}
	return p
}

type chaosProvider struct {
	jobs.Provider
	ps     points
	submit time.Duration
}

func (p *chaosProvider) Plan(options map[string]any, formats []string) (*jobs.Plan, error) {
	plan, err := p.Provider.Plan(options, formats)
	if err == nil && p.submit > 0 {
		plan.SubmitTimeout = p.submit
	}
	return plan, err
}

func (p *chaosProvider) Submit(ctx context.Context, call jobs.Call) (s *jobs.Session, err error) {
	p.ps.around(ctx, p.Name()+".submit."+call.Stage, func() { s, err = p.Provider.Submit(ctx, call) })
	return s, err
}

func (p *chaosProvider) Poll(ctx context.Context, ref jobs.Ref) (s *jobs.Status, err error) {
	p.ps.around(ctx, p.Name()+".poll", func() { s, err = p.Provider.Poll(ctx, ref) })
	return s, err
}

type chaosUploader struct {
	of    *chaosProvider
	inner jobs.Uploader
}

func (u chaosUploader) Upload(ctx context.Context, image []byte, mediaType string) (link string, err error) {
	u.of.ps.around(ctx, u.of.Name()+".upload", func() { link, err = u.inner.Upload(ctx, image, mediaType) })
	return link, err
}

type chaosReconciler struct {
	of    *chaosProvider
	inner jobs.Reconciler
}

func (r chaosReconciler) Reconcile(ctx context.Context, call jobs.Call, since time.Time) (s *jobs.Session, err error) {
	r.of.ps.around(ctx, r.of.Name()+".reconcile", func() { s, err = r.inner.Reconcile(ctx, call, since) })
	return s, err
}
