//go:build chaos

package chaos

import (
	"testing"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// caught shows that what must not happen would be seen: it makes it happen.
func caught(t *testing.T) {
	t.Parallel()
	t.Run("double", func(t *testing.T) {
		t.Parallel()
		// Told to buy again when in doubt, a worker that takes over does so.
		w := newWorld(t, "", setup{env: []string{"MESHMILL_ON_UNKNOWN=resubmit"}})
		w.enqueue(1, flowLab)
		w.until(w.start("first worker", "MESHMILL_CHAOS_POINT=modelslab.submit.create.after", "MESHMILL_CHAOS_ACTION=kill"))
		w.start("second worker")
		if one, problems := w.judge(2 * time.Minute); one.double != 1 || len(problems) == 0 {
			t.Errorf("a purchase was made twice, and the checks found %+v, %q", one, problems)
		}
	})
	t.Run("lost", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, "", setup{})
		orders := w.enqueue(1, flowV2, flowLab)
		w.start("worker")
		if one, problems := w.judge(time.Minute); one.lost+one.double > 0 || len(problems) > 0 {
			t.Fatalf("nothing was done, and the checks found %+v, %q", one, problems)
		}
		// One loses its file, the other its record.
		w.must(w.bucket.Delete(t.Context(), jobs.MeshKey(orders[0].id, jobs.MeshName(orders[0].id, "glb"))))
		kv, err := w.js.KeyValue(t.Context(), w.names.StateBucket())
		w.must(err)
		w.must(kv.Purge(t.Context(), orders[1].id))
		if one, problems := w.judge(time.Second); one.lost != 2 || len(problems) != 2 {
			t.Errorf("two jobs were lost, and the checks found %+v, %q", one, problems)
		}
	})
}
