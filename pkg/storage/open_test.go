package storage_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshmill/meshmill/pkg/storage"
)

func TestOpenRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg   storage.Config
		words string
	}{
		"no bucket":        {storage.Config{Region: "r"}, "MESHMILL_BUCKET"},
		"bad bucket":       {storage.Config{Bucket: "My_Bucket", Region: "r"}, "My_Bucket"},
		"path as bucket":   {storage.Config{Bucket: "a/../b", Region: "r"}, "a/../b"},
		"half credentials": {storage.Config{Bucket: "abc", Region: "r", AccessKeyID: "x"}, "AWS_SECRET_ACCESS_KEY"},
		"no scheme":        {storage.Config{Bucket: "abc", Endpoint: "127.0.0.1:9000"}, "AWS_ENDPOINT_URL_S3"},
		"password":         {storage.Config{Bucket: "abc", Endpoint: "http://u:hunter2@h"}, "without credentials"},
		"other scheme":     {storage.Config{Bucket: "abc", Endpoint: "ftp://h"}, "AWS_ENDPOINT_URL_S3"},
		"no region":        {storage.Config{Bucket: "abc"}, "AWS_REGION"},
	} {
		t.Run(name, func(t *testing.T) {
			isolate(t)
			_, err := storage.Open(t.Context(), tc.cfg)
			if err == nil || !strings.Contains(err.Error(), tc.words) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("Open = %v, want an error that says %q", err, tc.words)
			}
		})
	}
}

// isolate keeps the machine's own AWS configuration out.
func isolate(t *testing.T) {
	for _, name := range []string{
		"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE",
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_MAX_ATTEMPTS",
	} {
		t.Setenv(name, "")
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

func TestEndpointByEnvironment(t *testing.T) {
	for _, name := range []string{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} {
		t.Run(name, func(t *testing.T) {
			isolate(t)
			paths := make(chan string, 1)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				paths <- r.Method + " " + r.URL.Path
			}))
			defer srv.Close()
			t.Setenv(name, srv.URL)
			t.Setenv("AWS_ACCESS_KEY_ID", "id")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "key")
			t.Setenv("AWS_MAX_ATTEMPTS", "7")
			b, err := storage.Open(t.Context(), storage.Config{Bucket: "my-bucket"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Put(t.Context(), "k", strings.NewReader(""), 0, ""); err != nil {
				t.Error(err)
			}
			if got := <-paths; got != "PUT /my-bucket/k" { // by path, and with no region told
				t.Errorf("request %q", got)
			}
		})
	}
}

func TestAttemptsByEnvironment(t *testing.T) {
	isolate(t)
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		refuse(503, "SlowDown")(w, r)
	}))
	defer srv.Close()
	t.Setenv("AWS_MAX_ATTEMPTS", "5")
	t.Setenv("AWS_RETRY_MODE", "adaptive")
	b := open(t, srv.URL)
	if err := b.Delete(t.Context(), "k"); !errors.Is(err, storage.ErrUnreachable) || n != 3 {
		t.Errorf("Delete = %v after %d requests, want 3", err, n)
	}
}

// TestTLS uses a store with a certificate authority of its own. Over TLS the SDK
// would send checksum trailers, which many such stores refuse.
func TestTLS(t *testing.T) {
	isolate(t)
	store := &multipart{}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Amz-Trailer") != "" || r.Header.Get("Content-Encoding") != "" || r.ContentLength < 0 {
			t.Errorf("%s %s is sent in chunks with a trailer", r.Method, r.URL.Path)
		}
		store.ServeHTTP(w, r)
	}))
	defer srv.Close()
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	put := func() error {
		_, err := open(t, srv.URL).Put(t.Context(), "k", bytes.NewReader(make([]byte, 9*mib)), 9*mib, "")
		return err
	}
	if err := put(); !errors.Is(err, storage.ErrUnreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Put without the authority = %v", err)
	}
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CA_BUNDLE", bundle)
	if err := put(); err != nil {
		t.Errorf("Put = %v", err)
	}
}

func TestNoCredentials(t *testing.T) {
	isolate(t)
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") }))
	defer srv.Close()
	b, err := storage.Open(t.Context(), storage.Config{Bucket: "my-bucket", Endpoint: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	_, signErr := b.Presign(t.Context(), "k", 1e9, "f")
	for _, err := range []error{b.Check(t.Context()), signErr} {
		if !errors.Is(err, storage.ErrDenied) || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
			t.Errorf("error = %v", err)
		}
	}
}

// TestBrokenProfile: a configuration that tells all needs no shared files.
func TestBrokenProfile(t *testing.T) {
	isolate(t)
	t.Setenv("AWS_PROFILE", "no-such-profile")
	if _, err := storage.Open(t.Context(), storage.Config{
		Bucket: "abc", Endpoint: "http://127.0.0.1:1", Region: "r", AccessKeyID: "a", SecretAccessKey: "b",
	}); err != nil {
		t.Errorf("Open = %v", err)
	}
	if _, err := storage.Open(t.Context(), storage.Config{Bucket: "abc"}); err == nil || !strings.Contains(err.Error(), "no-such-profile") {
		t.Errorf("Open = %v", err)
	}
}
