package storage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

const secret = "s3cr3tS3cr3tS3cr3t"

// fake opens a bucket on a server that answers with h.
func fake(t *testing.T, h http.HandlerFunc) *storage.Bucket {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return open(t, srv.URL)
}

func open(t *testing.T, endpoint string) *storage.Bucket {
	t.Helper()
	b, err := storage.Open(t.Context(), storage.Config{
		Bucket: "my-bucket", Endpoint: endpoint, Region: "us-east-1", AccessKeyID: "AKIDTEST", SecretAccessKey: secret,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func refuse(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		if r.Method != http.MethodHead && code != "" {
			fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>in the store's words</Message></Error>`, code)
		}
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status int
		code   string
		want   error
		kind   jobs.Kind
		words  []string
	}{
		{404, "NoSuchKey", storage.ErrNotFound, jobs.Permanent, []string{"my-bucket", "meshes/a/a.glb"}},
		{404, "NoSuchBucket", storage.ErrNoBucket, jobs.Retryable, []string{"my-bucket", "MESHMILL_BUCKET", "http://"}},
		{403, "AccessDenied", storage.ErrDenied, jobs.Retryable, []string{"my-bucket", "rights"}},
		{403, "InvalidAccessKeyId", storage.ErrDenied, jobs.Retryable, []string{"AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"}},
		{403, "SignatureDoesNotMatch", storage.ErrDenied, jobs.Retryable, []string{"AWS_SECRET_ACCESS_KEY"}},
		{403, "RequestTimeTooSkewed", storage.ErrDenied, jobs.Retryable, []string{"clock"}},
		{401, "", storage.ErrDenied, jobs.Retryable, nil},
		{301, "PermanentRedirect", storage.ErrDenied, jobs.Retryable, []string{"AWS_REGION"}},
		{302, "", storage.ErrUnreachable, jobs.Retryable, []string{"redirect"}},
		{400, "AuthorizationHeaderMalformed", storage.ErrDenied, jobs.Retryable, []string{"AWS_REGION"}},
		{507, "", storage.ErrFull, jobs.Retryable, []string{"room"}},
		{507, "XMinioStorageFull", storage.ErrFull, jobs.Retryable, []string{"room"}},
		{403, "QuotaExceeded", storage.ErrFull, jobs.Retryable, []string{"quota"}},
		{400, "EntityTooLarge", storage.ErrTooLarge, jobs.Permanent, nil},
		{500, "InternalError", storage.ErrUnreachable, jobs.Retryable, []string{"500"}},
		{503, "SlowDown", storage.ErrUnreachable, jobs.Retryable, []string{"503"}},
		{400, "InvalidArgument", nil, jobs.Permanent, []string{"InvalidArgument", "in the store's words"}},
	} {
		t.Run(fmt.Sprint(tc.status, tc.code), func(t *testing.T) {
			t.Parallel()
			b := fake(t, refuse(tc.status, tc.code))
			_, err := b.GetBytes(t.Context(), "meshes/a/a.glb", 10)
			if err == nil || (tc.want != nil && !errors.Is(err, tc.want)) {
				t.Fatalf("error = %v, want %v", err, tc.want)
			}
			if k := jobs.KindOf(err); k != tc.kind {
				t.Errorf("kind = %v, want %v", k, tc.kind)
			}
			for _, w := range tc.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
			_, putErr := b.Put(t.Context(), "meshes/a/a.glb", strings.NewReader("x"), 1, "")
			for _, err := range []error{err, putErr, b.Check(t.Context())} {
				checkClean(t, err)
			}
		})
	}
}

// checkClean checks that nothing secret is in an error.
func checkClean(t *testing.T, err error) {
	t.Helper()
	for _, text := range []string{fmt.Sprint(err), fmt.Sprintf("%+v", err)} {
		for _, bad := range []string{secret, "AKIDTEST", "Signature=", "x-id=", "\n"} {
			if strings.Contains(text, bad) {
				t.Errorf("the error holds %q: %s", bad, text)
			}
		}
	}
}

// TestNotS3 must not take the answers of some other server for "not found".
func TestNotS3(t *testing.T) {
	t.Parallel()
	b := fake(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "<html>nothing here</html>", http.StatusNotFound)
	})
	if _, err := b.GetBytes(t.Context(), "meshes/a/manifest.json", 10); err == nil || errors.Is(err, storage.ErrNotFound) {
		t.Errorf("GetBytes = %v", err)
	}
	if _, err := b.Stat(t.Context(), "meshes/a/manifest.json"); err == nil || errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Stat = %v", err)
	}
	b = fake(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "welcome") })
	if err := b.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "AWS_ENDPOINT_URL_S3") {
		t.Errorf("Check = %v", err)
	}
}

func TestStatWithoutBucket(t *testing.T) {
	t.Parallel()
	b := fake(t, refuse(404, "NoSuchBucket"))
	if _, err := b.Stat(t.Context(), "meshes/a/a.glb"); !errors.Is(err, storage.ErrNoBucket) || errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Stat = %v, want ErrNoBucket", err)
	}
}

// TestRepeats counts how often a request is sent.
func TestRepeats(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fails int32 // that many times, then it works
		sent  int32
		want  error
	}{
		"never": {0, 1, nil}, "twice": {2, 3, nil}, "always": {1000, 3, storage.ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int32
			var last atomic.Value
			b := fake(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				last.Store(string(body))
				if n.Add(1) <= tc.fails {
					refuse(503, "SlowDown")(w, r)
				}
			})
			_, err := b.Put(t.Context(), "meshes/a/a.glb", strings.NewReader("body"), 4, "")
			if !errors.Is(err, tc.want) || n.Load() != tc.sent {
				t.Errorf("Put = %v after %d requests, want %v after %d", err, n.Load(), tc.want, tc.sent)
			}
			if last.Load() != "body" {
				t.Errorf("the last request had the body %q", last.Load())
			}
		})
	}
}

// TestCheckAtOnce: who checks wants no patience.
func TestCheckAtOnce(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	b := fake(t, func(w http.ResponseWriter, r *http.Request) { n.Add(1); refuse(503, "SlowDown")(w, r) })
	if err := b.Check(t.Context()); !errors.Is(err, storage.ErrUnreachable) || n.Load() != 1 {
		t.Errorf("Check = %v after %d requests", err, n.Load())
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	l.Close()
	for name, tc := range map[string]struct{ endpoint, word string }{
		"closed port":  {closed, "refused"},
		"unknown host": {"http://no-such-host.invalid:9000", "no-such-host.invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, tc.endpoint)
			began := time.Now()
			_, statErr := b.Stat(t.Context(), "meshes/a/a.glb")
			for _, err := range []error{b.Check(t.Context()), b.Ensure(t.Context()), statErr} {
				if !errors.Is(err, storage.ErrUnreachable) {
					t.Errorf("error = %v, want ErrUnreachable", err)
				}
				for _, w := range []string{tc.endpoint, "AWS_ENDPOINT_URL_S3", tc.word} {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("%q does not say %q", err, w)
					}
				}
				checkClean(t, err)
			}
			if d := time.Since(began); d > 20*time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
}

func TestGetBody(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256([]byte("0123456789"))
	for name, tc := range map[string]struct {
		sent string
		hash string
		want error
	}{
		"whole":          {"0123456789", hex.EncodeToString(sum[:]), nil},
		"no hash":        {"0123456789", "", nil},
		"no hash at all": {"0123456789", "nonsense", nil},
		"cut":            {"01234", hex.EncodeToString(sum[:]), io.ErrUnexpectedEOF},
		"cut, no hash":   {"01234", "", io.ErrUnexpectedEOF},
		"other bytes":    {"012345678X", hex.EncodeToString(sum[:]), storage.ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fake(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "10")
				w.Header().Set("Content-Type", "model/gltf-binary")
				if tc.hash != "" {
					w.Header().Set("X-Amz-Meta-Sha256", tc.hash)
				}
				_, _ = io.WriteString(w, tc.sent)
				if len(tc.sent) < 10 {
					_ = http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				}
			})
			r, obj, err := b.Get(t.Context(), "meshes/a/a.glb")
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			if !errors.Is(err, tc.want) || string(got) != tc.sent {
				t.Errorf("read %q, %v; want %q, %v", got, err, tc.sent, tc.want)
			}
			if obj.Size != 10 || obj.MediaType != "model/gltf-binary" {
				t.Errorf("%+v", obj)
			}
			if tc.want != nil {
				checkClean(t, err)
				if _, again := r.Read(make([]byte, 1)); again != err {
					t.Errorf("the next Read = %v", again)
				}
			}
		})
	}
}

// multipart is a server that takes parts, and fails as it is told.
type multipart struct {
	mu       sync.Mutex
	failPart string // partNumber
	onPart   func()
	begun    int
	parts    map[string]int
	aborted  int
	complete int
}

func (m *multipart) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, _ := io.Copy(io.Discard, r.Body)
	q := r.URL.Query()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case r.Method == http.MethodPost && q.Has("uploads"):
		m.begun++
		fmt.Fprint(w, `<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>`)
	case r.Method == http.MethodPut && q.Get("uploadId") == "u1":
		if m.onPart != nil {
			m.onPart()
		}
		if q.Get("partNumber") == m.failPart {
			refuse(403, "AccessDenied")(w, r)
			return
		}
		if m.parts == nil {
			m.parts = map[string]int{}
		}
		m.parts[q.Get("partNumber")] = int(n)
		w.Header().Set("ETag", `"e`+q.Get("partNumber")+`"`)
	case r.Method == http.MethodDelete && q.Get("uploadId") == "u1":
		m.aborted++
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPost && q.Get("uploadId") == "u1":
		m.complete++
		fmt.Fprint(w, `<CompleteMultipartUploadResult><Key>k</Key></CompleteMultipartUploadResult>`)
	default:
		w.WriteHeader(http.StatusTeapot)
	}
}

const mib = 1 << 20

func TestPutParts(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("0123456789abcdef"), 20*mib/16+1)
	for name, tc := range map[string]struct {
		server *multipart
		body   io.Reader
		size   int64
		want   error
	}{
		"good":       {&multipart{}, bytes.NewReader(data), int64(len(data)), nil},
		"unknown":    {&multipart{}, io.MultiReader(bytes.NewReader(data)), -1, nil},
		"refused":    {&multipart{failPart: "2"}, bytes.NewReader(data), int64(len(data)), storage.ErrDenied},
		"short":      {&multipart{}, bytes.NewReader(data), int64(len(data)) + 1, io.ErrUnexpectedEOF},
		"broken":     {&multipart{}, io.MultiReader(bytes.NewReader(data), failing{}), -1, errFailing},
		"broken, 20": {&multipart{}, io.MultiReader(bytes.NewReader(data), failing{}), int64(len(data)), errFailing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(tc.server)
			defer srv.Close()
			obj, err := open(t, srv.URL).Put(t.Context(), "meshes/a/a.glb", tc.body, tc.size, "model/gltf-binary")
			if !errors.Is(err, tc.want) {
				t.Fatalf("Put = %v, want %v", err, tc.want)
			}
			if tc.want != nil {
				checkClean(t, err)
				if tc.server.aborted != 1 || tc.server.complete != 0 {
					t.Errorf("aborted %d times, completed %d times", tc.server.aborted, tc.server.complete)
				}
				return
			}
			sum := sha256.Sum256(data)
			if obj.Size != int64(len(data)) || obj.SHA256 != hex.EncodeToString(sum[:]) {
				t.Errorf("%+v", obj)
			}
			total := 0
			for _, n := range tc.server.parts {
				total += n
			}
			if total != len(data) || len(tc.server.parts) != 3 || tc.server.complete != 1 || tc.server.aborted != 0 {
				t.Errorf("%+v", tc.server)
			}
		})
	}
}

var errFailing = jobs.Faultf(jobs.Permanent, "provider: download", "gone")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errFailing }

func TestPutPartsCancelled(t *testing.T) {
	t.Parallel()
	errWhy := errors.New("the worker stops")
	ctx, cancel := context.WithCancelCause(t.Context())
	m := &multipart{onPart: func() { cancel(errWhy) }}
	srv := httptest.NewServer(m)
	defer srv.Close()
	_, err := open(t, srv.URL).Put(ctx, "meshes/a/a.glb", bytes.NewReader(make([]byte, 40*mib)), 40*mib, "")
	if !errors.Is(err, errWhy) || jobs.KindOf(err) != jobs.Retryable {
		t.Errorf("Put = %v (%v), want the cause", err, jobs.KindOf(err))
	}
	if m.aborted != 1 || m.complete != 0 {
		t.Errorf("aborted %d times, completed %d times", m.aborted, m.complete)
	}
}

// TestSourceKind: what is wrong with the source is not for storage to judge.
func TestSourceKind(t *testing.T) {
	t.Parallel()
	b := fake(t, func(w http.ResponseWriter, r *http.Request) { t.Error("a request was sent") })
	_, err := b.Put(t.Context(), "meshes/a/a.glb", failing{}, -1, "")
	if f, ok := errors.AsType[*jobs.Fault](err); !ok || f != errFailing {
		t.Errorf("Put = %v, want the fault of the source", err)
	}
	_, err = b.Put(t.Context(), "meshes/a/a.glb", strings.NewReader("x"), 2, "")
	if jobs.KindOf(err) != jobs.Retryable {
		t.Errorf("a short source is %v", jobs.KindOf(err))
	}
	for _, err := range []error{
		func() error { _, err := b.Put(t.Context(), "a/../b", nil, 0, ""); return err }(),
		func() error { _, err := b.Put(t.Context(), "a", nil, 0, "image/png\r\nX-Evil: 1"); return err }(),
		func() error { _, err := b.Put(t.Context(), "a", nil, 1<<40, ""); return err }(),
	} {
		if jobs.KindOf(err) != jobs.Permanent || err == nil {
			t.Errorf("%v is %v, want permanent", err, jobs.KindOf(err))
		}
	}
}

// TestPutRequest checks what goes over plain HTTP: a signed hash of the body,
// and no checksum trailer, which many stores refuse.
func TestPutRequest(t *testing.T) {
	t.Parallel()
	got := make(chan *http.Request, 1)
	b := fake(t, func(w http.ResponseWriter, r *http.Request) { got <- r })
	if _, err := b.Put(t.Context(), "meshes/a/a b.glb", strings.NewReader("x"), 1, "model/gltf-binary"); err != nil {
		t.Fatal(err)
	}
	r := <-got
	sum := sha256.Sum256([]byte("x"))
	for name, want := range map[string]string{
		"X-Amz-Content-Sha256": hex.EncodeToString(sum[:]), "X-Amz-Meta-Sha256": hex.EncodeToString(sum[:]),
		"Content-Type": "model/gltf-binary", "X-Amz-Trailer": "", "Content-Encoding": "",
		"X-Amz-Checksum-Sha256": "LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE=",
	} {
		if v := r.Header.Get(name); v != want {
			t.Errorf("%s = %q, want %q", name, v, want)
		}
	}
	if r.URL.EscapedPath() != "/my-bucket/meshes/a/a%20b.glb" || r.ContentLength != 1 {
		t.Errorf("path %s, length %d", r.URL.EscapedPath(), r.ContentLength)
	}
}

func TestPresignIsQuiet(t *testing.T) {
	t.Parallel()
	b := fake(t, func(w http.ResponseWriter, r *http.Request) { t.Error("a request was sent") })
	u, err := b.Presign(t.Context(), "inputs/a.png", time.Hour, "job-1.png")
	if err != nil || !strings.Contains(u, "X-Amz-Expires=3600") || !strings.Contains(u, "job-1.png") || strings.Contains(u, secret) {
		t.Errorf("Presign: %v", err)
	}
}
