package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/meshmill/meshmill/internal/config"
)

// manCommand prints the manual page. The page is our own rather than that of
// cobra/doc, which makes one for each command and needs two Markdown libraries.
func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man",
		Short: "Print the manual page",
		Long: `Prints the manual page, to be read with man -l - or installed:

  enqueue man > ~/.local/share/man/man1/enqueue.1`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return writeMan(a.stdout, cmd.Root()) },
	}
}

// roff writes a manual page.
type roff struct{ b strings.Builder }

// text writes a text: its paragraphs, and lines that are indented as they are.
func (r *roff) text(s string) {
	verbatim := false
	for line := range strings.SplitSeq(strings.TrimSpace(s), "\n") {
		indented := strings.HasPrefix(line, "  ")
		switch {
		case indented != verbatim && indented:
			r.b.WriteString(".PP\n.nf\n.RS 4\n")
		case indented != verbatim:
			r.b.WriteString(".RE\n.fi\n.PP\n")
		}
		verbatim = indented
		switch {
		case line == "":
			r.b.WriteString(".PP\n")
		default:
			r.b.WriteString(escape(strings.TrimPrefix(line, "  ")) + "\n")
		}
	}
	if verbatim {
		r.b.WriteString(".RE\n.fi\n")
	}
}

// escape keeps text from being taken for requests of roff.
func escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	var b strings.Builder
	for _, r := range s {
		if r < 0x80 {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\[u%04X]`, r)
		}
	}
	s = b.String()
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

func (r *roff) flags(flags *pflag.FlagSet, take func(*pflag.Flag) bool) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || !take(f) {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		head := "--" + f.Name
		if f.Shorthand != "" {
			head = "-" + f.Shorthand + ", " + head
		}
		if name != "" {
			head += " " + name
		}
		if hasEnv(f) {
			usage += " [" + envName(f.Name) + "]"
		}
		fmt.Fprintf(&r.b, ".TP\n.B %s\n%s\n", escape(head), escape(usage))
	})
}

// writeMan writes the manual page of the whole command. It has no date, so that
// the same program makes the same page.
func writeMan(w io.Writer, root *cobra.Command) error {
	r := &roff{}
	r.b.WriteString(".TH ENQUEUE 1 \"\" Meshmill \"User Commands\"\n.SH NAME\nenqueue \\- " + escape(lower(root.Short)) + "\n.SH SYNOPSIS\n.B enqueue\n.I command\n[arguments] [flags]\n.SH DESCRIPTION\n")
	r.text(root.Long)
	r.b.WriteString(".SH COMMANDS\n")
	for _, c := range root.Commands() {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		fmt.Fprintf(&r.b, ".SS %s\n", escape("enqueue "+c.Use))
		long := c.Long
		if long == "" {
			long = c.Short + "."
		}
		r.text(long)
		r.flags(c.LocalNonPersistentFlags(), func(f *pflag.Flag) bool { return f.Name != "help" })
	}
	r.b.WriteString(".SS enqueue completion bash|zsh|fish|powershell\nPrints a script that makes the shell complete commands, flags, presets, options, batches and jobs.\n.SH COMMON FLAGS\n")
	r.flags(root.PersistentFlags(), func(f *pflag.Flag) bool { return !config.IsSetting(f.Name) })
	r.b.WriteString(".SH SETTINGS\nSecrets have no flag: AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, CSM_API_KEY and MODELSLAB_API_KEY come from the environment.\n")
	r.flags(root.PersistentFlags(), func(f *pflag.Flag) bool { return config.IsSetting(f.Name) })
	_, err := io.WriteString(w, r.b.String())
	return err
}

func lower(s string) string { return strings.ToLower(s[:1]) + s[1:] }
