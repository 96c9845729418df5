package doctor_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/doctor"
	"github.com/meshmill/meshmill/internal/topology"
	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

// statuses are the findings in short: "name status".
func statuses(list []doctor.Finding) []string {
	var out []string
	for _, f := range list {
		out = append(out, f.Name+" "+string(f.Status))
	}
	return out
}

func expect(t *testing.T, list []doctor.Finding, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, statuses(list)); diff != "" {
		t.Errorf("findings (-want +got):\n%s\n%+v", diff, list)
	}
}

func TestProvider(t *testing.T) {
	t.Parallel()
	calls := 0
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls++ }))
	defer s.Close()
	untrusted := httptest.NewTLSServer(nil)
	defer untrusted.Close()
	account := func(base string, key config.Secret) doctor.Account {
		return doctor.Account{Name: "csm", KeyVariable: "CSM_API_KEY", Account: config.Account{BaseURL: base, APIKey: key}}
	}
	expect(t, doctor.Provider(t.Context(), account(s.URL, "hunter2")), "provider csm key ok", "provider csm ok")
	expect(t, doctor.Provider(t.Context(), account("http://127.0.0.1:1", "")), "provider csm key info", "provider csm warn")
	expect(t, doctor.Provider(t.Context(), account("http://127.0.0.1:1", "hunter2")), "provider csm key ok", "provider csm fail")
	list := doctor.Provider(t.Context(), account(untrusted.URL, "hunter2"))
	expect(t, list, "provider csm key ok", "provider csm fail")
	if !strings.Contains(list[1].Message, "certificate") {
		t.Errorf("an unknown certificate: %s", list[1].Message)
	}
	if calls > 0 {
		t.Errorf("%d requests were made, want a connection only", calls)
	}
}

// bucket keeps one object, and fails as it is told.
type bucket struct {
	data                  []byte
	clock                 time.Duration
	check, put, get, drop error
}

func (b *bucket) Name() string                { return "meshes" }
func (b *bucket) Check(context.Context) error { return b.check }
func (b *bucket) Put(_ context.Context, _ string, r io.Reader, _ int64, _ string) (storage.Object, error) {
	b.data, _ = io.ReadAll(r)
	return storage.Object{}, b.put
}
func (b *bucket) GetBytes(context.Context, string, int64) ([]byte, error) {
	return bytes.Clone(b.data), b.get
}
func (b *bucket) Stat(context.Context, string) (storage.Object, error) {
	return storage.Object{Modified: time.Now().Add(b.clock).Truncate(time.Second)}, nil
}
func (b *bucket) Delete(context.Context, string) error { return b.drop }

func TestBucket(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, tc := range map[string]struct {
		b    bucket
		want []string
	}{
		"good":      {bucket{}, []string{"bucket ok", "bucket write ok", "bucket read ok", "bucket clock ok", "bucket delete ok"}},
		"not good":  {bucket{check: broken}, []string{"bucket fail"}},
		"no write":  {bucket{put: broken}, []string{"bucket ok", "bucket write fail"}},
		"no read":   {bucket{get: broken}, []string{"bucket ok", "bucket write ok", "bucket read fail", "bucket clock ok", "bucket delete ok"}},
		"no delete": {bucket{drop: broken}, []string{"bucket ok", "bucket write ok", "bucket read ok", "bucket clock ok", "bucket delete warn"}},
		"clock":     {bucket{clock: -time.Minute}, []string{"bucket ok", "bucket write ok", "bucket read ok", "bucket clock warn", "bucket delete ok"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			expect(t, doctor.Bucket(t.Context(), &tc.b), tc.want...)
		})
	}
}

func TestBroker(t *testing.T) {
	t.Parallel()
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server did not start")
	}
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	names, err := jobs.NewNames("")
	if err != nil {
		t.Fatal(err)
	}
	client, err := jobs.NewClient(nc, jobs.ClientConfig{Names: names})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, doctor.Broker(t.Context(), nc, client, names, false), "broker fail") // no worker has made the streams
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := topology.Ensure(t.Context(), js, names, topology.Options{Memory: true, Providers: []string{"csm"}}); err != nil {
		t.Fatal(err)
	}
	list := doctor.Broker(t.Context(), nc, client, names, false)
	warnings := map[string]int{}
	for _, f := range list {
		if f.Status == doctor.Warn {
			switch {
			case strings.Contains(f.Message, "it is in memory"):
				warnings["memory"]++
			case strings.Contains(f.Message, "one replica"):
				warnings["replica"]++
			default:
				t.Errorf("warning %+v", f)
			}
		}
	}
	if diff := cmp.Diff(map[string]int{"memory": 5, "replica": 5}, warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s\n%+v", diff, list)
	}
	expect(t, doctor.Workers(t.Context(), nc, names, []string{"csm", "modelslab"}), "workers csm ok", "workers modelslab info")
}
