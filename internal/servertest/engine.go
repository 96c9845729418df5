package servertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/nats-io/nats.go"
	"github.com/testcontainers/testcontainers-go"
	tclog "github.com/testcontainers/testcontainers-go/log"

	"github.com/meshmill/meshmill/pkg/storage"
)

// engine makes servers in containers.
type engine struct {
	docker  client.APIClient
	version string // of the engine
	host    string // where its published ports are
	images  map[image]string
}

// Labels of the containers made here. One whose process has ended was left by a
// crash, because the reaper that testcontainers would use needs a registry.
const (
	labelPID  = "meshmill.test.pid"
	labelHost = "meshmill.test.host"
)

// findEngine looks for an engine that answers.
func findEngine(ctx context.Context) (_ *engine, err error) {
	defer func() { // testcontainers panics in some environments without Docker
		if p := recover(); p != nil {
			err = fmt.Errorf("no Docker engine answers: %v", p)
		}
	}()
	// These are read once, at the first use of testcontainers.
	setDefault("TESTCONTAINERS_RYUK_DISABLED", "true")
	if _, err := os.Stat("/.dockerenv"); err == nil {
		// In a container testcontainers would look for published ports at the
		// gateway, where those of a local engine are not.
		setDefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
	}
	tclog.SetDefault(tclog.NewNoopLogger())
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if os.Getenv(client.EnvOverrideHost) != "" {
		// testcontainers would quietly take another engine than the one named.
		if err := pingNamed(ctx); err != nil {
			return nil, fmt.Errorf("no Docker engine answers: %s", firstLine(err))
		}
	}
	docker, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err != nil {
		return nil, fmt.Errorf("no Docker engine answers: %s", firstLine(err))
	}
	v, err := docker.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return nil, fmt.Errorf("no Docker engine answers: %s", firstLine(err))
	}
	provider, err := testcontainers.NewDockerProvider()
	if err != nil {
		return nil, fmt.Errorf("no Docker engine answers: %s", firstLine(err))
	}
	defer provider.Close()
	host, err := provider.DaemonHost(ctx)
	if err != nil {
		return nil, fmt.Errorf("where the Docker engine publishes ports: %w", err)
	}
	if host == "localhost" {
		host = "127.0.0.1" // where it can be ::1, ports are published for IPv4
	}
	return &engine{docker: docker, version: v.Version, host: host, images: map[image]string{}}, nil
}

func pingNamed(ctx context.Context) error {
	c, err := client.New(client.FromEnv)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Ping(ctx, client.PingOptions{})
	return err
}

func setDefault(name, value string) {
	if os.Getenv(name) == "" {
		os.Setenv(name, value)
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

func (e *engine) words() string {
	return fmt.Sprintf("%s and %s in containers (Docker %s)", e.images[natsImage], e.images[minioImage], e.version)
}

func (e *engine) close(context.Context) error { return e.docker.Close() }

// prepare makes sure that both images are there, and removes containers that
// crashed tests have left. Processes that run at the same time wait for each
// other.
func (e *engine) prepare(ctx context.Context, out io.Writer) error {
	if err := e.sweep(ctx); err != nil {
		fmt.Fprintln(out, "servertest: remove old containers:", err)
	}
	for _, img := range []image{natsImage, minioImage} {
		if name := os.Getenv(img.override); name != "" {
			e.images[img] = name
			continue
		}
		if err := e.ensureImage(ctx, img, out); err != nil {
			return err
		}
	}
	return nil
}

func (e *engine) ensureImage(ctx context.Context, img image, out io.Writer) error {
	p, err := readPins()
	if err != nil {
		return err
	}
	tag, err := p.tag(img)
	if err != nil {
		return err
	}
	e.images[img] = tag
	if there, err := e.hasImage(ctx, tag); there || err != nil {
		return err
	}
	unlock, err := lock(ctx)
	if err != nil {
		return fmt.Errorf("wait for another process that builds: %w", err)
	}
	defer unlock()
	if there, err := e.hasImage(ctx, tag); there || err != nil {
		return err
	}
	program, err := p.program(ctx, img, tag, out)
	if err != nil {
		return err
	}
	archive, err := img.archive(program)
	if err != nil {
		return err
	}
	repo, version, _ := strings.Cut(tag, ":")
	provider, err := testcontainers.NewDockerProvider()
	if err != nil {
		return err
	}
	defer provider.Close()
	_, err = provider.BuildImage(ctx, &testcontainers.ContainerRequest{FromDockerfile: testcontainers.FromDockerfile{
		ContextArchive: archive, Repo: repo, Tag: version, KeepImage: true,
	}})
	if err != nil {
		return fmt.Errorf("build image %s: %w", tag, err)
	}
	fmt.Fprintln(out, "servertest: built image", tag)
	return nil
}

func (e *engine) hasImage(ctx context.Context, tag string) (bool, error) {
	_, err := e.docker.ImageInspect(ctx, tag)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// lock takes the lock of all processes that build images, and returns what
// gives it back.
func lock(ctx context.Context) (unlock func(), err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "meshmill-test")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

// sweep removes containers whose process has ended.
func (e *engine) sweep(ctx context.Context) error {
	host, _ := os.Hostname()
	list, err := e.docker.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("label", labelHost+"="+host),
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range list.Items {
		pid, err := strconv.Atoi(c.Labels[labelPID])
		if err != nil || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_, err := e.docker.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
			if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(append(errs, e.sweepNetworks(ctx, host))...)
}

const natsConfig = `
listen: "0.0.0.0:4222"
jetstream { store_dir: "/data", sync_interval: always }
`

func (e *engine) newNATS(ctx context.Context) (server, error) {
	return e.run(ctx, testcontainers.ContainerRequest{
		Image: e.images[natsImage],
		Cmd:   []string{"-c", "/nats.conf"},
		Files: []testcontainers.ContainerFile{{
			Reader: strings.NewReader(natsConfig), ContainerFilePath: "/nats.conf", FileMode: 0o644,
		}},
	}, "4222/tcp", natsReady)
}

func natsReady(_ context.Context, addr string) error {
	nc, err := nats.Connect("nats://"+addr, nats.Timeout(time.Second))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := nc.JetStream(nats.MaxWait(time.Second))
	if err == nil {
		_, err = js.AccountInfo()
	}
	return err
}

func (e *engine) newS3(ctx context.Context, room int64) (server, storage.Config, error) {
	var memory map[string]string
	if room > 0 {
		memory = map[string]string{"/data": fmt.Sprintf("size=%d", room)}
	}
	keys := storage.Config{Region: "us-east-1", AccessKeyID: "meshmill-test", SecretAccessKey: "meshmill-test-secret"}
	srv, err := e.run(ctx, testcontainers.ContainerRequest{
		Image: e.images[minioImage],
		Tmpfs: memory,
		Cmd:   []string{"server", "/data", "--address", ":9000"},
		Env: map[string]string{
			"MINIO_ROOT_USER": keys.AccessKeyID, "MINIO_ROOT_PASSWORD": keys.SecretAccessKey,
			"MINIO_BROWSER": "off", "MINIO_UPDATE": "off",
		},
	}, "9000/tcp", func(ctx context.Context, addr string) error { return minioReady(ctx, addr, keys) })
	return srv, keys, err
}

// minioReady asks for a bucket that is not there: MinIO's own health pages are
// green before it knows its users.
func minioReady(ctx context.Context, addr string, keys storage.Config) error {
	keys.Endpoint, keys.Bucket = "http://"+addr, "is-it-ready"
	b, err := storage.Open(ctx, keys)
	if err == nil {
		err = b.Check(ctx)
	}
	if errors.Is(err, storage.ErrNoBucket) {
		return nil
	}
	return err
}
