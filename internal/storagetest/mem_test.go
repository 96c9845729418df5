package storagetest_test

import (
	"errors"
	"testing"

	"github.com/meshmill/meshmill/internal/storagetest"
	"github.com/meshmill/meshmill/pkg/storage"
)

func TestMem(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(*testing.T) storagetest.Store { return new(storagetest.Mem) })
}

func TestMemFail(t *testing.T) {
	t.Parallel()
	m := &storagetest.Mem{Fail: func(op, key string) error {
		if op == "put" && key == "meshes/a/manifest.json" {
			return storage.ErrFull
		}
		return nil
	}}
	if err := m.PutJSON(t.Context(), "meshes/a/manifest.json", 1); !errors.Is(err, storage.ErrFull) {
		t.Errorf("PutJSON = %v, want ErrFull", err)
	}
	if err := m.PutJSON(t.Context(), "meshes/a/other.json", 1); err != nil {
		t.Errorf("PutJSON = %v", err)
	}
}
