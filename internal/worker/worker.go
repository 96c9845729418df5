// Package worker puts a worker together: the engine on a broker and a bucket,
// with the providers whose keys are configured, its metrics and its health.
package worker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/internal/broker"
	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/internal/fetch"
	"github.com/meshmill/meshmill/internal/picture"
	"github.com/meshmill/meshmill/internal/sweeper"
	"github.com/meshmill/meshmill/internal/topology"
	"github.com/meshmill/meshmill/pkg/csm"
	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/modelslab"
	"github.com/meshmill/meshmill/pkg/storage"
)

// Options are what a worker works with. The caller opens and closes them.
type Options struct {
	Config  config.Config
	NATS    *nats.Conn
	Storage *storage.Bucket
	// Simulated is the host and port of a provider simulator, whose files may be
	// read although they lie on loopback. Empty is none.
	Simulated string
	// Bind creates nothing on the broker and in the storage, and fails if
	// something is missing.
	Bind bool
	Log  zerolog.Logger
}

// maxHeld bounds the jobs that one worker holds of one provider. Waiting for a
// provider costs next to nothing; the provider's slots are the real bound.
const maxHeld = 4096

// ErrNoProvider: no provider has a key, so there is nothing to work with.
var ErrNoProvider = errors.New("no provider has a key: set CSM_API_KEY or MODELSLAB_API_KEY")

// Run works until ctx ends, and returns nil when every job in hand has ended or
// has been handed back. Any other error says what made going on impossible.
func Run(ctx context.Context, o Options) (err error) {
	cfg := o.Config
	providers, err := newProviders(&cfg)
	if err != nil {
		return err
	}
	js, err := jetstream.New(o.NATS)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	if err := prepare(ctx, o, js, providers); err != nil {
		return err
	}
	lease, err := topology.Lease(ctx, js, cfg.Names, names(providers))
	if err != nil {
		return err
	}
	if lease < cfg.Lease {
		o.Log.Warn().Dur("lease", lease).Dur("configured", cfg.Lease).Msg("the broker gives jobs for a shorter time than MESHMILL_LEASE: working with that")
	}
	lease = min(lease, cfg.Lease)
	name := workerName()
	log := o.Log.With().Str("worker", name).Logger()
	client, err := jobs.NewClient(o.NATS, jobs.ClientConfig{Names: cfg.Names})
	if err != nil {
		return err
	}
	ports, fleet, err := newPorts(ctx, o, js, name, client, providers, log)
	if err != nil {
		return err
	}
	defer fleet.Close()
	defer ports.Fetcher.(*fetcher).client.Close()
	metrics := newMetrics(fleet, providers)
	ports.Observer = metrics

	e, err := engine.New(engine.Config{
		Worker: name, Lease: lease, PollMin: cfg.PollMin, PollMax: cfg.PollMax, JobTimeout: cfg.JobTimeout,
		Grace: max(cfg.Grace, time.Millisecond), OnUnknown: engine.OnUnknown(cfg.OnUnknown),
		Presign: cfg.ImageDelivery == config.DeliverPresign, MaxMeshBytes: cfg.MaxMeshBytes,
		MaxImageBytes: picture.DefaultLimits.MaxBytes, MaxHeld: maxHeld, Log: log,
	}, instrument(ports))
	if err != nil {
		return err
	}
	cancels, err := o.NATS.Subscribe(cfg.Names.CancelAll(), func(m *nats.Msg) {
		e.Nudge(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:])
	})
	if err != nil {
		return fmt.Errorf("listen for cancels: %w", err)
	}
	defer func() { _ = cancels.Unsubscribe() }() // fails only if the connection is gone
	web, err := serve(cfg.Listen, o.NATS, o.Storage, metrics, log)
	if err != nil {
		return err
	}
	defer web.close()
	defer context.AfterFunc(ctx, web.draining)()

	log.Info().Strs("providers", names(providers)).Msg("worker started")
	sctx, stopSweeper := context.WithCancel(ctx)
	var sweeps sync.WaitGroup
	defer sweeps.Wait()
	defer stopSweeper()
	sweeps.Go(func() {
		sweeper.Run(sctx, sweeper.Config{
			Worker: name, Lease: lease, Every: sweepEvery(lease), Jobs: client, Fleet: fleet, Log: log,
			AbortUploads: func(ctx context.Context, olderThan time.Duration) (int, error) {
				return o.Storage.AbortUploads(ctx, "meshes/", olderThan)
			},
		})
	})
	err = e.Run(ctx)
	if ctx.Err() != nil {
		log.Info().AnErr("cause", context.Cause(ctx)).Msg("worker stopped")
		return nil
	}
	return err
}

// sweepEvery spaces the sweeps, which read every record: far apart, except where
// the lease is so short that somebody wants things put right at once.
func sweepEvery(lease time.Duration) time.Duration {
	if lease < 10*time.Second {
		return 10 * lease
	}
	return max(10*lease, 5*time.Minute)
}

// workerName is unique to this start of this process.
func workerName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "worker"
	}
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), hex.EncodeToString(b[:]))
}

// newProviders returns the providers that have a key.
func newProviders(cfg *config.Config) ([]jobs.Provider, error) {
	var out []jobs.Provider
	if key := cfg.CSM.APIKey; key != "" {
		c, err := csm.New(csm.Config{Key: key.Reveal(), BaseURL: cfg.CSM.BaseURL})
		if err != nil {
			return nil, err
		}
		out = append(out, csm.NewProvider(c))
	}
	if key := cfg.ModelsLab.APIKey; key != "" {
		c, err := modelslab.New(modelslab.Config{Key: key.Reveal(), BaseURL: cfg.ModelsLab.BaseURL})
		if err != nil {
			return nil, err
		}
		out = append(out, modelslab.NewProvider(c))
	}
	if len(out) == 0 {
		return nil, ErrNoProvider
	}
	return out, nil
}

func names(providers []jobs.Provider) []string {
	out := make([]string, len(providers))
	for i, p := range providers {
		out[i] = p.Name()
	}
	return out
}

// prepare makes sure that broker and bucket have what a worker needs.
func prepare(ctx context.Context, o Options, js jetstream.JetStream, providers []jobs.Provider) error {
	err := topology.Ensure(ctx, js, o.Config.Names, topology.Options{
		Providers: names(providers), Lease: o.Config.Lease, Bind: o.Bind,
		Warn: func(message string) { o.Log.Warn().Msg(message) },
	})
	if err != nil {
		return err
	}
	if o.Bind {
		return o.Storage.Check(ctx)
	}
	return o.Storage.Ensure(ctx)
}

// newPorts connects the engine's ports. The fleet is to be closed.
func newPorts(ctx context.Context, o Options, js jetstream.JetStream, name string, client *jobs.Client, providers []jobs.Provider, log zerolog.Logger) (engine.Ports, *broker.Fleet, error) {
	cfg := o.Config
	fail := func(err error) (engine.Ports, *broker.Fleet, error) { return engine.Ports{}, nil, err }
	queue, err := broker.NewQueue(o.NATS, cfg.Names, client)
	if err != nil {
		return fail(err)
	}
	journal, err := broker.NewJournal(ctx, js, cfg.Names)
	if err != nil {
		return fail(err)
	}
	fleet, err := broker.NewFleet(ctx, js, cfg.Names, name, log)
	if err != nil {
		return fail(err)
	}
	for _, p := range providers {
		account, variable := cfg.CSM, "CSM_CONCURRENCY"
		if p.Name() == modelslab.Name {
			account, variable = cfg.ModelsLab, "MODELSLAB_CONCURRENCY"
		}
		if err := fleet.SetLimit(ctx, p.Name(), account.Concurrency, !cfg.IsSet(variable)); err != nil {
			fleet.Close()
			return fail(fmt.Errorf("share the limit of %s: %w", p.Name(), err))
		}
	}
	fc := fetch.Config{AllowPrivate: cfg.AllowPrivateURLs}
	if o.Simulated != "" {
		fc.AllowHosts = []string{o.Simulated}
	}
	return engine.Ports{
		Queue: queue, Journal: journal, Fleet: fleet, Events: broker.NewEvents(o.NATS, cfg.Names, client), Store: o.Storage,
		Fetcher: &fetcher{fetch.New(fc)}, Content: content{}, Providers: providers,
	}, fleet, nil
}
