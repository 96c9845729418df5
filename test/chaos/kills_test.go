//go:build chaos

package chaos

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

const (
	kills   = 200
	workers = 4
	// most bounds the jobs: CSM's list is searched for at most 500 sessions, and
	// here they are bought faster than one account ever could.
	most = 600
)

// randomKills kills workers at random moments under load, and starts others in
// their place.
func randomKills(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, fmt.Sprintf("%d random kills, %d workers", kills, workers), setup{labSync: 0.5, slots: 100})
	w.enqueue(75, allFlows...)
	var fleet []*process
	for i := range workers {
		fleet = append(fleet, w.start(fmt.Sprint("worker ", i)))
	}
	busy := 0
	for n := range kills {
		time.Sleep(time.Duration(150+random.IntN(700)) * time.Millisecond)
		i := random.IntN(workers)
		fleet[i].signal(syscall.SIGKILL)
		if !fleet[i].wait(5 * time.Second) {
			t.Fatal("a killed worker lives on")
		}
		if len(fleet[i].grep(`"bought"`)) > 0 || len(fleet[i].grep("job finished")) > 0 {
			busy++
		}
		fleet[i] = w.start(fmt.Sprint("worker ", workers+n))
		if n%10 != 9 {
			continue
		}
		w.operate() // parked jobs keep their slots, which are not without end
		if w.queued() < 20 && len(w.orders) < most {
			w.enqueue(25, allFlows...) // a fleet that idles proves nothing
		}
	}
	w.finish(5*time.Minute, fmt.Sprintf("%d of the killed had bought or finished something", busy))
	w.stopAll()
	w.removeStreams()
}

// queued counts the jobs that nobody has begun.
func (w *world) queued() int {
	n := 0
	for _, r := range w.records() {
		if r.State == jobs.Queued {
			n++
		}
	}
	return n
}
