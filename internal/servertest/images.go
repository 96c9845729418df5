package servertest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// image is a server's program in an image with nothing else.
type image struct {
	name     string // of the program
	module   string // as test/servers/go.mod requires it
	override string // environment variable that names another image
}

var (
	natsImage  = image{"nats-server", "github.com/nats-io/nats-server/v2", "MESHMILL_TEST_NATS_IMAGE"}
	minioImage = image{"minio", "github.com/minio/minio", "MESHMILL_TEST_MINIO_IMAGE"}
)

// buildFlags are part of what a program is cached under.
var buildFlags = []string{"-trimpath", "-ldflags", "-s -w"}

// pins are the versions in test/servers.
type pins struct {
	dir string
	mod []byte
	sum []byte
}

func readPins() (*pins, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	p := &pins{dir: filepath.Join(root, "test", "servers")}
	if p.mod, err = os.ReadFile(filepath.Join(p.dir, "go.mod")); err == nil {
		p.sum, err = os.ReadFile(filepath.Join(p.dir, "go.sum"))
	}
	if err != nil {
		return nil, fmt.Errorf("the pinned servers: %w", err)
	}
	return p, nil
}

// moduleRoot finds the repository above the working directory, which for a test
// is its package's folder.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		f, openErr := os.Open(filepath.Join(dir, "go.mod"))
		if openErr == nil {
			line, _ := bufio.NewReader(f).ReadString('\n')
			f.Close()
			if strings.TrimSpace(line) == "module github.com/meshmill/meshmill" {
				return dir, nil
			}
		}
		if filepath.Dir(dir) == dir {
			err = errors.New("run this inside the Meshmill repository")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// version returns a module's version, without "v" and without what a
// pseudo-version has before its date.
func (p *pins) version(module string) (string, error) {
	m := regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(module) + ` v(\S+)`).FindSubmatch(p.mod)
	if m == nil {
		return "", fmt.Errorf("test/servers/go.mod does not require %s", module)
	}
	return strings.TrimPrefix(string(m[1]), "0.0.0-"), nil
}

// tag is the image's name here: its version, and a hash of all that goes into
// it, so that whatever changes is built again.
func (p *pins) tag(img image) (string, error) {
	version, err := p.version(img.module)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%q\n%s %s\n%s", p.mod, p.sum, buildFlags, runtime.GOARCH, runtime.Version(), img.dockerfile())
	return fmt.Sprintf("meshmill-test/%s:%s-%s", img.name, version, hex.EncodeToString(h.Sum(nil))[:12]), nil
}

func (img image) dockerfile() string {
	return "FROM scratch\nCOPY " + img.name + " /" + img.name +
		"\nWORKDIR /tmp\nWORKDIR /data\nVOLUME /data\nENTRYPOINT [\"/" + img.name + "\"]\n"
}

// program compiles the server, or finds it in the cache.
func (p *pins) program(ctx context.Context, img image, tag string, out io.Writer) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "meshmill-test")
	file := filepath.Join(dir, strings.NewReplacer("/", "-", ":", "-").Replace(strings.TrimPrefix(tag, "meshmill-test/")))
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	began := time.Now()
	fmt.Fprintf(out, "servertest: compiling %s; the first time takes minutes\n", strings.TrimPrefix(tag, "meshmill-test/"))
	temp := fmt.Sprintf("%s.%d", file, os.Getpid())
	defer os.Remove(temp)
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build"}, buildFlags...), "-o", temp, img.module)...)
	cmd.Dir = p.dir
	// Whatever flags the tests are built with are not for the servers.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile %s: %w\n%s", img.module, err, said[:min(len(said), 4000)])
	}
	fmt.Fprintf(out, "servertest: compiled %s in %v\n", img.name, time.Since(began).Round(time.Second))
	return file, os.Rename(temp, file)
}

// archive is what an image is built from.
func (img image) archive(program string) (*bytes.Reader, error) {
	raw, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range []struct {
		name string
		mode int64
		data []byte
	}{{"Dockerfile", 0o644, []byte(img.dockerfile())}, {img.name, 0o755, raw}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	return bytes.NewReader(buf.Bytes()), w.Close()
}
