// Package storagetest proves that an object store behaves as Meshmill needs it,
// and has one in memory for tests that are not about storage. It is a test
// package: only tests import it.
package storagetest

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/storage"
)

// Store is what [Run] tests. The doc comments of storage.Bucket are its
// contract; consumers declare the part they use themselves.
type Store interface {
	URI(key string) string
	Put(ctx context.Context, key string, r io.Reader, size int64, mediaType string) (storage.Object, error)
	PutInput(ctx context.Context, data io.ReadSeeker, ext, mediaType string) (key string, created bool, err error)
	PutJSON(ctx context.Context, key string, v any) error
	Get(ctx context.Context, key string) (io.ReadCloser, storage.Object, error)
	GetBytes(ctx context.Context, key string, max int64) ([]byte, error)
	GetJSON(ctx context.Context, key string, v any, max int64) error
	Stat(ctx context.Context, key string) (storage.Object, error)
	List(ctx context.Context, prefix string) iter.Seq2[storage.Object, error]
	Delete(ctx context.Context, key string) error
	Presign(ctx context.Context, key string, ttl time.Duration, filename string) (string, error)
}

const mib = 1 << 20

// Run runs the suite. Open is called once for each subtest, and returns an
// empty store that shares nothing with the others.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for name, test := range map[string]func(*testing.T, Store){
		"PutGet":      testPutGet,
		"Replace":     testReplace,
		"Whole":       testWhole,
		"Concurrent":  testConcurrent,
		"Missing":     testMissing,
		"Keys":        testKeys,
		"List":        testList,
		"Input":       testInput,
		"JSON":        testJSON,
		"Presign":     testPresign,
		"Cancelled":   testCancelled,
		"EarlyClose":  testEarlyClose,
		"BytesLimits": testBytesLimits,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// noise returns n bytes that do not repeat.
func noise(n int, seed uint64) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(p) // never fails
	return p
}

func hexSum(p []byte) string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

// plain hides all but Read, like a response body does.
type plain struct{ io.Reader }

func get(t *testing.T, s Store, key string) []byte {
	t.Helper()
	r, obj, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("Get(%q): %v", key, err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read %q: %v", key, err)
	}
	if obj.Size != int64(len(data)) {
		t.Errorf("Get(%q) tells %d bytes, and yields %d", key, obj.Size, len(data))
	}
	return data
}

func testPutGet(t *testing.T, s Store) {
	for _, tc := range []struct {
		size      int
		known     bool
		mediaType string
	}{
		{0, true, "text/plain"},
		{0, false, ""},
		{1, true, "image/png"},
		{100_000, false, "model/gltf-binary"},
		{8*mib - 1, true, "application/zip"},
		{8 * mib, true, "application/zip"},
		{8 * mib, false, "application/zip"},
		{8*mib + 1, false, ""},
		{16 * mib, true, "model/gltf-binary"},
		{21*mib + 17, true, "model/gltf-binary"},
		{21*mib + 17, false, "model/gltf-binary"},
	} {
		t.Run(fmt.Sprintf("%d,known=%v", tc.size, tc.known), func(t *testing.T) {
			key := fmt.Sprintf("meshes/j%d-%v/mesh.glb", tc.size, tc.known)
			data := noise(tc.size, uint64(tc.size))
			size := int64(-1)
			if tc.known {
				size = int64(tc.size)
			}
			obj, err := s.Put(t.Context(), key, plain{bytes.NewReader(data)}, size, tc.mediaType)
			if err != nil {
				t.Fatal(err)
			}
			media := tc.mediaType
			if media == "" {
				media = "application/octet-stream"
			}
			want := storage.Object{Key: key, Size: int64(tc.size), SHA256: hexSum(data), MediaType: media}
			if diff := cmp.Diff(want, obj); diff != "" {
				t.Errorf("Put (-want +got):\n%s", diff)
			}
			if !bytes.Equal(get(t, s, key), data) {
				t.Error("other bytes came back")
			}
			there, err := s.Stat(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			if d := time.Since(there.Modified); d > time.Hour || d < -time.Hour {
				t.Errorf("Modified = %v", there.Modified)
			}
			there.Modified = time.Time{}
			if tc.size >= 8*mib {
				want.SHA256 = there.SHA256 // may be told or not
				if there.SHA256 != "" && there.SHA256 != hexSum(data) {
					t.Errorf("Stat tells a wrong hash")
				}
			}
			if diff := cmp.Diff(want, there); diff != "" {
				t.Errorf("Stat (-want +got):\n%s", diff)
			}
		})
	}
}

func testReplace(t *testing.T, s Store) {
	for i, n := range []int{100, 12 * mib, 5, 0} {
		data := noise(n, uint64(i))
		if _, err := s.Put(t.Context(), "meshes/a/a.glb", bytes.NewReader(data), int64(n), ""); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(get(t, s, "meshes/a/a.glb"), data) {
			t.Fatalf("after put %d: other bytes came back", i)
		}
	}
}

var errSource = errors.New("the source broke")

// testWhole puts from sources that fail, over nothing and over an older object.
func testWhole(t *testing.T, s Store) {
	for name, tc := range map[string]struct {
		r    io.Reader
		size int64
		want error
	}{
		"short":          {bytes.NewReader(noise(99, 1)), 100, io.ErrUnexpectedEOF},
		"empty":          {bytes.NewReader(nil), 1, io.ErrUnexpectedEOF},
		"long":           {bytes.NewReader(noise(101, 1)), 100, nil},
		"long, parts":    {bytes.NewReader(noise(9*mib+1, 1)), 9 * mib, nil},
		"short, parts":   {bytes.NewReader(noise(17*mib, 1)), 18 * mib, io.ErrUnexpectedEOF},
		"fails":          {io.MultiReader(bytes.NewReader(noise(50, 1)), broken{}), 100, errSource},
		"fails, unknown": {io.MultiReader(bytes.NewReader(noise(50, 1)), broken{}), -1, errSource},
		"fails, parts":   {io.MultiReader(bytes.NewReader(noise(17*mib, 1)), broken{}), -1, errSource},
		"fails at end":   {io.MultiReader(bytes.NewReader(noise(16*mib, 1)), broken{}), 16 * mib, errSource},
	} {
		t.Run(name, func(t *testing.T) {
			key := "meshes/w/" + strings.ReplaceAll(name, ", ", "-")
			data, err := io.ReadAll(tc.r)
			again := func() io.Reader {
				if err != nil {
					return plain{io.MultiReader(bytes.NewReader(data), broken{})}
				}
				return plain{bytes.NewReader(data)}
			}
			_, putErr := s.Put(t.Context(), key, again(), tc.size, "")
			if putErr == nil || (tc.want != nil && !errors.Is(putErr, tc.want)) {
				t.Fatalf("Put = %v, want %v", putErr, tc.want)
			}
			if _, err := s.Stat(t.Context(), key); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("after a failed Put: Stat = %v, want ErrNotFound", err)
			}
			old := []byte("what was there")
			if _, err := s.Put(t.Context(), key, bytes.NewReader(old), int64(len(old)), ""); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Put(t.Context(), key, again(), tc.size, ""); err == nil {
				t.Error("the second Put did not fail")
			}
			if got := get(t, s, key); !bytes.Equal(got, old) {
				t.Errorf("a failed Put changed the object: %.40q", got)
			}
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errSource }

func testConcurrent(t *testing.T, s Store) {
	const writers = 6
	bodies := make([][]byte, writers)
	var wg sync.WaitGroup
	for i := range bodies {
		bodies[i] = noise(9*mib+i, uint64(i)+7)
		if i%2 == 0 {
			bodies[i] = bodies[i][:1000+i]
		}
		wg.Go(func() {
			if _, err := s.Put(t.Context(), "meshes/c/c.glb", plain{bytes.NewReader(bodies[i])}, -1, ""); err != nil {
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	got := get(t, s, "meshes/c/c.glb")
	if !slices.ContainsFunc(bodies, func(b []byte) bool { return bytes.Equal(b, got) }) {
		t.Errorf("the object is none of those that were put: %d bytes", len(got))
	}
}

var notInBucket = regexp.MustCompile(`[^a-z0-9]+`)

// BucketName makes a bucket name that no other test uses and that tells the
// test's name.
func BucketName(t testing.TB) string {
	name := strings.Trim(notInBucket.ReplaceAllString(strings.ToLower(t.Name()), "-"), "-")
	return strings.Trim(name[max(0, len(name)-40):], "-") + "-" + strings.ToLower(crand.Text()[:12])
}
