package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

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
	cancel context.CancelFunc
	done   chan struct{}
	err    error // after done
}

// startGateway serves <dir>/s3 as S3.
func startGateway(ctx context.Context, dir, listen string, keys keyPair, log zerolog.Logger) (*gateway, error) {
	log = log.With().Str("server", "s3").Logger()
	if listen != "" {
		host, port, err := probe(ctx, listen, "S3 server", "--s3-listen")
		if err != nil {
			return nil, err
		}
		return serve(ctx, dir, net.JoinHostPort(host, strconv.Itoa(port)), keys, log)
	}
	var err error
	for range 5 { // the port is free when it is found, and may be gone when it is used
		var port int
		if _, port, err = probe(ctx, "127.0.0.1:0", "S3 server", "--s3-listen"); err != nil {
			return nil, err
		}
		var g *gateway
		if g, err = serve(ctx, dir, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), keys, log); err == nil {
			return g, nil
		}
	}
	return nil, err
}

func serve(ctx context.Context, dir, addr string, keys keyPair, log zerolog.Logger) (*gateway, error) {
	root := filepath.Join(dir, "s3")
	backend, err := openFolders(root, filepath.Join(dir, "meta"), log)
	if err != nil {
		return nil, fmt.Errorf("S3 server: %w", err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	g := &gateway{addr: addr, cancel: cancel, done: make(chan struct{})}
	listening := make(chan struct{})
	cfg := &embedgw.Config{
		RootUserAccess: keys.id, RootUserSecret: keys.secret, Region: region,
		Ports:          []string{addr},
		MaxConnections: 4096, MaxRequests: 4096, MultipartMaxParts: 10000,
		Quiet:     true, // nothing on standard output
		KeepAlive: true,
		// Given, because the library says on standard output when it is not.
		IAMService:  auth.NewIAMServiceSingle(auth.Account{Access: keys.id, Secret: keys.secret, Role: auth.RoleAdmin}),
		DisableACLs: true,
		S3Options:   []s3api.Option{s3api.WithOnListen(func() { close(listening) })},
	}
	go func() {
		defer close(g.done)
		defer backend.Shutdown()
		g.err = embedgw.RunVersityGW(run, backend, cfg)
	}()
	select {
	case <-listening:
		return g, nil
	case <-g.done:
		err = fmt.Errorf("S3 server: %w", g.err)
		if g.err == nil {
			err = errors.New("S3 server: it stopped at once")
		}
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return nil, errors.Join(err, g.close(context.WithoutCancel(ctx)))
}

func (g *gateway) close(ctx context.Context) error {
	g.cancel()
	return wait(ctx, g.done, "the S3 server")
}

// openFolders opens root as the S3 server's backend. posix.New changes the
// working directory of the process; this puts it back.
func openFolders(root, metaDir string, log zerolog.Logger) (_ *folders, err error) {
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
	if (meta.XattrMeta{}).Test(root) != nil {
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
	return &folders{posix: p, root: root, log: log}, nil
}
