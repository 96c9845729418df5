//go:build chaos

package chaos

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
)

// tally is a row of the table: one label or fault over all its runs.
type tally struct {
	runs, purchases, jobs, parked, lost, double int
	note                                        string
}

// table is safe for concurrent use.
type table struct {
	mu    sync.Mutex
	names []string
	rows  map[string]*tally
}

var results = table{rows: map[string]*tally{}}

func (tb *table) add(name string, one tally) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	row := tb.rows[name]
	if row == nil {
		row = &tally{}
		tb.rows[name] = row
		tb.names = append(tb.names, name)
	}
	row.runs += one.runs
	row.purchases += one.purchases
	row.jobs += one.jobs
	row.parked += one.parked
	row.lost += one.lost
	row.double += one.double
	if one.note != "" {
		row.note = one.note
	}
}

func (tb *table) bad() (lost, double int) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	for _, r := range tb.rows {
		lost, double = lost+r.lost, double+r.double
	}
	return lost, double
}

func (tb *table) String() string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "label or fault\truns\tpurchases\tjobs\tparked\tlost\tdouble\t")
	var total tally
	for _, name := range slices.Sorted(slices.Values(tb.names)) {
		r := tb.rows[name]
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", name, r.runs, r.purchases, r.jobs, r.parked, r.lost, r.double, r.note)
		total.runs += r.runs
		total.purchases += r.purchases
		total.jobs += r.jobs
		total.parked += r.parked
		total.lost += r.lost
		total.double += r.double
	}
	fmt.Fprintf(w, "total\t%d\t%d\t%d\t%d\t%d\t%d\t\n", total.runs, total.purchases, total.jobs, total.parked, total.lost, total.double)
	_ = w.Flush() // a strings.Builder takes everything
	return b.String()
}
