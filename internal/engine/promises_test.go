package engine_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/internal/enginetest"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// The broker is lost for good while a paid call is under way: the bucket knows
// the session, and a new broker does not buy it again.
func TestReceiptOutlivesTheBroker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var lost atomic.Bool
		b.Hook = func(op, worker, _ string) enginetest.Action {
			if lost.Load() && worker == "w1" && !strings.HasPrefix(op, "store.") && !strings.HasPrefix(op, "provider.") {
				return enginetest.Fail
			}
			return enginetest.Pass
		}
		b.provider.Answer = 20 * time.Second
		stop := b.start("w1")
		b.put("a")
		b.wait("a", jobs.Submitting)
		lost.Store(true)
		time.Sleep(time.Minute)
		if b.Object(jobs.ReceiptKey("a", 1)) == nil {
			t.Error("a minute after the answer there is no receipt")
		}
		stop()
		b.Drop()
		stop = b.start("w2")
		defer stop()
		b.put("a")
		b.stored("a", b.wait("a", jobs.Completed))
		b.purchases("a.a1. create")
	})
}

// The same, but the broker comes back with its data, and another worker takes
// over: it finds the receipt, and need not ask the provider.
func TestReceiptSettlesTheDoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var lost atomic.Bool
		b.Hook = func(op, worker, _ string) enginetest.Action {
			if lost.Load() && worker == "w1" && !strings.HasPrefix(op, "store.") && !strings.HasPrefix(op, "provider.") {
				return enginetest.Fail
			}
			return enginetest.Pass
		}
		b.provider.Answer = 20 * time.Second
		b.start("w1")
		b.put("a")
		b.wait("a", jobs.Submitting)
		lost.Store(true)
		b.start("w2")
		b.wait("a", jobs.Completed)
		b.purchases("a.a1. create")
		b.slotsFree()
	})
}

func TestRepurchasesAreBounded(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		bought bool
		setup  func(*bench)
	}{
		"as configured":                  {true, func(b *bench) { b.change = func(c *engine.Config) { c.OnUnknown = engine.Resubmit } }},
		"as the provider shows no trace": {false, func(b *bench) { b.listing, b.change = true, func(c *engine.Config) { c.Presign = true } }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				tc.setup(b)
				var calls atomic.Int32
				b.provider.Submits = func(n int, _ jobs.Call) (bool, error) {
					calls.Store(int32(n))
					return tc.bought, jobs.Faultf(jobs.Unknown, "csm", "the answer names no session")
				}
				stop := b.start("w1")
				b.put("a")
				r := b.wait("a", jobs.Parked)
				stop()
				if calls.Load() != 3 || r.Attempt != 3 || !strings.Contains(r.Error.Message, "3 times") {
					t.Errorf("%d calls, attempt %d: %s", calls.Load(), r.Attempt, r.Error.Message)
				}
			})
		})
	}
}

// A session that arrives when the job is about to buy again makes that needless.
func TestLateSessionSparesTheNextPurchase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var c cut
		b.Hook = c.hook
		b.provider.Answer = 59 * time.Second
		b.start("w1")
		b.put("a")
		b.wait("a", jobs.Submitting)
		c.set("w1", true)
		b.start("w2")
		b.wait("a", jobs.Parked)
		// A person has it bought again, but the provider is paused.
		if err := b.Ports("x", b.provider).Fleet.Pause(t.Context(), "csm", 5*time.Minute, "test"); err != nil {
			t.Fatal(err)
		}
		b.Edit("a", func(r *jobs.Record) {
			r.State, r.SubmitDeadline, r.Error = jobs.Submitting, time.Time{}, nil
			r.Attempt++
			r.Owner, r.Epoch = "", r.Epoch+1
		})
		b.put("a")
		time.Sleep(10 * time.Second)
		c.set("w1", false) // now the answer can be written down
		if r := b.wait("a", jobs.Completed); r.Session != "S1" {
			t.Errorf("session %s, want the first", r.Session)
		}
		b.purchases("a.a1. create")
	})
}

// Sessions of cancelled jobs keep their slots, and nothing else.
func TestDrainingBlocksNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.provider.Takes = 90 * time.Minute
		stop := b.start("w1")
		for _, id := range []string{"a", "b", "c"} {
			b.put(id)
			b.wait(id, jobs.Running)
			b.Edit(id, func(r *jobs.Record) { r.CancelRequested = true })
		}
		time.Sleep(time.Minute)
		stop()
		b.start("w2")
		time.Sleep(time.Minute)
		b.put("d")
		began := time.Now()
		b.wait("d", jobs.Running)
		if took := time.Since(began); took > time.Minute {
			t.Errorf("a job waited %v although two slots were free", took)
		}
	})
}

// A job is not given up for trouble that passes.
func TestPassingTrouble(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]func(b *bench, began time.Time){
		"the session is not found for a minute": func(b *bench, began time.Time) {
			b.provider.PollFails = func(int) error {
				if time.Since(began) < time.Minute {
					return jobs.Faultf(jobs.Permanent, "csm", "HTTP 404: no such session")
				}
				return nil
			}
		},
		"the file is a page for half a minute": func(b *bench, _ time.Time) {
			first := sync.OnceValue(time.Now)
			b.provider.Files = func(id string) []jobs.File {
				if time.Since(first()) < 30*time.Second {
					return []jobs.File{{Format: "glb", URL: "https://files.test/<html>"}}
				}
				return []jobs.File{{Format: "glb", URL: "https://files.test/MESH_glb_" + id}}
			}
		},
		"one of two addresses is forbidden, the other breaks once": func(b *bench, _ time.Time) {
			var tries atomic.Int32
			b.provider.Files = func(id string) []jobs.File {
				f := jobs.File{Format: "glb", URL: "http://10.0.0.1/", Alternatives: []string{"https://files.test/MESH_glb_" + id}}
				if tries.Add(1) == 1 {
					f.Alternatives[0] += "?until=1"
				}
				return []jobs.File{f}
			}
		},
		"many refusals of one kind and one of another": func(b *bench, _ time.Time) {
			b.provider.Submits = func(n int, _ jobs.Call) (bool, error) {
				switch {
				case n <= 4:
					return false, &jobs.Fault{Kind: jobs.Retryable, Op: "csm", Err: errors.New("HTTP 429")}
				case n == 5:
					return false, &jobs.Fault{Kind: jobs.Retryable, Op: "csm", Tries: 2, Err: errors.New("HTTP 400")}
				}
				return true, nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				setup(b, time.Now())
				b.start("w1")
				b.put("a")
				if r := b.wait("a", jobs.Completed, jobs.Failed, jobs.Parked); r.State != jobs.Completed {
					t.Errorf("%s: %+v", r.State, r.Error)
				}
				b.purchases("a.a1. create")
			})
		})
	}
}

// An image that came by URL is kept, so that the URL may expire.
func TestImageURLIsReadOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.provider.Submits = enginetest.Refuse(3, &jobs.Fault{Kind: jobs.Retryable, After: time.Minute, Err: errors.New("HTTP 429")})
		b.start("w1")
		r := b.request("a")
		r.Image = jobs.Image{URL: fmt.Sprintf("https://files.test/PICTURE?until=%d", time.Now().Add(30*time.Second).Unix())}
		r.Image.URL = strings.Replace(r.Image.URL, "PICTURE", "PICTURE x", 1)
		b.Put(r, jobs.Bulk)
		rec := b.wait("a", jobs.Completed, jobs.Failed)
		if rec.State != jobs.Completed || rec.Request.Image.Object == "" || rec.Request.Image.URL != "" {
			t.Errorf("%s: %+v, image %+v", rec.State, rec.Error, rec.Request.Image)
		}
	})
}

// Another provider's message with the id of a job does it no harm.
func TestForeignMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		other := &enginetest.Provider{World: b.World, Label: "modelslab", Stages: []string{"create"}, Takes: time.Minute}
		b.provider.Takes = 10 * time.Minute
		b.also = []jobs.Provider{other}
		b.start("w1")
		b.put("a")
		b.wait("a", jobs.Running)
		r := b.request("a")
		r.Provider = "modelslab"
		b.Purge("a")
		b.Put(r, jobs.Bulk)
		b.wait("a", jobs.Completed) // and the message is gone
		if got := b.Dead("a"); !strings.Contains(got, "belongs to a job of csm") {
			t.Errorf("reason = %q", got)
		}
		if n := len(other.Purchases()); n != 0 {
			t.Errorf("%d purchases from the other provider", n)
		}
	})
}

// A record that is deleted under a worker ends the delivery, not the worker.
func TestVanishedRecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.provider.Takes = 3 * time.Minute
		var saves atomic.Int32
		b.Hook = func(op, _, _ string) enginetest.Action {
			if op == "journal.save" {
				saves.Add(1)
			}
			return enginetest.Pass
		}
		b.start("w1")
		b.put("a")
		b.wait("a", jobs.Running)
		b.Delete("a")
		b.stored("a", b.wait("a", jobs.Completed)) // from the receipt
		b.purchases("a.a1. create")
		if saves.Load() > 100 {
			t.Errorf("%d writes", saves.Load())
		}
	})
}

// A job that waits for a slot is cancelled at once.
func TestCancelWhileWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.SetLimit("csm", 1)
		b.provider.Takes = time.Hour
		b.provider.Submits = func(n int, _ jobs.Call) (bool, error) {
			if n == 1 {
				return false, &jobs.Fault{Kind: jobs.Retryable, Err: errors.New("HTTP 429")}
			}
			return true, nil
		}
		b.start("w1")
		b.put("a") // is refused once, so it has a record
		b.wait("a", jobs.Submitting)
		b.put("first")
		b.wait("first", jobs.Running)
		time.Sleep(10 * time.Minute)
		began := time.Now()
		b.Edit("a", func(r *jobs.Record) { r.CancelRequested = true })
		b.engine.Nudge("a")
		b.wait("a", jobs.Cancelled)
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
		b.purchases("first.a1. create")
	})
}
