package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/bulk"
	"github.com/meshmill/meshmill/internal/joblist"
	"github.com/meshmill/meshmill/internal/picture"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// importing is one run of the import command.
type importing struct {
	*creation
	as   string // format
	err  error  // that ended the list early
	name string
}

func (a *app) importCommand() *cobra.Command {
	m := &importing{creation: &creation{a: a, mixed: true}}
	m.creation.check, m.creation.sources = m.check, m.sources
	m.failed = func() error { return m.err }
	m.once = func(args []string) bool { return args[0] == "-" }
	cmd := m.command("import FILE|-", "Enqueue the jobs of a list, JSON Lines or CSV", `Enqueues the jobs of a list; - is standard input. A line that is no job is told by
its number, and the others are enqueued.

JSON Lines have the fields of a request, and may have preset and lane. The image
is an object with a url, a path or an object of the bucket, or just a text:

  {"image":"chairs/oak.png","preset":"turbo-pbr","labels":{"sku":"7"}}
  {"image":{"url":"https://example.com/elm.png","name":"elm"},"provider":"csm"}

CSV has a header with some of the columns image, url, path, object, media_type,
name, id, provider, preset, formats, batch, lane, option.NAME and label.KEY.

Paths are those of this machine, from the working directory. What a line leaves
out is as the flags say; options, presets and formats of the flags are for lines
of the same provider.`, "a list")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("%d lists are given, must be one; see: %s --help", len(args), cmd.CommandPath())
		}
		return nil
	}
	cmd.Flags().StringVar(&m.as, "as", "", "`FORMAT` of the list, jsonl or csv; told by its name or first character if left out")
	return cmd
}

// open opens the list.
func (m *importing) open(name string) (*joblist.Reader, io.Closer, error) {
	format := joblist.Format(m.as)
	if format != "" && format != joblist.JSONL && format != joblist.CSV {
		return nil, nil, fmt.Errorf("--as is %q, must be jsonl or csv", m.as)
	}
	if name == "-" {
		r, err := joblist.New(m.a.stdin, format)
		if err != nil {
			return nil, nil, fmt.Errorf("standard input: %w", err)
		}
		return r, io.NopCloser(nil), nil
	}
	shown := picture.SafeName(name)
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("the list %q cannot be read: %w", shown, errors.Unwrap(err))
	}
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return nil, nil, errors.Join(fmt.Errorf("%q is a folder; use: enqueue folder %q", shown, shown), f.Close())
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".csv":
		format = cmp.Or(format, joblist.CSV)
	case ".jsonl", ".ndjson", ".json":
		format = cmp.Or(format, joblist.JSONL)
	}
	r, err := joblist.New(f, format)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("the list %q: %w", shown, err), f.Close())
	}
	return r, f, nil
}

// check opens the list once. Standard input cannot be opened twice, and is
// looked at when its turn comes.
func (m *importing) check(args []string) error {
	if args[0] == "-" {
		return nil
	}
	_, f, err := m.open(args[0])
	if err != nil {
		return err
	}
	return f.Close()
}

func (m *importing) sources(args []string) iter.Seq[bulk.Source] {
	return func(yield func(bulk.Source) bool) {
		m.err = nil
		list, f, err := m.open(args[0])
		if err != nil {
			m.err = usage(err)
			return
		}
		defer f.Close()
		for line := range list.Lines() {
			if !yield(m.source(line)) {
				return
			}
		}
		if err := list.Err(); err != nil {
			m.err = fmt.Errorf("the list ends early: %w", err)
		}
	}
}

// source turns a line into an image to enqueue.
func (m *importing) source(l joblist.Line) bulk.Source {
	at := fmt.Sprintf("line %d", l.Number)
	refused := func(err error) bulk.Source {
		return bulk.Source{Place: at, Err: errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))}
	}
	if l.Err != nil {
		return refused(l.Err)
	}
	if l.ID != "" {
		if err := jobs.CheckID(l.ID); err != nil {
			return refused(err)
		}
	}
	t, err := m.template(&l)
	if err != nil {
		return refused(err)
	}
	s := bulk.Source{Path: l.Path, URL: l.URL, Object: l.Object, MediaType: l.MediaType, ID: l.ID, Template: t, Name: l.Name}
	if l.URL != "" {
		if err := bulk.CheckURLs([]string{l.URL}, m.mayBePrivate()); err != nil {
			return refused(err)
		}
		s.Name = cmp.Or(s.Name, jobs.Image{URL: l.URL}.Public().URL)
	}
	if s.Name == "" && l.Path != "" {
		s.Name = picture.SafeName(filepath.ToSlash(filepath.Clean(l.Path)))
	}
	s.Place = at
	return s
}

// template is that of the flags with what a line says.
func (m *importing) template(l *joblist.Line) (*bulk.Template, error) {
	own := l.Preset != "" || len(l.Options)+len(l.OptionTexts)+len(l.Formats) > 0
	o, t := m.terms.offer, m.terms.template
	switch {
	case l.Provider != "":
		var err error
		if o, err = chooseOffer(l.Provider, &m.cfg); err != nil {
			return nil, errors.New(strings.TrimPrefix(err.Error(), "--"))
		}
	case m.terms.noOffer != nil && !(own && o.Provider != nil):
		return nil, m.terms.noOffer
	}
	if own || m.terms.noOffer != nil || o.Name() != t.Provider {
		w := wish{preset: l.Preset, pairs: pairs(l.OptionTexts), options: l.Options, formats: l.Formats}
		if m.terms.offer.Provider == nil || o.Name() == m.terms.offer.Name() {
			if w.preset == "" {
				w.preset = m.preset
			}
			w.pairs = slices.Concat(m.options, w.pairs)
			if w.formats == nil {
				w.formats = m.formats
			}
		}
		var err error
		if t, err = m.propose(o, t, w); err != nil {
			return nil, err
		}
	}
	if l.Batch != "" {
		t.Batch = l.Batch
	}
	if l.Lane != "" {
		lane, err := jobs.ParseLane(l.Lane)
		if err != nil {
			return nil, err
		}
		t.Lane = lane
	}
	if len(l.Labels) > 0 {
		labels := maps.Clone(t.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, l.Labels)
		t.Labels = labels
	}
	return &t, nil
}
