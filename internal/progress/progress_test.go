package progress_test

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mattn/go-runewidth"

	"github.com/meshmill/meshmill/internal/progress"
)

// screen is a terminal that knows what the view uses: line ends, carriage
// return, cursor up, erase to the end of the line.
type screen struct {
	mu     sync.Mutex
	lines  []string
	row    int
	frames int
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frames++
	for text := string(p); text != ""; {
		for s.row >= len(s.lines) {
			s.lines = append(s.lines, "")
		}
		switch {
		case strings.HasPrefix(text, "\x1b[K"):
			s.lines[s.row], text = "", text[3:] // the cursor is in column 0 or erases all
		case strings.HasPrefix(text, "\x1b[A"):
			s.row, text = s.row-1, text[3:]
		case text[0] == '\r':
			text = text[1:]
		case text[0] == '\n':
			s.row, text = s.row+1, text[1:]
		default:
			end := strings.IndexAny(text, "\r\n\x1b")
			if end < 0 {
				end = len(text)
			}
			if end == 0 {
				end = 1
			}
			s.lines[s.row] += text[:end]
			text = text[end:]
		}
	}
	return len(p), nil
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

func TestLiveView(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &screen{}
		v := progress.New(progress.Options{Out: s, Terminal: true, Size: func() (int, int) { return 100, 24 }})
		v.Update(func(c *progress.Counts) { c.Found, c.Uploaded = 4, 2 })
		time.Sleep(150 * time.Millisecond)
		want := strings.Join([]string{
			"found      [------------------------] 4 so far",
			"uploaded   [============------------] 2 of 4",
			"queued     [------------------------] 0",
		}, "\n")
		if s.text() != want {
			t.Errorf("screen:\n%s\nwant:\n%s", s.text(), want)
		}
		v.Update(func(c *progress.Counts) {
			c.Uploaded, c.Queued, c.FoundAll, c.Follow, c.Jobs, c.Converting = 4, 4, true, true, 4, 3
		})
		time.Sleep(30 * time.Second)
		v.Update(func(c *progress.Counts) { c.Converting, c.Storing, c.Failed = 1, 1, 1; c.Stored = 1 })
		v.Failf("oak.png: failed")
		v.Infof("note")
		v.Work("1", progress.Job{Name: "elm.png", Since: time.Now().Add(-2 * time.Second)})
		v.Work("2", progress.Job{Name: "ash.png"})
		v.Detail("1", "45 % spinning")
		v.Detail("3", "nobody's")
		v.Rested("2")
		time.Sleep(150 * time.Millisecond)
		want = strings.Join([]string{
			"oak.png: failed", "note",
			"found      [========================] 4",
			"uploaded   [========================] 4 of 4",
			"queued     [========================] 4",
			"converting [========================] 1 now",
			"stored     [============------------] 1 of 4 · 1 storing · 1 failed · 4.0/min · 30s left",
			"  elm.png                              2.0s  45 % spinning",
		}, "\n")
		if s.text() != want {
			t.Errorf("screen:\n%s\nwant:\n%s", s.text(), want)
		}
		for line := range strings.SplitSeq(s.text(), "\n") {
			if runewidth.StringWidth(line) > 99 {
				t.Errorf("%d columns: %s", runewidth.StringWidth(line), line)
			}
		}
		v.Update(func(c *progress.Counts) { c.Converting, c.Storing, c.Stored = 0, 0, 3 })
		v.Close()
		v.Close()
		v.Infof("afterwards")
		want = strings.Join([]string{
			"oak.png: failed", "note",
			"found      [========================] 4",
			"uploaded   [========================] 4 of 4",
			"queued     [========================] 4",
			"converting [========================] 0 now",
			"stored     [========================] 3 of 4 · 1 failed", "afterwards",
		}, "\n")
		if s.text() != want+"\n" && s.text() != want {
			t.Errorf("screen:\n%s\nwant:\n%s", s.text(), want)
		}
	})
}

func TestTimeLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &screen{}
		v := progress.New(progress.Options{Out: s, Terminal: true, Size: func() (int, int) { return 200, 24 }})
		defer v.Close()
		v.Update(func(c *progress.Counts) {
			c.Found, c.Queued, c.Jobs, c.Follow, c.Stored, c.Before = 100, 50, 100, true, 50, 50
		})
		time.Sleep(time.Minute)
		v.Update(func(c *progress.Counts) { c.Stored += 10 })
		time.Sleep(150 * time.Millisecond)
		if !strings.Contains(s.text(), "60 of 100 · 10.0/min · 4m00s left") {
			t.Errorf("screen:\n%s", s.text())
		}
	})
}

// The table of jobs in work is bounded, and by the terminal's height too.
func TestRows(t *testing.T) {
	t.Parallel()
	for height, want := range map[int]int{24: 8, 9: 5, 6: 2, 5: 0} {
		synctest.Test(t, func(t *testing.T) {
			s := &screen{}
			v := progress.New(progress.Options{Out: s, Terminal: true, Size: func() (int, int) { return 80, height }})
			defer v.Close()
			v.Update(func(c *progress.Counts) { c.Follow, c.Jobs, c.Converting = true, 40, 30 })
			for i := range 30 {
				v.Work(strings.Repeat("x", i+1), progress.Job{Name: strings.Repeat("木", 60), Detail: "running"})
			}
			time.Sleep(150 * time.Millisecond)
			lines := strings.Split(s.text(), "\n")
			if len(lines)-2 != want {
				t.Errorf("height %d: %d rows, want %d:\n%s", height, len(lines)-2, want, s.text())
			}
			if want > 0 && !strings.HasPrefix(lines[len(lines)-1], "  … and ") {
				t.Errorf("the last line is %q", lines[len(lines)-1])
			}
			for _, l := range lines {
				if runewidth.StringWidth(l) > 79 {
					t.Errorf("%d columns: %s", runewidth.StringWidth(l), l)
				}
			}
		})
	}
}

func TestRedrawsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &screen{}
		v := progress.New(progress.Options{Out: s, Terminal: true})
		for range 1000 {
			v.Update(func(c *progress.Counts) { c.Found++ })
			time.Sleep(time.Millisecond)
		}
		v.Close()
		if s.frames > 13 {
			t.Errorf("%d drawings in a second", s.frames)
		}
	})
}

func TestPlainLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		v := progress.New(progress.Options{Out: &out})
		v.Update(func(c *progress.Counts) { c.Found, c.Uploaded, c.Queued = 3, 2, 1 })
		time.Sleep(35 * time.Second) // three intervals, one line: nothing new
		v.Failf("oak.png: failed")
		v.Update(func(c *progress.Counts) {
			c.Queued, c.Skipped, c.Follow, c.Jobs, c.Stored, c.Failed = 2, 1, true, 3, 2, 1
		})
		v.Close()
		want := "found 3, uploaded 2, queued 1\noak.png: failed\nfound 3, uploaded 2, queued 2, skipped 1; 2 of 3 stored, 1 failed\n"
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("lines (-want +got):\n%s", diff)
		}
	})
}

func TestQuietAndOff(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		o    progress.Options
		want string
	}{
		"quiet": {progress.Options{Quiet: true, Terminal: true}, "failure\n"},
		"off":   {progress.Options{Off: true, Terminal: true}, "note\nfailure\n"},
		"color": {progress.Options{Off: true, Terminal: true, Color: true}, "note\n\x1b[31mfailure\x1b[0m\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var out lockedBuffer
				tc.o.Out = &out
				v := progress.New(tc.o)
				v.Update(func(c *progress.Counts) { c.Found = 3 })
				v.Infof("note")
				v.Failf("failure")
				time.Sleep(time.Minute)
				v.Close()
				if out.String() != tc.want {
					t.Errorf("output %q, want %q", out.String(), tc.want)
				}
			})
		})
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"chairs/oak.png":          "chairs/oak.png",
		"caf\u00e9 木.png":         "caf\u00e9 木.png",
		"a\x1b[2Jb\nc\td":         `a\x1b[2Jb\x0ac\x09d`,
		"\u009b31m":               `\x9b31m`,
		"gnp.\u202egpj.exe":       `gnp.\u202egpj.exe`,
		"\xff\xfe":                `\xff\xfe`,
		"line\u2028end\u007f\x00": `line\u2028end\x7f\x00`,
	} {
		if got := progress.Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	table := progress.NewTable(&b, "job", "image", "state")
	if err := table.Flush(); err != nil || b.Len() > 0 {
		t.Errorf("an empty table prints %q, %v", b.String(), err)
	}
	table.Row("a1", "木の椅子.png", "completed")
	table.Row("b22222", "x\x1b.png", "")
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
	want := "job     image         state\na1      木の椅子.png  completed\nb22222  x\\x1b.png\n"
	if diff := cmp.Diff(want, b.String()); diff != "" || table.Len() != 2 {
		t.Errorf("%d rows (-want +got):\n%s", table.Len(), diff)
	}
}

func TestTableWritesAsItGrows(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	table := progress.NewTable(&b, "n")
	for range 600 {
		table.Row("1")
	}
	early := strings.Count(b.String(), "\n")
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(b.String(), "\n"); early < 400 || lines != 601 {
		t.Errorf("%d lines before Flush, %d after; want most of them, and 601", early, lines)
	}
}

func TestShort(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		850 * time.Millisecond: "850ms", 1500 * time.Millisecond: "1.5s", 12 * time.Second: "12s",
		185 * time.Second: "3m05s", 127 * time.Minute: "2h07m",
	} {
		if got := progress.Short(d); got != want {
			t.Errorf("Short(%s) = %s, want %s", d, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b[2Jb\nc\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := progress.Clean(s)
		if strings.ContainsAny(got, "\x1b\n\r\x00\x7f\u202e\u2028") {
			t.Errorf("Clean(%q) = %q", s, got)
		}
		if progress.Clean(got) != got {
			t.Errorf("Clean(%q) is not stable", s)
		}
	})
}
