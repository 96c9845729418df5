package servertest_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/internal/servertest"
	"github.com/meshmill/meshmill/internal/storagetest"
	"github.com/meshmill/meshmill/pkg/storage"
)

func TestMain(m *testing.M) { servertest.Main(m) }

func TestDescribe(t *testing.T) {
	t.Log(servertest.Describe())
	if os.Getenv("MESHMILL_TEST_SERVERS") == "embedded" && !strings.Contains(servertest.Describe(), "inside the test process") {
		t.Error(servertest.Describe())
	}
}

// TestEmbedded runs all tests again as on a machine without Docker.
func TestEmbedded(t *testing.T) {
	t.Parallel()
	if os.Getenv("SERVERTEST_INNER") != "" {
		t.Skip("this is the inner run")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^Test(Describe|NATS|Kill|Storage|TwoTests)")
	cmd.Env = append(os.Environ(), "SERVERTEST_INNER=1", "DOCKER_HOST=unix:///nowhere.sock", "MESHMILL_TEST_SERVERS=", "CI=true")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if n := bytes.Count(out, []byte("inside the test process (no Docker engine answers")); n != 1 {
		t.Errorf("the choice was told %d times:\n%s", n, out)
	}
}

func open(t *testing.T, cfg storage.Config) *storage.Bucket {
	t.Helper()
	b, err := storage.Open(t.Context(), cfg)
	if err == nil {
		err = b.Check(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestStorageConformance(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(t *testing.T) storagetest.Store { return open(t, servertest.S3(t)) })
}

func TestNATS(t *testing.T) {
	t.Parallel()
	b := servertest.NATS(t)
	js, err := jetstream.New(b.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: b.Prefix + "_state", LimitMarkerTTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(t.Context(), "a", []byte("1"), jetstream.KeyTTL(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(t.Context(), "a", []byte("2")); err == nil {
		t.Error("a key was created twice")
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: strings.ToUpper(b.Prefix) + "_JOBS", Subjects: []string{b.Prefix + ".job.>"},
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true,
		MaxMsgsPerSubject: 1, AllowAtomicPublish: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), b.Prefix+".job.csm.bulk.x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), b.Prefix+".job.csm.bulk.x", []byte("x")); err == nil {
		t.Error("a subject took two messages")
	}
	cons, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	msg, err := cons.Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTwoTestsShareABroker(t *testing.T) {
	t.Parallel()
	a, b := servertest.NATS(t), servertest.NATS(t)
	if a.URL != b.URL || a.Prefix == b.Prefix {
		t.Errorf("%+v and %+v", a, b)
	}
	x, y := servertest.S3(t), servertest.S3(t)
	if x.Endpoint != y.Endpoint || x.Bucket == y.Bucket {
		t.Error("buckets are shared, or servers are not")
	}
}

func TestKillNATS(t *testing.T) {
	t.Parallel()
	b, other := servertest.NewNATS(t), servertest.NewNATS(t)
	if b.URL == other.URL {
		t.Fatal("two brokers with one address")
	}
	nc := b.Connect(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	for i, end := range []func(testing.TB){b.Kill, b.Stop} {
		if _, err := js.Publish(t.Context(), "s", []byte("kept")); err != nil {
			t.Fatal(err)
		}
		end(t)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if _, err := js.Publish(ctx, "s", nil); err == nil {
			t.Error("the broker still answers")
		}
		cancel()
		b.Start(t)
		js, err = jetstream.New(b.Connect(t))
		if err != nil {
			t.Fatal(err)
		}
		s, err := js.Stream(t.Context(), "S")
		if err != nil {
			t.Fatal(err)
		}
		if n := s.CachedInfo().State.Msgs; n != uint64(i)+1 {
			t.Errorf("after restart %d: %d messages", i, n)
		}
	}
}

func TestKillS3(t *testing.T) {
	t.Parallel()
	s := servertest.NewS3(t)
	b := open(t, s.Config)
	for i, end := range []func(testing.TB){s.Kill, s.Stop} {
		if err := b.PutJSON(t.Context(), "a/b.json", i); err != nil {
			t.Fatal(err)
		}
		end(t)
		began := time.Now()
		if err := b.Check(t.Context()); err == nil {
			t.Error("the store still answers")
		} else if d := time.Since(began); d > 15*time.Second {
			t.Errorf("it took %v to find out: %v", d, err)
		}
		s.Start(t)
		var got int
		if err := b.GetJSON(t.Context(), "a/b.json", &got, 100); err != nil || got != i {
			t.Errorf("after restart: %d, %v", got, err)
		}
	}
}
