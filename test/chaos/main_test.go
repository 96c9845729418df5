//go:build chaos

package chaos

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshmill/meshmill/internal/servertest"
)

// atOnce is how many scenarios run side by side, unless -parallel says so: they
// wait more than they work.
const atOnce = "8"

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", atOnce); err != nil {
		panic(err)
	}
	servertest.Main(m)
}

// TestChaos first measures, while the machine is quiet. All the rest runs side
// by side.
func TestChaos(t *testing.T) {
	began := time.Now()
	t.Logf("servers: %s", servertest.Describe())
	buildWorker(t)
	t.Cleanup(func() {
		head := fmt.Sprintf("%s; took %v\n", servertest.Describe(), time.Since(began).Round(time.Second))
		text := head + results.String()
		fmt.Println("\n" + text)
		if path := os.Getenv("MESHMILL_CHAOS_TABLE"); path != "" {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Error(err)
			}
		}
		lost, double := results.bad()
		if lost > 0 || double > 0 {
			t.Errorf("%d lost, %d paid for twice", lost, double)
		}
	})
	t.Run("handover", handover)
	t.Run("caught", caught)
	t.Run("points", killPoints)
	t.Run("kills", randomKills)
	t.Run("networks", networks)
	t.Run("brokers", brokers)
	t.Run("buckets", buckets)
}

// workerBinary is the worker with kill points.
var workerBinary string

func buildWorker(t *testing.T) {
	t.Helper()
	if workerBinary = os.Getenv("MESHMILL_CHAOS_WORKER"); workerBinary != "" {
		return
	}
	workerBinary = filepath.Join(t.TempDir(), "worker")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", "chaos", "-o", workerBinary, "github.com/meshmill/meshmill/cmd/worker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the worker: %v\n%s", err, said)
	}
}
