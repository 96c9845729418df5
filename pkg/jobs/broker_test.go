package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/internal/topology"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// runServer starts a NATS server with JetStream on a folder. Port 0 takes any.
func runServer(dir string, port int) (*server.Server, error) {
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "test", Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: dir,
	})
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		s.Shutdown()
		return nil, errors.New("the server did not start")
	}
	return s, nil
}

// A setup says how a test wants its broker.
type setup struct {
	topology topology.Options
	client   jobs.ClientConfig
	onDisk   bool
}

// A broker is a server of one test, with Meshmill's topology.
type broker struct {
	*testing.T
	dir    string
	server *server.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	names  jobs.Names
	client *jobs.Client
	kv     jetstream.KeyValue // the state bucket, once bucket was called
}

// newBroker starts a broker for a test, and ends it with the test.
func newBroker(t *testing.T, s setup) *broker {
	t.Helper()
	b := &broker{T: t, dir: t.TempDir()}
	var err error
	if b.server, err = runServer(b.dir, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.server.Shutdown(); b.server.WaitForShutdown() })
	b.nc, err = nats.Connect(b.server.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.nc.Close)
	if b.js, err = jetstream.New(b.nc); err != nil {
		t.Fatal(err)
	}
	if b.names, err = jobs.NewNames(""); err != nil {
		t.Fatal(err)
	}
	s.topology.Providers = []string{"csm", "modelslab"}
	s.topology.Memory = !s.onDisk
	if err := topology.Ensure(t.Context(), b.js, b.names, s.topology); err != nil {
		t.Fatal(err)
	}
	if b.client, err = jobs.NewClient(b.nc, s.client); err != nil {
		t.Fatal(err)
	}
	return b
}

// restart ends the server, calls meanwhile, and starts it again on its folder
// and port.
func (b *broker) restart(meanwhile func()) {
	b.Helper()
	port := b.server.Addr().String()
	b.server.Shutdown()
	b.server.WaitForShutdown()
	meanwhile()
	var n int
	if _, err := fmt.Sscanf(port[strings.LastIndexByte(port, ':'):], ":%d", &n); err != nil {
		b.Fatal(err)
	}
	s, err := runServer(b.dir, n)
	if err != nil {
		b.Fatal(err)
	}
	b.server = s
}

// request makes a request with the given id for csm.
func request(id string) jobs.Request {
	return jobs.Request{ID: id, Provider: "csm", Image: jobs.Image{URL: "https://example.com/" + id + ".png"}}
}

// record makes a record of request(id) in a state.
func record(id string, s jobs.State) *jobs.Record {
	at := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	req := request(id)
	req.Schema, req.EnqueuedAt, req.Batch = jobs.RequestSchema, at, "spring"
	r := &jobs.Record{
		Schema: jobs.RecordSchema, ID: id, State: s, Attempt: 1, Provider: "csm", Lane: jobs.Bulk,
		Owner: "w1", Epoch: 3, Request: req, CreatedAt: at, UpdatedAt: at.Add(time.Minute),
	}
	switch s {
	case jobs.Running, jobs.Storing, jobs.Completed:
		r.Session, r.Stage, r.SubmittedAt = "s-"+id, "create", at.Add(time.Second)
	case jobs.Parked, jobs.Failed:
		r.Error = &jobs.Problem{Kind: "unknown", Message: "no answer"}
	}
	if s.Final() {
		r.FinishedAt = r.UpdatedAt
	}
	return r
}

func (b *broker) bucket() jetstream.KeyValue {
	b.Helper()
	if b.kv == nil {
		kv, err := b.js.KeyValue(b.Context(), b.names.StateBucket())
		if err != nil {
			b.Fatal(err)
		}
		b.kv = kv
	}
	return b.kv
}

// put writes a record as a worker would, without looking, and returns its revision.
func (b *broker) put(r *jobs.Record) uint64 {
	b.Helper()
	body, err := r.Encode()
	if err != nil {
		b.Fatal(err)
	}
	revision, err := b.bucket().Put(b.Context(), r.ID, body)
	if err != nil {
		b.Fatal(err)
	}
	return revision
}

// stored reads a record as it lies in the bucket.
func (b *broker) stored(id string) *jobs.Record {
	b.Helper()
	e, err := b.bucket().Get(b.Context(), id)
	if err != nil {
		b.Fatalf("record of %s: %v", id, err)
	}
	r, err := jobs.DecodeRecord(e.Value())
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// publish puts a raw message in the queue.
func (b *broker) publish(subject string, body []byte) {
	b.Helper()
	if _, err := b.js.Publish(b.Context(), subject, body); err != nil {
		b.Fatalf("publish %s: %v", subject, err)
	}
}

func (b *broker) stream(name string) jetstream.Stream {
	b.Helper()
	s, err := b.js.Stream(b.Context(), name)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// queued returns the request that lies in the queue for a csm job, or nil.
func (b *broker) queued(lane jobs.Lane, id string) *jobs.Request {
	b.Helper()
	m, err := b.stream(b.names.JobsStream()).GetLastMsgForSubject(b.Context(), b.names.JobSubject("csm", lane, id))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		b.Fatal(err)
	}
	r, err := jobs.DecodeRequest(m.Data)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// queueLength is how many messages the queue has. It asks until it is answered,
// as the server may be starting again.
func (b *broker) queueLength() uint64 {
	b.Helper()
	for {
		s, err := b.js.Stream(b.Context(), b.names.JobsStream())
		if err == nil {
			return s.CachedInfo().State.Msgs
		}
		if b.Context().Err() != nil {
			b.Fatal(err)
		}
	}
}

// events returns the subjects of the events that are stored.
func (b *broker) events() map[string]uint64 {
	b.Helper()
	info, err := b.stream(b.names.EventsStream()).Info(b.Context(), jetstream.WithSubjectFilter(">"))
	if err != nil {
		b.Fatal(err)
	}
	return info.State.Subjects
}

// take fetches and acknowledges up to n csm bulk jobs, as workers that have
// finished them, and returns how many it got.
func (b *broker) take(ctx context.Context, n int) int {
	b.Helper()
	c, err := b.js.Consumer(ctx, b.names.JobsStream(), b.names.JobConsumer("csm", jobs.Bulk))
	if err != nil {
		b.Fatal(err)
	}
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(time.Second))
	if err != nil {
		b.Fatal(err)
	}
	got := 0
	for m := range batch.Messages() {
		if err := m.DoubleAck(ctx); err != nil {
			b.Fatal(err)
		}
		got++
	}
	return got
}

// consumers returns the names of a stream's consumers.
func (b *broker) consumers(stream string) []string {
	b.Helper()
	var names []string
	l := b.stream(stream).ConsumerNames(b.Context())
	for name := range l.Name() {
		names = append(names, name)
	}
	if err := l.Err(); err != nil {
		b.Fatal(err)
	}
	return names
}
