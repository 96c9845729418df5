package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

func testMissing(t *testing.T, s Store) {
	ctx := t.Context()
	_, _, getErr := s.Get(ctx, "meshes/no/no.glb")
	_, bytesErr := s.GetBytes(ctx, "meshes/no/no.glb", 10)
	_, statErr := s.Stat(ctx, "meshes/no/no.glb")
	for op, err := range map[string]error{
		"Get": getErr, "GetBytes": bytesErr, "Stat": statErr,
		"GetJSON": s.GetJSON(ctx, "meshes/no/manifest.json", new(any), 10),
	} {
		if !errors.Is(err, storage.ErrNotFound) || jobs.KindOf(err) != jobs.Permanent {
			t.Errorf("%s = %v (%v), want ErrNotFound", op, err, jobs.KindOf(err))
		}
	}
	if err := s.Delete(ctx, "meshes/no/no.glb"); err != nil {
		t.Errorf("Delete = %v", err)
	}
	if err := s.PutJSON(ctx, "meshes/yes/yes.json", 1); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, "meshes/yes/yes.json"); err != nil {
		t.Errorf("Delete = %v", err)
	}
	if _, err := s.Stat(ctx, "meshes/yes/yes.json"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("after Delete: Stat = %v", err)
	}
}

func testKeys(t *testing.T, s Store) {
	for _, key := range []string{
		"meshes/a/with space.glb", "meshes/a/plus+and%25percent.glb", "meshes/a/ümlaut 漢字.glb",
		"meshes/a/quote'\"<>&=?#;.glb", "meshes/a/~tilde@at:colon,comma!$().glb", "top", "a/b/c/d/e/f",
	} {
		if _, err := s.Put(t.Context(), key, strings.NewReader(key), int64(len(key)), ""); err != nil {
			t.Errorf("Put(%q): %v", key, err)
			continue
		}
		if got := get(t, s, key); string(got) != key {
			t.Errorf("Get(%q) = %q", key, got)
		}
		for o, err := range s.List(t.Context(), key) {
			if err != nil || o.Key != key {
				t.Errorf("List(%q) = %q, %v", key, o.Key, err)
			}
		}
		if !strings.HasSuffix(s.URI(key), "/"+key) || !strings.HasPrefix(s.URI(key), "s3://") {
			t.Errorf("URI = %q", s.URI(key))
		}
	}
	for _, key := range []string{
		"", "/a", "a/", "a//b", "../a", "a/../../b", ".", "a/./b", "a\x00b", "a\nb", `a\..\b`, strings.Repeat("k", 1025),
	} {
		if _, err := s.Put(t.Context(), key, strings.NewReader("x"), 1, ""); jobs.KindOf(err) != jobs.Permanent {
			t.Errorf("Put(%.20q) = %v, want a permanent error", key, err)
		}
		if _, err := s.Stat(t.Context(), key); jobs.KindOf(err) != jobs.Permanent || errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Stat(%.20q) = %v, want a permanent error", key, err)
		}
	}
}

func testList(t *testing.T, s Store) {
	const n = 1203 // more than a page
	var wg sync.WaitGroup
	turns := make(chan struct{}, 8)
	var want []string
	for i := range n {
		key := fmt.Sprintf("meshes/l-%04d/x.glb", i)
		want = append(want, key)
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			if _, err := s.Put(t.Context(), key, strings.NewReader("xyz"), 3, "text/plain"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, key := range []string{"meshes/k/x", "other/x", "meshes.x"} {
		if err := s.PutJSON(t.Context(), key, 1); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for o, err := range s.List(t.Context(), "meshes/l-") {
		if err != nil {
			t.Fatal(err)
		}
		if o.Size != 3 || o.Modified.IsZero() {
			t.Errorf("%+v", o)
		}
		got = append(got, o.Key)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	seen := 0
	for _, err := range s.List(t.Context(), "meshes/l-") {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; seen == 3 {
			break
		}
	}
	for o, err := range s.List(t.Context(), "nothing/") {
		t.Errorf("List of nothing yields %v, %v", o, err)
	}
}

func testInput(t *testing.T, s Store) {
	data := noise(70_000, 3)
	wantKey := jobs.InputKey(hexSum(data), "png")
	for i, created := range []bool{true, false, false} {
		r := bytes.NewReader(data)
		_, _ = r.Seek(int64(i)*10, io.SeekStart) // wherever it stands
		key, got, err := s.PutInput(t.Context(), r, "png", "image/png")
		if err != nil || key != wantKey || got != created {
			t.Errorf("PutInput %d = %q, %v, %v", i, key, got, err)
		}
	}
	if !bytes.Equal(get(t, s, wantKey), data) {
		t.Error("other bytes came back")
	}
	if obj, err := s.Stat(t.Context(), wantKey); err != nil || obj.MediaType != "image/png" {
		t.Errorf("Stat = %+v, %v", obj, err)
	}
	// An object of another size under that key is not the input.
	if _, err := s.Put(t.Context(), wantKey, strings.NewReader("damaged"), 7, ""); err != nil {
		t.Fatal(err)
	}
	if _, created, err := s.PutInput(t.Context(), bytes.NewReader(data), "png", "image/png"); err != nil || !created {
		t.Errorf("PutInput over a damaged one = %v, %v", created, err)
	}
	if !bytes.Equal(get(t, s, wantKey), data) {
		t.Error("the damaged input was left")
	}
	for _, ext := range []string{"", ".png", "PNG", "a/b", "abcdefghijk"} {
		if _, _, err := s.PutInput(t.Context(), bytes.NewReader(data), ext, ""); jobs.KindOf(err) != jobs.Permanent {
			t.Errorf("extension %q: %v, want a permanent error", ext, err)
		}
	}
}

func testJSON(t *testing.T, s Store) {
	type doc struct {
		A string
		B []int
	}
	in := doc{"ä", []int{1, 2, 3}}
	if err := s.PutJSON(t.Context(), "meshes/j/manifest.json", in); err != nil {
		t.Fatal(err)
	}
	var out doc
	if err := s.GetJSON(t.Context(), "meshes/j/manifest.json", &out, 1000); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, out); diff != "" {
		t.Errorf("(-put +got):\n%s", diff)
	}
	if obj, err := s.Stat(t.Context(), "meshes/j/manifest.json"); err != nil || obj.MediaType != "application/json" {
		t.Errorf("Stat = %+v, %v", obj, err)
	}
	if err := s.GetJSON(t.Context(), "meshes/j/manifest.json", &out, 5); !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("GetJSON with a small limit = %v, want ErrTooLarge", err)
	}
	if err := s.PutJSON(t.Context(), "meshes/j/bad", func() {}); jobs.KindOf(err) != jobs.Permanent {
		t.Errorf("PutJSON of a function = %v", err)
	}
	if _, err := s.Put(t.Context(), "meshes/j/bad", strings.NewReader("{"), 1, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.GetJSON(t.Context(), "meshes/j/bad", &out, 100); jobs.KindOf(err) != jobs.Permanent || !strings.Contains(err.Error(), "meshes/j/bad") {
		t.Errorf("GetJSON of no JSON = %v", err)
	}
}

func testPresign(t *testing.T, s Store) {
	data := noise(3000, 9)
	if _, err := s.Put(t.Context(), "inputs/a b.png", bytes.NewReader(data), 3000, "image/png"); err != nil {
		t.Fatal(err)
	}
	signed, err := s.Presign(t.Context(), "inputs/a b.png", time.Hour, "job 1/../ü\"\r\nX: y.png")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(signed)
	if err != nil {
		t.Fatal("not a URL")
	}
	const want = `attachment; filename="job_1_.._____X__y.png"`
	if got := u.Query().Get("response-content-disposition"); got != want {
		t.Errorf("disposition = %s, want %s", got, want)
	}
	other, err := s.Presign(t.Context(), "inputs/a b.png", time.Hour, "job-2.png")
	if err != nil || other == signed {
		t.Errorf("another name does not make another URL: %v", err)
	}
	for _, ttl := range []time.Duration{0, -time.Hour, time.Millisecond, 8 * 24 * time.Hour} {
		if _, err := s.Presign(t.Context(), "inputs/x.png", ttl, "x"); jobs.KindOf(err) != jobs.Permanent {
			t.Errorf("ttl %v: %v, want a permanent error", ttl, err)
		}
	}
	if strings.HasSuffix(u.Host, ".invalid") {
		return // the fake's
	}
	resp, err := http.Get(signed)
	if err != nil {
		t.Fatal("the signed URL cannot be fetched")
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(got, data) {
		t.Errorf("GET of the signed URL: status %d, %d bytes, %v", resp.StatusCode, len(got), err)
	}
	if d := resp.Header.Get("Content-Disposition"); d != want {
		t.Errorf("Content-Disposition = %s", d)
	}
	u.RawQuery = strings.Replace(u.RawQuery, "job_1", "job_9", 1)
	forged, err := http.Get(u.String())
	if err != nil {
		t.Fatal("the forged URL cannot be fetched")
	}
	forged.Body.Close()
	if forged.StatusCode != http.StatusForbidden {
		t.Errorf("GET of a forged URL: status %d, want 403", forged.StatusCode)
	}
}

func testCancelled(t *testing.T, s Store) {
	ctx, cancel := context.WithCancel(t.Context())
	// Cancelled by the source, in the middle of the second part.
	src := io.MultiReader(bytes.NewReader(noise(12*mib, 5)), hook(cancel), bytes.NewReader(noise(12*mib, 6)))
	if _, err := s.Put(ctx, "meshes/x/x.glb", plain{src}, 24*mib, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("Put = %v, want context.Canceled", err)
	}
	if _, err := s.Stat(t.Context(), "meshes/x/x.glb"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a cancelled Put left an object: %v", err)
	}
	if err := s.PutJSON(t.Context(), "meshes/x/y.json", 1); err != nil {
		t.Fatal(err)
	}
	_, statErr := s.Stat(ctx, "meshes/x/y.json")
	_, _, getErr := s.Get(ctx, "meshes/x/y.json")
	var listErr error
	for _, listErr = range s.List(ctx, "meshes/") {
	}
	for op, err := range map[string]error{
		"Stat": statErr, "Get": getErr, "List": listErr, "Delete": s.Delete(ctx, "meshes/x/y.json"),
		"PutJSON": s.PutJSON(ctx, "meshes/x/y.json", 2),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s = %v, want context.Canceled", op, err)
		}
	}
	if got := get(t, s, "meshes/x/y.json"); strings.TrimSpace(string(got)) != "1" {
		t.Errorf("a cancelled call changed the object: %q", got)
	}
}

// hook is a reader that calls a function and ends.
type hook func()

func (h hook) Read([]byte) (int, error) { h(); return 0, io.EOF }

func testEarlyClose(t *testing.T, s Store) {
	if _, err := s.Put(t.Context(), "meshes/e/e.glb", bytes.NewReader(noise(3*mib, 1)), 3*mib, ""); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r, _, err := s.Get(t.Context(), "meshes/e/e.glb")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, r, 1000); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	}
}

func testBytesLimits(t *testing.T, s Store) {
	if _, err := s.Put(t.Context(), "meshes/b/b", strings.NewReader("12345"), 5, ""); err != nil {
		t.Fatal(err)
	}
	if got, err := s.GetBytes(t.Context(), "meshes/b/b", 5); err != nil || string(got) != "12345" {
		t.Errorf("GetBytes = %q, %v", got, err)
	}
	if _, err := s.GetBytes(t.Context(), "meshes/b/b", 4); !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("GetBytes = %v, want ErrTooLarge", err)
	}
}
