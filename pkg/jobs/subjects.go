package jobs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Names gives the names of everything Meshmill has on a broker, all made from
// one prefix. Its zero value is not valid; use NewNames.
type Names struct{ prefix string }

// DefaultPrefix is the prefix when none is configured.
const DefaultPrefix = "meshmill"

var prefixPattern = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

// NewNames returns the names for a prefix: 1 to 32 lower-case letters, digits,
// _ and -, beginning with a letter. The empty string is DefaultPrefix.
func NewNames(prefix string) (Names, error) {
	if prefix == "" {
		prefix = DefaultPrefix
	}
	if !prefixPattern.MatchString(prefix) {
		return Names{}, fmt.Errorf("prefix %q must be 1 to 32 lower-case letters, digits, _ or -, beginning with a letter", clip(prefix))
	}
	return Names{prefix}, nil
}

func (n Names) upper() string { return strings.ToUpper(n.prefix) }

// JobsStream is the stream of the work queue.
func (n Names) JobsStream() string { return n.upper() + "_JOBS" }

// EventsStream keeps one event per subject.
func (n Names) EventsStream() string { return n.upper() + "_EVENTS" }

// DeadStream keeps what could not be decoded.
func (n Names) DeadStream() string { return n.upper() + "_DEAD" }

// StateBucket holds the record of each job, under its id.
func (n Names) StateBucket() string { return n.prefix + "_state" }

// FleetBucket holds what the workers share.
func (n Names) FleetBucket() string { return n.prefix + "_fleet" }

// JobSubject is where a job's request is published.
func (n Names) JobSubject(provider string, lane Lane, id string) string {
	return n.prefix + ".job." + provider + "." + string(lane) + "." + id
}

// JobAll matches every job.
func (n Names) JobAll() string { return n.prefix + ".job.>" }

// JobLane matches every job of a provider in a lane.
func (n Names) JobLane(provider string, lane Lane) string { return n.JobSubject(provider, lane, "*") }

// JobAnywhere matches one job in whatever provider's lane it is.
func (n Names) JobAnywhere(id string) string { return n.prefix + ".job.*.*." + id }

// JobConsumer is the durable consumer of a provider's lane.
func (n Names) JobConsumer(provider string, lane Lane) string { return provider + "-" + string(lane) }

// EventSubject takes the short type of an event, such as "completed".
func (n Names) EventSubject(kind, id string, attempt int) string {
	return fmt.Sprintf("%s.event.%s.%s.%d", n.prefix, kind, id, attempt)
}

// eventKind matches every event of a kind.
func (n Names) eventKind(kind string) string { return n.prefix + ".event." + kind + ".>" }

// EventAll matches every event.
func (n Names) EventAll() string { return n.prefix + ".event.>" }

// DeadSubject is where a message that is no request is kept.
func (n Names) DeadSubject(id string) string { return n.prefix + ".dead." + id }

// DeadAll matches all of those.
func (n Names) DeadAll() string { return n.prefix + ".dead.>" }

// ProgressSubject is where a job's live progress is told, and not stored.
func (n Names) ProgressSubject(id string) string { return n.prefix + ".progress." + id }

// ProgressAll matches the progress of every job.
func (n Names) ProgressAll() string { return n.prefix + ".progress.*" }

// CancelSubject is where a job's worker is told to look at its record at once.
func (n Names) CancelSubject(id string) string { return n.prefix + ".cancel." + id }

// CancelAll matches those of every job.
func (n Names) CancelAll() string { return n.prefix + ".cancel.*" }

// ParseJobSubject takes a job's subject apart. It takes only what JobSubject
// makes of a valid provider, lane and id.
func (n Names) ParseJobSubject(subject string) (provider string, lane Lane, id string, err error) {
	rest, ok := strings.CutPrefix(subject, n.prefix+".job.")
	parts := strings.Split(rest, ".")
	if !ok || len(parts) != 3 {
		return "", "", "", fmt.Errorf("%q is not the subject of a job", clip(subject))
	}
	provider, lane, id = parts[0], Lane(parts[1]), parts[2]
	if !providerPattern.MatchString(provider) || !slices.Contains(Lanes, lane) || CheckID(id) != nil {
		return "", "", "", fmt.Errorf("%q is not the subject of a job", clip(subject))
	}
	return provider, lane, id, nil
}
