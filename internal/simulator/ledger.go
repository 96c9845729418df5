package simulator

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
)

// LedgerFile is the name of the ledger in Config.Dir: JSON lines, one Purchase
// each.
const LedgerFile = "ledger.jsonl"

// Purchase is one call that would have cost money.
type Purchase struct {
	Time     time.Time `json:"time"`
	Provider string    `json:"provider"`
	Stage    string    `json:"stage"` // "create", "preview" or "refine"
	Session  string    `json:"session"`
	// Image is the SHA-256 of the image's bytes in hex.
	Image string `json:"image_sha256"`
	// Options is a digest of the options sent, without image and key.
	Options string `json:"options"`
	// Marker is the image's URL without its query; empty for inline images.
	Marker string `json:"marker,omitempty"`
	// KeyEnd is the end of the key used, at most 4 characters, and empty for
	// keys so short that it would tell too much.
	KeyEnd string `json:"key_end,omitempty"`
}

// ledger is the list of purchases, and the file it is appended to if there is
// one. It is safe for concurrent use.
type ledger struct {
	mu   sync.Mutex
	all  []Purchase
	file *os.File
}

// openLedger reads what is in the file and opens it for appending. A last line
// that was cut off by a crash is completed with a newline and ignored after.
func openLedger(path string) (*ledger, error) {
	all, err := ReadLedger(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("simulator: open the ledger: %w", err)
	}
	last := make([]byte, 1)
	if st, err := f.Stat(); err == nil && st.Size() > 0 {
		if _, err := f.ReadAt(last, st.Size()-1); err == nil && last[0] != '\n' {
			_, _ = f.Write([]byte("\n"))
		}
	}
	return &ledger{all: all, file: f}, nil
}

// add records a purchase; it is on disk when add returns.
func (l *ledger) add(p Purchase) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, p)
	if l.file == nil {
		return nil
	}
	line, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if _, err := l.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("simulator: write the ledger: %w", err)
	}
	return l.file.Sync()
}

func (l *ledger) list() []Purchase {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

func (l *ledger) close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// ReadLedger reads a ledger file, also while a simulator in another process
// writes to it. A line that is not whole is left out.
func ReadLedger(path string) ([]Purchase, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("simulator: read the ledger: %w", err)
	}
	defer f.Close()
	return parseLedger(f)
}

func parseLedger(r io.Reader) ([]Purchase, error) {
	var all []Purchase
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var p Purchase
		if json.Unmarshal(bytes.TrimSpace(lines.Bytes()), &p) == nil && p.Session != "" {
			all = append(all, p)
		}
	}
	if err := lines.Err(); err != nil {
		return all, fmt.Errorf("simulator: read the ledger: %w", err)
	}
	return all, nil
}

// PerImage counts the sessions bought for each image, by its SHA-256.
func PerImage(purchases []Purchase) map[string]int {
	n := map[string]int{}
	for _, p := range purchases {
		if p.Stage == string(Create) {
			n[p.Image]++
		}
	}
	return n
}

// PerSession counts the paid calls for each session.
func PerSession(purchases []Purchase) map[string]int {
	n := map[string]int{}
	for _, p := range purchases {
		n[p.Session]++
	}
	return n
}

// Duplicate is something that was bought more than once.
type Duplicate struct {
	Provider string
	Stage    string
	Image    string
	// Session is set for a stage that was bought twice in one session.
	Session string
	Count   int
}

// Duplicates returns what was bought more than once: the same image with the
// same options from the same provider, or the same stage of one session. It is
// empty if every purchase was needed, unless someone forced a second one.
func Duplicates(purchases []Purchase) []Duplicate {
	type same struct{ provider, stage, image, options, session string }
	n := map[same]int{}
	for _, p := range purchases {
		k := same{p.Provider, p.Stage, p.Image, p.Options, p.Session}
		if p.Stage == string(Create) {
			k.session = ""
		} else {
			k.options = ""
		}
		n[k]++
	}
	var out []Duplicate
	for k, count := range n {
		if count > 1 {
			out = append(out, Duplicate{Provider: k.provider, Stage: k.stage, Image: k.image, Session: k.session, Count: count})
		}
	}
	slices.SortFunc(out, func(a, b Duplicate) int {
		return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Image, b.Image), cmp.Compare(a.Session, b.Session), cmp.Compare(a.Stage, b.Stage))
	})
	return out
}
