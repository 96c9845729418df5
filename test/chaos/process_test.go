//go:build chaos

package chaos

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a worker. It does not outlive its test.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	// met gets the label of every point that the worker has met.
	met  chan string
	done chan struct{} // closed when it has ended
	err  error         // then: how
	at   time.Time     // then: when

	mu  sync.Mutex
	log []string // the last lines
}

const logLines = 400

// start starts a worker with the world's settings and some more.
func (w *world) start(name string, env ...string) *process {
	w.t.Helper()
	cmd := exec.Command(workerBinary, w.args...)
	cmd.Env = append(append(w.workerEnv(), w.extra...), env...)
	cmd.Dir = w.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.Stdout = nil
	p := &process{t: w.t, name: name, cmd: cmd, met: make(chan string, 16), done: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		p.read(out)
	}()
	go func() {
		defer close(p.done)
		<-read
		p.err, p.at = cmd.Wait(), time.Now()
	}()
	w.mu.Lock()
	w.procs = append(w.procs, p)
	w.mu.Unlock()
	return p
}

func (p *process) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if label, ok := strings.CutPrefix(line, "chaos: "); ok {
			select {
			case p.met <- label:
			default:
			}
		}
		p.mu.Lock()
		if p.log = append(p.log, line); len(p.log) > 2*logLines {
			p.log = append([]string(nil), p.log[logLines:]...)
		}
		p.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, r) // after a line too long to scan
}

// tail is the end of the worker's log.
func (p *process) tail(n int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("--- %s (%s) ---\n%s\n", p.name, p.how(), strings.Join(p.log[max(0, len(p.log)-n):], "\n"))
}

// grep returns the lines with all of the words.
func (p *process) grep(words ...string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
next:
	for _, line := range p.log {
		for _, word := range words {
			if !strings.Contains(line, word) {
				continue next
			}
		}
		out = append(out, line)
	}
	return out
}

func (p *process) how() string {
	select {
	case <-p.done:
		if p.err == nil {
			return "ended: 0"
		}
		return "ended: " + p.err.Error()
	default:
		return "runs"
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) signal(s syscall.Signal) {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("signal %s: %v", p.name, err)
	}
}

// wait waits for the end of the process, and reports whether it came in time.
func (p *process) wait(d time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(d):
		return false
	}
}

// stopAll kills what still runs, and waits.
func (w *world) stopAll() {
	w.mu.Lock()
	procs := w.procs
	w.mu.Unlock()
	for _, p := range procs {
		if !p.ended() {
			_ = p.cmd.Process.Kill() // it may have ended just now
		}
	}
	for _, p := range procs {
		if !p.wait(10 * time.Second) {
			w.t.Errorf("%s does not end", p.name)
		}
	}
}
