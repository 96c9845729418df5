package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/internal/topology"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// callTimeout bounds each request to the broker.
const callTimeout = 10 * time.Second

// Broker checks a broker that is connected: that it is new enough, that the
// streams and buckets are there, and whether their settings keep what was
// promised. Embedded says that it is the one in this process, for which one
// replica is all there can be.
func Broker(ctx context.Context, nc *nats.Conn, client *jobs.Client, names jobs.Names, embedded bool) []Finding {
	began := time.Now()
	if err := client.Check(ctx); err != nil {
		return []Finding{found("broker", Fail, "%s", err)}
	}
	list := []Finding{found("broker", OK, "nats-server %s answers within %s", nc.ConnectedServerVersion(), time.Since(began).Round(time.Millisecond))}
	if most := nc.MaxPayload(); most < jobs.MaxRequestBytes {
		list = append(list, found("broker", Warn, "the broker takes messages of at most %d bytes, and a request may have %d: raise max_payload", most, jobs.MaxRequestBytes))
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return append(list, found("streams", Fail, "%s", err))
	}
	for _, s := range []string{names.JobsStream(), "KV_" + names.StateBucket(), "KV_" + names.FleetBucket(), names.EventsStream(), names.DeadStream()} {
		list = append(list, stream(ctx, js, s, embedded)...)
	}
	return append(list, settings(ctx, js, names)...)
}

func stream(ctx context.Context, js jetstream.JetStream, name string, embedded bool) []Finding {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	before := time.Now()
	s, err := js.Stream(ctx, name)
	after := time.Now()
	what := "stream " + name
	if err != nil {
		return []Finding{found(what, Fail, "%s", err)}
	}
	info := s.CachedInfo()
	list := durability(what, info.Config, embedded)
	if len(list) == 0 {
		list = append(list, found(what, OK, "%d messages, %d replicas, in files", info.State.Msgs, info.Config.Replicas))
	}
	if info.Cluster != nil && info.Config.Replicas > 1 {
		for _, r := range info.Cluster.Replicas {
			if !r.Current || r.Offline {
				list = append(list, found(what, Warn, "the replica on %s is not up to date", r.Name))
			}
		}
	}
	if name == "" || info.TimeStamp.IsZero() {
		return list
	}
	if c := clock("broker clock", "the broker", info.TimeStamp, before, after, 100*time.Millisecond); c.Status != OK {
		list = append(list, c)
	}
	return list
}

// durability says what a stream's settings put at risk.
func durability(what string, c jetstream.StreamConfig, embedded bool) []Finding {
	var list []Finding
	if c.Storage == jetstream.MemoryStorage {
		list = append(list, found(what, Warn, "it is in memory: a restart of the broker loses it, and with it what is known of purchases; make it anew with file storage"))
	}
	if c.PersistMode == jetstream.AsyncPersistMode {
		list = append(list, found(what, Warn, "the broker acknowledges before it writes (persist_mode async): a crash loses what was promised; make it anew without that"))
	}
	if c.Replicas < 2 && !embedded {
		list = append(list, found(what, Warn, "it has one replica: with its disk everything is lost; in production use three servers and three replicas"))
	}
	return list
}

// settings compares with what this version of the program would create.
func settings(ctx context.Context, js jetstream.JetStream, names jobs.Names) []Finding {
	ctx, cancel := context.WithTimeout(ctx, 3*callTimeout)
	defer cancel()
	var list []Finding
	err := topology.Ensure(ctx, js, names, topology.Options{Bind: true, Warn: func(m string) {
		list = append(list, found("settings", Warn, "%s", m))
	}})
	if err != nil {
		list = append(list, found("settings", Fail, "%s", err))
	}
	if len(list) == 0 {
		list = append(list, found("settings", OK, "streams and buckets are as this version makes them"))
	}
	return append(list, found("sync", Info, "whether the broker writes to disk before it acknowledges is a setting of the server that no client can see: set sync_interval: always in its jetstream block"))
}

// Workers tells which providers a worker has ever served, and which purchases
// are paused.
func Workers(ctx context.Context, nc *nats.Conn, names jobs.Names, providers []string) []Finding {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	js, err := jetstream.New(nc)
	if err != nil {
		return []Finding{found("workers", Fail, "%s", err)}
	}
	var list []Finding
	for _, p := range providers {
		c, err := js.Consumer(ctx, names.JobsStream(), names.JobConsumer(p, jobs.Bulk))
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound):
			list = append(list, found("workers "+p, Info, "no worker has served %s yet: its jobs wait until one with its key is started", p))
		case err != nil:
			list = append(list, found("workers "+p, Fail, "%s", err))
		default:
			info := c.CachedInfo()
			status, text := OK, fmt.Sprintf("%d jobs wait, %d are in hand", info.NumPending, info.NumAckPending)
			if info.NumWaiting == 0 && info.NumPending > 0 {
				status, text = Warn, text+"; no worker asks for more at this moment"
			}
			list = append(list, found("workers "+p, status, "%s", text))
		}
	}
	return list
}
