package main

import (
	"cmp"
	"io"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/progress"
)

// app is what the commands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	lookup         func(string) (string, bool)

	json, quiet, noProgress bool
	byEnv                   map[string]bool // flags set by the environment
	simulation              connect.Simulation
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "enqueue",
		Short: "Turn images into 3D meshes by the thousand",
		Long: `enqueue puts images into the queue of Meshmill, whose workers buy 3D meshes of
them, each once. With --embedded everything runs in this process:

  enqueue folder ./images --embedded --provider csm

Results go to standard output, progress and messages to standard error.

Exit status: 0 all good; 1 error; 2 usage or configuration; 3 some jobs failed
or are parked; 130 interrupted.

Every flag may also come from the environment. Settings of Meshmill as a whole
have the variable in brackets; every other flag has MESHMILL_ENQUEUE_ and its
name, such as MESHMILL_ENQUEUE_MAX_JOBS for --max-jobs. Those that may be
repeated have a value on each line.`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("there is no command %q; see: enqueue --help", args[0])
			}
			return cmd.Help()
		},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return a.fromEnvironment(cmd) }
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see: %s --help", err, cmd.CommandPath())
	})
	flags := root.PersistentFlags()
	flags.SortFlags = false
	flags.BoolVar(&a.json, "json", false, "print JSON Lines on standard output")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "print no progress and no messages, only failures")
	flags.BoolVar(&a.noProgress, "no-progress", false, "print no progress")
	flags.Float64Var(&a.simulation.Seconds, "simulate-seconds", 0, "")
	flags.StringVar(&a.simulation.Faults, "simulate-faults", "", "")
	_ = flags.MarkHidden("simulate-seconds") // for tests and demonstrations
	_ = flags.MarkHidden("simulate-faults")
	config.Register(flags)
	root.AddCommand(
		a.folderCommand(), a.fileCommand(), a.urlCommand(), a.importCommand(), a.downloadCommand(), a.watchCommand(), a.doctorCommand(), a.retryCommand(), a.manCommand(),
		a.statusCommand(), a.resolveCommand(), a.cancelCommand(), a.eventsCommand(), a.providersCommand(),
	)
	return root
}

// load reads the configuration of a command.
func (a *app) load(cmd *cobra.Command, need config.Need) (config.Config, error) {
	c, err := config.Load(cmd.Flags(), a.lookup, need)
	if s := a.simulation; !c.Simulate && (s.Seconds != 0 || s.Faults != "") {
		return c, usagef("--simulate-seconds and --simulate-faults work with --simulate only")
	}
	return c, usage(err)
}

// atLeast checks the number of arguments.
func atLeast(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return usagef("%s is missing; see: %s --help", what, cmd.CommandPath())
		}
		return nil
	}
}

// noArgs is for commands that take none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments; see: %s --help", cmd.Name(), cmd.CommandPath())
	}
	return nil
}

// view starts the view of progress.
func (a *app) view() *progress.View {
	o := progress.Detect(a.stderr, a.lookup)
	o.Quiet, o.Off = a.quiet, a.noProgress || a.json && isTerminal(a.stdout) // the lines would be drawn over
	return progress.New(o)
}

// errorText makes an error fit for a terminal, one line for each mistake.
func errorText(err error) string {
	lines := strings.Split(strings.TrimRight(err.Error(), "\n"), "\n")
	for i, l := range lines {
		lines[i] = "enqueue: " + progress.Clean(l)
	}
	return strings.Join(lines, "\n")
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return cmp.Or(info.Main.Version, "unknown")
}
