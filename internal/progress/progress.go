// Package progress shows how a bulk of jobs is getting on: a live view on a
// terminal, plain lines at intervals elsewhere.
//
// The renderer is our own: progressbar libraries draw lines of one kind, and
// this view has a bar for each phase, a table of the jobs in work, and messages
// above them.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Counts is what the view shows.
type Counts struct {
	// Found, Uploaded and Queued count the images on their way into the queue.
	Found, Uploaded, Queued int
	// Skipped counts images whose job exists already, Refused those that did not
	// become jobs.
	Skipped, Refused int
	// FoundAll is set when Found is final.
	FoundAll bool

	// Follow shows the jobs' way to their end; without it the view ends with
	// the queue.
	Follow bool
	// Jobs counts the jobs that are followed.
	Jobs int
	// Converting, Waiting and Storing count the jobs that are there now: Waiting
	// are those that the provider does not take at the moment.
	Converting, Waiting, Storing int
	// Stored, Failed, Parked and Cancelled count the jobs that have ended.
	Stored, Failed, Parked, Cancelled int
	// Before counts those that had ended before they were followed: they say
	// nothing about the rate.
	Before int
}

func (c *Counts) ended() int { return c.Stored + c.Failed + c.Parked + c.Cancelled }

// Options say how a View shows itself.
type Options struct {
	Out io.Writer
	// Terminal draws a live view; otherwise lines are written every Interval.
	Terminal bool
	// Size returns the columns and lines of the terminal; nil is 80 by 24.
	Size func() (columns, lines int)
	// Color uses colours.
	Color bool
	// Off shows no progress, only messages.
	Off bool
	// Quiet shows no progress and only messages about failures.
	Quiet bool
	// Interval is the time between plain lines; zero is 10 s.
	Interval time.Duration
}

// Detect returns the Options that suit out and the environment. Only a file
// that is a terminal gets the live view; NO_COLOR (no-color.org) turns colours off.
func Detect(out io.Writer, lookup func(string) (string, bool)) Options {
	o := Options{Out: out}
	f, ok := out.(*os.File)
	name, _ := lookup("TERM")
	if !ok || !term.IsTerminal(int(f.Fd())) || name == "dumb" {
		return o
	}
	noColor, _ := lookup("NO_COLOR")
	o.Terminal, o.Color = true, noColor == ""
	o.Size = func() (int, int) {
		w, h, err := term.GetSize(int(f.Fd()))
		if err != nil || w < 20 || h < 5 {
			return 80, 24
		}
		return w, h
	}
	return o
}

// frame is the shortest time between two drawings.
const frame = 100 * time.Millisecond

// View shows progress until it is closed. Its methods are safe for concurrent
// use.
type View struct {
	o    Options
	stop chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex
	c       Counts
	work    work
	changed bool
	drawn   int       // lines of the live view on the screen
	follows time.Time // when Follow was set
	plain   string    // the last plain line
	closed  bool
}

// New starts a View. Close must be called.
func New(o Options) *View {
	if o.Size == nil {
		o.Size = func() (int, int) { return 80, 24 }
	}
	if o.Interval <= 0 {
		o.Interval = 10 * time.Second
	}
	v := &View{o: o, stop: make(chan struct{})}
	if o.Off || o.Quiet {
		return v
	}
	every := o.Interval
	if o.Terminal {
		every = frame
	}
	v.done.Go(func() { v.run(every) })
	return v
}

func (v *View) run(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	still := 0
	for {
		select {
		case <-v.stop:
			return
		case <-tick.C:
		}
		v.mu.Lock()
		switch {
		case !v.o.Terminal:
			v.line()
		case v.changed, still >= 10: // the time left moves by itself
			v.draw()
			still = 0
		default:
			still++
		}
		v.changed = false
		v.mu.Unlock()
	}
}

// Update changes the counts.
func (v *View) Update(f func(*Counts)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(&v.c)
	v.changed = true
	if v.c.Follow && v.follows.IsZero() {
		v.follows = time.Now()
	}
}

// Counts returns the counts as they are.
func (v *View) Counts() Counts {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.c
}

// Infof prints a message above the view, unless it is quiet. What it is given
// must be clean, see Clean.
func (v *View) Infof(format string, args ...any) {
	if !v.o.Quiet {
		v.above(fmt.Sprintf(format, args...)+"\n", "")
	}
}

// Failf prints a message about a failure above the view. What it is given must
// be clean, see Clean.
func (v *View) Failf(format string, args ...any) {
	v.above(fmt.Sprintf(format, args...)+"\n", red)
}

// Write prints lines above the view; it suits a logger. P must end with a line
// end. It never fails.
func (v *View) Write(p []byte) (int, error) {
	v.above(string(p), "")
	return len(p), nil
}

const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
	plain = "\x1b[0m"
)

func (v *View) above(text, color string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if color != "" && v.o.Color {
		text = color + strings.TrimSuffix(text, "\n") + plain + "\n"
	}
	lines := v.drawn
	v.emit(v.erase() + text)
	if lines > 0 && !v.closed {
		v.draw()
	}
}

// Close draws the last state, leaves it on the screen and ends the view. It
// may be called more than once; messages may still be printed afterwards.
func (v *View) Close() {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return
	}
	v.closed = true
	v.mu.Unlock()
	close(v.stop)
	v.done.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.o.Off || v.o.Quiet || v.c == (Counts{}) {
		return
	}
	if !v.o.Terminal {
		v.line()
		return
	}
	v.draw()
	v.emit("\n")
	v.drawn = 0
}

// emit writes in one go, so that a frame is never seen half. Its errors have
// nowhere to go: a lost view must not end the work.
func (v *View) emit(s string) { _, _ = io.WriteString(v.o.Out, s) }

// erase takes the view off the screen.
func (v *View) erase() string {
	if v.drawn == 0 {
		return ""
	}
	s := "\r\x1b[K" + strings.Repeat("\x1b[A\x1b[K", v.drawn-1)
	v.drawn = 0
	return s
}

func intake(c *Counts) string {
	parts := []string{fmt.Sprintf("found %d", c.Found)}
	if c.Uploaded > 0 {
		parts = append(parts, fmt.Sprintf("uploaded %d", c.Uploaded))
	}
	parts = append(parts, fmt.Sprintf("queued %d", c.Queued))
	if c.Skipped > 0 {
		parts = append(parts, fmt.Sprintf("skipped %d", c.Skipped))
	}
	if c.Refused > 0 {
		parts = append(parts, fmt.Sprintf("refused %d", c.Refused))
	}
	return strings.Join(parts, ", ")
}

func (c *Counts) course() []string {
	parts := []string{fmt.Sprintf("%d of %d stored", c.Stored, c.Jobs)}
	for _, p := range []struct {
		n    int
		what string
	}{{c.Converting, "converting"}, {c.Waiting, "waiting"}, {c.Storing, "storing"}, {c.Failed, "failed"}, {c.Parked, "parked"}, {c.Cancelled, "cancelled"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return parts
}

// pace returns the rate and the time left, once there is something to go by.
func (v *View) pace() []string {
	took := time.Since(v.follows)
	n, left := v.c.ended()-v.c.Before, v.c.Jobs-v.c.ended()
	if n <= 0 || took < time.Second || v.closed {
		return nil
	}
	parts := []string{fmt.Sprintf("%.1f/min", float64(n)/took.Minutes())}
	if left > 0 {
		d := time.Duration(float64(took) / float64(n) * float64(left))
		parts = append(parts, Short(d)+" left")
	}
	return parts
}

// line writes a plain line if it says anything new.
func (v *View) line() {
	if v.c == (Counts{}) {
		return
	}
	var parts []string
	if v.c.Found+v.c.Refused > 0 || !v.c.Follow {
		parts = append(parts, intake(&v.c))
	}
	if v.c.Follow {
		parts = append(parts, strings.Join(v.c.course(), ", "))
	}
	text := strings.Join(parts, "; ")
	if text != v.plain {
		v.plain = text
		v.emit(text + "\n")
	}
}

// Short prints a duration for people: 850ms, 12s, 3m05s, 2h07m.
func Short(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}
