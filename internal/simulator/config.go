package simulator

import (
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
)

// The providers that are simulated, as the ledger and the faults name them.
const (
	CSM       = "csm"
	ModelsLab = "modelslab"
)

// Span bounds how long a stage of a session takes. Its zero value is 2–5 s,
// which suits a demonstration; tests set a few milliseconds.
type Span struct{ Min, Max time.Duration }

// Durations says how long each stage takes.
type Durations struct {
	Spin    Span // CSM v1, spin_generate_processing
	Preview Span // CSM v1, training_preview
	Refine  Span // CSM v1, training_refine
	Model   Span // CSM v2, the whole session
	Convert Span // ModelsLab, the whole request
}

// Each returns Durations in which every stage takes from least to most.
func Each(least, most time.Duration) Durations {
	s := Span{least, most}
	return Durations{Spin: s, Preview: s, Refine: s, Model: s, Convert: s}
}

// Config sets up a Simulator. Its zero value is valid: a free port on loopback,
// nothing kept on disk, any key, no limits, no faults.
type Config struct {
	// Listen is the TCP address for Start; empty is 127.0.0.1:0.
	Listen string
	// Dir keeps the ledger (ledger.jsonl), the sessions and the images, so that
	// a simulator started later on the same folder goes on with them. Only one
	// simulator at a time may use it. Empty keeps them until Shutdown.
	Dir string
	// CSMKey and ModelsLabKey are the keys that are taken. Empty takes any key
	// but the empty one.
	CSMKey, ModelsLabKey string
	// Durations of the stages. A session's times are fixed when it is bought,
	// and its progress is a function of the clock.
	Durations Durations
	// CSMLimit and ModelsLabLimit bound the sessions in progress. A purchase
	// beyond is refused with 429 and recorded as a violation; 0 is no limit.
	CSMLimit, ModelsLabLimit int
	// CSMAutoPreview makes CSM v1 sessions go on from spin_generate_done by
	// themselves. The documents do not say whether they do.
	CSMAutoPreview bool
	// ListLag is how long a new session stays out of CSM's list.
	ListLag time.Duration
	// ModelsLabSync is the share, from 0 to 1, of ModelsLab conversions that
	// are answered with success by the create call itself, held open meanwhile.
	ModelsLabSync float64
	// Seed decides stage times and the faults that have a Chance.
	Seed uint64
	// Faults is the script; see AddFaults.
	Faults []Fault
	// TinyMeshes answers every download with one small constant mesh and keeps
	// no images, for load tests.
	TinyMeshes bool
	// Log receives one line for each purchase and each fault. The zero value
	// logs nothing. Keys and signed URLs are never logged.
	Log zerolog.Logger
}

func (c *Config) check() error {
	var errs []error
	for name, s := range map[string]*Span{
		"spin": &c.Durations.Spin, "preview": &c.Durations.Preview, "refine": &c.Durations.Refine,
		"model": &c.Durations.Model, "convert": &c.Durations.Convert,
	} {
		if *s == (Span{}) {
			*s = Span{2 * time.Second, 5 * time.Second}
		}
		if s.Min < 0 || s.Max < s.Min {
			errs = append(errs, fmt.Errorf("simulator: the %s time must have 0 ≤ min ≤ max", name))
		}
	}
	if c.ModelsLabSync < 0 || c.ModelsLabSync > 1 {
		errs = append(errs, errors.New("simulator: ModelsLabSync must be from 0 to 1"))
	}
	return errors.Join(errs...)
}
