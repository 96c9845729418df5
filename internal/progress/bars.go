package progress

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"
)

// Job is a row of the live view: a job in work.
type Job struct {
	Name, Detail string
	// Since is when it was taken to work.
	Since time.Time
}

// work is the table of the jobs in work, the oldest first.
type work struct {
	ids  []string
	jobs map[string]Job
}

// mostRows bounds the table: beyond it nobody reads.
const mostRows = 8

// Work shows a job in the table of those in work, or changes its row. What it
// is given must be clean, see Clean.
func (v *View) Work(id string, j Job) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.o.Terminal {
		return
	}
	if v.work.jobs == nil {
		v.work.jobs = map[string]Job{}
	}
	if old, known := v.work.jobs[id]; !known {
		v.work.ids = append(v.work.ids, id)
	} else if j.Since.IsZero() {
		j.Since = old.Since
	}
	v.work.jobs[id] = j
	v.changed = true
}

// Detail changes the detail of a row; of a job without one it changes nothing.
func (v *View) Detail(id, detail string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if j, ok := v.work.jobs[id]; ok {
		j.Detail = detail
		v.work.jobs[id] = j
		v.changed = true
	}
}

// Rested takes a job out of the table.
func (v *View) Rested(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.work.jobs[id]; ok {
		delete(v.work.jobs, id)
		v.work.ids = slices.DeleteFunc(v.work.ids, func(s string) bool { return s == id })
		v.changed = true
	}
}

func (v *View) draw() {
	if v.c == (Counts{}) {
		return
	}
	columns, height := v.o.Size()
	width := columns - 1 // the last column stays free: some terminals wrap when it is written
	lines := v.bars(width)
	if !v.closed {
		lines = append(lines, v.rows(width, height-len(lines)-2)...)
	}
	s := v.erase() + strings.Join(lines, "\n")
	v.drawn = len(lines)
	v.emit(s)
}

// bars draws a bar for each phase that has begun, or that will.
func (v *View) bars(width int) []string {
	c := &v.c
	var lines []string
	add := func(label string, done, all int, text ...string) {
		lines = append(lines, v.bar(label, done, all, strings.Join(slices.DeleteFunc(text, func(s string) bool { return s == "" }), " · "), width))
	}
	if c.Found+c.Refused > 0 {
		if c.FoundAll {
			add("found", c.Found, c.Found, fmt.Sprint(c.Found), some(c.Refused, "refused"))
		} else {
			add("found", 0, 0, fmt.Sprintf("%d so far", c.Found), some(c.Refused, "refused"))
		}
		if c.Uploaded > 0 {
			add("uploaded", c.Uploaded, c.Found, fmt.Sprintf("%d of %d", c.Uploaded, c.Found))
		}
		add("queued", c.Queued+c.Skipped, c.Found, fmt.Sprint(c.Queued), some(c.Skipped, "skipped"))
	}
	if c.Follow {
		begun := c.Converting + c.Waiting + c.Storing + c.ended()
		add("converting", begun-c.Waiting, c.Jobs, fmt.Sprintf("%d now", c.Converting), some(c.Waiting, "waiting"), some(c.Jobs-begun, "queued"))
		add("stored", c.ended(), c.Jobs, append([]string{fmt.Sprintf("%d of %d", c.Stored, c.Jobs), some(c.Storing, "storing"),
			some(c.Failed, "failed"), some(c.Parked, "parked"), some(c.Cancelled, "cancelled")}, v.pace()...)...)
	}
	return lines
}

func some(n int, what string) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf("%d %s", n, what)
}

// bar draws one line. Without a whole it has no bar yet.
func (v *View) bar(label string, done, all int, text string, width int) string {
	cells := min(max(width/4, 10), 60)
	full := 0
	if all > 0 {
		full = min(cells*done/all, cells)
	}
	filled := strings.Repeat("=", full)
	if v.o.Color {
		filled = green + filled + plain
	}
	const labels = 11
	return fmt.Sprintf("%-*s[", labels, label) + filled + strings.Repeat("-", cells-full) +
		runewidth.Truncate("] "+text, max(width-labels-1-cells, 1), "…")
}

// rows draws the table of jobs in work, at most so many lines of it.
func (v *View) rows(width, most int) []string {
	most = min(most, mostRows)
	ids := v.work.ids
	if len(ids) == 0 || most < 2 {
		return nil
	}
	more := ""
	if len(ids) > most {
		more = fmt.Sprintf("  … and %d more", len(ids)-most+1)
		ids = ids[:most-1]
	}
	names := min(max(width/3, 20), 60)
	var lines []string
	for _, id := range ids {
		j := v.work.jobs[id]
		name := runewidth.FillRight(Middle(j.Name, names), names)
		took := ""
		if !j.Since.IsZero() {
			took = Short(max(time.Since(j.Since), 0).Truncate(time.Second))
		}
		lines = append(lines, strings.TrimRight(runewidth.Truncate(fmt.Sprintf("  %s  %6s  %s", name, took, j.Detail), width, "…"), " "))
	}
	if more != "" {
		lines = append(lines, more)
	}
	return lines
}

// Middle shortens a clean name to so many columns. Its end stays, which is where
// names in a folder differ.
func Middle(name string, columns int) string {
	if runewidth.StringWidth(name) <= columns {
		return name
	}
	head := runewidth.Truncate(name, columns/2, "")
	return head + "…" + runewidth.TruncateLeft(name, runewidth.StringWidth(name)-(columns-runewidth.StringWidth(head)-1), "")
}

// Live reports whether the view draws on a terminal, and so shows jobs in work.
func (v *View) Live() bool { return v.o.Terminal && !v.o.Off && !v.o.Quiet }
