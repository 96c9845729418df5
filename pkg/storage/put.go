package storage

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"regexp"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// Object describes a stored object.
type Object struct {
	Key  string
	Size int64 // in bytes
	// SHA256 is in lower-case hexadecimal. Put always tells it. Get and Stat
	// tell it for objects that Put stored whole in one request, which is all
	// below 8 MiB; else, and from List, it is empty.
	SHA256 string
	// MediaType is as it was put; empty from List.
	MediaType string
	// Modified is when the store took the object; zero from Put.
	Modified time.Time
}

// hashKey is the user metadata that holds an object's SHA-256.
const hashKey = "sha256"

// maxObject is what fits in the allowed number of parts.
const maxObject = int64(partSize) * (maxParts - 1)

// Put stores what r yields under key, and replaces what was there. Size is the
// number of bytes that r must yield, -1 if it is not known; up to 78 GiB are
// possible. An empty mediaType is application/octet-stream.
//
// Put reads r to its end from one goroutine, and not after it has returned. It
// stops between two reads when ctx ends; r itself must not block for ever. An
// error of r is in the chain of the error returned. See the package doc for
// what a failed Put leaves.
func (b *Bucket) Put(ctx context.Context, key string, r io.Reader, size int64, mediaType string) (Object, error) {
	const op = "put"
	if err := checkKey(op, key); err != nil {
		return Object{}, err
	}
	if err := checkMediaType(mediaType); err != nil {
		return Object{}, &jobs.Fault{Kind: jobs.Permanent, Op: "storage: put " + key, Err: err}
	}
	if size > maxObject {
		return Object{}, &jobs.Fault{Kind: jobs.Permanent, Op: "storage: put " + key,
			Err: fmt.Errorf("%w: %d bytes, the most is %d", ErrTooLarge, size, maxObject)}
	}
	src := &source{ctx: ctx, r: r, want: size, hash: sha256.New()}
	obj := Object{Key: key, MediaType: cmp.Or(mediaType, "application/octet-stream")}
	err := b.put(ctx, src, &obj)
	if src.err != nil && src.err != io.EOF {
		// Not a fault of the store: keep the reader's own classification.
		return Object{}, fmt.Errorf("storage: put %s: %w", key, src.err)
	}
	if err != nil {
		return Object{}, b.fail(ctx, op, key, err)
	}
	b.seen.Store(true)
	obj.Size, obj.SHA256 = src.got, src.sum()
	return obj, nil
}

func (b *Bucket) put(ctx context.Context, src *source, obj *Object) error {
	if src.want >= partSize {
		return b.putParts(ctx, src, obj)
	}
	// Buffered, so that the hash can travel with the object, and so that a
	// repeat has something to send.
	var buf bytes.Buffer
	if src.want > 0 {
		buf.Grow(int(src.want) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(src, partSize))
	if err != nil {
		return err
	}
	if n == partSize {
		return b.putParts(ctx, io.MultiReader(&buf, src), obj)
	}
	sum := src.hash.Sum(nil)
	_, err = b.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &b.name, Key: &obj.Key, ContentType: &obj.MediaType,
		Body: bytes.NewReader(buf.Bytes()), ContentLength: &n,
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(sum)),
		Metadata:       map[string]string{hashKey: hex.EncodeToString(sum)},
	})
	return err
}

func (b *Bucket) putParts(ctx context.Context, body io.Reader, obj *Object) error {
	_, err := b.upload.UploadObject(ctx, &transfermanager.UploadObjectInput{
		Bucket: &b.name, Key: &obj.Key, ContentType: &obj.MediaType,
		Body: body, // not a Seeker, so it is read once, front to back
		// The hash is not known yet. Said, because a store that merges metadata
		// would keep that of an older object.
		Metadata: map[string]string{hashKey: "unknown"},
	})
	return err
}

// source counts and hashes what it yields. Instead of the end it yields an
// error when the number of bytes is not the one promised, so that whoever
// uploads never takes a part for the whole.
type source struct {
	ctx  context.Context
	r    io.Reader
	want int64 // -1: not known
	got  int64
	hash hash.Hash
	err  error // sticky
}

// errShort and errLong are Retryable: whoever yields the bytes may do better
// the next time.
var (
	errShort = errors.New("the source ended early")
	errLong  = errors.New("the source is longer than was said")
)

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.ctx.Err() != nil {
		s.err = &jobs.Fault{Kind: jobs.Retryable, Err: context.Cause(s.ctx)}
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.got += int64(n)
	s.hash.Write(p[:n])
	limit := s.want
	if limit < 0 {
		limit = maxObject
	}
	switch {
	case s.got > limit && s.want < 0:
		s.err = &jobs.Fault{Kind: jobs.Permanent, Err: fmt.Errorf("%w: more than %d bytes", ErrTooLarge, maxObject)}
	case s.got > limit:
		s.err = &jobs.Fault{Kind: jobs.Retryable, Err: fmt.Errorf("%w: more than %d bytes", errLong, s.want)}
	case err == io.EOF && s.want >= 0 && s.got < s.want:
		s.err = &jobs.Fault{Kind: jobs.Retryable, Err: fmt.Errorf("%w: %d of %d bytes: %w", errShort, s.got, s.want, io.ErrUnexpectedEOF)}
	default:
		s.err = err
	}
	if s.err != nil && s.err != io.EOF {
		return 0, s.err
	}
	return n, s.err
}

func (s *source) sum() string { return hex.EncodeToString(s.hash.Sum(nil)) }

var inputExt = regexp.MustCompile(`^[a-z0-9]{1,10}$`)

// PutInput stores an image under the hash of its content (see [jobs.InputKey])
// and reports the key, and whether it was stored just now. When an object of
// the same size is there already, nothing is sent. Data is read twice, from its
// start. Ext is without a dot. For bytes use bytes.NewReader.
func (b *Bucket) PutInput(ctx context.Context, data io.ReadSeeker, ext, mediaType string) (key string, created bool, err error) {
	const op = "storage: put input"
	if !inputExt.MatchString(ext) {
		return "", false, jobs.Faultf(jobs.Permanent, op, "extension %.20q must be 1 to 10 of a-z and 0-9", ext)
	}
	sum := sha256.New()
	if _, err = data.Seek(0, io.SeekStart); err == nil {
		_, err = io.Copy(sum, &source{ctx: ctx, r: data, want: -1, hash: sha256.New()})
	}
	size := int64(0)
	if err == nil {
		size, err = data.Seek(0, io.SeekCurrent)
	}
	if err == nil {
		_, err = data.Seek(0, io.SeekStart)
	}
	if err != nil {
		return "", false, fmt.Errorf("%s: read it: %w", op, err)
	}
	hexSum := hex.EncodeToString(sum.Sum(nil))
	key = jobs.InputKey(hexSum, ext)
	switch there, err := b.Stat(ctx, key); {
	case err == nil && there.Size == size:
		return key, false, nil
	case err != nil && !errors.Is(err, ErrNotFound):
		return "", false, err
	}
	obj, err := b.Put(ctx, key, data, size, mediaType)
	if err != nil {
		return "", false, err
	}
	if obj.SHA256 != hexSum {
		// The file changed under us, and its key now lies.
		err = jobs.Faultf(jobs.Retryable, op, "the data changed while it was read")
		return "", false, errors.Join(err, b.Delete(context.WithoutCancel(ctx), key))
	}
	return key, true, nil
}

// PutJSON stores v as indented JSON, with the guarantees of [Bucket.Put].
func (b *Bucket) PutJSON(ctx context.Context, key string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return jobs.Faultf(jobs.Permanent, "storage: put "+key, "encode it: %w", err)
	}
	raw = append(raw, '\n')
	parent := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errSlow)
	defer cancel()
	_, err = b.Put(ctx, key, bytes.NewReader(raw), int64(len(raw)), "application/json")
	if err != nil && parent.Err() == nil && ctx.Err() != nil {
		return b.fail(parent, "put", key, err)
	}
	return err
}
