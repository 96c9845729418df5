package servertest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/internal/servertest"
	"github.com/meshmill/meshmill/pkg/storage"
)

// TestCluster: what was written survives the loss of the leader.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := servertest.NewCluster(t)
	nc, err := nats.Connect(strings.Join(c.URLs(), ","), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "b", Replicas: 3})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(ctx, "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(ctx, "KV_b")
	if err != nil {
		t.Fatal(err)
	}
	leader := c.Node(s.CachedInfo().Cluster.Leader)
	if leader == nil || len(nc.DiscoveredServers()) > 0 {
		t.Fatalf("leader %q; the client was told of %v", s.CachedInfo().Cluster.Leader, nc.DiscoveredServers())
	}
	leader.Kill(t)
	for {
		_, err := kv.Put(ctx, "k", []byte("w"))
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("no new leader: ", err)
		}
	}
	leader.Start(t)
	if e, err := kv.Get(ctx, "k"); err != nil || string(e.Value()) != "w" {
		t.Errorf("%v, %v", e, err)
	}
}

// TestSmallS3: a server without room says so. How soon it takes up again what
// is deleted is MinIO's own affair, and may be long.
func TestSmallS3(t *testing.T) {
	t.Parallel()
	s := servertest.NewSmallS3(t, 32<<20)
	b, err := storage.Open(t.Context(), s.Config)
	if err != nil {
		t.Fatal(err)
	}
	const size = 256 << 10
	n := 0
	// The write that meets the end is refused with other words.
	for ; n < 200 && !errors.Is(err, storage.ErrFull); n++ {
		_, err = b.Put(t.Context(), fmt.Sprint("ballast/", n), strings.NewReader(strings.Repeat("x", size)), size, "")
	}
	if n < 50 || n > 140 || !errors.Is(err, storage.ErrFull) {
		t.Fatalf("after %d objects of 256 KiB in 32 MiB: %v", n, err)
	}
}
