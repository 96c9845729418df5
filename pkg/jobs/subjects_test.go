package jobs_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// The names are a contract with other programs.
func TestNames(t *testing.T) {
	t.Parallel()
	n, err := jobs.NewNames("")
	if err != nil {
		t.Fatal(err)
	}
	other, err := jobs.NewNames("team-a")
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		n.JobsStream():                              "MESHMILL_JOBS",
		n.EventsStream():                            "MESHMILL_EVENTS",
		n.DeadStream():                              "MESHMILL_DEAD",
		n.StateBucket():                             "meshmill_state",
		n.FleetBucket():                             "meshmill_fleet",
		n.JobSubject("csm", jobs.Bulk, "a"):         "meshmill.job.csm.bulk.a",
		n.JobAll():                                  "meshmill.job.>",
		n.JobLane("csm", jobs.Interactive):          "meshmill.job.csm.interactive.*",
		n.JobAnywhere("a"):                          "meshmill.job.*.*.a",
		n.JobConsumer("csm", jobs.Bulk):             "csm-bulk",
		n.EventSubject(jobs.EventCompleted, "a", 2): "meshmill.event.completed.a.2",
		n.EventAll():                                "meshmill.event.>",
		n.DeadSubject("a"):                          "meshmill.dead.a",
		n.DeadAll():                                 "meshmill.dead.>",
		n.ProgressSubject("a"):                      "meshmill.progress.a",
		n.ProgressAll():                             "meshmill.progress.*",
		n.CancelSubject("a"):                        "meshmill.cancel.a",
		n.CancelAll():                               "meshmill.cancel.*",
		other.JobsStream():                          "TEAM-A_JOBS",
		other.StateBucket():                         "team-a_state",
		other.JobSubject("csm", jobs.Interactive, "a"): "team-a.job.csm.interactive.a",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for _, bad := range []string{"A", "1a", "a.b", "a b", "a*", ">", strings.Repeat("a", 33), "ä", "a\n"} {
		if _, err := jobs.NewNames(bad); err == nil {
			t.Errorf("prefix %q is taken", bad)
		}
	}
}

func TestParseJobSubject(t *testing.T) {
	t.Parallel()
	n, err := jobs.NewNames("team-a")
	if err != nil {
		t.Fatal(err)
	}
	for _, lane := range jobs.Lanes {
		provider, gotLane, id, err := n.ParseJobSubject(n.JobSubject("csm", lane, "a_B-1"))
		if diff := cmp.Diff([]any{"csm", lane, "a_B-1", nil}, []any{provider, gotLane, id, err}); diff != "" {
			t.Errorf("%s:\n%s", lane, diff)
		}
	}
	for _, bad := range []string{
		"", "team-a", "meshmill.job.csm.bulk.a", "team-a.job.csm.bulk", "team-a.job.csm.bulk.a.b", "team-a.event.csm.bulk.a",
		"team-a.job.csm..a", "team-a.job.csm.fast.a", "team-a.job..bulk.a", "team-a.job.CSM.bulk.a", "team-a.job.csm.bulk.", "team-a.job.csm.bulk.a$",
	} {
		if p, l, id, err := n.ParseJobSubject(bad); err == nil || p+string(l)+id != "" {
			t.Errorf("%q: %q, %q, %q, %v", bad, p, l, id, err)
		}
	}
}

func FuzzParseJobSubject(f *testing.F) {
	f.Add("meshmill.job.csm.bulk.a")
	f.Add("meshmill.job.csm..a")
	f.Add("meshmill.job.>")
	n, err := jobs.NewNames("")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		provider, lane, id, err := n.ParseJobSubject(subject)
		if err == nil && n.JobSubject(provider, lane, id) != subject {
			t.Fatalf("%q becomes %q", subject, n.JobSubject(provider, lane, id))
		}
	})
}
