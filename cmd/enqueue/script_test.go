package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts in testdata run the real command as a process of its own. Besides
// testscript's own commands they have
//
//	status N CMD…      run CMD, which must end with exit status N
//	picture FILE SEED  write an image; the extension chooses PNG or JPEG
//	buildworker        put the worker command on the path
//	loadenv FILE       set the variables of an environment file of embedded
//	                   servers, once it is there and jobs can be looked at
//	waitline FILE RE   wait until FILE has a line that matches
//	jsonl FILE RE N    N lines of FILE match
//	setjob VAR STATE   set VAR to the id of a job in a state, from stdout
//	purchases N        the simulator has billed N calls
//	waitdone B N       wait until N jobs of the batch B are completed
//	list FILE N        write a list of N jobs, of addresses of images
//	setid VAR          set VAR to the id of the first job in stdout, JSON Lines
//	waitstate JOB RE   wait until the JSON of a job matches
//	serve VAR DIR      serve DIR by HTTP, and set VAR to its address
func TestMain(m *testing.M) {
	testscript.Main(tidy{m}, map[string]func(){"enqueue": main})
}

// tidy removes what buildworker has built, after the tests.
type tidy struct{ *testing.M }

func (t tidy) Run() int {
	defer func() {
		if workerDir != "" {
			_ = os.RemoveAll(workerDir)
		}
	}()
	return t.M.Run()
}

var workerDir string // set by builtWorker

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			// Nothing of the machine's own configuration may reach a script.
			env.Setenv("AWS_EC2_METADATA_DISABLED", "true")
			env.Setenv("NO_PROXY", "*")
			env.Setenv("MESHMILL_POLL_MIN", "50ms")
			env.Setenv("MESHMILL_POLL_MAX", "200ms")
			env.Setenv("MESHMILL_GRACE", "2s")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status, "picture": drawPicture, "buildworker": buildWorker, "loadenv": loadEnv,
			"waitline": waitLine, "jsonl": jsonLines, "setjob": setJob, "purchases": purchases, "serve": serve, "waitdone": waitDone,
			"list": writeList, "setid": setID, "waitstate": waitState,
		},
	})
}

func need(ts *testscript.TestScript, neg bool, args []string, n int, usage string) {
	if neg || len(args) < n {
		ts.Fatalf("usage: %s", usage)
	}
}

func status(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "status N CMD…")
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

func drawPicture(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "picture FILE SEED")
	seed, err := strconv.Atoi(args[1])
	ts.Check(err)
	m := image.NewNRGBA(image.Rect(0, 0, 32, 32))
	for y := 8; y < 24; y++ {
		for x := 8; x < 24; x++ {
			m.Set(x, y, color.NRGBA{uint8(seed * 40), uint8(x * 8), uint8(y * 8), 255})
		}
	}
	var b bytes.Buffer
	if strings.HasSuffix(args[0], ".jpg") {
		err = jpeg.Encode(&b, m, nil)
	} else {
		err = png.Encode(&b, m)
	}
	ts.Check(err)
	file := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(file), 0o700))
	ts.Check(os.WriteFile(file, b.Bytes(), 0o600))
}

// builtWorker is the worker command, built once.
var builtWorker = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "meshmill-worker-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "worker"), "../worker").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	workerDir = dir
	return dir, nil
})

func buildWorker(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 0, "buildworker")
	dir, err := builtWorker()
	ts.Check(err)
	ts.Setenv("PATH", dir+string(os.PathListSeparator)+ts.Getenv("PATH"))
}

// patience bounds how long a script waits for something.
const patience = 30 * time.Second

// eventually calls f until it returns true.
func eventually(ts *testscript.TestScript, what string, f func() bool) {
	for began := time.Now(); !f(); {
		if time.Since(began) > patience {
			ts.Fatalf("%s did not happen within %v", what, patience)
		}
		time.Sleep(20 * time.Millisecond) // another process's doing: it can only be asked for
	}
}

var export = regexp.MustCompile(`(?m)^export ([A-Z0-9_]+)='([^']*)'$`)

func loadEnv(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "loadenv FILE")
	var raw []byte
	eventually(ts, "the file "+args[0], func() (ok bool) {
		var err error
		raw, err = os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && bytes.Contains(raw, []byte("NATS_URL"))
	})
	for _, v := range export.FindAllStringSubmatch(string(raw), -1) {
		ts.Setenv(v[1], v[2])
	}
	eventually(ts, "the worker's topology", func() bool { return ts.Exec("enqueue", "status") == nil })
}

func waitLine(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "waitline FILE RE")
	re := regexp.MustCompile("(?m)" + args[1])
	eventually(ts, "a line like "+args[1], func() bool {
		raw, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && re.Match(raw)
	})
}

// jsonLines checks that every line is a JSON object with a type, and counts
// those that match.
func jsonLines(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 3, "jsonl FILE RE N")
	re, n, last := regexp.MustCompile(args[1]), 0, ""
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		var v struct{ Type string }
		if err := json.Unmarshal([]byte(line), &v); err != nil || v.Type == "" {
			ts.Fatalf("not a line of JSON with a type: %s", line)
		}
		if re.MatchString(strings.TrimSpace(line)) {
			n++
		}
		last = v.Type
	}
	if strconv.Itoa(n) != args[2] {
		ts.Fatalf("%d lines match, want %s", n, args[2])
	}
	if last != "summary" && last != "dry_run" {
		ts.Fatalf("the last line is of type %q", last)
	}
}

func setJob(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "setjob VAR STATE")
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		if f := strings.Fields(line); len(f) > 3 && f[3] == args[1] {
			ts.Setenv(args[0], f[0])
			return
		}
	}
	ts.Fatalf("no job is %s", args[1])
}

func purchases(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "purchases N")
	lines := 0
	if raw, err := os.ReadFile(ts.MkAbs("meshmill-data/simulator/ledger.jsonl")); err == nil {
		lines = bytes.Count(raw, []byte("\n"))
	}
	if strconv.Itoa(lines) != args[0] {
		ts.Fatalf("%d purchases, want %s", lines, args[0])
	}
}

func waitDone(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "waitdone BATCH N")
	eventually(ts, args[1]+" completed jobs of batch "+args[0], func() bool {
		_ = ts.Exec("enqueue", "status", "--batch", args[0], "--json")
		return strings.Contains(ts.ReadFile("stdout"), fmt.Sprintf(`"completed":%s,`, args[1]))
	})
}

func writeList(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "list FILE N")
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "{\"image\":\"https://example.com/%d.png\"}\n", i)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b.Bytes(), 0o600))
}

var idInJSON = regexp.MustCompile(`"type":"job".*?"id":"([^"]+)"`)

func setID(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "setid VAR")
	m := idInJSON.FindStringSubmatch(ts.ReadFile("stdout"))
	if m == nil {
		ts.Fatalf("there is no job in stdout")
	}
	ts.Setenv(args[0], m[1])
}

func waitState(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "waitstate JOB RE")
	re := regexp.MustCompile(args[1])
	eventually(ts, args[1]+" of job "+args[0], func() bool {
		_ = ts.Exec("enqueue", "status", args[0], "--json")
		return re.MatchString(ts.ReadFile("stdout"))
	})
}

func serve(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "serve VAR DIR")
	s := httptest.NewServer(http.FileServer(http.Dir(ts.MkAbs(args[1]))))
	ts.Defer(s.Close)
	ts.Setenv(args[0], s.URL)
}
