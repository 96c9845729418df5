// Package fleet_test runs the real programs against real servers: two workers
// and the command line, on a NATS and an S3 server in containers where there is
// an engine, with both providers simulated.
package fleet_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/internal/servertest"
	"github.com/meshmill/meshmill/internal/simulator"
	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

func TestMain(m *testing.M) { servertest.Main(m) }

// programs builds the two commands once.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "meshmill-fleet")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", dir+string(filepath.Separator),
		"github.com/meshmill/meshmill/cmd/worker", "github.com/meshmill/meshmill/cmd/enqueue").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return dir, nil
})

// fleet is what the programs work with.
type fleet struct {
	t      *testing.T
	bin    string
	env    []string
	broker *servertest.Broker
	store  storage.Config
	sim    *simulator.Simulator
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	sim, err := simulator.Start(t.Context(), simulator.Config{
		Durations: simulator.Each(200*time.Millisecond, 600*time.Millisecond), TinyMeshes: true,
		CSMLimit: 20, ModelsLabLimit: 20, ModelsLabSync: 0.3,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := sim.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	f := &fleet{t: t, bin: bin, broker: servertest.NATS(t), store: servertest.S3(t), sim: sim}
	f.env = append(os.Environ(),
		"NATS_URL="+f.broker.URL, "MESHMILL_PREFIX="+f.broker.Prefix, "MESHMILL_BUCKET="+f.store.Bucket,
		"AWS_ENDPOINT_URL_S3="+f.store.Endpoint, "AWS_REGION="+f.store.Region,
		"AWS_ACCESS_KEY_ID="+f.store.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+f.store.SecretAccessKey,
		"CSM_API_KEY=fleet-key", "CSM_BASE_URL="+sim.CSMBaseURL(), "CSM_CONCURRENCY=20",
		"MODELSLAB_API_KEY=fleet-key", "MODELSLAB_BASE_URL="+sim.ModelsLabBaseURL(), "MODELSLAB_CONCURRENCY=20",
		"MESHMILL_POLL_MIN=100ms", "MESHMILL_ALLOW_PRIVATE_URLS=true", "MESHMILL_LISTEN=", "MESHMILL_LOG_FORMAT=json",
	)
	return f
}

// worker starts a worker and returns the function that stops it in good order.
func (f *fleet) worker(extra ...string) (stop func()) {
	f.t.Helper()
	cmd := exec.Command(filepath.Join(f.bin, "worker"))
	cmd.Env = append(f.env[:len(f.env):len(f.env)], extra...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself, which Wait tells
		if err := cmd.Wait(); err != nil {
			f.t.Errorf("worker: %v\n%s", err, tail(log.Bytes()))
		}
		if bytes.Contains(log.Bytes(), []byte("fleet-key")) {
			f.t.Error("the provider's key is in the worker's log")
		}
	})
	f.t.Cleanup(stop)
	return stop
}

func tail(b []byte) []byte { return b[max(0, len(b)-4000):] }

// enqueue runs the command line and returns its JSON lines by type.
func (f *fleet) enqueue(wantStatus int, args ...string) map[string][]map[string]any {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(f.bin, "enqueue"), append(args, "--json")...)
	cmd.Env = f.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != wantStatus {
		f.t.Fatalf("enqueue %v: status %d, want %d (%v)\n%s", args, got, wantStatus, err, tail(stderr.Bytes()))
	}
	out := map[string][]map[string]any{}
	for s := bufio.NewScanner(&stdout); s.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(s.Bytes(), &line); err != nil {
			f.t.Fatalf("not JSON: %s", s.Bytes())
		}
		kind, _ := line["type"].(string)
		out[kind] = append(out[kind], line)
	}
	return out
}

// pictures makes a folder of n different images.
func pictures(t *testing.T, n int, seed string) string {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		h := fnv.New32a()
		fmt.Fprint(h, seed, i)
		sum := h.Sum32()
		img := image.NewNRGBA(image.Rect(0, 0, 32, 32))
		for y := 6; y < 26; y++ {
			for x := 6; x < 26; x++ {
				img.Set(x, y, color.NRGBA{uint8(sum), uint8(sum >> 8), uint8(sum >> 16), 255})
			}
		}
		var b bytes.Buffer
		if err := png.Encode(&b, img); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s %03d.png", seed, i)), b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestTwoWorkers enqueues 200 images for two workers: each is bought once, is
// stored whole, and has one completion event.
func TestTwoWorkers(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	t.Log(servertest.Describe())
	f.worker()
	f.worker()
	f.ready()
	const each = 100
	dirs := map[string]string{"csm": pictures(t, each, "csm"), "modelslab": pictures(t, each, "modelslab")}
	began := time.Now()
	for provider, dir := range dirs {
		sum := f.enqueue(0, "folder", dir, "--provider", provider, "--batch", "b1")["summary"][0]
		if sum["enqueued"] != float64(each) {
			t.Errorf("%s: summary %v, want %d enqueued", provider, sum, each)
		}
	}
	f.settle("b1", 2*each)
	t.Logf("%d jobs took %v", 2*each, time.Since(began).Round(100*time.Millisecond))

	status := f.enqueue(0, "status", "--batch", "b1")
	if len(status["job"]) != 2*each || status["summary"][0]["completed"] != float64(2*each) {
		t.Errorf("status tells of %d jobs, summary %v", len(status["job"]), status["summary"])
	}
	f.boughtOnce(2 * each)
	f.storedWhole(status["job"])
	f.oneEventEach(2 * each)

	// The second run finds everything done, and buys nothing.
	for provider, dir := range dirs {
		sum := f.enqueue(0, "folder", dir, "--provider", provider, "--batch", "b2", "--wait")["summary"][0]
		if sum["skipped"] != float64(each) || sum["enqueued"] != float64(0) {
			t.Errorf("second run of %s: %v, want %d skipped", provider, sum, each)
		}
	}
	f.boughtOnce(2 * each)
}

// TestPresigned has the providers read the images from the bucket.
func TestPresigned(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.worker("MESHMILL_IMAGE_DELIVERY=presign")
	f.ready()
	for _, provider := range []string{"csm", "modelslab"} {
		f.enqueue(0, "folder", pictures(t, 5, "presigned-"+provider), "--provider", provider, "--batch", "p", "--wait")
	}
	f.boughtOnce(10)
	f.storedWhole(f.enqueue(0, "status", "--batch", "p")["job"])
}

// TestHandOver stops one of two workers in the middle of the work.
func TestHandOver(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	stop := f.worker()
	f.ready()
	dir := pictures(t, 60, "hand-over")
	f.enqueue(0, "folder", dir, "--provider", "csm", "--batch", "h")
	f.until(func() bool { return len(f.sim.Ledger()) > 10 })
	f.worker()
	stop()
	f.settle("h", 60)
	f.boughtOnce(60)
	f.storedWhole(f.enqueue(0, "status", "--batch", "h")["job"])
	f.oneEventEach(60)
}

// ready waits until a worker has created what commands need.
func (f *fleet) ready() {
	f.t.Helper()
	names, err := jobs.NewNames(f.broker.Prefix)
	if err != nil {
		f.t.Fatal(err)
	}
	client, err := jobs.NewClient(f.broker.Connect(f.t), jobs.ClientConfig{Names: names})
	if err != nil {
		f.t.Fatal(err)
	}
	f.until(func() bool { return client.Check(f.t.Context()) == nil })
}

// settle waits until every job of a batch has ended or is parked.
func (f *fleet) settle(batch string, n int) {
	f.t.Helper()
	f.until(func() bool {
		sum := f.enqueue(0, "status", "--batch", batch)["summary"][0]
		ended := 0.0
		for _, s := range []string{"completed", "failed", "parked", "cancelled"} {
			v, _ := sum[s].(float64)
			ended += v
		}
		return ended == float64(n)
	})
}

func (f *fleet) until(ok func() bool) {
	f.t.Helper()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(4 * time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			f.t.Fatal("it does not come to an end")
		case <-f.t.Context().Done():
			f.t.Fatal(context.Cause(f.t.Context()))
		}
	}
}

// boughtOnce reads the simulator's ledger.
func (f *fleet) boughtOnce(n int) {
	f.t.Helper()
	ledger := f.sim.Ledger()
	perImage := map[string]int{}
	for _, p := range ledger {
		perImage[p.Provider+" "+p.Image]++
	}
	if len(ledger) != n || len(perImage) != n {
		f.t.Errorf("%d purchases of %d images, want %d of each", len(ledger), len(perImage), n)
	}
	if v := f.sim.Violations(); len(v) != 0 {
		f.t.Errorf("the simulator was misused: %v", v)
	}
}

// storedWhole compares what the records say with what is in the bucket.
func (f *fleet) storedWhole(records []map[string]any) {
	f.t.Helper()
	bucket, err := storage.Open(f.t.Context(), f.store)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, r := range records {
		id, _ := r["id"].(string)
		var m jobs.Manifest
		if err := bucket.GetJSON(f.t.Context(), jobs.ManifestKey(id), &m, 1<<20); err != nil {
			f.t.Errorf("job %s: %v", id, err)
			continue
		}
		if len(m.Outputs) == 0 {
			f.t.Errorf("job %s has no files", id)
		}
		for _, o := range m.Outputs {
			data, err := bucket.GetBytes(f.t.Context(), o.Key, 1<<24)
			if err != nil || int64(len(data)) != o.SizeBytes || !strings.HasPrefix(string(data), "glTF") {
				f.t.Errorf("%s: %d bytes, recorded are %d: %v", o.Key, len(data), o.SizeBytes, err)
			}
		}
	}
}

// oneEventEach reads the events stream.
func (f *fleet) oneEventEach(n int) {
	f.t.Helper()
	js, err := jetstream.New(f.broker.Connect(f.t))
	if err != nil {
		f.t.Fatal(err)
	}
	names, err := jobs.NewNames(f.broker.Prefix)
	if err != nil {
		f.t.Fatal(err)
	}
	s, err := js.Stream(f.t.Context(), names.EventsStream())
	if err != nil {
		f.t.Fatal(err)
	}
	info, err := s.Info(f.t.Context(), jetstream.WithSubjectFilter(names.EventSubject("completed", "*", 1)))
	if err != nil {
		f.t.Fatal(err)
	}
	total := 0
	for _, count := range info.State.Subjects {
		total += int(count)
	}
	if total != n || len(info.State.Subjects) != n {
		f.t.Errorf("%d completion events for %d jobs, want %d", total, len(info.State.Subjects), n)
	}
}
