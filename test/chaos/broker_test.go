//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/meshmill/meshmill/internal/servertest"
)

// brokers kills the broker under load.
func brokers(t *testing.T) {
	t.Parallel()
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		brokerKilled(t)
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		cluster(t)
	})
}

// brokerKilled kills a broker that stands alone, and starts it again.
func brokerKilled(t *testing.T) {
	const times = 4
	b := servertest.NewNATS(t)
	w := newWorld(t, fmt.Sprintf("broker killed -9 and restarted, %d times", times), setup{broker: b, labSync: 0.5})
	w.start("first worker")
	w.start("second worker")
	w.enqueue(5, allFlows...)
	for range times {
		time.Sleep(time.Second)
		b.Kill(t)
		time.Sleep(500 * time.Millisecond)
		b.Start(t)
	}
	w.settle(3 * time.Minute)
}

// cluster kills the leaders of a cluster of three, one after another, and then
// loses a node for good. An operator has created the streams with three
// replicas; workers create nothing.
func cluster(t *testing.T) {
	c := servertest.NewCluster(t)
	w := newWorld(t, "cluster of 3, replicas 3: leaders killed, a node lost", setup{
		broker: c.Nodes[0], urls: c.URLs(), replicas: 3, labSync: 0.5, args: []string{"--bind"},
	})
	w.start("first worker")
	w.start("second worker")
	w.enqueue(5, allFlows...)
	for _, stream := range []string{w.names.JobsStream(), "KV_" + w.names.StateBucket()} {
		time.Sleep(time.Second)
		node := c.Node(w.leader(stream))
		node.Kill(t)
		time.Sleep(2 * time.Second)
		w.leader(stream) // there is another
		node.Start(t)
		w.enqueue(3, allFlows...)
	}
	c.Node(w.leader(w.names.JobsStream())).Kill(t)
	w.enqueue(3, allFlows...)
	w.settle(4 * time.Minute)
}

// leader waits until a stream has a leader, and returns its name.
func (w *world) leader(stream string) string {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		// Short, because the answer of a node that was killed never comes.
		ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Second)
		s, err := w.js.Stream(ctx, stream)
		cancel()
		if err == nil && s.CachedInfo().Cluster != nil && s.CachedInfo().Cluster.Leader != "" {
			if s.CachedInfo().Config.Replicas != 3 {
				w.t.Fatalf("%s has %d replicas", stream, s.CachedInfo().Config.Replicas)
			}
			return s.CachedInfo().Cluster.Leader
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s has no leader: %v", stream, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
