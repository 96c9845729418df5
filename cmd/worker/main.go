// Command worker takes jobs from the queue, buys the conversions and stores the
// meshes. Any number of workers share the work.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/worker"
)

// The exit statuses. They are a contract with whoever starts workers.
const (
	statusDrained = 0 // told to stop, and every job handed back
	statusFailed  = 1
	statusConfig  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr, os.LookupEnv))
}

// configError is a mistake in how the command was called or configured.
type configError struct{ err error }

func (c *configError) Error() string { return c.err.Error() }
func (c *configError) Unwrap() error { return c.err }

// run is the whole command: it works until ctx ends and returns the exit
// status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, lookup func(string) (string, bool)) int {
	cmd := command(stdout, stderr, lookup)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return statusDrained
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(stderr, "worker: "+line)
	}
	if _, ok := errors.AsType[*configError](err); ok || errors.Is(err, connect.ErrLocked) || errors.Is(err, connect.ErrMixed) {
		return statusConfig
	}
	return statusFailed
}

// options are the flags that are not settings.
type options struct {
	bind                 bool
	natsListen, s3Listen string
	simulation           connect.Simulation
}

func command(stdout, stderr io.Writer, lookup func(string) (string, bool)) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Buy 3D meshes of the images in the queue",
		Long: `worker takes jobs from the queue, buys the conversions and stores the meshes,
until it is told to stop. The first SIGTERM or SIGINT lets it hand back its jobs
and finish paid calls in flight; a second one ends it at once.

With --embedded it brings its own broker and object storage, and prints the line
that lets other shells use them.

Exit status: 0 stopped as told; 1 failed; 2 configuration.`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &configError{fmt.Errorf("worker takes no arguments, but %q was given; see: worker --help", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := load(cmd, &o, lookup)
			if err != nil {
				return &configError{err}
			}
			return work(cmd.Context(), c, &o, stdout, newLogger(&c, stderr, lookup))
		},
	}
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return &configError{fmt.Errorf("%w; see: worker --help", err)}
	})
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.BoolVar(&o.bind, "bind", false, "create nothing on the broker and in the object storage, and fail if something is missing")
	flags.StringVar(&o.natsListen, "nats-listen", "127.0.0.1:4222", "where the embedded broker listens")
	flags.StringVar(&o.s3Listen, "s3-listen", "127.0.0.1:9000", "where the embedded object storage listens")
	flags.Float64Var(&o.simulation.Seconds, "simulate-seconds", 0, "")
	flags.StringVar(&o.simulation.Faults, "simulate-faults", "", "")
	_ = flags.MarkHidden("simulate-seconds") // for tests and demonstrations
	_ = flags.MarkHidden("simulate-faults")
	config.Register(flags)
	return cmd
}

// load reads the configuration, and reports every mistake at once.
func load(cmd *cobra.Command, o *options, lookup func(string) (string, bool)) (config.Config, error) {
	c, err := config.Load(cmd.Flags(), lookup, config.NeedBroker)
	connect.Simulate(&c)
	errs := []error{err}
	for _, l := range []struct{ flag, addr string }{{"nats-listen", o.natsListen}, {"s3-listen", o.s3Listen}} {
		switch {
		case !config.IsListenAddress(l.addr):
			errs = append(errs, fmt.Errorf("--%s is %q, must be an address such as 127.0.0.1:4222", l.flag, l.addr))
		case cmd.Flags().Changed(l.flag) && !c.Embedded:
			errs = append(errs, fmt.Errorf("--%s works with --embedded only", l.flag))
		}
	}
	if s := o.simulation; !c.Simulate && (s.Seconds != 0 || s.Faults != "") {
		errs = append(errs, errors.New("--simulate-seconds and --simulate-faults work with --simulate only"))
	}
	if c.CSM.APIKey == "" && c.ModelsLab.APIKey == "" {
		errs = append(errs, errors.New("neither CSM_API_KEY nor MODELSLAB_API_KEY is set: a worker buys from the providers whose key it has; with --embedded, --simulate needs none"))
	}
	return c, errors.Join(errs...)
}

// work runs the worker until ctx ends.
func work(ctx context.Context, c config.Config, o *options, stdout io.Writer, log zerolog.Logger) (err error) {
	conns, err := connect.Open(ctx, connect.Options{
		Config: c, Name: "meshmill-worker", NATSListen: o.natsListen, S3Listen: o.s3Listen,
		Worker: true, Simulation: o.simulation, Log: log,
	})
	if err != nil {
		return stopped(ctx, err)
	}
	defer func() { err = errors.Join(err, conns.Close(context.WithoutCancel(ctx))) }()
	if c.Simulate {
		log.Warn().Str("simulator", conns.Simulated).Msg("the providers are SIMULATED: nothing is bought, and the meshes are made up from the images")
	}
	if c.Embedded {
		// A comment and a command: what is printed can be given to a shell.
		fmt.Fprintf(stdout, "# to use these servers from another shell, load:\n. %s\n", shellWord(conns.EnvFile))
	}
	return stopped(ctx, worker.Run(ctx, worker.Options{
		Config: conns.Config, NATS: conns.NATS, Storage: conns.Bucket,
		Simulated: conns.Simulated, Log: log, Bind: o.bind,
	}))
}

// stopped turns the error of a start that was told to stop into none.
func stopped(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && (errors.Is(err, context.Cause(ctx)) || errors.Is(err, ctx.Err())) {
		return nil
	}
	return err
}

func shellWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// newLogger writes to w: for people on a terminal, JSON elsewhere, unless one
// of them is configured.
func newLogger(c *config.Config, w io.Writer, lookup func(string) (string, bool)) zerolog.Logger {
	f, isFile := w.(*os.File)
	terminal := isFile && term.IsTerminal(int(f.Fd()))
	if c.LogFormat == config.LogConsole || (c.LogFormat == config.LogAuto && terminal) {
		noColor, _ := lookup("NO_COLOR")
		w = zerolog.ConsoleWriter{Out: w, NoColor: !terminal || noColor != "", TimeFormat: time.TimeOnly}
	}
	return zerolog.New(w).Level(c.LogLevel).With().Timestamp().Logger()
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return cmp.Or(info.Main.Version, "unknown")
}
