package embedded

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/internal/storagetest"
	"github.com/meshmill/meshmill/pkg/storage"
)

// TestSidecar runs the S3 server as on a file system without extended
// attributes.
func TestSidecar(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"s3", "meta"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	keys := keyPair{"id", "secret"}
	g, err := startGateway(t.Context(), dir, "", keys, false, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.close(context.Background()); err != nil {
			t.Error(err)
		}
		if entries, _ := os.ReadDir(filepath.Join(dir, "meta")); len(entries) == 0 || strings.Contains(entries[0].Name(), "tmp") {
			t.Errorf("metadata are not under the buckets' names: %v", entries)
		}
		if xattr, err := hasXattr(dir); err != nil || xattr {
			t.Errorf("hasXattr = %v, %v after metadata were written beside", xattr, err)
		}
	})
	storagetest.Run(t, func(t *testing.T) storagetest.Store {
		b, err := storage.Open(t.Context(), storage.Config{
			Bucket: storagetest.BucketName(t), Endpoint: "http://" + g.addr, AccessKeyID: keys.id, SecretAccessKey: keys.secret,
		})
		if err == nil {
			err = b.Ensure(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

func FuzzParseEnv(f *testing.F) {
	for _, s := range []string{
		"export A='b'\n", "A='b'", "export A='it'\\''s'\n", "export A=b\n", "# x\n\nexport A='\n'\n", "export ='x'", "export A=''''",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		env := parseEnv(raw)
		var again strings.Builder
		for name, value := range env {
			again.WriteString("export " + name + "=" + quote(value) + "\n")
		}
		if diff := cmp.Diff(env, parseEnv([]byte(again.String()))); diff != "" {
			t.Errorf("not stable (-first +second):\n%s", diff)
		}
	})
}
