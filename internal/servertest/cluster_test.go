package servertest_test

import (
	"context"
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

// TestSmallS3: a server without room says so, and goes on when there is some.
func TestSmallS3(t *testing.T) {
	t.Parallel()
	s := servertest.NewSmallS3(t, 32<<20)
	b, err := storage.Open(t.Context(), s.Config)
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string) error {
		_, err := b.Put(t.Context(), key, strings.NewReader(strings.Repeat("x", 256<<10)), 256<<10, "")
		return err
	}
	n := 0
	for n < 200 && put(fmt.Sprint("ballast/", n)) == nil {
		n++
	}
	if n < 50 || n > 128 {
		t.Fatalf("%d objects of 256 KiB fit into 32 MiB", n)
	}
	for i := range n {
		if err := b.Delete(t.Context(), fmt.Sprint("ballast/", i)); err != nil {
			t.Fatal(err)
		}
	}
	// The server learns of the room by and by.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for put("mesh") != nil {
		if ctx.Err() != nil {
			t.Fatal("it stays full: ", put("mesh"))
		}
	}
}
