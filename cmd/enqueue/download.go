package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/download"
	"github.com/meshmill/meshmill/internal/picture"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// downloading is one run of the download command.
type downloading struct {
	a         *app
	filter    jobs.Filter
	to        string
	formats   []string
	manifests bool

	mu    sync.Mutex
	sum   downloadSummary
	print *printer
	table *progress.Table
}

// fileLine is a file in JSON Lines.
type fileLine struct {
	Type    string           `json:"type"`
	Schema  string           `json:"schema"`
	ID      string           `json:"id"`
	Outcome download.Outcome `json:"outcome"`
	Path    string           `json:"path,omitempty"`
	URI     string           `json:"uri"`
	Size    int64            `json:"size_bytes"`
	SHA256  string           `json:"sha256"`
	Error   string           `json:"error,omitempty"`
}

// downloadSummary is the last line of a download.
type downloadSummary struct {
	Type       string `json:"type"`
	Schema     string `json:"schema"`
	Batch      string `json:"batch,omitempty"`
	Downloaded int    `json:"downloaded"`
	Present    int    `json:"present"`
	Errors     int    `json:"errors"`
	// Unfinished counts the jobs that have no result.
	Unfinished int   `json:"unfinished"`
	Bytes      int64 `json:"bytes"`
}

func (a *app) downloadCommand() *cobra.Command {
	d := &downloading{a: a}
	cmd := &cobra.Command{
		Use:   "download JOB… | --batch NAME  --to DIR",
		Short: "Copy the results of jobs to a folder",
		Long: `Copies the meshes of completed jobs to a folder, under the names of their
images: chairs/oak.png becomes DIR/chairs/oak.glb. Every file is checked against
the SHA-256 that was recorded. A file that is there already, with that content,
is left as it is; one with another content is never overwritten, and the result
gets the job's id into its name. The same command goes on where it was
interrupted.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				a.unless(&d.filter.Batch, "batch", cmd)
			}
			switch {
			case (len(args) == 0) == (d.filter.Batch == ""):
				return usagef("either jobs or --batch must be given; see: %s --help", cmd.CommandPath())
			case d.to == "":
				return usagef("--to is missing, must be a folder such as ./meshes")
			}
			if err := checkIDs(args); err != nil {
				return err
			}
			d.filter.IDs = args
			return a.with(cmd, d.run)
		},
	}
	cmd.Flags().StringVar(&d.filter.Batch, "batch", "", "every job of the batch `NAME`")
	cmd.Flags().StringVar(&d.to, "to", "", "`DIR` to copy to; it is made if it is not there")
	cmd.Flags().StringSliceVar(&d.formats, "formats", nil, "only these formats, such as glb,obj")
	cmd.Flags().BoolVar(&d.manifests, "manifests", false, "copy the manifest of each job too")
	a.completeBatch(cmd)
	a.completeJobs(cmd)
	complete(cmd, "to", dirsOnly)
	return cmd
}

// files is how many files are copied at a time.
const files = 4

func (d *downloading) run(ctx context.Context, c *connect.Conns) error {
	if err := c.Bucket.Check(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(d.to, 0o755); err != nil {
		return usagef("--to %q: %w", picture.SafeName(d.to), errors.Unwrap(err))
	}
	folder, err := download.Open(d.to, c.Bucket)
	if err != nil {
		return err
	}
	d.print = d.a.printer(c)
	d.table = progress.NewTable(d.a.stdout, "JOB", "FILE", "BYTES", "")
	d.sum = downloadSummary{Type: "summary", Schema: lineSchema, Batch: d.filter.Batch}
	err = errors.Join(d.all(ctx, c, folder), folder.Close())
	if d.print.json != nil {
		d.print.line(d.sum)
	}
	if err = errors.Join(err, d.print.err, d.table.Flush()); err != nil {
		return err
	}
	d.a.note("%d downloaded, %d there already, %d failed; %d jobs have no result", d.sum.Downloaded, d.sum.Present, d.sum.Errors, d.sum.Unfinished)
	if d.sum.Errors > 0 {
		return fmt.Errorf("%d files could not be downloaded; the same command tries them again", d.sum.Errors)
	}
	return nil
}

// all copies the results of every job that is selected.
func (d *downloading) all(ctx context.Context, c *connect.Conns, folder *download.Folder) error {
	var work sync.WaitGroup
	defer work.Wait()
	places := make(chan struct{}, files)
	found := 0
	for r, err := range c.Client.List(ctx, d.filter) {
		if err != nil {
			return err
		}
		found++
		if len(r.Outputs) == 0 {
			d.mu.Lock()
			d.sum.Unfinished++
			d.mu.Unlock()
			continue
		}
		for _, f := range download.Files(r, d.formats, d.manifests) {
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			work.Go(func() {
				defer func() { <-places }()
				path, outcome, err := folder.Fetch(ctx, f)
				d.done(f, path, outcome, err)
			})
		}
	}
	if found == 0 {
		return errors.New("there are no such jobs; enqueue status lists what there is")
	}
	return nil
}

func (d *downloading) done(f download.File, path string, outcome download.Outcome, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	line := fileLine{"file", lineSchema, f.ID, outcome, path, f.URI, f.Size, f.SHA256, ""}
	note := ""
	switch outcome {
	case download.Downloaded:
		d.sum.Downloaded++
		d.sum.Bytes += f.Size
	case download.Present:
		d.sum.Present++
		note = "there already"
	default:
		d.sum.Errors++
		line.Error = err.Error()
		fmt.Fprintf(d.a.stderr, "%s: %s\n", progress.Clean(f.Name), progress.Clean(err.Error()))
	}
	switch {
	case d.print.json != nil:
		d.print.line(line)
	case err == nil:
		d.table.Row(f.ID, path, fmt.Sprint(f.Size), note)
	}
}
