//go:build chaos

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshmill/meshmill/internal/servertest"
	"github.com/meshmill/meshmill/pkg/storage"
)

// outage is how long a bucket cannot be used.
const outage = 6 * time.Second

// buckets takes the bucket away for a while. Images go inline: a provider that
// cannot fetch one refuses the job, which would be right.
func buckets(t *testing.T) {
	t.Parallel()
	t.Run("down", func(t *testing.T) {
		t.Parallel()
		bucketDown(t)
	})
	t.Run("full", func(t *testing.T) {
		t.Parallel()
		bucketFull(t)
	})
	for _, status := range []int{http.StatusForbidden, http.StatusServiceUnavailable} {
		t.Run(fmt.Sprint("refuses ", status), func(t *testing.T) {
			t.Parallel()
			bucketRefuses(t, status)
		})
	}
}

func bucketDown(t *testing.T) {
	s := servertest.NewS3(t)
	w := newWorld(t, "bucket killed -9 and restarted, twice", setup{store: &s.Config, inline: true, labSync: 0.5})
	w.start("first worker")
	w.start("second worker")
	w.enqueue(4, allFlows...)
	for range 2 {
		time.Sleep(time.Second)
		s.Kill(t)
		time.Sleep(outage)
		s.Start(t)
	}
	w.settle(3 * time.Minute)
}

func bucketFull(t *testing.T) {
	s := servertest.NewSmallS3(t, 48<<20)
	w := newWorld(t, "bucket full", setup{store: &s.Config, inline: true, labSync: 0.5})
	w.enqueue(4, allFlows...)
	room := fill(t, w.bucket)
	first := w.start("first worker")
	w.start("second worker")
	w.eventually(func() bool { return len(first.grep("not stored yet")) > 0 }, 30*time.Second, "a worker found the bucket full")
	time.Sleep(outage)
	room()
	w.settle(3 * time.Minute)
}

// fill fills the bucket to the brim, and returns what makes room again.
func fill(t *testing.T, b *storage.Bucket) (room func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	n := 0
	for size := 256 << 10; size >= 1<<10; size /= 4 {
		for {
			_, err := b.Put(ctx, fmt.Sprint("ballast/", n), bytes.NewReader(make([]byte, size)), int64(size), "")
			if err != nil {
				break
			}
			n++
		}
	}
	if n == 0 || ctx.Err() != nil {
		t.Fatalf("the bucket was not filled: %d objects, %v", n, ctx.Err())
	}
	return func() {
		for i := range n {
			if err := b.Delete(ctx, fmt.Sprint("ballast/", i)); err != nil {
				t.Fatalf("make room: %v", err)
			}
		}
	}
}

// bucketRefuses answers every request of the workers with a refusal for a while.
func bucketRefuses(t *testing.T, status int) {
	w := newWorld(t, fmt.Sprintf("bucket answers %d", status), setup{inline: true, labSync: 0.5})
	upstream, err := url.Parse(w.store.Endpoint)
	w.must(err)
	var refuse atomic.Bool
	var refused atomic.Int64
	// The signature covers the host that the worker called: it must stay.
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(upstream)
		r.Out.Host = r.In.Host
	}}
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !refuse.Load() {
			proxy.ServeHTTP(rw, r)
			return
		}
		refused.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		code := map[int]string{http.StatusForbidden: "AccessDenied", http.StatusServiceUnavailable: "SlowDown"}[status]
		rw.Header().Set("Content-Type", "application/xml")
		rw.WriteHeader(status)
		fmt.Fprintf(rw, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>no</Message></Error>`, code)
	}))
	t.Cleanup(front.Close)
	w.cfg.workerS3 = front.URL
	w.untilStarted(w.start("first worker"))
	w.untilStarted(w.start("second worker"))
	w.enqueue(4, allFlows...)
	time.Sleep(400 * time.Millisecond)
	refuse.Store(true)
	time.Sleep(outage)
	refuse.Store(false)
	w.settle(3 * time.Minute)
	if refused.Load() == 0 {
		t.Error("nothing was refused")
	}
}
