package storage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// Get opens an object. The caller closes the reader, and may take its time
// between reads. The reader fails instead of ending when bytes are missing or,
// where the hash is known, when they are not those that were put (ErrDamaged).
// A missing object is ErrNotFound.
func (b *Bucket) Get(ctx context.Context, key string) (io.ReadCloser, Object, error) {
	if err := checkKey("get", key); err != nil {
		return nil, Object{}, err
	}
	inner, cancel := context.WithCancelCause(ctx)
	late := time.AfterFunc(callTimeout, func() { cancel(errSlow) })
	out, err := b.client.GetObject(inner, &s3.GetObjectInput{Bucket: &b.name, Key: &key})
	late.Stop()
	if err != nil {
		if context.Cause(inner) == errSlow {
			err = errSlow
		}
		cancel(nil)
		return nil, Object{}, b.fail(ctx, "get", key, err)
	}
	b.seen.Store(true)
	obj := Object{
		Key: key, Size: aws.ToInt64(out.ContentLength), SHA256: hashOf(out.Metadata),
		MediaType: clean(aws.ToString(out.ContentType)), Modified: aws.ToTime(out.LastModified),
	}
	body := &checkedBody{b: b, ctx: ctx, cancel: cancel, body: out.Body, obj: obj, left: obj.Size, hash: sha256.New()}
	if out.ContentLength == nil {
		body.left = -1
	}
	return body, obj, nil
}

func hashOf(meta map[string]string) string {
	s := meta[hashKey]
	if raw, err := hex.DecodeString(s); err != nil || len(raw) != sha256.Size {
		return ""
	}
	return s
}

// checkedBody compares what it yields with what was announced.
type checkedBody struct {
	b      *Bucket
	ctx    context.Context
	cancel context.CancelCauseFunc
	body   io.ReadCloser
	obj    Object
	left   int64 // -1: not announced
	hash   hash.Hash
	err    error
}

func (c *checkedBody) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.body.Read(p)
	c.hash.Write(p[:n])
	if c.left >= 0 {
		c.left -= int64(n)
	}
	switch {
	case err == io.EOF && c.left > 0:
		c.err = c.b.fail(c.ctx, "get", c.obj.Key, io.ErrUnexpectedEOF)
	case err == io.EOF && c.obj.SHA256 != "" && hex.EncodeToString(c.hash.Sum(nil)) != c.obj.SHA256:
		c.err = &jobs.Fault{Kind: jobs.Permanent, Op: "storage: get " + c.obj.Key,
			Err: fmt.Errorf("%w: its content is not what was stored", ErrDamaged)}
	case err != nil && err != io.EOF:
		c.err = c.b.fail(c.ctx, "get", c.obj.Key, err)
	default:
		c.err = err
	}
	return n, c.err
}

func (c *checkedBody) Close() error {
	err := c.body.Close()
	c.cancel(nil)
	return err
}

// GetBytes returns an object of at most max bytes; a larger one is ErrTooLarge,
// a missing one ErrNotFound.
func (b *Bucket) GetBytes(ctx context.Context, key string, max int64) ([]byte, error) {
	r, obj, err := b.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var buf bytes.Buffer
	n := obj.Size
	if n <= max {
		if n, err = buf.ReadFrom(io.LimitReader(r, max+1)); err != nil {
			return nil, err
		}
	}
	if n > max {
		return nil, &jobs.Fault{Kind: jobs.Permanent, Op: "storage: get " + key,
			Err: fmt.Errorf("%w: the most that is read is %d bytes", ErrTooLarge, max)}
	}
	return buf.Bytes(), nil
}

// GetJSON decodes an object of at most max bytes into v. Unknown fields are
// ignored; what is not JSON is an error that names the object.
func (b *Bucket) GetJSON(ctx context.Context, key string, v any, max int64) error {
	raw, err := b.GetBytes(ctx, key, max)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return jobs.Faultf(jobs.Permanent, "storage: get "+key, "it is not the JSON that is expected: %w", err)
	}
	return nil
}

// Stat describes an object; a missing one is ErrNotFound.
func (b *Bucket) Stat(ctx context.Context, key string) (Object, error) {
	if err := checkKey("stat", key); err != nil {
		return Object{}, err
	}
	inner, cancel := context.WithTimeoutCause(ctx, callTimeout, errSlow)
	defer cancel()
	out, err := b.client.HeadObject(inner, &s3.HeadObjectInput{Bucket: &b.name, Key: &key})
	if err != nil {
		if re, ok := errors.AsType[*smithyhttp.ResponseError](err); !ok || re.HTTPStatusCode() != http.StatusNotFound {
			return Object{}, b.fail(ctx, "stat", key, err)
		}
		// The answer to a HEAD has no body, so a missing bucket looks the same.
		if !b.seen.Load() {
			if err := b.Check(ctx); err != nil {
				return Object{}, err
			}
		}
		return Object{}, &jobs.Fault{Kind: jobs.Permanent, Op: "storage: stat " + key,
			Err: &refusal{"there is no such object in " + b.what(), []error{ErrNotFound, err}}}
	}
	b.seen.Store(true)
	return Object{
		Key: key, Size: aws.ToInt64(out.ContentLength), SHA256: hashOf(out.Metadata),
		MediaType: clean(aws.ToString(out.ContentType)), Modified: aws.ToTime(out.LastModified),
	}, nil
}

// List yields the objects whose keys begin with prefix, in the order of their
// keys, with Key, Size and Modified only. After an error it ends. What is put
// or deleted meanwhile may or may not be seen.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{Bucket: &b.name, Prefix: &prefix},
			func(o *s3.ListObjectsV2PaginatorOptions) { o.StopOnDuplicateToken = true })
		for pages.HasMorePages() {
			inner, cancel := context.WithTimeoutCause(ctx, callTimeout, errSlow)
			page, err := pages.NextPage(inner)
			cancel()
			if err := b.fail(ctx, "list", prefix, err); err != nil {
				yield(Object{}, err)
				return
			}
			for _, o := range page.Contents {
				obj := Object{Key: aws.ToString(o.Key), Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)}
				if !yield(obj, nil) {
					return
				}
			}
		}
	}
}

// Delete removes an object. That it is not there is no error.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := checkKey("delete", key); err != nil {
		return err
	}
	inner, cancel := context.WithTimeoutCause(ctx, callTimeout, errSlow)
	defer cancel()
	_, err := b.client.DeleteObject(inner, &s3.DeleteObjectInput{Bucket: &b.name, Key: &key})
	if err = b.fail(ctx, "delete", key, err); errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
