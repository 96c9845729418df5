//go:build chaos

package chaos

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/internal/servertest"
	"github.com/meshmill/meshmill/internal/simulator"
	"github.com/meshmill/meshmill/internal/topology"
	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

const (
	lease = 2 * time.Second
	// submitTimeout replaces the providers' minutes. A worker that takes over a
	// purchase waits as long, and 5 s for clocks that differ.
	submitTimeout = 6 * time.Second
	// slots are more than any scenario's jobs, parked ones included.
	slots = 24
)

// flow is a way in which jobs are converted.
type flow struct {
	name     string
	provider string
	options  map[string]any
	stages   []string // the paid calls
	byURL    bool     // the image is a URL, not an object in the bucket
	sync     bool     // ModelsLab answers the paid call with the result
}

var (
	flowV2   = flow{name: "csm v2", provider: "csm", options: map[string]any{"geometry_model": "turbo", "texture_model": "pbr"}, stages: []string{"create"}}
	flowV1   = flow{name: "csm v1 turbo refine", provider: "csm", options: map[string]any{"preview_mesh": "turbo", "refine_speed": "slow"}, stages: []string{"create", "preview", "refine"}}
	flowOnce = flow{name: "modelslab at once", provider: "modelslab", options: map[string]any{"output_format": "glb"}, stages: []string{"create"}, sync: true}
	flowLab  = flow{name: "modelslab processing", provider: "modelslab", options: map[string]any{"output_format": "glb"}, stages: []string{"create"}}
	flowURL  = flow{name: "csm v2 by URL", provider: "csm", options: map[string]any{"geometry_model": "base"}, stages: []string{"create"}, byURL: true}

	allFlows = []flow{flowV2, flowV1, flowOnce, flowLab}
	csmFlows = []flow{flowV2, flowV1}
	labFlows = []flow{flowOnce, flowLab}
)

// order is a job, and how it is to end.
type order struct {
	id    string
	flow  flow
	image string // SHA-256 of its bytes
	item  jobs.Item
	want  jobs.State
}

// setup says what a world is like. Its zero value suits most scenarios.
type setup struct {
	broker    *servertest.Broker // nil is the one that scenarios share
	urls      []string           // of the broker, for the test itself; nil is broker's
	store     *storage.Config    // nil is a bucket of its own on the shared server
	durations simulator.Durations
	faults    []simulator.Fault
	labSync   float64 // share of ModelsLab calls that are answered with the result
	inline    bool    // images are not handed over as URLs of the bucket
	slots     int
	replicas  int
	// What workers are told instead of the real addresses, if set.
	workerNATS, workerS3, workerSim string
	env                             []string
	args                            []string
}

// world is what one scenario runs in: its own names on a broker, its own
// bucket, and its own simulated providers.
type world struct {
	t      testing.TB
	row    string
	cfg    setup
	dir    string
	prefix string
	names  jobs.Names
	store  storage.Config
	bucket *storage.Bucket
	nc     *nats.Conn
	js     jetstream.JetStream
	client *jobs.Client
	sim    *simulator.Simulator
	args   []string
	extra  []string

	mu     sync.Mutex
	web    *httptest.Server // of images, nil if none is asked for
	images map[string][]byte
	procs  []*process
	orders []*order
	parked map[string]bool
}

// newWorld makes a world. Its scenario is counted in the table's row.
func newWorld(t testing.TB, row string, cfg setup) *world {
	t.Helper()
	w := &world{t: t, row: row, cfg: cfg, dir: t.TempDir(), args: cfg.args, extra: cfg.env, parked: map[string]bool{}, images: map[string][]byte{}}
	if cfg.broker == nil {
		w.cfg.broker = servertest.NATS(t)
	}
	w.prefix = w.cfg.broker.Prefix
	if cfg.urls == nil {
		w.cfg.urls = []string{w.cfg.broker.URL}
	}
	if cfg.store == nil {
		w.store = servertest.S3(t)
	} else {
		w.store = *cfg.store
	}
	w.cfg.slots = cmp.Or(cfg.slots, slots)
	var err error
	if w.cfg.durations == (simulator.Durations{}) {
		w.cfg.durations = simulator.Each(200*time.Millisecond, 800*time.Millisecond)
	}
	w.sim, err = simulator.Start(t.Context(), simulator.Config{
		Durations: w.cfg.durations, TinyMeshes: true, ModelsLabSync: cfg.labSync, Faults: cfg.faults,
		CSMLimit: w.cfg.slots, ModelsLabLimit: w.cfg.slots, Seed: 1,
	})
	w.must(err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = w.sim.Shutdown(ctx) // cuts off what is left
	})
	w.bucket, err = storage.Open(t.Context(), w.store)
	w.must(err)
	w.connect()
	w.topology()
	// The last to be registered is the first to run: workers end before the rest.
	t.Cleanup(func() {
		w.stopAll()
		if t.Failed() {
			w.dump()
		}
	})
	return w
}

func (w *world) connect() {
	w.t.Helper()
	var err error
	w.names, err = jobs.NewNames(w.prefix)
	w.must(err)
	w.nc, err = nats.Connect(strings.Join(w.cfg.urls, ","), nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond), nats.Timeout(5*time.Second))
	w.must(err)
	w.t.Cleanup(w.nc.Close)
	w.js, err = jetstream.New(w.nc)
	w.must(err)
	w.client, err = jobs.NewClient(w.nc, jobs.ClientConfig{Names: w.names})
	w.must(err)
}

// topology creates the streams, so that jobs can be enqueued before the first
// worker starts.
func (w *world) topology() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	w.must(topology.Ensure(ctx, w.js, w.names, topology.Options{
		Providers: []string{"csm", "modelslab"}, Lease: lease, Replicas: w.cfg.replicas,
	}))
}

// removeStreams forgets the scenario's streams, so that hundreds of scenarios
// do not weigh on the broker.
func (w *world) removeStreams() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, s := range []string{w.names.JobsStream(), w.names.EventsStream(), w.names.DeadStream(),
		"KV_" + w.names.StateBucket(), "KV_" + w.names.FleetBucket()} {
		_ = w.js.DeleteStream(ctx, s) // the container goes in the end anyway
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// workerEnv is the environment of the world's workers: nothing of the test's
// own but the path.
func (w *world) workerEnv() []string {
	base := "http://" + w.sim.Host()
	if w.cfg.workerSim != "" {
		base = "http://" + w.cfg.workerSim
	}
	delivery := "presign"
	if w.cfg.inline {
		delivery = "inline"
	}
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "AWS_EC2_METADATA_DISABLED=true",
		"NATS_URL=" + cmp.Or(w.cfg.workerNATS, strings.Join(w.cfg.urls, ",")),
		"AWS_ENDPOINT_URL_S3=" + cmp.Or(w.cfg.workerS3, w.store.Endpoint),
		"AWS_REGION=" + w.store.Region, "AWS_ACCESS_KEY_ID=" + w.store.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + w.store.SecretAccessKey,
		"MESHMILL_BUCKET=" + w.store.Bucket, "MESHMILL_PREFIX=" + w.prefix,
		"CSM_API_KEY=chaos-csm-key-0001", "CSM_BASE_URL=" + base + simulator.CSMPath, fmt.Sprint("CSM_CONCURRENCY=", w.cfg.slots),
		"MODELSLAB_API_KEY=chaos-lab-key-0001", "MODELSLAB_BASE_URL=" + base + simulator.ModelsLabPath, fmt.Sprint("MODELSLAB_CONCURRENCY=", w.cfg.slots),
		"MESHMILL_LEASE=" + lease.String(), "MESHMILL_POLL_MIN=100ms", "MESHMILL_POLL_MAX=1s", "MESHMILL_JOB_TIMEOUT=10m",
		"MESHMILL_IMAGE_DELIVERY=" + delivery, "MESHMILL_ALLOW_PRIVATE_URLS=true", "MESHMILL_LISTEN=",
		"MESHMILL_LOG_FORMAT=json", "MESHMILL_LOG_LEVEL=info", "MESHMILL_CHAOS_SUBMIT_TIMEOUT=" + submitTimeout.String(),
	}
}

// picture is a small image unlike any other.
func picture(t testing.TB) []byte {
	t.Helper()
	var seed [16]byte
	_, _ = rand.Read(seed[:]) // never fails
	img := image.NewGray(image.Rect(0, 0, 16, 16))
	for i, b := range seed {
		img.SetGray(i, i, color.Gray{Y: b})
	}
	var buf bytes.Buffer
	if err := png.Encode(&buf, img); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// make prepares n orders of each flow.
func (w *world) make(n int, flows ...flow) []*order {
	w.t.Helper()
	var out []*order
	for _, f := range flows {
		for range n {
			data := picture(w.t)
			sum := sha256.Sum256(data)
			o := &order{flow: f, image: hex.EncodeToString(sum[:]), want: jobs.Completed}
			img := jobs.Image{Name: f.name}
			var err error
			if f.byURL {
				img.URL = w.serve(o.image, data)
			} else {
				img.MediaType = "image/png"
				img.Object, _, err = w.bucket.PutInput(w.t.Context(), bytes.NewReader(data), "png", "image/png")
				w.must(err)
			}
			o.id, err = jobs.DeriveID(img, f.provider, f.options)
			w.must(err)
			o.item = jobs.Item{Request: jobs.Request{ID: o.id, Provider: f.provider, Image: img, Options: f.options, Formats: []string{"glb"}, Batch: "chaos"}}
			out = append(out, o)
		}
	}
	return out
}

// serve puts an image on the web, and returns its address.
func (w *world) serve(name string, data []byte) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.web == nil {
		w.web = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w.mu.Lock()
			data := w.images[r.URL.Path]
			w.mu.Unlock()
			_, _ = rw.Write(data) // a worker that was killed reads nothing
		}))
		w.t.Cleanup(w.web.Close)
	}
	w.images["/"+name] = data
	return w.web.URL + "/" + name
}

// enqueue enqueues n jobs of each flow.
func (w *world) enqueue(n int, flows ...flow) []*order {
	w.t.Helper()
	return w.put(w.make(n, flows...))
}

func (w *world) put(orders []*order) []*order {
	w.t.Helper()
	items := make([]jobs.Item, len(orders))
	for i, o := range orders {
		items[i] = o.item
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	results, err := w.client.EnqueueMany(ctx, items)
	w.must(err)
	for _, r := range results {
		if r.Outcome != jobs.Enqueued {
			w.t.Fatalf("job %s was %s: %s %v", r.ID, r.Outcome, r.Reason, r.Err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.orders = append(w.orders, orders...)
	return orders
}

// dump shows what a failed scenario leaves behind.
func (w *world) dump() {
	w.mu.Lock()
	procs := w.procs
	w.mu.Unlock()
	var b strings.Builder
	for _, p := range procs[max(0, len(procs)-4):] {
		b.WriteString(p.tail(40))
	}
	w.t.Log(b.String())
}
