// Package topology creates what Meshmill needs on a broker: its streams,
// key-value buckets and consumers. It changes nothing that exists, because
// what exists may have been set up by an operator on purpose.
package topology

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// Options say what to create. They do not change what exists.
type Options struct {
	// Providers get a consumer for each lane.
	Providers []string
	// Lease is the consumers' ack wait; zero is DefaultLease.
	Lease time.Duration
	// Replicas of each stream; zero is 1.
	Replicas int
	// Memory keeps streams in memory: for tests, as nothing survives a restart.
	Memory bool
	// Bind creates nothing, and fails naming everything that is missing.
	Bind bool
	// MaxJobs and MaxJobBytes bound the queue: beyond them, a publisher is
	// refused until workers have made room. Zero is no bound.
	MaxJobs, MaxJobBytes int64
	// MaxAckPending bounds the messages held from one consumer over the whole
	// fleet. It is no limit on sessions, which are slots. Zero is 4096.
	MaxAckPending int
	// EventsMaxAge is how long events are kept. Zero keeps them for ever: the
	// stream's memory is what makes an event happen once, and a limit would let
	// a job that is delivered again after it publish its event a second time.
	EventsMaxAge time.Duration
	// DeadMaxAge is how long undecodable messages are kept; zero is 90 days.
	DeadMaxAge time.Duration
	// Warn is told of what exists with settings other than Meshmill's, which
	// Ensure leaves alone. It may be nil.
	Warn func(message string)
}

// DefaultLease is how long a silent worker keeps a job.
const DefaultLease = 30 * time.Second

const (
	defaultMaxAckPending = 4096
	defaultDeadMaxAge    = 90 * 24 * time.Hour
	// callTimeout bounds each request to the broker.
	callTimeout = 10 * time.Second
	// minAPILevel is that of nats-server 2.12, the first with atomic batches.
	minAPILevel = 2
	// markerTTL is how long a bucket shows that a key has expired.
	markerTTL = time.Hour
	// deadPerID bounds what one broken producer can pile up under one id.
	deadPerID = 16
)

func (o Options) withDefaults() (Options, error) {
	if o.Lease == 0 {
		o.Lease = DefaultLease
	}
	if o.Lease < time.Second {
		return o, fmt.Errorf("lease %v is too short, it must be at least 1s", o.Lease)
	}
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	if o.MaxAckPending == 0 {
		o.MaxAckPending = defaultMaxAckPending
	}
	if o.DeadMaxAge == 0 {
		o.DeadMaxAge = defaultDeadMaxAge
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	return o, nil
}

func (o *Options) storage() jetstream.StorageType {
	if o.Memory {
		return jetstream.MemoryStorage
	}
	return jetstream.FileStorage
}

// Ensure creates the streams, buckets and consumers that are missing. Any
// number of workers may call it at once. What exists is left as it is, and
// reported through Options.Warn where its settings differ in what matters.
// Each request to the broker is bounded; the whole is bounded by ctx.
func Ensure(ctx context.Context, js jetstream.JetStream, names jobs.Names, o Options) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	if err := checkServer(ctx, js); err != nil {
		return err
	}
	e := &ensurer{js: js, names: names, o: o}
	for _, s := range e.streams() {
		if err := e.stream(ctx, s); err != nil {
			return err
		}
	}
	for _, provider := range o.Providers {
		for _, lane := range jobs.Lanes {
			if err := e.consumer(ctx, e.consumerConfig(provider, lane)); err != nil {
				return err
			}
		}
	}
	if len(e.missing) > 0 {
		return fmt.Errorf("the broker has no %s: start a worker once without --bind, which creates them",
			strings.Join(e.missing, ", "))
	}
	return nil
}

func checkServer(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := js.AccountInfo(ctx)
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return fmt.Errorf("the broker has JetStream turned off: start nats-server with -js or a jetstream block in its configuration: %w", err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("the broker has JetStream, but not for this account: enable it for the account, or use other credentials: %w", err)
	case err != nil:
		return fmt.Errorf("the broker does not answer: check NATS_URL and its permissions: %w", err)
	}
	if info.API.Level < minAPILevel {
		return fmt.Errorf("the broker is nats-server %s, and Meshmill needs 2.12 or newer (for atomic batches)", js.Conn().ConnectedServerVersion())
	}
	return nil
}

// An ensurer does one Ensure.
type ensurer struct {
	js      jetstream.JetStream
	names   jobs.Names
	o       Options
	missing []string
}

// once calls get, and create if get finds nothing. When create fails it looks
// again, as another worker may have been first.
func (e *ensurer) once(ctx context.Context, what string, absent error, get, create func(context.Context) error) error {
	bounded := func(call func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return call(ctx)
	}
	err := bounded(get)
	if err == nil {
		return nil
	}
	if !errors.Is(err, absent) {
		return fmt.Errorf("look for %s: %w", what, err)
	}
	if e.o.Bind {
		e.missing = append(e.missing, what)
		return nil
	}
	if err = bounded(create); err == nil {
		return nil
	}
	if again := bounded(get); again != nil {
		return fmt.Errorf("create %s: %w", what, err)
	}
	return nil
}

// A wanted stream, by the name people know it by.
type wanted struct {
	what   string
	config jetstream.StreamConfig
	bucket *jetstream.KeyValueConfig
}

func (e *ensurer) stream(ctx context.Context, w wanted) error {
	get := func(ctx context.Context) error {
		s, err := e.js.Stream(ctx, w.config.Name)
		if err == nil {
			e.compareStream(w, s.CachedInfo().Config)
		}
		return err
	}
	create := func(ctx context.Context) error {
		if w.bucket != nil {
			_, err := e.js.CreateKeyValue(ctx, *w.bucket)
			return err
		}
		_, err := e.js.CreateStream(ctx, w.config)
		return err
	}
	return e.once(ctx, w.what, jetstream.ErrStreamNotFound, get, create)
}

// compareStream warns of settings that Meshmill's promises rest on. Others,
// such as limits and replicas, are the operator's.
func (e *ensurer) compareStream(w wanted, got jetstream.StreamConfig) {
	var bad []string
	differ := func(setting string, got, want any) {
		if got != want {
			bad = append(bad, fmt.Sprintf("%s is %v, not %v", setting, got, want))
		}
	}
	differ("retention", got.Retention, w.config.Retention)
	differ("discard", got.Discard, w.config.Discard)
	differ("discard_new_per_subject", got.DiscardNewPerSubject, w.config.DiscardNewPerSubject)
	differ("max_msgs_per_subject", got.MaxMsgsPerSubject, w.config.MaxMsgsPerSubject)
	differ("allow_direct", got.AllowDirect, w.config.AllowDirect)
	differ("allow_atomic", got.AllowAtomicPublish, w.config.AllowAtomicPublish)
	for _, subject := range w.config.Subjects {
		if !slices.Contains(got.Subjects, subject) {
			bad = append(bad, fmt.Sprintf("subjects %v lack %s", got.Subjects, subject))
		}
	}
	if len(bad) > 0 {
		e.o.Warn(fmt.Sprintf("%s exists with other settings, which Meshmill leaves alone but may not work with: %s", w.what, strings.Join(bad, "; ")))
	}
}

func (e *ensurer) consumer(ctx context.Context, want jetstream.ConsumerConfig) error {
	stream := e.names.JobsStream()
	what := "consumer " + want.Durable + " of stream " + stream
	get := func(ctx context.Context) error {
		c, err := e.js.Consumer(ctx, stream, want.Durable)
		if err == nil {
			e.compareConsumer(what, want, c.CachedInfo().Config)
		} else if errors.Is(err, jetstream.ErrStreamNotFound) {
			err = errors.Join(err, jetstream.ErrConsumerNotFound)
		}
		return err
	}
	create := func(ctx context.Context) error {
		_, err := e.js.CreateConsumer(ctx, stream, want)
		return err
	}
	return e.once(ctx, what, jetstream.ErrConsumerNotFound, get, create)
}

// Lease returns how long the broker lets a silent worker keep a job: the
// shortest ack wait of the providers' consumers, which exist already and may
// have been made with another one than is configured now. A worker must renew
// well within it. Each request to the broker is bounded.
func Lease(ctx context.Context, js jetstream.JetStream, names jobs.Names, providers []string) (time.Duration, error) {
	var least time.Duration
	for _, provider := range providers {
		for _, lane := range jobs.Lanes {
			name := names.JobConsumer(provider, lane)
			call, cancel := context.WithTimeout(ctx, callTimeout)
			c, err := js.Consumer(call, names.JobsStream(), name)
			cancel()
			if err != nil {
				return 0, fmt.Errorf("look for consumer %s of stream %s: %w", name, names.JobsStream(), err)
			}
			cfg := c.CachedInfo().Config
			// A back-off takes the place of the ack wait.
			for _, d := range append(cfg.BackOff, cfg.AckWait) {
				if least == 0 || d < least {
					least = d
				}
			}
		}
	}
	return least, nil
}

func (e *ensurer) compareConsumer(what string, want, got jetstream.ConsumerConfig) {
	if got.AckWait != want.AckWait || len(got.BackOff) > 0 {
		e.o.Warn(fmt.Sprintf("%s has ack wait %v and back-off %v, and the lease is %v: workers keep to the shorter; to change it, delete the consumer while no worker runs, or set MESHMILL_LEASE=%v",
			what, got.AckWait, got.BackOff, want.AckWait, got.AckWait))
	}
	if got.AckPolicy != want.AckPolicy || got.MaxDeliver != want.MaxDeliver || got.FilterSubject != want.FilterSubject {
		e.o.Warn(fmt.Sprintf("%s exists with other settings, which Meshmill may not work with: ack policy %v, max deliver %d, filter %q",
			what, got.AckPolicy, got.MaxDeliver, got.FilterSubject))
	}
}
