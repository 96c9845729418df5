package storage_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/meshmill/meshmill/internal/servertest"
	"github.com/meshmill/meshmill/internal/storagetest"
	"github.com/meshmill/meshmill/pkg/storage"
)

// The conformance suite runs against the same servers in internal/servertest
// and internal/embedded; here is what it leaves out.

func TestMain(m *testing.M) { servertest.Main(m) }

func openReal(t *testing.T, cfg storage.Config) *storage.Bucket {
	t.Helper()
	b, err := storage.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEnsure(t *testing.T) {
	t.Parallel()
	cfg := servertest.S3(t)
	cfg.Bucket = storagetest.BucketName(t)
	b := openReal(t, cfg)
	if err := b.Check(t.Context()); !errors.Is(err, storage.ErrNoBucket) || !strings.Contains(err.Error(), cfg.Bucket) || !strings.Contains(err.Error(), cfg.Endpoint) {
		t.Errorf("Check = %v, want ErrNoBucket", err)
	}
	_, statErr := b.Stat(t.Context(), "meshes/a/a.glb")
	_, getErr := b.GetBytes(t.Context(), "meshes/a/a.glb", 1)
	_, putErr := b.Put(t.Context(), "meshes/a/a.glb", strings.NewReader("x"), 1, "")
	_, partsErr := b.Put(t.Context(), "meshes/a/a.glb", io.LimitReader(zeros{}, 9*mib), 9*mib, "")
	for op, err := range map[string]error{"Stat": statErr, "Get": getErr, "Put": putErr, "Put in parts": partsErr} {
		if !errors.Is(err, storage.ErrNoBucket) {
			t.Errorf("%s without a bucket = %v, want ErrNoBucket", op, err)
		}
	}
	for range 2 {
		if err := b.Ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.PutJSON(t.Context(), "a/b.json", 1); err != nil {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestEnsureTogether(t *testing.T) {
	t.Parallel()
	cfg := servertest.S3(t)
	cfg.Bucket = storagetest.BucketName(t)
	errs := make(chan error)
	for range 5 {
		b := openReal(t, cfg)
		go func() { errs <- b.Ensure(t.Context()) }()
	}
	for range 5 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestWrongCredentials(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*storage.Config){
		"id":     func(c *storage.Config) { c.AccessKeyID = "NOBODY" },
		"secret": func(c *storage.Config) { c.SecretAccessKey = "hunter2hunter2" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := servertest.S3(t)
			change(&cfg)
			b := openReal(t, cfg)
			_, statErr := b.Stat(t.Context(), "k")
			_, putErr := b.Put(t.Context(), "k", strings.NewReader("x"), 1, "")
			for _, err := range []error{b.Check(t.Context()), b.Ensure(t.Context()), statErr, putErr} {
				if !errors.Is(err, storage.ErrDenied) || !strings.Contains(err.Error(), "credentials") ||
					strings.Contains(err.Error(), cfg.SecretAccessKey) {
					t.Errorf("error = %v, want ErrDenied", err)
				}
			}
		})
	}
}

// TestAbortUploads leaves an upload as a killed process does.
func TestAbortUploads(t *testing.T) {
	t.Parallel()
	cfg := servertest.S3(t)
	b := openReal(t, cfg)
	const key = "meshes/a/a.glb"
	leaveUpload(t, cfg, key)
	leaveUpload(t, cfg, key)
	if n, err := b.AbortUploads(t.Context(), key, 1<<40); n != 0 || err != nil {
		t.Errorf("AbortUploads of old ones = %d, %v", n, err)
	}
	if n, err := b.AbortUploads(t.Context(), "meshes/b/", 0); n != 0 || err != nil {
		t.Errorf("AbortUploads elsewhere = %d, %v", n, err)
	}
	if n, err := b.AbortUploads(t.Context(), key, 0); n != 2 || err != nil {
		t.Errorf("AbortUploads = %d, %v, want 2", n, err)
	}
	if n, err := b.AbortUploads(t.Context(), key, 0); n != 0 || err != nil {
		t.Errorf("AbortUploads again = %d, %v", n, err)
	}
}

// TestFailedPutLeavesNoUpload looks where List does not.
func TestFailedPutLeavesNoUpload(t *testing.T) {
	t.Parallel()
	b := openReal(t, servertest.S3(t))
	const key = "meshes/a/a.glb"
	ctx, cancel := context.WithCancel(t.Context())
	for name, put := range map[string]func() error{
		"short": func() error {
			_, err := b.Put(t.Context(), key, io.LimitReader(zeros{}, 20*mib), 21*mib, "")
			return err
		},
		"broken": func() error {
			_, err := b.Put(t.Context(), key, io.MultiReader(io.LimitReader(zeros{}, 20*mib), failing{}), -1, "")
			return err
		},
		"cancelled": func() error {
			_, err := b.Put(ctx, key, io.MultiReader(io.LimitReader(zeros{}, 20*mib), canceller(cancel), zeros{}), -1, "")
			return err
		},
	} {
		if err := put(); err == nil {
			t.Errorf("%s: no error", name)
		}
		if n, err := b.AbortUploads(t.Context(), key, 0); n != 0 || err != nil {
			t.Errorf("%s: %d uploads were left, %v", name, n, err)
		}
	}
}

type canceller func()

func (c canceller) Read([]byte) (int, error) { c(); return 0, io.EOF }
