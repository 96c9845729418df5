package engine_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// slowQueue takes its time to end a fetch, and minds messages that are handed
// back before.
type slowQueue struct {
	engine.Queue
	open atomic.Int32
	t    *testing.T
}

func (q *slowQueue) Fetch(ctx context.Context, provider string, lane jobs.Lane, n int, wait time.Duration) ([]engine.Message, error) {
	q.open.Add(1)
	defer q.open.Add(-1)
	msgs, err := q.Queue.Fetch(ctx, provider, lane, n, wait)
	if ctx.Err() != nil {
		time.Sleep(300 * time.Millisecond)
	}
	for i := range msgs {
		msgs[i] = slowMessage{msgs[i], q}
	}
	return msgs, err
}

type slowMessage struct {
	engine.Message
	q *slowQueue
}

func (m slowMessage) Release(ctx context.Context, after time.Duration) error {
	if n := m.q.open.Load(); n > 0 {
		m.q.t.Errorf("the job is handed back while %d fetches wait", n)
	}
	return m.Message.Release(ctx, after)
}

// TestFetchesEndBeforeHandOver: a job that is handed back while this worker's
// own request for jobs still waits at the broker comes back to it, and nobody
// sees it for a lease.
func TestFetchesEndBeforeHandOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.provider.Takes = 10 * time.Minute
		q := &slowQueue{t: t}
		b.ports = func(p *engine.Ports) { q.Queue, p.Queue = p.Queue, q }
		stop := b.start("w1")
		b.put("a")
		b.wait("a", jobs.Running)
		stop()
	})
}
