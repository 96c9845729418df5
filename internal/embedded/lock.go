package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrLocked: another process uses the data folder. The error is a *LockedError.
var ErrLocked = errors.New("the data folder is in use")

// LockedError names the folder and, where it is known, the process.
type LockedError struct {
	Dir string
	PID int // 0: not known
}

// Error says which folder is in use and what to do.
func (e *LockedError) Error() string {
	by := "another process"
	if e.PID != 0 {
		by = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("data folder %q is in use by %s: stop that one, or choose another folder with MESHMILL_DATA", e.Dir, by)
}

// Unwrap returns ErrLocked.
func (e *LockedError) Unwrap() error { return ErrLocked }

// acquire takes the folder's lock. The lock ends with the process, however that
// ends, so the file that stays behind means nothing.
func acquire(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	taken, err := lockFile(f)
	if err != nil || !taken {
		defer f.Close()
		if err != nil {
			return nil, fmt.Errorf("lock the data folder %q: %w", dir, err)
		}
		raw, _ := io.ReadAll(io.LimitReader(f, 20))
		pid, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
		return nil, &LockedError{Dir: dir, PID: pid}
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	return f, nil
}
