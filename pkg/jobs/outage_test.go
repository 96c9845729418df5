package jobs_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/meshmill/meshmill/pkg/jobs"
)

func TestEnqueueSurvivesRestart(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{onDisk: true})
	b.client.SetPatience(time.Minute, time.Second)
	if _, err := b.client.EnqueueMany(t.Context(), items("a", 1200)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	b.restart(func() {
		go func() {
			results, err := b.client.EnqueueMany(t.Context(), append(items("a", 1200), items("b", 1200)...))
			if got := tally(results); got["enqueued queued"] != 1200 || got["skipped queued"] != 1200 {
				err = errors.Join(err, fmt.Errorf("results: %v", got))
			}
			done <- err
		}()
	})
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := b.queueLength(); got != 2400 {
		t.Errorf("%d messages in the queue, want 2400", got)
	}
}

// The broker goes down again and again while thousands are enqueued: nothing
// is lost, and what is reported adds up.
func TestEnqueueThroughRestarts(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{onDisk: true})
	b.client.SetPatience(time.Minute, 500*time.Millisecond)
	const n = 5000
	done := make(chan []jobs.Result, 1)
	go func() {
		results, err := b.client.EnqueueMany(t.Context(), items("j", n))
		if err != nil {
			t.Error(err)
		}
		done <- results
	}()
	for threshold := range uint64(4) {
		for b.queueLength() < 500+threshold*1000 {
			if t.Context().Err() != nil {
				t.Fatal(t.Context().Err())
			}
		}
		b.restart(func() {})
	}
	if got := tally(<-done); !maps.Equal(got, map[string]int{"enqueued queued": n}) {
		t.Errorf("results: %v", got)
	}
	if got := b.queueLength(); got != n {
		t.Errorf("%d messages in the queue, want %d", got, n)
	}
}

// A proxy between client and broker loses answers: what was stored is not
// stored twice, and is reported as enqueued.
func TestEnqueueLostAnswers(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	for name, n := range map[string]int{"single": 1, "batch": 40} {
		dialer := &lossyDialer{}
		nc, err := nats.Connect(b.server.ClientURL(), nats.SetCustomDialer(dialer), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		c, err := jobs.NewClient(nc, jobs.ClientConfig{})
		if err != nil {
			t.Fatal(err)
		}
		c.SetPatience(20*time.Second, 300*time.Millisecond)
		results, err := c.EnqueueMany(t.Context(), items(name, n))
		if err != nil || tally(results)["enqueued queued"] != n || !dialer.cut.Load() {
			t.Errorf("%s: %v, %v, answer lost: %v", name, tally(results), err, dialer.cut.Load())
		}
	}
	if got := b.queueLength(); got != 41 {
		t.Errorf("%d messages in the queue, want 41", got)
	}
}

func TestEnqueueWithoutBroker(t *testing.T) {
	t.Parallel()
	b := newBroker(t, setup{})
	b.client.SetPatience(100*time.Millisecond, 100*time.Millisecond)
	if err := b.js.DeleteStream(t.Context(), b.names.JobsStream()); err != nil {
		t.Fatal(err)
	}
	results, err := b.client.EnqueueMany(t.Context(), items("j", 2))
	if err == nil || !strings.Contains(err.Error(), "has no stream MESHMILL_JOBS") || tally(results)["refused"] != 2 {
		t.Errorf("without the stream: %v, %v", tally(results), err)
	}
	b.server.Shutdown()
	results, err = b.client.EnqueueMany(t.Context(), items("j", 2))
	if err == nil || !strings.Contains(err.Error(), "did not answer") || tally(results)["refused"] != 2 {
		t.Errorf("without a broker: %v, %v", tally(results), err)
	}
}
