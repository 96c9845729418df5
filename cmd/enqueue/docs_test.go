package main

import (
	"bytes"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newRoot() *cobra.Command {
	a := &app{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}, lookup: from(nil)}
	return a.command()
}

// The page in docs/man is the one that the program prints. UPDATE=1 writes it.
func TestManualPage(t *testing.T) {
	var b bytes.Buffer
	if err := writeMan(&b, newRoot()); err != nil {
		t.Fatal(err)
	}
	const file = "../../docs/man/enqueue.1"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(page), b.String()); diff != "" {
		t.Errorf("docs/man/enqueue.1 is not what enqueue man prints; UPDATE=1 go test -run ManualPage ./cmd/enqueue (-file +printed):\n%s", diff)
	}
	if i := strings.IndexFunc(b.String(), func(r rune) bool { return r >= 0x80 }); i >= 0 {
		t.Errorf("the page has a character that old manual readers do not know: %.20q", b.String()[i:])
	}
	for _, c := range newRoot().Commands() {
		if !c.Hidden && c.Name() != "help" && !strings.Contains(string(page), "enqueue "+strings.ReplaceAll(c.Name(), "-", `\-`)) {
			t.Errorf("%s is missing", c.Name())
		}
	}
}

// lines are all that --json prints, by type.
var lines = map[string]any{
	"job": jobLine{}, "refused": refusedLine{}, "summary": summary{}, "job of a dry run": dryLine{}, "dry_run": drySummary{},
	"file": fileLine{}, "summary of a download": downloadSummary{}, "check": checkLine{}, "summary of a check": doctorSummary{},
	"provider": providerLine{},
}

var documented = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)`")

// docs/json.md names every field of every line, and no other.
func TestJSONIsDocumented(t *testing.T) {
	raw, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := strings.Split(string(raw), "\n## ")
	for name, line := range lines {
		i := slices.IndexFunc(sections, func(s string) bool { return strings.HasPrefix(s, "Line: "+name+"\n") })
		if i < 0 {
			t.Errorf("docs/json.md has no section \"Line: %s\"", name)
			continue
		}
		var got []string
		for _, m := range documented.FindAllStringSubmatch(sections[i], -1) {
			got = append(got, m[1])
		}
		want := fields(reflect.TypeOf(line))
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("fields of %s (-program +docs/json.md):\n%s", name, diff)
		}
	}
	if !strings.Contains(string(raw), lineSchema) {
		t.Errorf("docs/json.md does not name the schema %s", lineSchema)
	}
}

func fields(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			et := f.Type
			if et.Kind() == reflect.Pointer {
				et = et.Elem()
			}
			names = append(names, fields(et)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// Every flag says what it does, and has a name that a variable can have. No two
// commands mean different things by one flag.
func TestFlags(t *testing.T) {
	t.Parallel()
	types := map[string]string{}
	root := newRoot()
	for _, c := range append(root.Commands(), root) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" && !f.Hidden {
				t.Errorf("%s --%s has no usage", c.Name(), f.Name)
			}
			if !regexp.MustCompile(`^[a-z0-9-]+$`).MatchString(f.Name) {
				t.Errorf("--%s cannot be made a variable", f.Name)
			}
			if old, ok := types[f.Name]; ok && old != f.Value.Type() {
				t.Errorf("--%s is a %s and a %s", f.Name, old, f.Value.Type())
			}
			types[f.Name] = f.Value.Type()
		})
	}
}

// Completion knows what is to be had, without a broker.
func TestCompletion(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"providers":       {[]string{"folder", "--provider", ""}, "modelslab\tModelsLab\n"},
		"presets":         {[]string{"folder", "--provider", "csm", "--preset", "tur"}, "turbo-pbr\tcsm: "},
		"options":         {[]string{"url", "--provider", "modelslab", "--option", "temp"}, "temp=\t"},
		"values":          {[]string{"import", "--provider", "csm", "--option", "resolution="}, "resolution=low_poly\n"},
		"formats":         {[]string{"file", "--formats", "glb,"}, "glb,obj\n"},
		"lanes":           {[]string{"file", "--lane", ""}, "interactive\n"},
		"states":          {[]string{"status", "--state", ""}, "parked\n"},
		"commands":        {[]string{"down"}, "download\tCopy the results"},
		"jobs, no broker": {[]string{"status", ""}, ":4\n"},
		"folders":         {[]string{"folder", ""}, ":16\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out, errs bytes.Buffer
			if code := run(t.Context(), append([]string{"__complete"}, tc.args...), nil, &out, &errs, from(nil)); code != 0 || !strings.Contains(out.String(), tc.want) {
				t.Errorf("status %d, completions:\n%s%s\nwant %q", code, out.String(), errs.String(), tc.want)
			}
		})
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), []string{"completion", shell}, nil, &out, &errs, from(nil)); code != 0 || !strings.Contains(out.String(), "__complete") {
			t.Errorf("%s: status %d, %s", shell, code, errs.String())
		}
	}
}
