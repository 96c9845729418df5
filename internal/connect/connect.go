// Package connect opens what a command works with, as its configuration says:
// a broker and a bucket elsewhere, or the embedded servers in this process,
// with simulated providers where that was asked for.
package connect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/embedded"
	"github.com/meshmill/meshmill/internal/simulator"
	"github.com/meshmill/meshmill/internal/topology"
	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

// Options say what to open.
type Options struct {
	Config config.Config
	// Name is the connection's name on the broker.
	Name string
	// NATSListen and S3Listen are where embedded servers listen; empty means
	// that the broker listens nowhere and the S3 server on a free port.
	NATSListen, S3Listen string
	// Worker says that a worker will run in this process. Only then are
	// simulated providers started, and is the data folder checked to have been
	// used in the same way before.
	Worker bool
	// Simulation tunes the simulator.
	Simulation Simulation
	Log        zerolog.Logger
}

// Simulation tunes simulated providers, for tests and demonstrations.
type Simulation struct {
	// Seconds is how long each stage of a session takes; zero leaves it to the
	// simulator.
	Seconds float64
	// Faults is a JSON array of simulator.Fault; empty is none.
	Faults string
}

// Conns is what has been opened. Close it.
type Conns struct {
	// Config is the configuration in force: with simulated providers their
	// addresses and keys are in it.
	Config config.Config
	NATS   *nats.Conn
	Client *jobs.Client
	Bucket *storage.Bucket
	// Simulated is the host of the simulator, as "host:port"; empty is none.
	Simulated string
	// EnvFile is the file that lets other processes use the embedded servers.
	EnvFile string

	servers *embedded.Servers
	sim     *simulator.Simulator
	results string
}

// ErrLocked: another process has the data folder.
var ErrLocked = embedded.ErrLocked

// SimulatedKey is the key given to simulated providers: a real one is never
// sent to them.
const SimulatedKey = "simulated"

// Simulate sets the keys that simulated providers take, so that a command may
// choose among providers before anything is started.
func Simulate(c *config.Config) {
	if c.Simulate {
		c.CSM.APIKey, c.ModelsLab.APIKey = SimulatedKey, SimulatedKey
	}
}

// Open opens everything, or nothing. Its errors name what cannot be reached
// and say what to do.
func Open(ctx context.Context, o Options) (_ *Conns, err error) {
	c := &Conns{Config: o.Config}
	defer func() {
		if err != nil {
			c.Close(context.WithoutCancel(ctx))
		}
	}()
	store := c.Config.StorageConfig()
	if c.Config.Embedded {
		if store, err = c.start(ctx, o); err != nil {
			return nil, err
		}
	} else if c.NATS, err = c.Config.Connect(ctx, o.Name, o.Log); err != nil {
		return nil, err
	}
	if c.Bucket, err = storage.Open(ctx, store); err != nil {
		return nil, err
	}
	c.Client, err = jobs.NewClient(c.NATS, jobs.ClientConfig{
		Names: c.Config.Names,
		OnBlocked: func(reason string) {
			o.Log.Warn().Str("reason", reason).Msg("enqueuing waits")
		},
	})
	return c, err
}

// start starts the embedded servers and the simulator.
func (c *Conns) start(ctx context.Context, o Options) (store storage.Config, err error) {
	if o.Worker {
		if err := checkKind(&c.Config); err != nil {
			return store, err
		}
	}
	quiet := o.Log
	if quiet.GetLevel() < zerolog.WarnLevel && !c.Config.IsSet("MESHMILL_LOG_LEVEL") {
		quiet = quiet.Level(zerolog.WarnLevel)
	}
	c.servers, err = embedded.Start(ctx, embedded.Config{
		Dir: c.Config.Data, NATSListen: o.NATSListen, S3Listen: o.S3Listen,
		Bucket: c.Config.Bucket, Log: quiet,
	})
	if err != nil {
		return store, err
	}
	c.EnvFile = c.servers.EnvFile()
	c.results = filepath.Join(c.Config.Data, "s3", c.Config.Bucket)
	if c.Config.Simulate && o.Worker {
		if err := c.simulate(ctx, o.Simulation, quiet); err != nil {
			return store, err
		}
	}
	opts, err := c.Config.NATSOptions(o.Name, o.Log)
	if err != nil {
		return store, err
	}
	if c.NATS, err = c.servers.Connect(opts...); err != nil {
		return store, err
	}
	js, err := jetstream.New(c.NATS)
	if err != nil {
		return store, err
	}
	// Without consumers: those belong to the worker, with its lease.
	if err := topology.Ensure(ctx, js, c.Config.Names, topology.Options{}); err != nil {
		return store, err
	}
	if o.Worker {
		err = c.forgetLeases(ctx, js)
	}
	return c.servers.Storage(), err
}

// forgetLeases removes the consumers of the queue, which the worker makes anew.
// A broker that restarts forgets that messages were handed back, and would keep
// them for the rest of their lease although nobody holds them: the folder is
// locked, so their holders are gone. Should one live on elsewhere, its next
// write finds that the job has a new owner.
func (c *Conns) forgetLeases(ctx context.Context, js jetstream.JetStream) error {
	jobStream := c.Config.Names.JobsStream()
	s, err := js.Stream(ctx, jobStream)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", jobStream, err)
	}
	var names []string
	list := s.ConsumerNames(ctx)
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		return fmt.Errorf("list the consumers of %s: %w", jobStream, err)
	}
	for _, name := range names {
		if err := s.DeleteConsumer(ctx, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return fmt.Errorf("remove consumer %s: %w", name, err)
		}
	}
	return nil
}

// marker lies in the data folder of embedded servers whose jobs are simulated.
const marker = "simulated"

// ErrMixed: a data folder has been used with simulated providers and is now to
// be used with real ones, or the other way round. The same image has the same
// job in both, so a simulated mesh would pass for a real one, and a real job
// that is still queued would get a simulated mesh.
var ErrMixed = errors.New("simulated and real jobs do not mix")

// checkKind refuses a folder of the other kind, and marks a new one.
func checkKind(c *config.Config) error {
	_, noMark := os.Stat(filepath.Join(c.Data, marker))
	_, noData := os.Stat(filepath.Join(c.Data, "nats"))
	switch {
	case !c.Simulate && noMark == nil:
		return fmt.Errorf("%w: data folder %q holds simulated results: choose another with MESHMILL_DATA, or add --simulate", ErrMixed, c.Data)
	case c.Simulate && noMark != nil && noData == nil:
		return fmt.Errorf("%w: data folder %q holds real jobs: choose another with MESHMILL_DATA, or leave out --simulate", ErrMixed, c.Data)
	case !c.Simulate || noMark == nil:
		return nil
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("data folder: %w (choose another with MESHMILL_DATA)", err)
	}
	text := "The providers of the jobs in this folder are simulated: nothing here was bought.\n"
	if err := os.WriteFile(filepath.Join(c.Data, marker), []byte(text), 0o600); err != nil {
		return fmt.Errorf("data folder: %w (choose another with MESHMILL_DATA)", err)
	}
	return nil
}

func (c *Conns) simulate(ctx context.Context, s Simulation, log zerolog.Logger) error {
	cfg := simulator.Config{
		Dir: filepath.Join(c.Config.Data, "simulator"), CSMLimit: c.Config.CSM.Concurrency,
		ModelsLabLimit: c.Config.ModelsLab.Concurrency, Log: log,
	}
	if s.Seconds > 0 {
		d := time.Duration(s.Seconds * float64(time.Second))
		cfg.Durations = simulator.Each(d, d)
	}
	if s.Faults != "" {
		if err := json.Unmarshal([]byte(s.Faults), &cfg.Faults); err != nil {
			return fmt.Errorf("--simulate-faults: %w", err)
		}
	}
	var err error
	if c.sim, err = simulator.Start(ctx, cfg); err != nil {
		return err
	}
	c.Simulated = c.sim.Host()
	c.Config.CSM.BaseURL, c.Config.ModelsLab.BaseURL = c.sim.CSMBaseURL(), c.sim.ModelsLabBaseURL()
	Simulate(&c.Config)
	return nil
}

// Result returns where people find a stored file: its path under the data
// folder of embedded servers, else its URI.
func (c *Conns) Result(o jobs.Output) string {
	if c.results != "" {
		return filepath.Join(c.results, filepath.FromSlash(o.Key))
	}
	return o.URI
}

// settleTime bounds Settle. A cancelled job keeps its message for as long as the
// session that it bought runs, which nobody waits for.
const settleTime = 5 * time.Second

// Settle waits until the messages of jobs that have ended are out of the queue,
// but not long: a worker removes a message once it has announced the job's end,
// so that stopping it then leaves nothing to the next run. What is left after
// that time is made up for by the next worker.
func (c *Conns) Settle(ctx context.Context, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	js, err := jetstream.New(c.NATS)
	if err != nil {
		return err
	}
	s, err := js.Stream(ctx, c.Config.Names.JobsStream())
	if err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, id := range ids {
		for {
			_, err := s.GetLastMsgForSubject(ctx, c.Config.Names.JobAnywhere(id))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				break
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				return err
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// closeSimulator does not wait long: its only clients were in this process, and
// a connection that one of them keeps in reserve would hold it up for seconds.
func (c *Conns) closeSimulator(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := c.sim.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// closeTimeout bounds the end of each part.
const closeTimeout = 15 * time.Second

// Close closes the connection and stops what Open started.
func (c *Conns) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*closeTimeout, errors.New("the servers took too long to stop"))
	defer cancel()
	var errs []error
	if c.NATS != nil {
		c.NATS.Close()
	}
	if c.sim != nil {
		errs = append(errs, c.closeSimulator(ctx))
	}
	if c.servers != nil {
		errs = append(errs, c.servers.Shutdown(ctx))
	}
	return errors.Join(errs...)
}
