package worker_test

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/color"
	"image/png"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/servertest"
	"github.com/meshmill/meshmill/internal/simulator"
	"github.com/meshmill/meshmill/internal/worker"
	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

func TestMain(m *testing.M) { servertest.Main(m) }

const key = "a-secret-key"

// bench is a worker's surroundings.
type bench struct {
	t      *testing.T
	opts   worker.Options
	client *jobs.Client
	sim    *simulator.Simulator
	listen string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	sim, err := simulator.Start(t.Context(), simulator.Config{Durations: simulator.Each(50*time.Millisecond, 100*time.Millisecond)})
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
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	broker, store := servertest.NATS(t), servertest.S3(t)
	env := map[string]string{
		"NATS_URL": broker.URL, "MESHMILL_PREFIX": broker.Prefix, "MESHMILL_BUCKET": store.Bucket, "MESHMILL_POLL_MIN": "20ms",
		"CSM_API_KEY": key, "CSM_BASE_URL": sim.CSMBaseURL(), "MODELSLAB_API_KEY": key, "MODELSLAB_BASE_URL": sim.ModelsLabBaseURL(),
		"MESHMILL_LISTEN": listen,
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Register(flags)
	cfg, err := config.Load(flags, func(k string) (string, bool) { v, ok := env[k]; return v, ok }, config.NeedBroker)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := storage.Open(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	nc := broker.Connect(t)
	client, err := jobs.NewClient(nc, jobs.ClientConfig{Names: cfg.Names})
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t, worker.Options{Config: cfg, NATS: nc, Storage: bucket, Simulated: sim.Host(), Log: zerolog.Nop()}, client, sim, listen}
}

// get returns the status and body of a page, or 0 if nobody listens.
func (b *bench) get(path string) (int, string) {
	b.t.Helper()
	resp, err := http.Get("http://" + b.listen + path)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func picture(t *testing.T, c color.Color) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, 24, 24))
	for i := 4; i < 20; i++ {
		for j := 4; j < 20; j++ {
			img.Set(i, j, c)
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestRun has one worker convert an image with each provider, and looks at what
// it tells the world.
func TestRun(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var log syncBuffer
	b.opts.Log = zerolog.New(&log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx, b.opts) }()
	until(t, func() bool { status, _ := b.get("/readyz"); return status == http.StatusOK })

	object, _, err := b.opts.Storage.PutInput(t.Context(), bytes.NewReader(picture(t, color.Black)), "png", "image/png")
	if err != nil {
		t.Fatal(err)
	}
	for _, provider := range []string{"csm", "modelslab"} {
		res, err := b.client.Enqueue(t.Context(), jobs.Item{Request: jobs.Request{Provider: provider, Image: jobs.Image{Object: object}}})
		if err != nil || res.Outcome != jobs.Enqueued {
			t.Fatalf("%+v, %v", res, err)
		}
		wctx, stop := context.WithTimeout(t.Context(), time.Minute)
		r, err := b.client.Wait(wctx, res.ID)
		stop()
		if err != nil || r.State != jobs.Completed {
			t.Fatalf("%s: %+v, %v", provider, r, err)
		}
	}
	if n := len(b.sim.Ledger()); n != 2 {
		t.Errorf("%d purchases, want 2", n)
	}
	if status, body := b.get("/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("health: %d %q", status, body)
	}
	_, metrics := b.get("/metrics")
	for _, want := range []string{
		`meshmill_paid_calls_total{outcome="ok",provider="csm",stage="create"} 1`,
		`meshmill_paid_calls_total{outcome="ok",provider="modelslab",stage="create"} 1`,
		`meshmill_provider_paused{provider="csm"} 0`,
		`meshmill_jobs_waiting{provider="csm"} 0`,
		"meshmill_stored_bytes_total", "meshmill_polls_total", "go_goroutines",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v after its context ended, want nil", err)
	}
	if status, _ := b.get("/healthz"); status != 0 {
		t.Error("health is still served")
	}
	if text := log.String(); !strings.Contains(text, `"message":"job finished"`) || strings.Contains(text, key) {
		t.Errorf("log:\n%s", text)
	}
}

func TestRunRefuses(t *testing.T) {
	t.Parallel()
	t.Run("no key", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.opts.Config.CSM.APIKey, b.opts.Config.ModelsLab.APIKey = "", ""
		if err := worker.Run(t.Context(), b.opts); !errors.Is(err, worker.ErrNoProvider) {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("bind to nothing", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.opts.Bind = true
		if err := worker.Run(t.Context(), b.opts); err == nil || !strings.Contains(err.Error(), b.opts.Config.Names.JobsStream()) {
			t.Errorf("err = %v, want what is missing", err)
		}
	})
	t.Run("address in use", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		l, err := net.Listen("tcp", b.listen)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := worker.Run(t.Context(), b.opts); err == nil || !strings.Contains(err.Error(), "MESHMILL_LISTEN") {
			t.Errorf("err = %v, want the setting to change", err)
		}
	})
}

// until waits for a condition that no channel tells of.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it does not come true")
		}
	}
}

// syncBuffer is a buffer that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
