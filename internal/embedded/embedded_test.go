package embedded_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/meshmill/meshmill/internal/embedded"
	"github.com/meshmill/meshmill/internal/storagetest"
	"github.com/meshmill/meshmill/pkg/storage"
)

// The tests here are not parallel: one instance fits in a process.

func TestMain(m *testing.M) {
	if dir := os.Getenv("EMBEDDED_TEST_CHILD"); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

// child holds a data folder until it is killed.
func child(dir string) {
	s, err := embedded.Start(context.Background(), embedded.Config{Dir: dir, NATSListen: "127.0.0.1:0", Log: zerolog.Nop()})
	if err == nil {
		err = fill(context.Background(), s, "from the child")
	}
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

func start(t *testing.T, cfg embedded.Config) *embedded.Servers {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cfg.Log = zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	s, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *embedded.Servers) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// fill puts one message and one object.
func fill(ctx context.Context, s *embedded.Servers, text string) error {
	nc, err := s.Connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if _, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "T", Subjects: []string{"t.>"}}); err != nil {
		return err
	}
	if _, err := js.Publish(ctx, "t.a", []byte(text)); err != nil {
		return err
	}
	b, err := storage.Open(ctx, s.Storage())
	if err != nil {
		return err
	}
	_, err = b.Put(ctx, "meshes/j/j.glb", strings.NewReader(text), int64(len(text)), "model/gltf-binary")
	return err
}

// check finds what fill put.
func check(t *testing.T, s *embedded.Servers, text string) {
	t.Helper()
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "T")
	if err != nil {
		t.Fatal(err)
	}
	if msg, err := stream.GetLastMsgForSubject(t.Context(), "t.a"); err != nil || string(msg.Data) != text {
		t.Errorf("the message is %v, %v", msg, err)
	}
	b, err := storage.Open(t.Context(), s.Storage())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.GetBytes(t.Context(), "meshes/j/j.glb", 100); err != nil || string(got) != text {
		t.Errorf("the object is %q, %v", got, err)
	}
	if obj, err := b.Stat(t.Context(), "meshes/j/j.glb"); err != nil || obj.MediaType != "model/gltf-binary" {
		t.Errorf("Stat = %+v, %v", obj, err)
	}
}

func TestConformance(t *testing.T) {
	s := start(t, embedded.Config{})
	storagetest.Run(t, func(t *testing.T) storagetest.Store {
		cfg := s.Storage()
		cfg.Bucket = storagetest.BucketName(t)
		b, err := storage.Open(t.Context(), cfg)
		if err == nil {
			err = b.Ensure(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

func TestResume(t *testing.T) {
	t.Chdir(t.TempDir())
	dir := filepath.Join("data folder's", "ü x") // relative, and hard to quote
	before, _ := os.Getwd()
	cfg := embedded.Config{Dir: dir, NATSListen: "127.0.0.1:0", Bucket: "other-bucket"}
	first := start(t, cfg)
	if err := fill(t.Context(), first, "one"); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Getwd(); after != before {
		t.Errorf("the working directory is %q, was %q", after, before)
	}
	if entries, _ := os.ReadDir("."); len(entries) != 1 {
		t.Errorf("something else was written to the working directory: %v", entries)
	}
	got, err := os.ReadFile(filepath.Join(dir, "s3", "other-bucket", "meshes", "j", "j.glb"))
	if err != nil || string(got) != "one" {
		t.Errorf("the object's file holds %q, %v", got, err)
	}
	env := shell(t, first.EnvFile())
	for _, name := range []string{dir, first.EnvFile(), first.NATSCreds()} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("others may read %q: %v, %v", name, info, err)
		}
	}
	keys := first.Storage()
	stop(t, first)

	second := start(t, cfg)
	check(t, second, "one")
	if s := second.Storage(); s.AccessKeyID != keys.AccessKeyID || s.SecretAccessKey != keys.SecretAccessKey {
		t.Error("the second start made other credentials")
	}
	again := shell(t, second.EnvFile())
	for _, name := range []string{"NATS_CREDS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "MESHMILL_BUCKET"} {
		if env[name] == "" || env[name] != again[name] {
			t.Errorf("%s = %q, then %q", name, env[name], again[name])
		}
	}
	useEnv(t, again)
}

// shell loads the file into a shell and returns what it exports.
func shell(t *testing.T, file string) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `. "$1" && env`, "sh", file)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the shell cannot load %s: %v", file, err)
	}
	env := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[name] = value
	}
	return env
}

// useEnv uses the servers like another program that loaded the file.
func useEnv(t *testing.T, env map[string]string) {
	t.Helper()
	if strings.Contains(env["NATS_URL"], "@") {
		t.Error("NATS_URL holds a credential")
	}
	if nc, err := nats.Connect(env["NATS_URL"]); err == nil {
		nc.Close()
		t.Error("the broker admits a client without credentials")
	} else if !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("without credentials: %v", err)
	}
	nc, err := nats.Connect(env["NATS_URL"], nats.UserCredentials(env["NATS_CREDS"]))
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	for _, name := range []string{"AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"} {
		t.Setenv(name, env[name])
	}
	b, err := storage.Open(t.Context(), storage.Config{Bucket: env["MESHMILL_BUCKET"]})
	if err == nil {
		err = b.Check(t.Context())
	}
	if err != nil {
		t.Error(err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	b, err = storage.Open(t.Context(), storage.Config{Bucket: env["MESHMILL_BUCKET"]})
	if err == nil {
		err = b.Check(t.Context())
	}
	if !errors.Is(err, storage.ErrDenied) {
		t.Errorf("with a wrong key: %v, want ErrDenied", err)
	}
}

// TestPlainCopy starts on a copy made without extended attributes, and on a
// path that is too long for a socket.
func TestPlainCopy(t *testing.T) {
	dir := t.TempDir()
	s := start(t, embedded.Config{Dir: dir})
	if err := fill(t.Context(), s, "kept"); err != nil {
		t.Fatal(err)
	}
	stop(t, s)
	moved := filepath.Join(t.TempDir(), strings.Repeat("long/", 20), "a:1")
	if err := os.CopyFS(moved, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s = start(t, embedded.Config{Dir: moved})
	b, err := storage.Open(t.Context(), s.Storage())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.GetBytes(t.Context(), "meshes/j/j.glb", 100); err != nil || string(got) != "kept" {
		t.Errorf("the object is %q, %v", got, err)
	}
	if err := fill(t.Context(), s, "new"); err != nil {
		t.Fatal(err)
	}
	check(t, s, "new")
}

func TestForeignCredentials(t *testing.T) {
	other := start(t, embedded.Config{})
	creds, err := os.ReadFile(other.NATSCreds())
	if err != nil {
		t.Fatal(err)
	}
	stop(t, other)
	file := filepath.Join(t.TempDir(), "other.creds")
	if err := os.WriteFile(file, creds, 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, embedded.Config{NATSListen: "127.0.0.1:0"})
	if nc, err := nats.Connect(s.NATSURL(), nats.UserCredentials(file)); err == nil {
		nc.Close()
		t.Error("the broker admits the credentials of another folder")
	}
	// The right token without the key that goes with it.
	mine, err := os.ReadFile(s.NATSCreds())
	if err != nil {
		t.Fatal(err)
	}
	const cut = "-----BEGIN USER NKEY SEED-----"
	token, _, _ := bytes.Cut(mine, []byte(cut))
	_, key, _ := bytes.Cut(creds, []byte(cut))
	if err := os.WriteFile(file, append(append(token, cut...), key...), 0o600); err != nil {
		t.Fatal(err)
	}
	if nc, err := nats.Connect(s.NATSURL(), nats.UserCredentials(file)); err == nil {
		nc.Close()
		t.Error("the broker admits the token without its key")
	}
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	kill := startChild(t, dir)
	_, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Log: zerolog.Nop()})
	locked, ok := errors.AsType[*embedded.LockedError](err)
	if !errors.Is(err, embedded.ErrLocked) || !ok || locked.PID == 0 {
		t.Fatalf("Start = %v, want ErrLocked with the process", err)
	}
	for _, want := range []string{dir, fmt.Sprint(locked.PID), "MESHMILL_DATA"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %q", err, want)
		}
	}
	kill()
	// What a killed process leaves does not disturb, and nothing is lost.
	check(t, start(t, embedded.Config{Dir: dir}), "from the child")
}

func startChild(t *testing.T, dir string) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "EMBEDDED_TEST_CHILD="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	var out bytes.Buffer
	r, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(kill)
	buf := make([]byte, 200)
	for !strings.Contains(out.String(), "\n") {
		n, err := r.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			break
		}
	}
	if out.String() != "ready\n" { // also: the servers write nothing of their own
		t.Fatalf("the other process says %q", out.String())
	}
	return kill
}

func TestOneInAProcess(t *testing.T) {
	s := start(t, embedded.Config{})
	if _, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir()}); !errors.Is(err, embedded.ErrRunning) {
		t.Errorf("Start = %v, want ErrRunning", err)
	}
	check := func() {
		nc, err := s.Connect()
		if err != nil {
			t.Fatal("the refused start broke the first one:", err)
		}
		nc.Close()
	}
	check()
	stop(t, s)
	stop(t, s) // a second time does nothing
	start(t, embedded.Config{})
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	for flag, cfg := range map[string]embedded.Config{
		"--nats-listen": {NATSListen: addr},
		"--s3-listen":   {S3Listen: addr},
	} {
		cfg.Dir, cfg.Log = t.TempDir(), zerolog.Nop()
		_, err := embedded.Start(t.Context(), cfg)
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), flag) {
			t.Errorf("Start = %v, want an error that names %s and %s", err, addr, flag)
		}
	}
	for _, addr := range []string{"4222", "127.0.0.1", "127.0.0.1:x", ":4222", "127.0.0.1:99999"} {
		if _, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), NATSListen: addr}); err == nil || !strings.Contains(err.Error(), "--nats-listen") {
			t.Errorf("address %q: %v", addr, err)
		}
	}
	start(t, embedded.Config{}) // a failed start leaves nothing in the way
}

func TestBadFolder(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.Start(t.Context(), embedded.Config{Dir: file}); err == nil || !strings.Contains(err.Error(), "MESHMILL_DATA") {
		t.Errorf("Start on a file = %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "nats.creds"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.Start(t.Context(), embedded.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "nats.creds") {
		t.Errorf("Start with damaged credentials = %v", err)
	}
}

func TestShutdownLeavesNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s := start(t, embedded.Config{NATSListen: "127.0.0.1:0"})
	if err := fill(t.Context(), s, "x"); err != nil {
		t.Fatal(err)
	}
	open, err := s.Connect() // Shutdown closes it
	if err != nil {
		t.Fatal(err)
	}
	endpoint := strings.TrimPrefix(s.Storage().Endpoint, "http://")
	broker := strings.TrimPrefix(s.NATSURL(), "nats://")
	stop(t, s)
	if !open.IsClosed() {
		t.Error("a connection is still open")
	}
	for _, addr := range []string{endpoint, broker} {
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			c.Close()
			t.Errorf("%s still listens", addr)
		}
	}
	goleak.VerifyNone(t, before,
		// Idle connections of the S3 client above; they end by themselves.
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		// Sleeps 10 s between looks at whether its server is still there.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	)
}

// TestSilent runs all of it with standard output and error caught.
func TestSilent(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, errOut := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = w, w
	defer func() { os.Stdout, os.Stderr = out, errOut }()
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Log: zerolog.Nop()})
	if err == nil {
		err = errors.Join(fill(t.Context(), s, "x"), s.Shutdown(context.Background()))
	}
	os.Stdout, os.Stderr = out, errOut
	w.Close()
	said, _ := io.ReadAll(r)
	if err != nil || len(said) != 0 {
		t.Errorf("error %v; the servers wrote %q", err, said)
	}
}
