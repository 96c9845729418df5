// Package cost estimates what jobs cost, from prices that a person has
// configured. No provider publishes a price for each mode, so that there is no
// default: what nobody has configured is unknown, and is never taken for free.
package cost

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Amount is a sum of money in millionths of a US dollar.
type Amount int64

const dollar = 1_000_000

// most is the largest amount that is taken: ten million dollars.
const most Amount = 10_000_000 * dollar

// String returns the amount with its currency: "USD 12.40", and more places
// where a cent is not fine enough.
func (a Amount) String() string {
	text := strconv.FormatFloat(float64(a)/dollar, 'f', 6, 64)
	for cents := strings.IndexByte(text, '.') + 3; len(text) > cents && strings.HasSuffix(text, "0"); {
		text = text[:len(text)-1]
	}
	return "USD " + text
}

// Parse reads an amount of dollars, such as 12, 0.35, $5 or USD 20.
func Parse(s string) (Amount, error) {
	text := strings.TrimSpace(s)
	for _, mark := range []string{"USD", "usd", "$"} {
		text = strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(text, mark), mark))
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f >= 0) || f*dollar > float64(most) || strings.ContainsAny(text, "xXpPeE_") {
		return 0, errors.New("an amount of US dollars, such as 0.20")
	}
	return Amount(math.Round(f * dollar)), nil
}

// Prices are the prices of one provider's modes. The zero value knows none.
type Prices struct {
	all   *Amount
	modes []price
}

type price struct {
	mode   string
	amount Amount
}

// ParsePrices reads prices: an amount for every mode, or a list of MODE=AMOUNT
// separated by commas, or by semicolons if a mode has a comma in it. A mode
// stands for all whose name begins with its words, and the longest one counts;
// the mode * is for the rest.
func ParsePrices(s string) (Prices, error) {
	var p Prices
	sep := ","
	if strings.Contains(s, ";") {
		sep = ";"
	}
	for part := range strings.SplitSeq(s, sep) {
		mode, amount, named := strings.Cut(part, "=")
		if !named {
			mode, amount = "*", part
		}
		mode = strings.Join(strings.Fields(mode), " ")
		a, err := Parse(amount)
		if err != nil || mode == "" {
			return Prices{}, errors.New("an amount of US dollars for each job, or MODE=AMOUNT with commas between")
		}
		if mode == "*" {
			p.all = &a
			continue
		}
		p.modes = append(p.modes, price{mode, a})
	}
	return p, nil
}

// Of returns the price of one job in a mode, and whether it is known.
func (p Prices) Of(mode string) (Amount, bool) {
	best := -1
	for i, m := range p.modes {
		rest, ok := strings.CutPrefix(mode, m.mode)
		if ok && (rest == "" || rest[0] == ' ' || rest[0] == ',') && (best < 0 || len(m.mode) > len(p.modes[best].mode)) {
			best = i
		}
	}
	switch {
	case best >= 0:
		return p.modes[best].amount, true
	case p.all != nil:
		return *p.all, true
	}
	return 0, false
}

// Sum adds up an estimate. Its zero value is that of nothing.
type Sum struct {
	// Known is the cost of the jobs whose price is known.
	Known Amount
	// Unknown counts the others.
	Unknown int
	jobs    int
}

// Add adds a job.
func (s *Sum) Add(a Amount, known bool) {
	s.jobs++
	if known {
		s.Known = min(s.Known+a, math.MaxInt64/2)
	} else {
		s.Unknown++
	}
}

// Jobs is the number of jobs that were added.
func (s *Sum) Jobs() int { return s.jobs }

// String returns the estimate in words.
func (s *Sum) String() string {
	switch {
	case s.jobs == 0:
		return "nothing"
	case s.Unknown == s.jobs:
		return "an unknown amount"
	case s.Unknown > 0:
		return fmt.Sprintf("about %s, and an unknown amount for %d of them", s.Known, s.Unknown)
	}
	return "about " + s.Known.String()
}

// Threshold says from where on a person is asked: so many jobs, or so much
// money. The zero value asks always.
type Threshold struct {
	off    bool
	jobs   int
	money  bool // compare with amount, where the cost is known
	amount Amount
}

// DefaultJobs is the threshold where an amount was given and the cost is not
// known.
const DefaultJobs = 100

// ParseThreshold reads a number of jobs, such as 100, an amount, such as 20USD,
// or off.
func ParseThreshold(s string) (Threshold, error) {
	const must = "a number of jobs such as 100, an amount such as 20USD, or off"
	text := strings.TrimSpace(s)
	if text == "off" {
		return Threshold{off: true}, nil
	}
	if n, err := strconv.Atoi(text); err == nil && n >= 0 {
		return Threshold{jobs: n}, nil
	}
	if strings.ContainsAny(text, "$UuSsDd") {
		if a, err := Parse(text); err == nil {
			return Threshold{jobs: DefaultJobs, amount: a, money: true}, nil
		}
	}
	return Threshold{}, errors.New(must)
}

// Asks reports whether a person is to be asked about so many jobs at a sum.
func (t Threshold) Asks(s *Sum) bool {
	switch {
	case t.off || s.jobs == 0:
		return false
	case t.money && s.Unknown == 0:
		return s.Known > t.amount
	}
	return s.jobs > t.jobs
}
