package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rs/zerolog"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
	"github.com/versity/versitygw/s3api"
)

// gateway is the running S3 server.
type gateway struct {
	addr   string
	front  *front
	cancel context.CancelFunc
	done   chan struct{}
	err    error  // after done
	temp   string // folder to remove, if any
}

// startGateway serves <dir>/s3 as S3. With xattr the objects' metadata are
// extended attributes of their files, else files under <dir>/meta.
func startGateway(ctx context.Context, dir, addr string, keys keyPair, xattr bool, log zerolog.Logger) (_ *gateway, err error) {
	log = log.With().Str("server", "s3").Logger()
	addr = cmp.Or(addr, "127.0.0.1:0")
	if _, _, err := splitAddr("S3 server", addr, "--s3-listen"); err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	g := &gateway{cancel: cancel, done: make(chan struct{})}
	socket, err := g.socket(dir)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("S3 server: %w", err)
	}
	if g.front, err = listen(ctx, addr, socket, log); err != nil {
		cancel()
		return nil, errors.Join(err, os.RemoveAll(g.temp))
	}
	g.addr = g.front.listener.Addr().String()
	listening := make(chan struct{})
	go g.run(run, dir, socket, keys, xattr, log, sync.OnceFunc(func() { close(listening) }))
	select {
	case <-listening:
		return g, nil
	case <-g.done:
		err = errors.New("it stopped at once")
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return nil, fmt.Errorf("S3 server: %w", errors.Join(err, g.close(context.WithoutCancel(ctx))))
}

// socket chooses the path of the socket between front and server. The system
// limits its length to about 100 bytes.
func (g *gateway) socket(dir string) (string, error) {
	path := filepath.Join(dir, "s3.sock")
	if len(path) > 100 || strings.Contains(path, ":") { // the library takes a:b for host and port
		var err error
		if g.temp, err = os.MkdirTemp("", "meshmill-"); err != nil {
			return "", err
		}
		path = filepath.Join(g.temp, "s3.sock")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a killed process
		return "", err
	}
	return path, nil
}

func (g *gateway) run(ctx context.Context, dir, socket string, keys keyPair, xattr bool, log zerolog.Logger, listening func()) {
	defer close(g.done)
	backend, err := openFolders(filepath.Join(dir, "s3"), filepath.Join(dir, "meta"), xattr, log)
	if err != nil {
		g.err = err
		return
	}
	defer backend.Shutdown()
	g.err = embedgw.RunVersityGW(ctx, backend, &embedgw.Config{
		RootUserAccess: keys.id, RootUserSecret: keys.secret, Region: region,
		Ports: []string{socket}, SocketPerm: "0600",
		MaxConnections: 4096, MaxRequests: 4096, MultipartMaxParts: 10000,
		Quiet:     true, // nothing on standard output
		KeepAlive: true,
		// Given, because the library says on standard output when it is not.
		IAMService:  &oneUser{auth.NewIAMServiceSingle(auth.Account{Access: keys.id, Secret: keys.secret, Role: auth.RoleAdmin}), keys.id},
		DisableACLs: true,
		S3Options:   []s3api.Option{s3api.WithOnListen(listening)},
	})
}

// oneUser answers for an unknown access key as S3 does. The library's own
// service makes it a status 404, which to a HEAD request reads as "no object".
type oneUser struct {
	auth.IAMService
	id string
}

func (u *oneUser) GetUserAccount(access string) (auth.Account, error) {
	if access != u.id {
		return auth.Account{}, auth.ErrNoSuchUser
	}
	return u.IAMService.GetUserAccount(access)
}

func (g *gateway) close(ctx context.Context) error {
	g.front.refuse()
	g.cancel()
	err := wait(ctx, g.done, "the S3 server")
	g.front.close()
	if err == nil {
		err = g.err
	}
	return errors.Join(err, os.RemoveAll(g.temp))
}

// hasXattr chooses where metadata go. What is under <dir>/meta already must be
// used again, even when the folder has moved to a better file system.
func hasXattr(dir string) (bool, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "meta"))
	if err != nil {
		return false, fmt.Errorf("metadata folder: %w", err)
	}
	return len(entries) == 0 && meta.XattrMeta{}.Test(filepath.Join(dir, "s3")) == nil, nil
}

// openFolders opens root as the S3 server's backend. posix.New changes the
// working directory of the process; this puts it back.
func openFolders(root, metaDir string, xattr bool, log zerolog.Logger) (_ *folders, err error) {
	here, err := os.Open(".")
	if err != nil {
		return nil, fmt.Errorf("open the working directory: %w", err)
	}
	defer here.Close()
	defer func() {
		if back := here.Chdir(); back != nil {
			err = errors.Join(err, fmt.Errorf("return to the working directory: %w", back))
		}
	}()
	opts := posix.PosixOpts{}
	opts.SetNewDirPerm(0o700)
	opts.SetNewFilePerm(0o600)
	var store meta.MetadataStorer = meta.XattrMeta{}
	if !xattr {
		sidecar, err := meta.NewSideCar(metaDir)
		if err != nil {
			return nil, fmt.Errorf("metadata folder: %w", err)
		}
		// Not opts.SideCarDir: that is only for a check, and says so on
		// standard output.
		store = relative{sidecar, root}
	}
	p, err := posix.New(root, store, opts)
	if err != nil {
		return nil, fmt.Errorf("open the data folder: %w", err)
	}
	f := &folders{posix: p, root: root, log: log}
	if !xattr {
		f.locks = new([256]sync.RWMutex)
	}
	return f, nil
}
