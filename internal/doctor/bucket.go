package doctor

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

// Store is what is checked of a bucket. *storage.Bucket is one.
type Store interface {
	Name() string
	Check(ctx context.Context) error
	Put(ctx context.Context, key string, r io.Reader, size int64, mediaType string) (storage.Object, error)
	GetBytes(ctx context.Context, key string, max int64) ([]byte, error)
	Stat(ctx context.Context, key string) (storage.Object, error)
	Delete(ctx context.Context, key string) error
}

// Bucket checks that the bucket can be listed, written, read and deleted from,
// with an object of its own which it takes away again.
func Bucket(ctx context.Context, b Store) []Finding {
	if err := b.Check(ctx); err != nil {
		return []Finding{found("bucket", Fail, "%s", err)}
	}
	list := []Finding{found("bucket", OK, "bucket %q is there and may be listed", b.Name())}
	key := "doctor/" + jobs.FreshID() + ".txt"
	content := []byte("Written by enqueue doctor, which deletes it at once.\n")
	before := time.Now()
	if _, err := b.Put(ctx, key, bytes.NewReader(content), int64(len(content)), "text/plain"); err != nil {
		return append(list, found("bucket write", Fail, "%s", err))
	}
	after := time.Now()
	list = append(list, found("bucket write", OK, "an object can be written"))
	switch got, err := b.GetBytes(ctx, key, 1<<10); {
	case err != nil:
		list = append(list, found("bucket read", Fail, "%s", err))
	case !bytes.Equal(got, content):
		list = append(list, found("bucket read", Fail, "what is read is not what was written"))
	default:
		list = append(list, found("bucket read", OK, "it can be read again"))
	}
	if obj, err := b.Stat(ctx, key); err == nil {
		list = append(list, clock("bucket clock", "the object store", obj.Modified, before, after, time.Second)) // it tells whole seconds
	}
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if err := b.Delete(dctx, key); err != nil {
		return append(list, found("bucket delete", Warn, "%s", fmt.Errorf("%w; %s is left over", err, key)))
	}
	return append(list, found("bucket delete", OK, "it can be deleted"))
}
