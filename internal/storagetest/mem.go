package storagetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

// Mem is a bucket in memory that behaves like a storage.Bucket, as [Run]
// proves. The zero value is ready. It is safe for concurrent use.
type Mem struct {
	// Fail, if set, is asked before each call, with the method's name in lower
	// case ("put", "get", "stat", "list", "delete", "presign") and its key or
	// prefix; PutJSON, PutInput, GetBytes and GetJSON ask as the calls they are
	// made of. What it returns is what the call returns. Set it before use.
	Fail func(op, key string) error

	mu      sync.Mutex
	objects map[string]memObject
	signed  int
}

type memObject struct {
	storage.Object
	data []byte
}

var _ Store = (*Mem)(nil)

func (m *Mem) begin(ctx context.Context, op, key string) error {
	if ctx.Err() != nil {
		return &jobs.Fault{Kind: jobs.Retryable, Op: "storage: " + op + " " + key, Err: context.Cause(ctx)}
	}
	if op != "list" && (!fs.ValidPath(key) || key == "." || strings.ContainsAny(key, "\\\x00\n") || len(key) > 1024) {
		return jobs.Faultf(jobs.Permanent, "storage: "+op, "key %.60q is not allowed", key)
	}
	if m.Fail != nil {
		return m.Fail(op, key)
	}
	return nil
}

func missing(op, key string) error {
	return &jobs.Fault{Kind: jobs.Permanent, Op: "storage: " + op + " " + key, Err: storage.ErrNotFound}
}

// Name returns "mem".
func (m *Mem) Name() string { return "mem" }

// URI returns "s3://mem/key".
func (m *Mem) URI(key string) string { return "s3://mem/" + key }

// Put stores what r yields as a whole, or nothing.
func (m *Mem) Put(ctx context.Context, key string, r io.Reader, size int64, mediaType string) (storage.Object, error) {
	if err := m.begin(ctx, "put", key); err != nil {
		return storage.Object{}, err
	}
	data, err := io.ReadAll(contextReader{ctx, r})
	if err != nil {
		return storage.Object{}, fmt.Errorf("storage: put %s: %w", key, err)
	}
	if size >= 0 && int64(len(data)) != size {
		return storage.Object{}, jobs.Faultf(jobs.Retryable, "storage: put "+key, "%d of %d bytes: %w", len(data), size, io.ErrUnexpectedEOF)
	}
	if mediaType == "" {
		mediaType = "application/octet-stream"
	}
	sum := sha256.Sum256(data)
	obj := storage.Object{Key: key, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:]), MediaType: mediaType}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.objects == nil {
		m.objects = map[string]memObject{}
	}
	stored := obj
	stored.Modified = time.Now()
	m.objects[key] = memObject{stored, data}
	return obj, nil
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, &jobs.Fault{Kind: jobs.Retryable, Err: context.Cause(c.ctx)}
	}
	return c.r.Read(p)
}

// PutInput is like that of storage.Bucket.
func (m *Mem) PutInput(ctx context.Context, data io.ReadSeeker, ext, mediaType string) (string, bool, error) {
	if ext == "" || len(ext) > 10 || strings.Trim(ext, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return "", false, jobs.Faultf(jobs.Permanent, "storage: put input", "extension %.20q is not allowed", ext)
	}
	if _, err := data.Seek(0, io.SeekStart); err != nil {
		return "", false, fmt.Errorf("storage: put input: %w", err)
	}
	raw, err := io.ReadAll(data)
	if err != nil {
		return "", false, fmt.Errorf("storage: put input: %w", err)
	}
	sum := sha256.Sum256(raw)
	key := jobs.InputKey(hex.EncodeToString(sum[:]), ext)
	switch there, err := m.Stat(ctx, key); {
	case err == nil && there.Size == int64(len(raw)):
		return key, false, nil
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return "", false, err
	}
	if _, err := m.Put(ctx, key, bytes.NewReader(raw), int64(len(raw)), mediaType); err != nil {
		return "", false, err
	}
	return key, true, nil
}

func (m *Mem) find(ctx context.Context, op, key string) (memObject, error) {
	if err := m.begin(ctx, op, key); err != nil {
		return memObject{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	obj, ok := m.objects[key]
	if !ok {
		return memObject{}, missing(op, key)
	}
	return obj, nil
}

// Get opens an object.
func (m *Mem) Get(ctx context.Context, key string) (io.ReadCloser, storage.Object, error) {
	obj, err := m.find(ctx, "get", key)
	if err != nil {
		return nil, storage.Object{}, err
	}
	return io.NopCloser(contextReader{ctx, bytes.NewReader(obj.data)}), obj.Object, nil
}

// GetBytes returns an object of at most max bytes.
func (m *Mem) GetBytes(ctx context.Context, key string, max int64) ([]byte, error) {
	obj, err := m.find(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	if obj.Size > max {
		return nil, &jobs.Fault{Kind: jobs.Permanent, Op: "storage: get " + key, Err: storage.ErrTooLarge}
	}
	return slices.Clone(obj.data), nil
}

// Stat describes an object.
func (m *Mem) Stat(ctx context.Context, key string) (storage.Object, error) {
	obj, err := m.find(ctx, "stat", key)
	return obj.Object, err
}

// List yields the objects under prefix as they were when it began.
func (m *Mem) List(ctx context.Context, prefix string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if err := m.begin(ctx, "list", prefix); err != nil {
			yield(storage.Object{}, err)
			return
		}
		m.mu.Lock()
		objects := maps.Clone(m.objects)
		m.mu.Unlock()
		for _, key := range slices.Sorted(maps.Keys(objects)) {
			o := objects[key]
			if strings.HasPrefix(key, prefix) && !yield(storage.Object{Key: key, Size: o.Size, Modified: o.Modified}, nil) {
				return
			}
		}
	}
}

// Delete removes an object, if it is there.
func (m *Mem) Delete(ctx context.Context, key string) error {
	if err := m.begin(ctx, "delete", key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	return nil
}

// Presign returns a URL that nobody can fetch: "https://mem.invalid/…".
func (m *Mem) Presign(ctx context.Context, key string, ttl time.Duration, filename string) (string, error) {
	if err := m.begin(ctx, "presign", key); err != nil {
		return "", err
	}
	if ttl < time.Second || ttl > 7*24*time.Hour {
		return "", jobs.Faultf(jobs.Permanent, "storage: presign "+key, "the time %v is not from 1s to 168h", ttl)
	}
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_", r) {
			return r
		}
		return '_'
	}, name(filename))
	m.mu.Lock()
	m.signed++
	n := m.signed
	m.mu.Unlock()
	query := url.Values{
		"response-content-disposition": {`attachment; filename="` + name + `"`},
		"X-Amz-Signature":              {fmt.Sprintf("not-a-signature-%d", n)},
	}
	return (&url.URL{Scheme: "https", Host: "mem.invalid", Path: "/mem/" + key, RawQuery: query.Encode()}).String(), nil
}

func name(s string) string {
	if s = strings.TrimLeft(s, "."); s == "" {
		return "file"
	}
	return s[:min(len(s), 100)]
}

// PutJSON stores v as JSON.
func (m *Mem) PutJSON(ctx context.Context, key string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return jobs.Faultf(jobs.Permanent, "storage: put "+key, "encode it: %w", err)
	}
	_, err = m.Put(ctx, key, bytes.NewReader(raw), int64(len(raw)), "application/json")
	return err
}

// GetJSON decodes an object of at most max bytes into v.
func (m *Mem) GetJSON(ctx context.Context, key string, v any, max int64) error {
	raw, err := m.GetBytes(ctx, key, max)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return jobs.Faultf(jobs.Permanent, "storage: get "+key, "it is not the JSON that is expected: %w", err)
	}
	return nil
}
