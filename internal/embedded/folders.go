package embedded

import (
	"context"
	"errors"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/rs/zerolog"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
)

// folders makes the library's file backend independent of the working
// directory. That backend takes a bucket's name for a path relative to it, and
// so needs the whole process to stay in its folder; here it gets absolute paths
// instead. It also makes writes durable before they are acknowledged.
//
// What is not here is answered with NotImplemented, which is all that Meshmill
// and a file browser do not need. Embedding the backend itself would let a
// method that is forgotten work on the wrong folder.
type folders struct {
	backend.BackendUnsupported
	posix *posix.Posix
	root  string
	log   zerolog.Logger
	// With metadata in files of their own, an object is two files, which only a
	// lock keeps together. Nil where metadata are attributes of the object's
	// file; the library publishes that as a whole.
	locks *[256]sync.RWMutex
}

func (f *folders) shard(bucket, key *string) *sync.RWMutex {
	h := fnv.New32a()
	_, _ = h.Write([]byte(aws.ToString(bucket) + "/" + aws.ToString(key)))
	return &f.locks[h.Sum32()%uint32(len(f.locks))]
}

// lock and rlock return what unlocks again.
func (f *folders) lock(bucket, key *string) func() {
	if f.locks == nil {
		return func() {}
	}
	mu := f.shard(bucket, key)
	mu.Lock()
	return mu.Unlock
}

func (f *folders) rlock(bucket, key *string) func() {
	if f.locks == nil {
		return func() {}
	}
	mu := f.shard(bucket, key)
	mu.RLock()
	return mu.RUnlock
}

var _ backend.Backend = (*folders)(nil)

func (f *folders) String() string { return f.posix.String() }
func (f *folders) Shutdown()      { f.posix.Shutdown() }

func (f *folders) path(bucket string) string { return filepath.Join(f.root, bucket) }

func (f *folders) pathOf(bucket *string) *string {
	if bucket == nil {
		return nil
	}
	return new(f.path(*bucket))
}

// out makes an error fit for the client: no path of this machine in it. The
// library would write an unexpected one to standard error.
func (f *folders) out(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[s3err.BucketError](err); ok {
		e.BucketName = filepath.Base(e.BucketName)
		return e
	}
	if e, ok := err.(s3err.S3Error); ok {
		return e
	}
	if !errors.Is(err, context.Canceled) {
		f.log.Error().Err(err).Msg("embedded object store failed")
	}
	return s3err.GetAPIError(s3err.ErrInternalError)
}

// sync makes an object durable: its data, and every folder down to it.
func (f *folders) sync(bucket, key string) error {
	for path := filepath.Join(f.path(bucket), key); ; path = filepath.Dir(path) {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		err = errors.Join(file.Sync(), file.Close())
		if err != nil || path == f.path(bucket) {
			return err
		}
	}
}

func (f *folders) NormalizeObjectKey(bucket, object string) string {
	return f.posix.NormalizeObjectKey(bucket, object)
}

func (f *folders) ListBuckets(_ context.Context, in s3response.ListBucketsInput) (s3response.ListAllMyBucketsResult, error) {
	entries, err := os.ReadDir(f.root)
	if err != nil {
		return s3response.ListAllMyBucketsResult{}, f.out(err)
	}
	out := s3response.ListAllMyBucketsResult{Owner: s3response.CanonicalUser{ID: in.Owner}, Prefix: in.Prefix}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !e.IsDir() || strings.HasPrefix(e.Name(), ".") || !strings.HasPrefix(e.Name(), in.Prefix) {
			continue
		}
		out.Buckets.Bucket = append(out.Buckets.Bucket, s3response.ListAllMyBucketsEntry{Name: e.Name(), CreationDate: info.ModTime()})
	}
	return out, nil
}

func (f *folders) HeadBucket(ctx context.Context, in *s3.HeadBucketInput) (*s3.HeadBucketOutput, error) {
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	out, err := f.posix.HeadBucket(ctx, &c)
	return out, f.out(err)
}

func (f *folders) CreateBucket(ctx context.Context, in *s3.CreateBucketInput, acl []byte) error {
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	return f.out(f.posix.CreateBucket(ctx, &c, acl))
}

func (f *folders) DeleteBucket(ctx context.Context, bucket string) error {
	return f.out(f.posix.DeleteBucket(ctx, f.path(bucket)))
}

func (f *folders) GetBucketAcl(ctx context.Context, in *s3.GetBucketAclInput) ([]byte, error) {
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	out, err := f.posix.GetBucketAcl(ctx, &c)
	return out, f.out(err)
}

func (f *folders) GetBucketPolicy(ctx context.Context, bucket string) ([]byte, error) {
	out, err := f.posix.GetBucketPolicy(ctx, f.path(bucket))
	return out, f.out(err)
}

func (f *folders) GetBucketCors(ctx context.Context, bucket string) ([]byte, error) {
	out, err := f.posix.GetBucketCors(ctx, f.path(bucket))
	return out, f.out(err)
}

func (f *folders) GetBucketVersioning(ctx context.Context, bucket string) (s3response.GetBucketVersioningOutput, error) {
	out, err := f.posix.GetBucketVersioning(ctx, f.path(bucket))
	return out, f.out(err)
}

func (f *folders) GetBucketOwnershipControls(ctx context.Context, bucket string) (types.ObjectOwnership, error) {
	out, err := f.posix.GetBucketOwnershipControls(ctx, f.path(bucket))
	return out, f.out(err)
}

func (f *folders) GetObjectLockConfiguration(ctx context.Context, bucket string) ([]byte, error) {
	out, err := f.posix.GetObjectLockConfiguration(ctx, f.path(bucket))
	return out, f.out(err)
}

func (f *folders) GetObjectRetention(ctx context.Context, bucket, object, version string) ([]byte, error) {
	out, err := f.posix.GetObjectRetention(ctx, f.path(bucket), object, version)
	return out, f.out(err)
}

func (f *folders) GetObjectLegalHold(ctx context.Context, bucket, object, version string) (*bool, error) {
	out, err := f.posix.GetObjectLegalHold(ctx, f.path(bucket), object, version)
	return out, f.out(err)
}

func (f *folders) GetObjectTagging(ctx context.Context, bucket, object, version string) (map[string]string, error) {
	out, err := f.posix.GetObjectTagging(ctx, f.path(bucket), object, version)
	return out, f.out(err)
}

// relative keeps metadata beside the objects under the bucket's name instead of
// its absolute path, so that the data folder can be moved.
type relative struct {
	meta.SideCar
	root string
}

func (r relative) bucket(path string) string {
	if rel, err := filepath.Rel(r.root, path); err == nil {
		return rel
	}
	return path
}

func (r relative) RetrieveAttribute(f *os.File, bucket, object, name string) ([]byte, error) {
	return r.SideCar.RetrieveAttribute(f, r.bucket(bucket), object, name)
}

func (r relative) StoreAttribute(f *os.File, bucket, object, name string, value []byte) error {
	return r.SideCar.StoreAttribute(f, r.bucket(bucket), object, name, value)
}

func (r relative) DeleteAttribute(bucket, object, name string) error {
	return r.SideCar.DeleteAttribute(r.bucket(bucket), object, name)
}

func (r relative) ListAttributes(bucket, object string) ([]string, error) {
	return r.SideCar.ListAttributes(r.bucket(bucket), object)
}

func (r relative) DeleteAttributes(bucket, object string) error {
	return r.SideCar.DeleteAttributes(r.bucket(bucket), object)
}

func (r relative) RenameObject(bucket, from, to string) error {
	return r.SideCar.RenameObject(r.bucket(bucket), from, to)
}
