package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/bulk"
	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/connect"
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
	check               func(args []string, c *config.Config) error
	sources             func(args []string) iter.Seq[bulk.Source]
}

func (a *app) folderCommand() *cobra.Command {
	c := &creation{a: a}
	c.check = func(args []string, _ *config.Config) error {
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
	return cmd
}

func (a *app) fileCommand() *cobra.Command {
	c := &creation{a: a, sources: bulk.Files}
	c.check = func(args []string, _ *config.Config) error { return bulk.CheckFiles(args, picture.DefaultLimits) }
	return c.command("file FILE…", "Enqueue images", "Enqueues images. If one of them cannot be converted, none is enqueued.", "a file")
}

func (a *app) urlCommand() *cobra.Command {
	c := &creation{a: a, sources: bulk.URLs}
	c.check = func(args []string, cfg *config.Config) error {
		// What another worker may read is its own business.
		return bulk.CheckURLs(args, cfg.AllowPrivateURLs || !cfg.Embedded)
	}
	return c.command("url URL…", "Enqueue images by their address", `Enqueues images by their http or https address. The worker, or the provider
itself, fetches them when their turn comes.`, "a URL")
}

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
	f.BoolVar(&c.dryRun, "dry-run", false, "check everything and show what would be enqueued; change nothing")
	f.BoolVar(&c.force, "force", false, "buy again what has been bought before")
	f.BoolVar(&c.wait, "wait", false, "wait until all jobs have ended; --embedded always does")
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
	o, template, err := c.plan(&cfg)
	if err = usage(errors.Join(err, c.check(args, &cfg))); err != nil {
		return err
	}
	if c.dryRun {
		return c.dry(cmd.Context(), args, template)
	}
	return c.enqueue(cmd.Context(), cfg, o, template, args)
}

// plan makes the template of all requests, and warns of what is unwise.
func (c *creation) plan(cfg *config.Config) (offer, bulk.Template, error) {
	t := bulk.Template{Formats: c.formats, Batch: c.batch, Force: c.force}
	var errs []error
	if t.Batch == "" {
		t.Batch = batchName(time.Now())
	}
	lane, err := jobs.ParseLane(c.lane)
	t.Lane, errs = lane, append(errs, err)
	for _, l := range c.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok {
			errs = append(errs, fmt.Errorf("--label is %q, must be KEY=VALUE", l))
			continue
		}
		if t.Labels == nil {
			t.Labels = map[string]string{}
		}
		t.Labels[k] = v
	}
	o, err := chooseOffer(c.provider, cfg)
	if err != nil {
		return o, t, errors.Join(append(errs, err)...)
	}
	t.Provider = o.Name()
	options, err := o.options(c.preset, c.options)
	if err != nil {
		return o, t, errors.Join(append(errs, err)...)
	}
	t.Options = options
	plan, err := o.Plan(options, c.formats)
	if err = errors.Join(append(errs, err, t.Check())...); err != nil {
		return o, t, err
	}
	t.Options = plan.Options
	for _, w := range plan.Warnings {
		c.a.note("warning: %s", progress.Clean(w))
	}
	return o, t, nil
}

// note prints a message on standard error, unless it is to be quiet.
func (a *app) note(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.stderr, format+"\n", args...)
	}
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

// dryLine is what --dry-run prints for an image.
type dryLine struct {
	Type     string         `json:"type"`
	ID       string         `json:"id"`
	Provider string         `json:"provider"`
	Image    jobs.Image     `json:"image"`
	Options  map[string]any `json:"options,omitempty"`
	Formats  []string       `json:"formats,omitempty"`
}

// dry reads every image and says what would be enqueued. It talks to nobody.
func (c *creation) dry(ctx context.Context, args []string, t bulk.Template) error {
	var sum struct {
		Type    string `json:"type"`
		Images  int    `json:"images"`
		Refused int    `json:"refused"`
	}
	sum.Type = "dry_run"
	table := progress.NewTable(c.a.stdout, "JOB", "IMAGE", "PROVIDER")
	enc := json.NewEncoder(c.a.stdout)
	var broken error
	p := bulk.Pipeline{Template: t, Limits: picture.DefaultLimits, Done: func(o bulk.Outcome) {
		switch {
		case o.Err != nil:
			sum.Refused++
			fmt.Fprintf(c.a.stderr, "%s %s\n", progress.Clean(o.Source.Name), progress.Clean(o.Err.Error()))
		case o.SameAs != "":
			c.a.note("%s is the same image as %s", progress.Clean(o.Source.Name), progress.Clean(o.SameAs))
		case c.a.json:
			sum.Images++
			broken = errors.Join(broken, enc.Encode(dryLine{"job", o.ID, t.Provider, o.Image, t.Options, t.Formats}))
		default:
			sum.Images++
			table.Row(o.ID, o.Source.Name, t.Provider)
		}
	}}
	if err := p.Run(ctx, c.sources(args)); err != nil {
		return err
	}
	if c.a.json {
		broken = errors.Join(broken, enc.Encode(sum))
	}
	if err := errors.Join(broken, table.Flush()); err != nil {
		return err
	}
	c.a.note("dry run: %d jobs would be enqueued that are not there already, %d files would be refused", sum.Images, sum.Refused)
	if sum.Refused > 0 {
		return errSomeFailed
	}
	return nil
}
