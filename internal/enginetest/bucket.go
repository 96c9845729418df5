package enginetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

type object struct {
	data      []byte
	mediaType string
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// PutImage stores a picture of the model world and returns its key.
func (w *World) PutImage(name string) string {
	data := []byte("PICTURE " + name)
	key := jobs.InputKey(hash(data), "png")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.objects[key] = object{data, "image/png"}
	return key
}

// Objects returns the keys in the bucket, sorted.
func (w *World) Objects() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.objects))
}

// Object returns the content of a key, or nil.
func (w *World) Object(key string) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.objects[key].data
}

type storePort struct{ view }

func (s storePort) Put(ctx context.Context, key string, r io.Reader, size int64, mediaType string) (storage.Object, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return storage.Object{}, err
	}
	if size >= 0 && int64(len(data)) != size {
		return storage.Object{}, fmt.Errorf("%d bytes of %d", len(data), size)
	}
	err = s.do(ctx, s.named("store.put", key), func() error {
		s.objects[key] = object{data, mediaType}
		return nil
	})
	return storage.Object{Key: key, Size: int64(len(data)), SHA256: hash(data), MediaType: mediaType}, err
}

func (s storePort) GetBytes(ctx context.Context, key string, limit int64) ([]byte, error) {
	var data []byte
	err := s.do(ctx, s.named("store.get", key), func() error {
		o, ok := s.objects[key]
		if !ok {
			return storage.ErrNotFound
		}
		data = o.data
		return nil
	})
	if err == nil && int64(len(data)) > limit {
		err = errors.New("too large")
	}
	return data, err
}

func (s storePort) PutJSON(ctx context.Context, key string, v any) error {
	_, err := s.Put(ctx, key, bytes.NewReader(encode(v)), -1, "application/json")
	return err
}

func (s storePort) GetJSON(ctx context.Context, key string, v any, limit int64) error {
	data, err := s.GetBytes(ctx, key, limit)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

func (s storePort) Stat(ctx context.Context, key string) (storage.Object, error) {
	data, err := s.GetBytes(ctx, key, 1<<40)
	return storage.Object{Key: key, Size: int64(len(data)), SHA256: hash(data)}, err
}

func (s storePort) List(ctx context.Context, prefix string) iter.Seq2[storage.Object, error] {
	var found []storage.Object
	err := s.do(ctx, s.named("store.list", prefix), func() error {
		for _, key := range slices.Sorted(maps.Keys(s.objects)) {
			if strings.HasPrefix(key, prefix) {
				found = append(found, storage.Object{Key: key, Size: int64(len(s.objects[key].data))})
			}
		}
		return nil
	})
	return func(yield func(storage.Object, error) bool) {
		if err != nil {
			yield(storage.Object{}, err)
			return
		}
		for _, o := range found {
			if !yield(o, nil) {
				return
			}
		}
	}
}

func (s storePort) Presign(_ context.Context, key string, _ time.Duration, filename string) (string, error) {
	return "https://bucket.test/" + key + "?filename=" + filename + "&X-Amz-Signature=secret", nil
}

func (s storePort) URI(key string) string { return "s3://test/" + key }

// download is a fetched file.
type download struct{ *bytes.Reader }

func (d download) Close() error  { return nil }
func (d download) Private() bool { return false }
func (d download) SHA256() string {
	data := make([]byte, d.Size())
	_, _ = d.ReadAt(data, 0) // from memory
	return hash(data)
}

type fetchPort struct{ view }

// Fetch serves https://files.test/<text>: its content is the text. Such links
// expire when their query says until=<Unix time> and that has passed.
func (f fetchPort) Fetch(ctx context.Context, url string, limit int64) (engine.Download, error) {
	var out engine.Download
	err := f.do(ctx, f.named("fetch", url), func() error {
		rest, ok := strings.CutPrefix(url, "https://files.test/")
		if !ok {
			return &engine.FetchError{Permanent: true, Err: errors.New("refused address")}
		}
		rest, query, _ := strings.Cut(rest, "?until=")
		var until int64
		if _, err := fmt.Sscan(query, &until); err == nil && time.Now().Unix() > until {
			return &engine.FetchError{Expired: true, Err: errors.New("expired")}
		}
		if int64(len(rest)) > limit {
			return &engine.FetchError{Permanent: true, Err: errors.New("too large")}
		}
		out = download{bytes.NewReader([]byte(rest))}
		return nil
	})
	return out, err
}

// contentPort knows the pictures and meshes of the model world: "PICTURE …"
// and "MESH <format> …".
type contentPort struct{}

func (contentPort) Image(data []byte) (mediaType, ext string, err error) {
	if !bytes.HasPrefix(data, []byte("PICTURE ")) {
		return "", "", errors.New("not an image")
	}
	return "image/png", "png", nil
}

func (contentPort) Mesh(r io.ReaderAt, size int64) (format, mediaType string, err error) {
	data := make([]byte, size)
	if _, err := r.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", "", err
	}
	word, rest, ok := strings.Cut(string(data), "_")
	format, _, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 || word != "MESH" {
		return "", "", &engine.ContentError{Err: errors.New("not a mesh")}
	}
	return format, "model/" + format, nil
}
