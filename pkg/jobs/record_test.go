package jobs_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// Every pair of states, so that no move is allowed by accident.
func TestCanMove(t *testing.T) {
	t.Parallel()
	const table = `
           queued submitting running storing completed failed parked cancelled
queued     .      x          x       .       x         x      .      x
submitting .      x          x       .       .         x      x      x
running    .      x          x       x       .         x      x      x
storing    .      .          .       x       x         x      x      x
completed  .      .          .       .       x         .      .      .
failed     .      x          x       .       .         x      .      .
parked     .      x          x       .       .         x      .      x
cancelled  .      x          x       .       .         .      .      x
`
	lines := strings.Split(strings.TrimSpace(table), "\n")
	to := strings.Fields(lines[0])
	if len(lines)-1 != len(jobs.States) || len(to) != len(jobs.States) {
		t.Fatalf("the table has %d rows and %d columns, there are %d states", len(lines)-1, len(to), len(jobs.States))
	}
	for _, line := range lines[1:] {
		row := strings.Fields(line)
		from := jobs.State(row[0])
		if !slices.Contains(jobs.States, from) {
			t.Errorf("unknown state %q", from)
		}
		for i, mark := range row[1:] {
			if got := jobs.CanMove(from, jobs.State(to[i])); got != (mark == "x") {
				t.Errorf("CanMove(%s, %s) = %v", from, to[i], got)
			}
		}
	}
	if jobs.CanMove("", jobs.Running) || jobs.CanMove(jobs.Queued, "lost") {
		t.Error("an unknown state moves")
	}
}

func TestFinal(t *testing.T) {
	t.Parallel()
	for _, s := range jobs.States {
		want := s == jobs.Completed || s == jobs.Failed || s == jobs.Cancelled
		if s.Final() != want {
			t.Errorf("%s.Final() = %v", s, s.Final())
		}
		// What is final can only be left by a person, through a new attempt.
		for _, next := range jobs.States {
			if want && jobs.CanMove(s, next) && next != jobs.Submitting && next != jobs.Running && next != s {
				t.Errorf("%s leads to %s", s, next)
			}
		}
	}
}

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	for _, s := range jobs.States {
		want := record("a", s)
		want.StageInput, want.Outputs = []byte(`{"spin":1}`), []jobs.Output{{Format: "glb", SizeBytes: 3}}
		body, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := jobs.DecodeRecord(body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s, diff)
		}
	}
}

// The JSON of a record is read by scripts, and by older and newer workers.
func TestRecordGolden(t *testing.T) {
	t.Parallel()
	r := completed()
	r.Request.Image = r.Request.Image.Public() // as a worker writes it
	body, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "record.json", indent(t, body))
}

func TestDecodeRecordRefuses(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		``:   "not valid",
		`[]`: "not valid",
		`{}`: "schema",
		`{"schema":"meshmill.state.v2","id":"a","state":"running"}`:  "meshmill.state.v1",
		`{"schema":"meshmill.state.v1","id":"a","state":"lost"}`:     "unknown state",
		`{"schema":"meshmill.state.v1","id":"a"}`:                    "unknown state",
		`{"schema":"meshmill.state.v1","id":"a.b","state":"queued"}`: "id",
		`{"schema":"meshmill.state.v1","id":"a","state":"queued"}x`:  "not valid",
	} {
		if r, err := jobs.DecodeRecord([]byte(body)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v; want an error with %q", body, r, err, want)
		}
	}
	// A newer worker may add fields.
	if _, err := jobs.DecodeRecord([]byte(`{"schema":"meshmill.state.v1","id":"a","state":"running","new":1}`)); err != nil {
		t.Error(err)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	for _, s := range jobs.States {
		body, err := record("a", s).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte(`{"schema":"meshmill.state.v1","id":"a","state":"running","stage_input":null,"updated_at":"0001-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := jobs.DecodeRecord(data)
		if err != nil {
			return
		}
		body, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := jobs.DecodeRecord(body)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := again.Encode(); err != nil || string(second) != string(body) {
			t.Fatalf("differs after a round: %v\n%s\n%s", err, body, second)
		}
		if e, err := jobs.NewEvent(r); err == nil { // not every record can be announced
			if _, err := e.MarshalJSON(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestFault(t *testing.T) {
	t.Parallel()
	cause := errors.New("no route to host")
	f := &jobs.Fault{Kind: jobs.Retryable, Op: "csm: create session", Err: cause}
	if got := f.Error(); got != "csm: create session: no route to host" || !errors.Is(f, cause) {
		t.Errorf("%q, is its cause: %v", got, errors.Is(f, cause))
	}
	if got := (&jobs.Fault{Err: cause}).Error(); got != "no route to host" {
		t.Errorf("without an op: %q", got)
	}
	for _, tc := range []struct {
		err  error
		want jobs.Kind
		text string
	}{
		{nil, jobs.Unknown, "unknown"},
		{cause, jobs.Unknown, "unknown"},
		{&jobs.Fault{Err: cause}, jobs.Unknown, "unknown"},
		{fmt.Errorf("job: %w", f), jobs.Retryable, "retryable"},
		{jobs.Faultf(jobs.Permanent, "op", "status %d: %w", 400, f), jobs.Permanent, "permanent"},
		{errors.Join(cause, f), jobs.Retryable, "retryable"},
	} {
		if got := jobs.KindOf(tc.err); got != tc.want || got.String() != tc.text {
			t.Errorf("KindOf(%v) = %v, want %v", tc.err, got, tc.want)
		}
	}
	if got := jobs.Kind(99).String(); got != "unknown" {
		t.Errorf("an unheard-of kind is %q", got)
	}
}

func TestLayout(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		jobs.InputKey("abc", "png"):                  "inputs/abc.png",
		jobs.MeshKey("a", jobs.MeshName("a", "glb")): "meshes/a/a.glb",
		jobs.MeshKey("a", "preview.png"):             "meshes/a/preview.png",
		jobs.ManifestKey("a"):                        "meshes/a/manifest.json",
		jobs.ReceiptKey("a", 2):                      "receipts/a/2.json",
		jobs.ReceiptPrefix("a"):                      "receipts/a/",
	} {
		if got != want {
			t.Errorf("key %q, want %q", got, want)
		}
	}
	if !strings.HasPrefix(jobs.ReceiptKey("a", 1), jobs.ReceiptPrefix("a")) || strings.HasPrefix(jobs.ReceiptKey("ab", 1), jobs.ReceiptPrefix("a")) {
		t.Error("the prefix of receipts does not tell jobs apart")
	}
}
