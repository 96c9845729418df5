package download_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/internal/download"
	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

// store holds contents by key; broken ones end in the middle.
type store struct {
	data   map[string]string
	broken map[string]bool
	gets   int
}

func (s *store) Get(_ context.Context, key string) (io.ReadCloser, storage.Object, error) {
	s.gets++
	data, ok := s.data[key]
	if !ok {
		return nil, storage.Object{}, storage.ErrNotFound
	}
	var r io.Reader = strings.NewReader(data)
	if s.broken[key] {
		r = io.MultiReader(strings.NewReader(data[:1]), iotest.ErrReader(errors.New("cut off")))
	}
	return io.NopCloser(r), storage.Object{Key: key}, nil
}

func record(id, image string, files map[string]string) *jobs.Record {
	r := &jobs.Record{ID: id, State: jobs.Completed, Manifest: jobs.ManifestKey(id)}
	r.Request.Image.Name = image
	for _, name := range []string{id + ".glb", id + ".obj", "texture.obj"} {
		if data, ok := files[name]; ok {
			sum := sha256.Sum256([]byte(data))
			r.Outputs = append(r.Outputs, jobs.Output{
				Format: name[len(name)-3:], Key: jobs.MeshKey(id, name), SizeBytes: int64(len(data)), SHA256: hex.EncodeToString(sum[:]),
			})
		}
	}
	return r
}

func fetch(t *testing.T, dir string, s *store, r *jobs.Record) []string {
	t.Helper()
	f, err := download.Open(dir, s)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []string
	for _, file := range download.Files(r, nil, true) {
		name, outcome, err := f.Fetch(t.Context(), file)
		text := string(outcome)
		if err != nil {
			text += ": " + err.Error()
		} else {
			rel, _ := filepath.Rel(dir, name)
			text += " " + filepath.ToSlash(rel)
		}
		got = append(got, text)
	}
	return got
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		got[filepath.ToSlash(rel)] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestDownload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := &store{data: map[string]string{
		"meshes/one/one.glb": "glb of one", "meshes/one/one.obj": "obj of one", "meshes/one/texture.obj": "second obj", "meshes/one/manifest.json": "{}",
		"meshes/two/two.glb": "glb of two", "meshes/two/manifest.json": "{2}",
	}}
	one := record("one", "chairs/oak.png", map[string]string{"one.glb": "glb of one", "one.obj": "obj of one", "texture.obj": "second obj"})
	two := record("two", "chairs/oak.jpg", map[string]string{"two.glb": "glb of two"})
	steps := []struct {
		r    *jobs.Record
		want []string
	}{
		{one, []string{"downloaded chairs/oak.glb", "downloaded chairs/oak.obj", "downloaded chairs/oak.texture.obj", "downloaded chairs/oak.manifest.json"}},
		{two, []string{"downloaded chairs/oak.two.glb", "downloaded chairs/oak.two.manifest.json"}},
		// Again, in another order: everything is there.
		{two, []string{"present chairs/oak.two.glb", "present chairs/oak.two.manifest.json"}},
		{one, []string{"present chairs/oak.glb", "present chairs/oak.obj", "present chairs/oak.texture.obj", "present chairs/oak.manifest.json"}},
	}
	for i, step := range steps {
		if diff := cmp.Diff(step.want, fetch(t, dir, s, step.r)); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", i, diff)
		}
	}
	want := map[string]string{
		"chairs/oak.glb": "glb of one", "chairs/oak.obj": "obj of one", "chairs/oak.texture.obj": "second obj", "chairs/oak.manifest.json": "{}",
		"chairs/oak.two.glb": "glb of two", "chairs/oak.two.manifest.json": "{2}",
	}
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestTroubles(t *testing.T) {
	t.Parallel()
	good := record("one", "oak.png", map[string]string{"one.glb": "glb"})
	good.Manifest = ""
	for name, tc := range map[string]struct {
		store *store
		files map[string]string // in the folder before
		want  string
		after map[string]string
	}{
		"missing":  {&store{}, nil, "failed: object not found", map[string]string{}},
		"cut off":  {&store{data: map[string]string{"meshes/one/one.glb": "glb"}, broken: map[string]bool{"meshes/one/one.glb": true}}, nil, "failed: cut off", map[string]string{}},
		"damaged":  {&store{data: map[string]string{"meshes/one/one.glb": "glB"}}, nil, "failed: what the bucket holds under meshes/one/one.glb is not what was recorded: 3 bytes with SHA-256 ", map[string]string{}},
		"leftover": {&store{data: map[string]string{"meshes/one/one.glb": "glb"}}, map[string]string{".meshmill-one.glb.part": "g"}, "downloaded oak.glb", map[string]string{"oak.glb": "glb"}},
		"taken twice": {&store{data: map[string]string{"meshes/one/one.glb": "glb"}}, map[string]string{"oak.glb": "mine", "oak.one.glb": "too"},
			`failed: "oak.one.glb" is there with another content, and is not overwritten`, map[string]string{"oak.glb": "mine", "oak.one.glb": "too"}},
		"same size": {&store{data: map[string]string{"meshes/one/one.glb": "glb"}}, map[string]string{"oak.glb": "abc"}, "downloaded oak.one.glb", map[string]string{"oak.glb": "abc", "oak.one.glb": "glb"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name, data := range tc.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := fetch(t, dir, tc.store, good)
			if len(got) != 1 || !strings.HasPrefix(got[0], tc.want) {
				t.Errorf("outcome %q, want %q", got, tc.want)
			}
			if diff := cmp.Diff(tc.after, tree(t, dir)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

// A link in the folder does not lead out of it.
func TestLinks(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "chairs")); err != nil {
		t.Skip(err)
	}
	s := &store{data: map[string]string{"meshes/one/one.glb": "glb"}}
	r := record("one", "chairs/oak.png", map[string]string{"one.glb": "glb"})
	r.Manifest = ""
	if got := fetch(t, dir, s, r); !strings.HasPrefix(got[0], "failed: ") {
		t.Errorf("outcome %q", got)
	}
	if diff := cmp.Diff(map[string]string{}, tree(t, outside)); diff != "" {
		t.Errorf("files outside (-want +got):\n%s", diff)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]string{
		"oak.png": "oak.glb", "a/b/oak.JPEG": "a/b/oak.glb", "": "id.glb", "../../etc/passwd": "etc/passwd.glb", "/abs/oak.webp": "abs/oak.glb",
		`C:\chairs\oak.png`: "C__chairs_oak.glb", "-rf.png": "_rf.glb", ".hidden/.x.png": "_hidden/_x.glb", "con.png": "_con.glb", "a\nb\x1b.png": "a_b_.glb",
		"https://example.com/x/oak.png": "oak.glb", "odd näme (1).png": "odd näme (1).glb", "oak": "oak.glb", "...": "id.glb", "a. ./b.png": "a/b.glb",
		strings.Repeat("é", 200) + ".png": strings.Repeat("é", 80) + ".glb", "\xff.png": "_.glb",
	} {
		r := record("id", image, map[string]string{"id.glb": "x"})
		if got := download.Files(r, []string{"glb"}, false); len(got) != 1 || got[0].Name != want {
			t.Errorf("%q is stored as %+v, want %q", image, got, want)
		}
	}
	if got := download.Files(record("id", "a.png", map[string]string{"id.glb": "x", "id.obj": "y"}), []string{"obj"}, false); len(got) != 1 || got[0].Name != "a.obj" {
		t.Errorf("only obj: %+v", got)
	}
}

func FuzzNames(f *testing.F) {
	f.Add("../a/../b\x00.png")
	f.Add("con.png/..\\x")
	f.Fuzz(func(t *testing.T, image string) {
		for _, file := range download.Files(record("id", image, map[string]string{"id.glb": "x"}), nil, true) {
			if !filepath.IsLocal(file.Name) || strings.ContainsAny(file.Name, "\\\x00\n") || bytes.ContainsRune([]byte(file.Name), 0x1b) {
				t.Errorf("%q is stored as %q", image, file.Name)
			}
			for part := range strings.SplitSeq(file.Name, "/") {
				if part == "" || strings.HasPrefix(part, ".") || strings.HasPrefix(part, "-") || len(part) > 200 {
					t.Errorf("%q is stored as %q", image, file.Name)
				}
			}
		}
	})
}
