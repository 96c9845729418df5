package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/internal/enginetest"
	"github.com/meshmill/meshmill/pkg/jobs"
)

const lease = 30 * time.Second

// bench is a world with one provider, and the engines that a test starts.
type bench struct {
	*enginetest.World
	t        *testing.T
	provider *enginetest.Provider
	listing  bool // the provider can look lost calls up
	wrap     func(*enginetest.Provider) jobs.Provider
	change   func(*engine.Config)
	ports    func(*engine.Ports)
	also     []jobs.Provider
	engine   *engine.Engine // the one started last
}

func newBench(t *testing.T) *bench {
	w := enginetest.NewWorld(lease)
	return &bench{World: w, t: t, provider: &enginetest.Provider{World: w, Label: "csm", Stages: []string{"create"}, Takes: time.Minute}}
}

// start runs a worker and returns the function that shuts it down.
func (b *bench) start(name string) (stop func()) {
	cfg := engine.Config{
		Worker: name, Lease: lease, PollMin: 2 * time.Second, PollMax: 30 * time.Second, JobTimeout: 2 * time.Hour,
		Grace: 90 * time.Second, MaxMeshBytes: 1 << 20, MaxImageBytes: 1 << 20, MaxHeld: 100,
	}
	if b.change != nil {
		b.change(&cfg)
	}
	var p jobs.Provider = b.provider
	if b.listing {
		p = enginetest.Listing{Provider: b.provider}
	}
	if b.wrap != nil {
		p = b.wrap(b.provider)
	}
	ports := b.Ports(name, append([]jobs.Provider{p}, b.also...)...)
	if b.ports != nil {
		b.ports(&ports)
	}
	e, err := engine.New(cfg, ports)
	if err != nil {
		b.t.Fatal(err)
	}
	b.engine = e
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Run(ctx) // always the cause of ctx
	}()
	stop = func() { cancel(); <-done }
	b.t.Cleanup(stop)
	return stop
}

func (b *bench) request(id string) jobs.Request {
	return jobs.Request{
		Schema: jobs.RequestSchema, ID: id, Provider: "csm", Image: jobs.Image{Object: b.PutImage(id)},
		EnqueuedAt: time.Now().UTC(),
	}
}

func (b *bench) put(id string) { b.Put(b.request(id), jobs.Bulk) }

// wait returns the record once it is in one of the states.
func (b *bench) wait(id string, states ...jobs.State) *jobs.Record {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 24*time.Hour)
	defer cancel()
	r, err := b.WaitFor(ctx, id, states...)
	if err != nil {
		b.t.Fatalf("job %s never came to %v: %+v", id, states, r)
	}
	return r
}

func (b *bench) purchases(want ...string) {
	b.t.Helper()
	got := b.provider.Purchases()
	for i := range got {
		got[i] = strings.TrimPrefix(got[i], "meshmill.")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		b.t.Errorf("purchases (-want +got):\n%s", diff)
	}
}

func (b *bench) events(want ...string) {
	b.t.Helper()
	got := b.Events()
	for i := range got {
		got[i] = strings.TrimPrefix(got[i], "meshmill.event.")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		b.t.Errorf("events (-want +got):\n%s", diff)
	}
}

func (b *bench) slotsFree() {
	b.t.Helper()
	if now, _ := b.Slots("csm"); now != 0 {
		b.t.Errorf("%d slots are still taken", now)
	}
}

var errRefused = jobs.Faultf(jobs.Permanent, "csm: create session", "HTTP 400: no")

func TestFlows(t *testing.T) {
	t.Parallel()
	unknown := func(bought bool) func(int, jobs.Call) (bool, error) {
		return func(n int, _ jobs.Call) (bool, error) {
			if n == 1 {
				return bought, jobs.Faultf(jobs.Unknown, "csm", "connection reset")
			}
			return true, nil
		}
	}
	tests := map[string]struct {
		setup     func(b *bench)
		request   func(r *jobs.Request)
		state     jobs.State
		reason    string
		purchases []string
		events    []string
		slots     int // still taken at the end
	}{
		"one stage": {
			state: jobs.Completed, purchases: []string{"a.a1. create"}, events: []string{"completed.a.1", "submitted.a.1"},
		},
		"answered at once": {
			setup: func(b *bench) { b.provider.AtOnce = true },
			state: jobs.Completed, purchases: []string{"a.a1. create"}, events: []string{"completed.a.1", "submitted.a.1"},
		},
		"three stages": {
			setup: func(b *bench) { b.provider.Stages = []string{"create", "preview", "refine"} },
			state: jobs.Completed, purchases: []string{"a.a1. create", "a.a1. preview", "a.a1. refine"},
			events: []string{"completed.a.1", "submitted.a.1"},
		},
		"refused for good": {
			setup: func(b *bench) { b.provider.Submits = enginetest.Refuse(1, errRefused) },
			state: jobs.Failed, reason: "HTTP 400", events: []string{"failed.a.1"},
		},
		"rate limited, then taken": {
			setup: func(b *bench) {
				b.provider.Submits = enginetest.Refuse(3, &jobs.Fault{Kind: jobs.Retryable, Pause: true, After: 20 * time.Second, Err: errors.New("429")})
			},
			state: jobs.Completed, purchases: []string{"a.a1. create"}, events: []string{"completed.a.1", "submitted.a.1"},
		},
		"refused for ever": {
			setup: func(b *bench) {
				b.provider.Submits = enginetest.Refuse(1e6, &jobs.Fault{Kind: jobs.Retryable, Pause: true, Err: errors.New("unreachable")})
			},
			state: jobs.Failed, reason: "unreachable", events: []string{"failed.a.1"},
		},
		"refused as often as it may be": {
			setup: func(b *bench) {
				b.provider.Submits = enginetest.Refuse(1e6, &jobs.Fault{Kind: jobs.Retryable, Tries: 2, Err: errors.New("400")})
			},
			state: jobs.Failed, reason: "400", events: []string{"failed.a.1"},
		},
		"unknown, no look-up": {
			setup: func(b *bench) { b.provider.Submits = unknown(true) },
			state: jobs.Parked, reason: "enqueue resolve a", purchases: []string{"a.a1. create"},
			events: []string{"parked.a.1"}, slots: 1,
		},
		"unknown, to be resubmitted": {
			setup: func(b *bench) {
				b.provider.Submits = unknown(false)
				b.change = func(c *engine.Config) { c.OnUnknown = engine.Resubmit }
			},
			state: jobs.Completed, purchases: []string{"a.a2. create"}, events: []string{"completed.a.2", "submitted.a.2"},
		},
		"unknown, found": {
			setup: func(b *bench) {
				b.listing, b.provider.Submits = true, unknown(true)
				b.change = func(c *engine.Config) { c.Presign = true }
			},
			state: jobs.Completed, purchases: []string{"a.a1. create"}, events: []string{"completed.a.1", "submitted.a.1"},
		},
		"unknown, absent": {
			setup: func(b *bench) {
				b.listing, b.provider.Submits = true, unknown(false)
				b.change = func(c *engine.Config) { c.Presign = true }
			},
			state: jobs.Completed, purchases: []string{"a.a2. create"}, events: []string{"completed.a.2", "submitted.a.2"},
		},
		"unknown, inline image": {
			setup: func(b *bench) { b.listing, b.provider.Submits = true, unknown(true) },
			state: jobs.Parked, reason: "inline", purchases: []string{"a.a1. create"}, events: []string{"parked.a.1"}, slots: 1,
		},
		"unknown stage call, found": {
			setup: func(b *bench) {
				b.listing, b.provider.Stages = true, []string{"create", "preview"}
				b.provider.Submits = func(_ int, c jobs.Call) (bool, error) {
					if c.Stage == "preview" {
						return true, jobs.Faultf(jobs.Unknown, "csm", "connection reset")
					}
					return true, nil
				}
			},
			state: jobs.Completed, purchases: []string{"a.a1. create", "a.a1. preview"}, events: []string{"completed.a.1", "submitted.a.1"},
		},
		"unclassified error parks": {
			setup: func(b *bench) { b.provider.Submits = enginetest.Refuse(1, errors.New("what?")) },
			state: jobs.Parked, events: []string{"parked.a.1"}, slots: 1,
		},
		"provider fails": {
			setup: func(b *bench) { b.provider.Breaks = func(string) string { return "no object in the image" } },
			state: jobs.Failed, reason: "no object in the image", purchases: []string{"a.a1. create"},
			events: []string{"failed.a.1", "submitted.a.1"},
		},
		"session runs too long": {
			setup: func(b *bench) { b.provider.Takes = 5 * time.Hour },
			state: jobs.Failed, reason: "still runs", purchases: []string{"a.a1. create"}, events: []string{"failed.a.1", "submitted.a.1"},
		},
		"polls fail for a while": {
			setup: func(b *bench) {
				b.provider.PollFails = func(n int) error {
					if n <= 12 {
						return jobs.Faultf(jobs.Retryable, "csm: poll", "HTTP 503")
					}
					return nil
				}
			},
			state: jobs.Completed, purchases: []string{"a.a1. create"}, events: []string{"completed.a.1", "submitted.a.1"},
		},
		"bad option": {
			request: func(r *jobs.Request) { r.Options = map[string]any{"bad": true} },
			state:   jobs.Failed, reason: "options.bad", events: []string{"failed.a.1"},
		},
		"image missing": {
			request: func(r *jobs.Request) { r.Image.Object = jobs.InputKey(strings.Repeat("0", 64), "png") },
			state:   jobs.Failed, reason: "not in the bucket", events: []string{"failed.a.1"},
		},
		"image URL is no image": {
			request: func(r *jobs.Request) { r.Image = jobs.Image{URL: "https://files.test/HTML"} },
			state:   jobs.Failed, reason: "not an image", events: []string{"failed.a.1"},
		},
		"image by URL": {
			request: func(r *jobs.Request) { r.Image = jobs.Image{URL: "https://files.test/PICTURE x"} },
			state:   jobs.Completed, purchases: []string{"a.a1. create"}, events: []string{"completed.a.1", "submitted.a.1"},
		},
		"links expire, fresh ones are asked for": {
			setup: func(b *bench) {
				var n atomic.Int32
				b.provider.Files = func(id string) []jobs.File {
					u := "https://files.test/MESH_glb_x"
					if n.Add(1) < 3 {
						u += "?until=1"
					}
					return []jobs.File{{Format: "glb", URL: u}}
				}
			},
			state: jobs.Completed, purchases: []string{"a.a1. create"}, events: []string{"completed.a.1", "submitted.a.1"},
		},
		"result is no mesh": {
			setup: func(b *bench) {
				b.provider.Files = func(string) []jobs.File {
					return []jobs.File{{Format: "glb", URL: "https://files.test/<html>"}}
				}
			},
			state: jobs.Failed, reason: "not a mesh", purchases: []string{"a.a1. create"}, events: []string{"failed.a.1", "submitted.a.1"},
		},
		"result lies on a forbidden address": {
			setup: func(b *bench) {
				b.provider.Files = func(string) []jobs.File {
					return []jobs.File{{Format: "glb", URL: "http://169.254.169.254/x"}}
				}
			},
			state: jobs.Parked, reason: "refused address", purchases: []string{"a.a1. create"}, events: []string{"parked.a.1", "submitted.a.1"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				if tc.setup != nil {
					tc.setup(b)
				}
				r := b.request("a")
				if tc.request != nil {
					tc.request(&r)
				}
				stop := b.start("w1")
				b.Put(r, jobs.Bulk)
				rec := b.wait("a", tc.state)
				if tc.reason != "" && (rec.Error == nil || !strings.Contains(rec.Error.Message, tc.reason)) {
					t.Errorf("error = %+v, want one with %q", rec.Error, tc.reason)
				}
				b.purchases(tc.purchases...)
				b.events(tc.events...)
				if now, _ := b.Slots("csm"); now != tc.slots {
					t.Errorf("%d slots taken at the end, want %d", now, tc.slots)
				}
				if tc.state == jobs.Completed {
					b.stored("a", rec)
				}
				stop()
			})
		})
	}
}

// stored checks that a completed job is whole in the bucket.
func (b *bench) stored(id string, rec *jobs.Record) {
	b.t.Helper()
	if len(rec.Outputs) == 0 || b.Object(jobs.ManifestKey(id)) == nil {
		b.t.Fatalf("completed without files or manifest: %v", b.Objects())
	}
	for _, o := range rec.Outputs {
		if data := b.Object(o.Key); int64(len(data)) != o.SizeBytes {
			b.t.Errorf("%s has %d bytes, recorded are %d", o.Key, len(data), o.SizeBytes)
		}
	}
	if b.Object(jobs.ReceiptKey(id, rec.Attempt)) == nil {
		b.t.Error("no receipt in the bucket")
	}
	text := string(b.Object(jobs.ManifestKey(id))) + string(b.Object(jobs.ReceiptKey(id, rec.Attempt)))
	if strings.Contains(text, "Signature") {
		b.t.Error("a signed URL is in the bucket")
	}
}

func TestSeveralFormats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.provider.Files = func(string) []jobs.File {
			return []jobs.File{
				{Format: "glb", URL: "https://files.test/MESH_glb_1"},
				{Format: "obj", URL: "https://files.test/MESH_obj_1"},
				{Format: "zip", URL: "https://files.test/MESH_obj_2"}, // says zip, is another obj
				{Format: "mp4", URL: "https://files.test/never_wanted"},
			}
		}
		stop := b.start("w1")
		defer stop()
		r := b.request("a")
		r.Formats = []string{"glb", "zip", "obj", "fbx"}
		b.Put(r, jobs.Interactive)
		rec := b.wait("a", jobs.Completed)
		var keys []string
		for _, o := range rec.Outputs {
			keys = append(keys, o.Key)
		}
		want := []string{"meshes/a/a.glb", "meshes/a/a.obj", "meshes/a/MESH_obj_1.obj"}
		if diff := cmp.Diff(want, keys); diff != "" {
			t.Errorf("keys (-want +got):\n%s", diff)
		}
		if !slices.Equal(rec.Missing, []string{"fbx"}) {
			t.Errorf("missing = %v, want fbx", rec.Missing)
		}
	})
}

func TestPoison(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		stop := b.start("w1")
		defer stop()
		for i := range 10 {
			b.PutRaw("csm", jobs.Bulk, fmt.Sprintf("bad%d", i), []byte(`{"schema":"meshmill.job.v1","id":"x`))
		}
		b.put("good")
		b.wait("good", jobs.Completed)
		synctest.Wait()
		if got := b.Dead("bad9"); !strings.Contains(got, "not valid") {
			t.Errorf("reason of the dead message = %q", got)
		}
		if b.Queued() != 0 {
			t.Errorf("%d messages left", b.Queued())
		}
	})
}

func TestSlotsBoundTheFleet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.SetLimit("csm", 3)
		stop1, stop2 := b.start("w1"), b.start("w2")
		began := time.Now()
		for i := range 30 {
			b.put(fmt.Sprintf("j%d", i))
		}
		for i := range 30 {
			b.wait(fmt.Sprintf("j%d", i), jobs.Completed)
		}
		if _, most := b.Slots("csm"); most != 3 {
			t.Errorf("at most %d slots were taken at once, want 3", most)
		}
		if n := len(b.provider.Purchases()); n != 30 {
			t.Errorf("%d purchases, want 30", n)
		}
		// 30 sessions of a minute, three at a time.
		if took := time.Since(began); took > 12*time.Minute {
			t.Errorf("took %v", took)
		}
		stop1()
		stop2()
	})
}
