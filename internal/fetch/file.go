package fetch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"sync"
)

// inMemory is the largest file that is kept in memory.
const inMemory = 1 << 20

// File is a downloaded file, in memory if it is small and else in a scratch
// file. All methods are safe for concurrent use. The caller must Close it.
type File struct {
	size      int64
	sum       string
	mediaType string
	spool     *spool

	// Private reports that the file came from a private address, which is
	// possible only where the configuration allows it: nobody outside can read
	// the same URL. Behind a proxy it is the proxy's address that counts.
	Private bool
}

// ReadAt implements io.ReaderAt. After Close it returns os.ErrClosed.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.spool.ReadAt(p, off) }

// Size returns the number of bytes; it is never 0.
func (f *File) Size() int64 { return f.size }

// SHA256 returns the hash of the content in lower-case hexadecimal.
func (f *File) SHA256() string { return f.sum }

// MediaType returns what the server's header says, without parameters, or "".
// It is not to be trusted.
func (f *File) MediaType() string { return f.mediaType }

// Reader returns a new reader of the whole file, at its start. It ends with
// the File's Close and need not be closed itself.
func (f *File) Reader() io.ReadSeeker { return io.NewSectionReader(f, 0, f.size) }

// Close gives the memory or disk space back. A second call does nothing.
func (f *File) Close() error { return f.spool.discard() }

// spool takes a stream of unknown length.
type spool struct {
	dir  string
	hash hash.Hash
	n    int64

	mu   sync.RWMutex // guards what discard takes away
	mem  []byte
	file *os.File
	path string // of file, where it could not be unlinked at once
	gone bool
}

func newSpool(dir string) *spool { return &spool{dir: dir, hash: sha256.New()} }

// Write appends p. It is not safe for concurrent use with any other method.
func (s *spool) Write(p []byte) (int, error) {
	if s.file == nil && len(s.mem)+len(p) > inMemory {
		if err := s.toDisk(); err != nil {
			return 0, err
		}
	}
	if s.file == nil {
		s.mem = append(s.mem, p...)
	} else if n, err := s.file.Write(p); err != nil {
		return n, err
	}
	s.hash.Write(p)
	s.n += int64(len(p))
	return len(p), nil
}

func (s *spool) toDisk() error {
	f, err := os.CreateTemp(s.dir, "meshmill-fetch-*")
	if err != nil {
		return err
	}
	s.file = f
	// Unlinked now, the file leaves nothing behind even if this process is
	// killed. Windows refuses while it is open; then discard removes it.
	if err := os.Remove(f.Name()); err != nil {
		s.path = f.Name()
	}
	_, err = f.Write(s.mem)
	s.mem = nil
	return err
}

func (s *spool) ReadAt(p []byte, off int64) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.gone:
		return 0, os.ErrClosed
	case s.file != nil:
		return s.file.ReadAt(p, off)
	case off < 0:
		return 0, errors.New("negative offset")
	case off >= int64(len(s.mem)):
		return 0, io.EOF
	}
	n := copy(p, s.mem[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *spool) sum() string { return hex.EncodeToString(s.hash.Sum(nil)) }

func (s *spool) discard() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil
	}
	s.gone, s.mem = true, nil
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	if s.path != "" {
		if e := os.Remove(s.path); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}
