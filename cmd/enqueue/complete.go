package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// completion is what cobra asks for the words that may follow.
type completion = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective)

func words(list func(cmd *cobra.Command, begun string) []string) completion {
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return list(cmd, begun), cobra.ShellCompDirectiveNoFileComp
	}
}

func fixed(list ...string) completion {
	return words(func(*cobra.Command, string) []string { return list })
}

func dirsOnly(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// complete sets the completion of a flag. A flag that the command lacks is a
// mistake in this program.
func complete(cmd *cobra.Command, flag string, f completion) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err)
	}
}

// chosen are the offers that a command's --provider leaves.
func chosen(cmd *cobra.Command) []offer {
	name, _ := cmd.Flags().GetString("provider") // empty is all
	return slices.DeleteFunc(slices.Clone(offers), func(o offer) bool { return name != "" && o.Name() != name })
}

func providerNames(*cobra.Command, string) []string {
	var names []string
	for _, o := range offers {
		names = append(names, o.Name()+"\t"+o.Catalog().Title)
	}
	return names
}

func (a *app) completeCreation(cmd *cobra.Command) {
	complete(cmd, "provider", words(providerNames))
	complete(cmd, "preset", words(func(cmd *cobra.Command, _ string) (out []string) {
		for _, o := range chosen(cmd) {
			for _, p := range o.Catalog().Presets {
				out = append(out, p.Name+"\t"+o.Name()+": "+p.Doc)
			}
		}
		return out
	}))
	complete(cmd, "option", words(optionWords))
	complete(cmd, "formats", words(func(cmd *cobra.Command, begun string) (out []string) {
		before := begun[:strings.LastIndexByte(begun, ',')+1]
		for _, o := range chosen(cmd) {
			for _, f := range o.Catalog().Formats {
				if w := before + f; !slices.Contains(out, w) {
					out = append(out, w)
				}
			}
		}
		return out
	}))
	complete(cmd, "lane", fixed(string(jobs.Bulk), string(jobs.Interactive)))
	for _, flag := range []string{"label", "max-jobs", "max-cost"} {
		complete(cmd, flag, cobra.NoFileCompletions)
	}
	complete(cmd, "batch", words(a.batches))
}

// optionWords completes NAME= and then its values.
func optionWords(cmd *cobra.Command, begun string) (out []string) {
	name, _, named := strings.Cut(begun, "=")
	for _, o := range chosen(cmd) {
		for _, opt := range o.Catalog().Options {
			switch {
			case !named:
				out = append(out, opt.Name+"=\t"+opt.Doc)
			case opt.Name != name:
			case opt.Type == jobs.TypeBool:
				out = append(out, name+"=true", name+"=false")
			default:
				for _, v := range opt.Allowed {
					out = append(out, name+"="+jsonText(v))
				}
			}
		}
	}
	return out
}

// completeJobs completes the names of jobs, which nobody can type.
func (a *app) completeJobs(cmd *cobra.Command) {
	cmd.ValidArgsFunction = words(func(cmd *cobra.Command, begun string) (out []string) {
		for r := range a.someJobs(cmd) {
			out = append(out, r.ID+"\t"+imageName(r)+" "+string(r.State))
		}
		return out
	})
}

func (a *app) completeBatch(cmd *cobra.Command) { complete(cmd, "batch", words(a.batches)) }

func (a *app) batches(cmd *cobra.Command, _ string) (out []string) {
	for r := range a.someJobs(cmd) {
		if b := r.Request.Batch; b != "" && !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

// completionTime is how long a person waits for a word, and completionJobs how
// many jobs are looked at for one.
const (
	completionTime = time.Second
	completionJobs = 2000
)

// someJobs yields jobs of the broker, if one is configured and answers at once.
func (a *app) someJobs(cmd *cobra.Command) func(yield func(*jobs.Record) bool) {
	return func(yield func(*jobs.Record) bool) {
		cfg, err := config.Load(cmd.Flags(), a.lookup, config.NeedBroker)
		if err != nil || cfg.Embedded {
			return
		}
		parent := cmd.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, completionTime)
		defer cancel()
		quiet := *a
		quiet.quiet = true
		c, err := quiet.connect(ctx, cfg)
		if err != nil {
			return
		}
		defer func() { _ = c.Close(context.WithoutCancel(ctx)) }() // nothing to be told about
		n := 0
		for r, err := range c.Client.List(ctx, jobs.Filter{}) {
			if n++; err != nil || n > completionJobs || !yield(r) {
				return
			}
		}
	}
}
