package jobs_test

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/internal/topology"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// exampleBroker starts a broker as a worker would find it. Programs connect to
// theirs with nats.Connect instead.
func exampleBroker() (nc *nats.Conn, stop func()) {
	dir, err := os.MkdirTemp("", "jobs-example-")
	if err != nil {
		log.Fatal(err)
	}
	s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
	if err != nil {
		log.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		log.Fatal("the broker did not start")
	}
	if nc, err = nats.Connect("", nats.InProcessServer(s)); err != nil {
		log.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	names, err := jobs.NewNames("")
	if err != nil {
		log.Fatal(err)
	}
	if err := topology.Ensure(context.Background(), js, names, topology.Options{Memory: true, Providers: []string{"csm"}}); err != nil {
		log.Fatal(err)
	}
	return nc, func() {
		nc.Close()
		s.Shutdown()
		s.WaitForShutdown()
		_ = os.RemoveAll(dir)
	}
}

// exampleWorker plays a worker that moves one job on.
func exampleWorker(nc *nats.Conn, id string, states ...jobs.State) {
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	kv, err := js.KeyValue(context.Background(), "meshmill_state")
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range states {
		body, err := (&jobs.Record{Schema: jobs.RecordSchema, ID: id, State: s, Attempt: 1, Provider: "csm"}).Encode()
		if err != nil {
			log.Fatal(err)
		}
		if _, err := kv.Put(context.Background(), id, body); err != nil {
			log.Fatal(err)
		}
	}
}

func ExampleClient_Enqueue() {
	nc, stop := exampleBroker() // nats.Connect(os.Getenv("NATS_URL"))
	defer stop()
	client, err := jobs.NewClient(nc, jobs.ClientConfig{})
	if err != nil {
		log.Fatal(err)
	}
	item := jobs.Item{Request: jobs.Request{
		Provider: "csm",
		Image:    jobs.Image{URL: "https://example.com/chair.png"},
		Options:  map[string]any{"geometry_model": "turbo"},
	}}
	for range 2 {
		result, err := client.Enqueue(context.Background(), item)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(result.ID, result.Outcome, result.State)
	}
	// Output:
	// t5eny5maaceo7ztl3qmtog4wzq enqueued queued
	// t5eny5maaceo7ztl3qmtog4wzq skipped queued
}

func ExampleClient_EnqueueMany() {
	nc, stop := exampleBroker()
	defer stop()
	client, err := jobs.NewClient(nc, jobs.ClientConfig{})
	if err != nil {
		log.Fatal(err)
	}
	var items []jobs.Item
	for _, id := range []string{"chair", "table", "chair", "a lamp"} {
		items = append(items, jobs.Item{Request: jobs.Request{
			ID: id, Provider: "csm", Batch: "spring", Image: jobs.Image{URL: "https://example.com/" + id + ".png"},
		}})
	}
	results, err := client.EnqueueMany(context.Background(), items)
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range results {
		fmt.Printf("%s: %s (%s)\n", r.ID, r.Outcome, cmp.Or(r.Reason, "for csm"))
	}
	// Output:
	// chair: enqueued (for csm)
	// table: enqueued (for csm)
	// chair: skipped (an earlier item of this call is the same job)
	// a lamp: refused (id is "a lamp", must be 1 to 64 letters, digits, _ or -)
}

func ExampleClient_Get() {
	nc, stop := exampleBroker()
	defer stop()
	client, err := jobs.NewClient(nc, jobs.ClientConfig{})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.Get(context.Background(), "chair")
	fmt.Println(err)
	_, err = client.Enqueue(context.Background(), jobs.Item{Request: jobs.Request{
		ID: "chair", Provider: "csm", Image: jobs.Image{URL: "https://example.com/chair.png"},
	}})
	if err != nil {
		log.Fatal(err)
	}
	for _, work := range [][]jobs.State{nil, {jobs.Running}} {
		exampleWorker(nc, "chair", work...)
		record, err := client.Get(context.Background(), "chair")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(record.ID, record.State)
	}
	// Output:
	// job chair: no such job
	// chair queued
	// chair running
}

func ExampleClient_List() {
	nc, stop := exampleBroker()
	defer stop()
	client, err := jobs.NewClient(nc, jobs.ClientConfig{})
	if err != nil {
		log.Fatal(err)
	}
	for _, id := range []string{"chair", "table", "lamp"} {
		exampleWorker(nc, id, jobs.Running)
	}
	exampleWorker(nc, "table", jobs.Parked)
	for record, err := range client.List(context.Background(), jobs.Filter{States: []jobs.State{jobs.Parked}}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(record.ID, record.State)
	}
	// Output:
	// table parked
}

func ExampleClient_Watch() {
	nc, stop := exampleBroker()
	defer stop()
	client, err := jobs.NewClient(nc, jobs.ClientConfig{})
	if err != nil {
		log.Fatal(err)
	}
	exampleWorker(nc, "chair", jobs.Submitting)
	next := []jobs.State{jobs.Running, jobs.Storing, jobs.Completed}
	for record, err := range client.Watch(context.Background(), jobs.Filter{IDs: []string{"chair"}}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(record.ID, record.State)
		if record.State.Final() {
			break
		}
		exampleWorker(nc, "chair", next[0])
		next = next[1:]
	}
	// Output:
	// chair submitting
	// chair running
	// chair storing
	// chair completed
}

func ExampleClient_Wait() {
	nc, stop := exampleBroker()
	defer stop()
	client, err := jobs.NewClient(nc, jobs.ClientConfig{})
	if err != nil {
		log.Fatal(err)
	}
	exampleWorker(nc, "chair", jobs.Submitting)
	done := make(chan struct{})
	go func() {
		defer close(done)
		exampleWorker(nc, "chair", jobs.Running, jobs.Storing, jobs.Completed)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	record, err := client.Wait(ctx, "chair")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(record.ID, record.State)
	<-done
	// Output:
	// chair completed
}

func ExampleClient_Cancel() {
	nc, stop := exampleBroker()
	defer stop()
	client, err := jobs.NewClient(nc, jobs.ClientConfig{})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.Enqueue(context.Background(), jobs.Item{Request: jobs.Request{
		ID: "chair", Provider: "csm", Image: jobs.Image{URL: "https://example.com/chair.png"},
	}})
	if err != nil {
		log.Fatal(err)
	}
	exampleWorker(nc, "table", jobs.Running)
	for _, id := range []string{"chair", "table"} {
		record, err := client.Cancel(context.Background(), id)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %s, asked to stop: %v\n", id, record.State, record.CancelRequested)
	}
	// Output:
	// chair: cancelled, asked to stop: false
	// table: running, asked to stop: true
}

func ExampleClient_Resolve() {
	nc, stop := exampleBroker()
	defer stop()
	client, err := jobs.NewClient(nc, jobs.ClientConfig{})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.Enqueue(context.Background(), jobs.Item{Request: jobs.Request{
		ID: "chair", Provider: "csm", Image: jobs.Image{URL: "https://example.com/chair.png"},
	}})
	if err != nil {
		log.Fatal(err)
	}
	// Cancelled first, and then wanted after all.
	if _, err := client.Cancel(context.Background(), "chair"); err != nil {
		log.Fatal(err)
	}
	record, err := client.Resolve(context.Background(), "chair", jobs.Resolution{Resubmit: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(record.ID, record.State, record.Attempt)
	// Output:
	// chair submitting 2
}

func ExampleClient_Events() {
	nc, stop := exampleBroker()
	defer stop()
	client, err := jobs.NewClient(nc, jobs.ClientConfig{})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.Enqueue(context.Background(), jobs.Item{Request: jobs.Request{
		ID: "chair", Provider: "csm", Image: jobs.Image{URL: "https://example.com/chair.png"},
	}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Cancel(context.Background(), "chair"); err != nil {
		log.Fatal(err)
	}
	for event, err := range client.Events(context.Background(), jobs.EventFilter{FromStart: true}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Type(), event.Subject())
		break
	}
	// Output:
	// meshmill.job.cancelled.v1 chair
}
