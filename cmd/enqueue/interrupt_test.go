package main

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// These tests interrupt the command at a moment they choose, so they call run,
// for which the end of its context is what a signal is for the process.

var errInterrupt = errors.New("interrupt signal received")

// output is a writer that can be read meanwhile, and tells when it holds a text.
type output struct {
	mu   sync.Mutex
	b    bytes.Buffer
	text string
	seen func()
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b.Write(p)
	if o.seen != nil && strings.Contains(o.b.String(), o.text) {
		o.seen()
		o.seen = nil
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func imageFile(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	m := image.NewGray(image.Rect(0, 0, 32, 32))
	for i := range 16 * 32 {
		m.Pix[i] = 200
	}
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "a.png")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func from(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := env[name]; return v, ok }
}

func TestInterruptedAtTheStart(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupt)
	var out, errs output
	env := map[string]string{"NATS_URL": "127.0.0.1:1", "CSM_API_KEY": "x"}
	if code := run(ctx, []string{"file", imageFile(t)}, nil, &out, &errs, from(env)); code != statusInterrupted {
		t.Errorf("exit status %d, want 130; %s", code, errs.String())
	}
}

// Interrupted with a session bought, the next run goes on with that session.
func TestInterruptedAndResumed(t *testing.T) {
	file, data := imageFile(t), filepath.Join(t.TempDir(), "data")
	args := func(more ...string) []string {
		return append([]string{"file", file, "--embedded", "--simulate", "--provider", "modelslab", "--data", data, "--poll-min", "50ms", "--poll-max", "100ms"}, more...)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	errs := output{text: "INF bought ", seen: func() { cancel(errInterrupt) }}
	var out output
	if code := run(ctx, args("--simulate-seconds=2", "--log-level=info"), nil, &out, &errs, from(nil)); code != statusInterrupted {
		t.Fatalf("exit status %d, want 130; %s", code, errs.String())
	}
	if !strings.Contains(errs.String(), "interrupted: nothing is lost") || !strings.Contains(errs.String(), "the same command goes on from here") {
		t.Errorf("it does not say what becomes of the job:\n%s", errs.String())
	}
	var errs2 output
	began := time.Now()
	if code := run(t.Context(), args("--simulate-seconds=2"), nil, &out, &errs2, from(nil)); code != statusOK {
		t.Fatalf("exit status %d of the second run; %s", code, errs2.String())
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the second run took %v: it waited for the lease of the first", took)
	}
	ledger, err := os.ReadFile(filepath.Join(data, "simulator", "ledger.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(ledger, []byte("\n")); n != 1 {
		t.Errorf("%d purchases, want 1", n)
	}
	if !strings.Contains(errs2.String(), ": 1 skipped, 1 completed") {
		t.Errorf("the second run says:\n%s", errs2.String())
	}
}

// Interrupted while waiting for jobs of a fleet, it says how to follow them,
// and they go on.
func TestInterruptedWhileOthersWork(t *testing.T) {
	t.Parallel()
	dir, err := builtWorker()
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "data")
	w := exec.Command(filepath.Join(dir, "worker"), "--embedded", "--simulate", "--simulate-seconds=1", "--data", data, "--listen=",
		"--nats-listen=127.0.0.1:0", "--s3-listen=127.0.0.1:0", "--poll-min=50ms", "--poll-max=100ms")
	var log output
	w.Stdout, w.Stderr = &log, &log
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.Process.Signal(syscall.SIGTERM)
		if err := w.Wait(); err != nil {
			t.Errorf("worker: %v\n%s", err, log.String())
		}
	})
	env := map[string]string{}
	deadline := time.Now().Add(patience)
	for env["NATS_URL"] == "" || !strings.Contains(log.String(), "worker started") {
		raw, _ := os.ReadFile(filepath.Join(data, "env"))
		for _, v := range export.FindAllStringSubmatch(string(raw), -1) {
			env[v[1]] = v[2]
		}
		if time.Now().After(deadline) {
			t.Fatalf("the worker does not start:\n%s", log.String())
		}
		time.Sleep(20 * time.Millisecond) // another process's doing: it can only be asked for
	}
	args := []string{"file", imageFile(t), "--provider=csm", "--batch=b", "--wait"}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	log.mu.Lock()
	log.text, log.seen = `"bought"`, func() { cancel(errInterrupt) }
	log.mu.Unlock()
	var out, errs output
	if code := run(ctx, args, nil, &out, &errs, from(env)); code != statusInterrupted {
		t.Fatalf("exit status %d, want 130; %s", code, errs.String())
	}
	if !strings.Contains(errs.String(), "interrupted: the jobs in the queue go on; follow them with: enqueue watch --batch b\n") {
		t.Errorf("it does not say how to go on:\n%s", errs.String())
	}
	var errs2 output
	if code := run(t.Context(), args, nil, &out, &errs2, from(env)); code != statusOK || !strings.Contains(errs2.String(), "1 skipped, 1 completed") {
		t.Errorf("exit status %d of the second run; %s", code, errs2.String())
	}
	// The event is out, once.
	var events output
	if code := run(t.Context(), []string{"events", "--from-start", "--max=1", "--kind=completed"}, nil, &events, &errs2, from(env)); code != statusOK ||
		!strings.Contains(events.String(), `"type":"meshmill.job.completed.v1"`) {
		t.Errorf("exit status %d of events: %s", code, events.String())
	}
	if code := run(t.Context(), []string{"events", "--kind=nonsense"}, nil, &events, &errs2, from(env)); code != statusUsage {
		t.Errorf("exit status %d for an unknown kind, want 2; %s", code, errs2.String())
	}
}
