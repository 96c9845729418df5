package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/bulk"
	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/cost"
	"github.com/meshmill/meshmill/internal/picture"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// creation holds the flags of the commands that create jobs.
type creation struct {
	a                   *app
	provider, preset    string
	options, formats    []string
	batch, lane         string
	labels              []string
	filter              picture.Filter
	dryRun, force, wait bool
	maxJobs             int
	maxCost             string
	yes                 bool

	// check refuses arguments before anything is done; sources yields the
	// images. Both may look at cfg and terms, which run sets before.
	check   func(args []string) error
	sources func(args []string) iter.Seq[bulk.Source]
	// failed tells, after the sources, why they ended early; nil if they cannot.
	failed func() error
	// mixed says that each source may have a provider of its own.
	mixed bool
	// once says that the sources can be read once only.
	once func(args []string) bool

	cfg   config.Config
	terms terms
	view  *progress.View // once there is one
}

func (a *app) folderCommand() *cobra.Command {
	c := &creation{a: a}
	c.check = func(args []string) error {
		if err := c.filter.Check(); err != nil {
			return err
		}
		return bulk.CheckFolders(args, c.filter)
	}
	c.sources = func(args []string) iter.Seq[bulk.Source] { return bulk.Folders(args, c.filter) }
	cmd := c.command("folder DIR…", "Enqueue every image below folders", `Enqueues every PNG, JPEG and WebP image below the folders, found by content and
not by name. Hidden files are passed over; links are followed.`, "a folder")
	cmd.Flags().StringArrayVar(&c.filter.Include, "include", nil, "take only files whose name matches `GLOB`; may be repeated")
	cmd.Flags().StringArrayVar(&c.filter.Exclude, "exclude", nil, "leave out files and folders whose name matches `GLOB`; may be repeated")
	cmd.ValidArgsFunction = dirsOnly
	return cmd
}

func (a *app) fileCommand() *cobra.Command {
	c := &creation{a: a, sources: bulk.Files}
	c.check = func(args []string) error { return bulk.CheckFiles(args, picture.DefaultLimits) }
	return c.command("file FILE…", "Enqueue images", "Enqueues images. If one of them cannot be converted, none is enqueued.", "a file")
}

func (a *app) urlCommand() *cobra.Command {
	c := &creation{a: a, sources: bulk.URLs}
	c.check = func(args []string) error { return bulk.CheckURLs(args, c.mayBePrivate()) }
	cmd := c.command("url URL…", "Enqueue images by their address", `Enqueues images by their http or https address. The worker, or the provider
itself, fetches them when their turn comes.`, "a URL")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// mayBePrivate reports whether an address on a private network is this
// process's business: what another worker may read is its own.
func (c *creation) mayBePrivate() bool { return c.cfg.AllowPrivateURLs || !c.cfg.Embedded }

func (c *creation) command(use, short, long, what string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Args: atLeast(1, what),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&c.provider, "provider", "", "`NAME` of the provider to buy from; not needed if only one has a key")
	f.StringVar(&c.preset, "preset", "", "`NAME` of a set of options, see: enqueue providers")
	f.StringArrayVar(&c.options, "option", nil, "an option of the provider as `NAME=VALUE`; may be repeated")
	f.StringSliceVar(&c.formats, "formats", nil, "wanted formats, such as glb,obj; the provider's own choice if left out")
	f.StringVar(&c.batch, "batch", "", "`NAME` of the batch; made of the time if left out")
	f.StringArrayVar(&c.labels, "label", nil, "a label as `KEY=VALUE`, which events carry; may be repeated")
	f.StringVar(&c.lane, "lane", string(jobs.Bulk), "queue: interactive, which goes first, or bulk")
	f.BoolVar(&c.dryRun, "dry-run", false, "check everything and show what would be bought, and for how much; change nothing")
	f.IntVar(&c.maxJobs, "max-jobs", 0, "enqueue at most `N` new jobs; the same command goes on from there")
	f.StringVar(&c.maxCost, "max-cost", "", "enqueue new jobs for at most `AMOUNT` US dollars, by the configured prices")
	f.BoolVarP(&c.yes, "yes", "y", false, "do not ask, however many jobs there are")
	f.BoolVar(&c.force, "force", false, "buy again what has been bought before")
	f.BoolVar(&c.wait, "wait", false, "wait until all jobs have ended; --embedded always does")
	c.a.completeCreation(cmd)
	return cmd
}

// run does everything that can be refused first, then uploads and enqueues.
func (c *creation) run(cmd *cobra.Command, args []string) error {
	need := config.NeedBroker
	if c.dryRun {
		need = config.NeedNothing
	}
	cfg, err := c.a.load(cmd, need)
	if err != nil {
		return err
	}
	connect.Simulate(&cfg)
	c.cfg = cfg
	if err = usage(errors.Join(c.plan(), c.check(args))); err != nil {
		return err
	}
	if c.dryRun {
		return c.dry(cmd.Context(), args)
	}
	if err := c.ask(cmd.Context(), args); err != nil {
		return err
	}
	return c.enqueue(cmd.Context(), args)
}

// ask asks a person on a terminal before much is bought. A script is not asked:
// it has --max-jobs and --max-cost.
func (c *creation) ask(ctx context.Context, args []string) error {
	if c.yes || c.cfg.Simulate || !c.a.interactive() || (c.once != nil && c.once(args)) {
		return nil
	}
	var sum cost.Sum
	for s := range c.sources(args) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t := s.Template
		if t == nil {
			t = &c.terms.template
		}
		if s.Err == nil && (c.maxJobs == 0 || sum.Jobs() < c.maxJobs) {
			sum.Add(cost.Amount(t.Cost), t.Priced)
		}
	}
	if !c.cfg.AskAbove.Asks(&sum) {
		return nil
	}
	most := ""
	if c.terms.maxCost > 0 {
		most = fmt.Sprintf(", and at most %s", c.terms.maxCost)
	}
	return c.a.confirm(ctx, fmt.Sprintf("There are %d images. Those that are not there already will be bought,\nfor %s by estimate%s.", sum.Jobs(), &sum, most))
}

// batchName names a batch after the time, and so that two in one second differ.
func batchName(now time.Time) string {
	const letters = "abcdefghijkmnpqrstuvwxyz23456789"
	name := []byte(now.UTC().Format("2006-01-02T15-04-05-"))
	for range 4 {
		name = append(name, letters[rand.IntN(len(letters))])
	}
	return string(name)
}

// note prints a message on standard error, unless it is to be quiet.
func (a *app) note(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.stderr, format+"\n", args...)
	}
}
