package connect_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/pkg/jobs"
)

func load(t *testing.T, args ...string) config.Config {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Register(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(flags, func(name string) (string, bool) {
		v, ok := map[string]string{"CSM_API_KEY": "sk-real", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}[name]
		return v, ok
	}, config.NeedBroker)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The embedded servers allow one instance in a process, so these tests are not
// parallel.

func TestEmbedded(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	open := func(worker bool, args ...string) (*connect.Conns, error) {
		c := load(t, append(args, "--embedded", "--data="+data)...)
		return connect.Open(t.Context(), connect.Options{Config: c, Name: "test", Worker: worker, Log: zerolog.Nop()})
	}
	conns, err := open(true, "--simulate")
	if err != nil {
		t.Fatal(err)
	}
	if err := conns.Client.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := conns.Bucket.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if k := conns.Config.CSM.APIKey.Reveal(); k != connect.SimulatedKey {
		t.Errorf("the simulator is given the key %q", k)
	}
	for _, base := range []string{conns.Config.CSM.BaseURL, conns.Config.ModelsLab.BaseURL} {
		if conns.Simulated == "" || !strings.HasPrefix(base, "http://"+conns.Simulated) {
			t.Errorf("base URL %s, simulator at %q", base, conns.Simulated)
		}
	}
	key := jobs.MeshKey("job1", "job1.glb")
	if err := conns.Bucket.PutJSON(t.Context(), key, "a mesh"); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(conns.Result(jobs.Output{Key: key})); err != nil || !strings.Contains(string(raw), "a mesh") {
		t.Errorf("the result's path holds %q, %v", raw, err)
	}
	if err := conns.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}

	if _, err := open(true); !errors.Is(err, connect.ErrMixed) || !strings.Contains(err.Error(), "holds simulated results") {
		t.Errorf("real jobs on simulated data: %v, want ErrMixed", err)
	}
	looks, err := open(false)
	if err != nil {
		t.Fatalf("a look at simulated data: %v", err)
	}
	if looks.Simulated != "" {
		t.Error("a look starts the simulator")
	}
	if err := looks.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(data, "simulated")); err != nil {
		t.Fatal(err)
	}
	if _, err := open(true, "--simulate"); !errors.Is(err, connect.ErrMixed) || !strings.Contains(err.Error(), "holds real jobs") {
		t.Errorf("simulated jobs on real data: %v, want ErrMixed", err)
	}
}

func TestSettle(t *testing.T) {
	c := load(t, "--embedded", "--data="+filepath.Join(t.TempDir(), "data"))
	conns, err := connect.Open(t.Context(), connect.Options{Config: c, Name: "test", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conns.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	r, err := conns.Client.Enqueue(t.Context(), jobs.Item{Request: jobs.Request{Provider: "csm", Image: jobs.Image{URL: "https://example.com/a.png"}}})
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{"elsewhere", r.ID}
	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := conns.Settle(soon, ids); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with the message in the queue: %v, want the context's end", err)
	}
	if _, err := conns.Client.Cancel(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	if err := conns.Settle(t.Context(), ids); err != nil {
		t.Errorf("without it: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	_, err := connect.Open(t.Context(), connect.Options{Config: load(t, "--nats-url=127.0.0.1:1"), Log: zerolog.Nop()})
	if err == nil || !strings.Contains(err.Error(), "nats://127.0.0.1:1 cannot be reached") {
		t.Errorf("error %v, want one that names the broker", err)
	}
}
