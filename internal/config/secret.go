package config

import (
	"fmt"
	"io"
)

// Secret is text that must never be shown. However it is printed or encoded,
// it shows as "[set]", or as nothing if it is empty.
type Secret string

// Reveal returns the secret itself, for the one place that sends it.
func (s Secret) Reveal() string { return string(s) }

// String returns "[set]" or "".
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[set]"
}

// GoString returns what String does, in quotes.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// Format prints what String returns for every verb: without it, %x and %d
// would print the bytes.
func (s Secret) Format(f fmt.State, verb rune) {
	if verb == 'q' || (verb == 'v' && f.Flag('#')) {
		_, _ = io.WriteString(f, s.GoString())
		return
	}
	_, _ = io.WriteString(f, s.String())
}

// MarshalText returns what String does.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON returns what String does, as a JSON string.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(s.GoString()), nil }
