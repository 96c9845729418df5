package embedded

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"
)

// startNATS starts the broker. Without an address it serves this process only.
func startNATS(ctx context.Context, dir, listen string, auth *credsAuth, log zerolog.Logger) (*server.Server, error) {
	opts := &server.Options{
		ServerName: "meshmill-embedded",
		DontListen: listen == "",
		JetStream:  true,
		StoreDir:   dir,
		SyncAlways: true, // what is acknowledged survives a power cut
		NoSigs:     true, // signals belong to the program around it

		CustomClientAuthentication: auth,
		AlwaysEnableNonce:          true, // auth needs it
	}
	if listen != "" {
		host, port, err := splitAddr("NATS server", listen, "--nats-listen")
		if err == nil {
			err = probe(ctx, listen)
		}
		if err != nil {
			return nil, err
		}
		opts.Host, opts.Port = host, port
		if port == 0 {
			opts.Port = server.RANDOM_PORT
		}
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("NATS server: %w", err)
	}
	fatal := make(chan string, 1)
	s.SetLoggerV2(&natsLog{log.With().Str("server", "nats").Logger(), fatal}, false, false, false)
	s.Start() // returns when it has read its streams and accepts connections
	for limit := time.Now().Add(startTimeout); err == nil && !s.ReadyForConnections(100*time.Millisecond); {
		select {
		case why := <-fatal:
			err = fmt.Errorf("NATS server: %s", why)
		case <-ctx.Done():
			err = context.Cause(ctx)
		default:
			if time.Now().After(limit) {
				err = fmt.Errorf("NATS server: not ready within %v", startTimeout)
			}
		}
	}
	if err != nil {
		return nil, errors.Join(err, stopNATS(context.WithoutCancel(ctx), s))
	}
	return s, nil
}

func stopNATS(ctx context.Context, s *server.Server) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Shutdown()
		s.WaitForShutdown()
	}()
	return wait(ctx, done, "the NATS server")
}

// drain lets nc deliver what is under way, then closes it.
func drain(ctx context.Context, nc *nats.Conn) {
	if nc.IsClosed() {
		return
	}
	closed := nc.StatusChanged(nats.CLOSED)
	if nc.Drain() == nil {
		limit := time.NewTimer(stopTimeout)
		defer limit.Stop()
		select {
		case <-closed:
		case <-ctx.Done():
		case <-limit.C:
		}
	}
	nc.Close()
}

func splitAddr(what, addr, flag string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err == nil {
		port, err = strconv.Atoi(p)
	}
	if err != nil || host == "" || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%s: %q is not an address like 127.0.0.1:4222 (%s)", what, addr, flag)
	}
	return host, port, nil
}

// probe finds out whether the broker can listen, because the broker itself
// tells it late and badly.
func probe(ctx context.Context, addr string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return inUse("NATS server", addr, "--nats-listen", err)
	}
	return l.Close()
}

// credsAuth admits the holder of one credentials file. So the address needs no
// password, and clients use NATS_CREDS like with any other broker. All are in
// the global account, whose streams do not depend on the keys.
type credsAuth struct {
	key nkeys.KeyPair // public
}

// loadAuth reads the credentials file, or makes one.
func loadAuth(file string) (*credsAuth, error) {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if raw, err = newCreds(); err == nil {
			err = writeSecret(file, raw)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("NATS credentials: %w", err)
	}
	token, err := jwt.ParseDecoratedJWT(raw)
	if err != nil {
		return nil, fmt.Errorf("NATS credentials: %s is damaged: remove it, and a new one is made", file)
	}
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return nil, fmt.Errorf("NATS credentials: %s is damaged: remove it, and a new one is made", file)
	}
	key, err := nkeys.FromPublicKey(claims.Subject)
	if err != nil {
		return nil, fmt.Errorf("NATS credentials: %s is damaged: remove it, and a new one is made", file)
	}
	return &credsAuth{key}, nil
}

func newCreds() ([]byte, error) {
	issuer, err := nkeys.CreateAccount()
	if err != nil {
		return nil, err
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	public, err := user.PublicKey()
	if err != nil {
		return nil, err
	}
	claims := jwt.NewUserClaims(public)
	claims.Name = "meshmill"
	token, err := claims.Encode(issuer)
	if err != nil {
		return nil, err
	}
	seed, err := user.Seed()
	if err != nil {
		return nil, err
	}
	return jwt.FormatUserConfig(token, seed)
}

// Check implements server.Authentication: the client must have signed the nonce
// with the key of the credentials file. The token in that file says nothing
// more, and a server without an operator drops it before it gets here.
func (a *credsAuth) Check(c server.ClientAuthentication) bool {
	opts := c.GetOpts()
	sig, err := base64.RawURLEncoding.DecodeString(opts.Sig)
	if err != nil {
		if sig, err = base64.StdEncoding.DecodeString(opts.Sig); err != nil {
			return false
		}
	}
	return a.key.Verify(c.GetNonce(), sig) == nil
}

// natsLog is the server's logger. Its notices are details to us.
type natsLog struct {
	log   zerolog.Logger
	fatal chan<- string
}

func (l *natsLog) Noticef(format string, v ...any) { l.log.Debug().Msgf(format, v...) }
func (l *natsLog) Warnf(format string, v ...any)   { l.log.Warn().Msgf(format, v...) }
func (l *natsLog) Errorf(format string, v ...any)  { l.log.Error().Msgf(format, v...) }
func (l *natsLog) Debugf(format string, v ...any)  { l.log.Trace().Msgf(format, v...) }
func (l *natsLog) Tracef(format string, v ...any)  { l.log.Trace().Msgf(format, v...) }

// Fatalf must not end the process; the server goes on to stop by itself.
func (l *natsLog) Fatalf(format string, v ...any) {
	l.log.Error().Msgf(format, v...)
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
	}
}
