// Package download copies results from the bucket into a folder: each under the
// name of its image, whole and checked, and never over a file that is something
// else.
package download

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/meshmill/meshmill/pkg/storage"
)

// Store is where the results are. *storage.Bucket is one.
type Store interface {
	Get(ctx context.Context, key string) (io.ReadCloser, storage.Object, error)
}

// Outcome is what became of a file.
type Outcome string

// The outcomes. Their text is stable.
const (
	Downloaded Outcome = "downloaded"
	// Present: it was there already, with the same content.
	Present Outcome = "present"
	Failed  Outcome = "failed"
)

// Folder takes files. It is safe for concurrent use. Nothing is written outside
// of it, whatever links lie in it. Close it.
type Folder struct {
	dir   string
	root  *os.Root
	store Store

	mu    sync.Mutex
	taken map[string]bool // names that a Fetch is busy with
	freed *sync.Cond
}

// Open uses a folder that exists.
func Open(dir string, store Store) (*Folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("the folder cannot be used: %w", err)
	}
	f := &Folder{dir: dir, root: root, store: store, taken: map[string]bool{}}
	f.freed = sync.NewCond(&f.mu)
	return f, nil
}

// Close releases the folder.
func (f *Folder) Close() error { return f.root.Close() }

// Fetch copies a file, and returns where it lies. Under its own name it leaves a
// file with another content alone, and takes a name with the job's id in it;
// which name a file gets so depends on nothing but what is in the folder. A file
// without a known hash (a manifest) is compared by what is in the bucket.
func (f *Folder) Fetch(ctx context.Context, file File) (string, Outcome, error) {
	ext := path.Ext(file.Name)
	if strings.HasSuffix(file.Name, ".manifest.json") {
		ext = ".manifest.json"
	}
	stem := strings.TrimSuffix(file.Name, ext)
	names := []string{file.Name, stem + "." + file.ID + ext}
	if strings.HasSuffix(path.Base(stem), file.ID) {
		names = names[:1]
	}
	for _, name := range names {
		outcome, err := f.fetchAs(ctx, file, filepath.FromSlash(name))
		if errors.Is(err, errOther) {
			continue
		}
		if err != nil {
			return "", Failed, err
		}
		return filepath.Join(f.dir, filepath.FromSlash(name)), outcome, nil
	}
	return "", Failed, fmt.Errorf("%q is there with another content, and is not overwritten", names[len(names)-1])
}

// errOther: under that name there is something else.
var errOther = errors.New("the name is taken")

// claim keeps other files of this process from a name.
func (f *Folder) claim(name string) (release func()) {
	key := strings.ToLower(name) // as some file systems see it
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.taken[key] {
		f.freed.Wait()
	}
	f.taken[key] = true
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.taken, key)
		f.freed.Broadcast()
	}
}

func (f *Folder) fetchAs(ctx context.Context, file File, name string) (Outcome, error) {
	defer f.claim(name)()
	st, err := f.root.Lstat(name)
	switch {
	case err == nil && file.SHA256 != "":
		return Present, f.same(name, st, file)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return Failed, inside(err)
	}
	if dir := filepath.Dir(name); dir != "." {
		if err := f.root.MkdirAll(dir, 0o755); err != nil {
			return Failed, inside(err)
		}
	}
	// One name for each job, so that what an interrupted run has left is
	// written over, and not left behind for ever.
	part := filepath.Join(filepath.Dir(name), ".meshmill-"+file.ID+filepath.Ext(name)+".part")
	sum, err := f.copy(ctx, file, part)
	if err != nil {
		return Failed, errors.Join(err, ignoreMissing(f.root.Remove(part)))
	}
	if file.SHA256 == "" && st != nil {
		file.SHA256 = sum.sha256
		file.Size = sum.size
		return Present, errors.Join(f.same(name, st, file), ignoreMissing(f.root.Remove(part)))
	}
	return Downloaded, f.publish(part, name)
}

// same reports errOther unless a file has the wanted content.
func (f *Folder) same(name string, st fs.FileInfo, file File) error {
	if !st.Mode().IsRegular() || st.Size() != file.Size {
		return errOther
	}
	r, err := f.root.Open(name)
	if err != nil {
		return inside(err)
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return inside(err)
	}
	if hex.EncodeToString(h.Sum(nil)) != file.SHA256 {
		return errOther
	}
	return nil
}

type checksum struct {
	sha256 string
	size   int64
}

// copy writes an object to a file of the folder, and checks it.
func (f *Folder) copy(ctx context.Context, file File, part string) (sum checksum, err error) {
	r, _, err := f.store.Get(ctx, file.Key)
	if err != nil {
		return sum, err
	}
	defer r.Close()
	if err := ignoreMissing(f.root.Remove(part)); err != nil {
		return sum, err
	}
	w, err := f.root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return sum, inside(err)
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, h), r)
	if err == nil {
		err = w.Sync()
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return sum, inside(err)
	}
	sum = checksum{hex.EncodeToString(h.Sum(nil)), n}
	if file.SHA256 != "" && (sum.sha256 != file.SHA256 || n != file.Size) {
		return sum, fmt.Errorf("what the bucket holds under %s is not what was recorded: %d bytes with SHA-256 %s, not %d with %s", file.Key, n, sum.sha256, file.Size, file.SHA256)
	}
	return sum, nil
}

// publish gives a whole file its name, unless somebody else has taken that
// meanwhile. A link does so in one step; not every file system has links.
func (f *Folder) publish(part, name string) error {
	err := f.root.Link(part, name)
	switch {
	case err == nil:
		return ignoreMissing(f.root.Remove(part))
	case errors.Is(err, fs.ErrExist):
		return errors.Join(errOther, ignoreMissing(f.root.Remove(part)))
	}
	if _, err := f.root.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(errOther, ignoreMissing(f.root.Remove(part)))
	}
	return inside(f.root.Rename(part, name))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return inside(err)
}

// inside takes the operation and the name out of an error about a file, which
// the caller names.
func inside(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("the folder: %w", p.Err)
	}
	return err
}
