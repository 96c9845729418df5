package progress

import (
	"io"
	"strings"

	"github.com/mattn/go-runewidth"
)

// Table aligns columns by the width that terminals give to characters. It
// writes every 500 rows, so that a long table takes no more memory than a short
// one; columns may be wider from then on.
type Table struct {
	w      io.Writer
	rows   [][]string
	widths []int
	n      int
	err    error
}

const pageRows = 500

// NewTable returns a table with a head, which is printed with the first row.
func NewTable(w io.Writer, head ...string) *Table {
	t := &Table{w: w}
	t.add(head)
	return t
}

// Row adds a row. Its cells are cleaned.
func (t *Table) Row(cells ...string) {
	t.add(cells)
	if t.n++; len(t.rows) >= pageRows {
		t.page()
	}
}

func (t *Table) add(cells []string) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = Clean(c)
		if i == len(t.widths) {
			t.widths = append(t.widths, 0)
		}
		t.widths[i] = max(t.widths[i], runewidth.StringWidth(row[i]))
	}
	t.rows = append(t.rows, row)
}

// Len returns the number of rows without the head.
func (t *Table) Len() int { return t.n }

// Flush writes what is left, and returns the first error of writing. A table
// without rows prints nothing.
func (t *Table) Flush() error {
	if t.n > 0 {
		t.page()
	}
	return t.err
}

func (t *Table) page() {
	var b strings.Builder
	for _, row := range t.rows {
		var line strings.Builder
		for i, c := range row {
			line.WriteString(c + strings.Repeat(" ", t.widths[i]-runewidth.StringWidth(c)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	t.rows = nil
	if _, err := io.WriteString(t.w, b.String()); t.err == nil {
		t.err = err
	}
}
