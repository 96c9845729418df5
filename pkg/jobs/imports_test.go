package jobs_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A service that enqueues must not pull in a storage SDK, a logger or a
// provider. This lists what it pulls in today; think twice before adding.
func TestImports(t *testing.T) {
	t.Parallel()
	allowed := []string{ // what the package's own files may name
		"github.com/nats-io/nats.go",
		"github.com/nats-io/nats.go/jetstream",
		"github.com/cloudevents/sdk-go/v2/event",
	}
	files, err := fs.Glob(os.DirFS("."), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			path := strings.Trim(i.Path.Value, `"`)
			seen[path] = true
			if outside(path) && !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
	for _, path := range allowed {
		if !seen[path] {
			t.Errorf("%s is not imported any more: take it off the list", path)
		}
	}
}

// The modules that come along with the allowed ones.
func TestDependencies(t *testing.T) {
	t.Parallel()
	allowed := []string{
		"github.com/meshmill/meshmill/pkg/jobs",
		"github.com/nats-io/", // client, keys and ids
		"github.com/cloudevents/sdk-go/v2/",
		"github.com/json-iterator/go", "github.com/modern-go/", // of cloudevents
		"github.com/klauspost/compress/", "golang.org/x/crypto/", "golang.org/x/sys/", // of nats.go
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	if !strings.Contains(string(out), "github.com/nats-io/nats.go\n") {
		t.Fatalf("go list gives no dependencies: %s", out)
	}
	for path := range strings.FieldsSeq(string(out)) {
		if outside(path) && !slices.ContainsFunc(allowed, func(a string) bool { return strings.HasPrefix(path, a) }) {
			t.Errorf("jobs depends on %s", path)
		}
	}
}

// outside reports whether a package is not of the standard library.
func outside(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return strings.Contains(first, ".")
}
