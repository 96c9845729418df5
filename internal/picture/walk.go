package picture

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// Entry is one thing that Walk found.
type Entry struct {
	// Path opens the file.
	Path string
	// Name is the path below the folder that was walked, with slashes, in valid
	// UTF-8: what people may be shown, after control characters are taken out.
	Name string
	// Err is set if it cannot be read, or looks like an image by its name but
	// not by its content.
	Err error
}

// Filter chooses files by their name. The patterns are those of path.Match; a
// pattern without a slash is matched with the base name, one with a slash with
// the whole name, where ** stands for any number of folders.
type Filter struct {
	// Include lists patterns of which a file must match one; empty takes all.
	Include []string
	// Exclude lists patterns of files to leave out, and of folders not to enter.
	Exclude []string
}

// Check reports a pattern that is not well-formed.
func (f Filter) Check() error {
	for _, p := range slices.Concat(f.Include, f.Exclude) {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			return fmt.Errorf("the pattern %q is not well-formed, must be like *.png or chairs/**/*.jpg", p)
		}
	}
	return nil
}

// Walk yields every image below a folder in a stable order: by name, folder
// after folder. What is an image is decided by how its content begins, not by
// its name; other files are passed over, as are hidden ones, whose names begin
// with a dot. Symbolic links are followed, and every folder is entered once.
// What cannot be read is yielded with its error, and the walk goes on.
func Walk(root string, f Filter) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		w := walker{root: root, filter: f, entered: map[string]bool{}, yield: yield}
		w.folder(root, "")
	}
}

type walker struct {
	root    string
	filter  Filter
	entered map[string]bool // by real path
	yield   func(Entry) bool
}

// folder walks one folder; it returns false when the walk is to end.
func (w *walker) folder(dir, name string) bool {
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return w.bad(dir, name, err)
	}
	if w.entered[real] {
		return true
	}
	w.entered[real] = true
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil && !w.bad(dir, name, err) {
		return false
	}
	for _, e := range entries {
		if !w.one(filepath.Join(dir, e.Name()), path.Join(name, e.Name()), e) {
			return false
		}
	}
	return true
}

func (w *walker) one(file, name string, e fs.DirEntry) bool {
	if strings.HasPrefix(e.Name(), ".") || matchAny(w.filter.Exclude, name) {
		return true
	}
	mode := e.Type()
	if mode&fs.ModeSymlink != 0 {
		st, err := os.Stat(file)
		if err != nil {
			return w.bad(file, name, err)
		}
		mode = st.Mode().Type()
	}
	switch {
	case mode.IsDir():
		return w.folder(file, name)
	case !mode.IsRegular():
		return true // pipes, sockets, devices
	case len(w.filter.Include) > 0 && !matchAny(w.filter.Include, name):
		return true
	}
	head, err := readHead(file)
	switch {
	case err != nil:
		return w.bad(file, name, err)
	case Looks(head):
		return w.yield(Entry{Path: file, Name: SafeName(name)})
	case imageByName(name):
		if len(head) == 0 {
			return w.bad(file, name, errorf("is empty"))
		}
		return w.bad(file, name, errorf("is not a PNG, JPEG or WebP image: %s", resembles(head)))
	}
	return true
}

func (w *walker) bad(file, name string, err error) bool {
	if name == "" {
		name = filepath.ToSlash(w.root)
	}
	return w.yield(Entry{Path: file, Name: SafeName(name), Err: unwrapPath(err)})
}

func readHead(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, 512)
	n, err := io.ReadFull(f, head)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return head[:n], err
}

func imageByName(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".png", ".jpg", ".jpeg", ".webp":
		return true
	}
	return false
}

func matchAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, name) })
}

func match(pattern, name string) bool {
	if !strings.Contains(pattern, "/") {
		if pattern == "**" {
			return true
		}
		ok, _ := path.Match(pattern, path.Base(name))
		return ok
	}
	pattern = strings.TrimSuffix(strings.TrimPrefix(pattern, "/"), "/")
	return matchParts(strings.Split(pattern, "/"), strings.Split(name, "/"))
}

func matchParts(pattern, name []string) bool {
	for len(pattern) > 0 {
		if pattern[0] == "**" {
			for len(pattern) > 1 && pattern[1] == "**" {
				pattern = pattern[1:]
			}
			for i := range len(name) + 1 {
				if matchParts(pattern[1:], name[i:]) {
					return true
				}
			}
			return false
		}
		if len(name) == 0 {
			return false
		}
		if ok, _ := path.Match(pattern[0], name[0]); !ok {
			return false
		}
		pattern, name = pattern[1:], name[1:]
	}
	return len(name) == 0
}

// SafeName makes a file's name valid UTF-8: bytes that are not become \xNN. A
// valid name is returned as it is; it is not normalised, because another form
// would be another file.
func SafeName(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, name[i])
		} else {
			b.WriteString(name[i : i+n])
		}
		i += n
	}
	return b.String()
}
