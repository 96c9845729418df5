package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/meshmill/meshmill/pkg/storage"
)

// web serves health, readiness and metrics. Its zero value serves nothing.
type web struct {
	server *http.Server
	done   chan struct{}
	drains atomic.Bool
}

// readyTimeout bounds one readiness check.
const readyTimeout = 3 * time.Second

// serve starts listening on address; an empty one serves nothing.
//
//	/healthz  200 while the process lives
//	/readyz   200 while broker and bucket answer and the worker takes jobs
//	/metrics  for Prometheus
func serve(address string, nc *nats.Conn, bucket *storage.Bucket, m *metrics, log zerolog.Logger) (*web, error) {
	w := &web{}
	if address == "" {
		return w, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s for health and metrics: %w (choose another address with MESHMILL_LISTEN or --listen, empty turns it off)", address, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { answer(rw, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		switch err := w.ready(ctx, nc, bucket); {
		case err != nil:
			answer(rw, http.StatusServiceUnavailable, err.Error())
		default:
			answer(rw, http.StatusOK, "ready")
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	w.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10,
	}
	w.done = make(chan struct{})
	go func() {
		defer close(w.done)
		if err := w.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error().Err(err).Msg("health and metrics are no longer served")
		}
	}()
	log.Info().Str("address", l.Addr().String()).Msg("health and metrics are served")
	return w, nil
}

func (w *web) ready(ctx context.Context, nc *nats.Conn, bucket *storage.Bucket) error {
	if w.drains.Load() {
		return errors.New("the worker is shutting down")
	}
	if !nc.IsConnected() {
		return errors.New("the broker is not connected")
	}
	if err := bucket.Check(ctx); err != nil {
		return err
	}
	return nil
}

func answer(rw http.ResponseWriter, status int, text string) {
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.WriteHeader(status)
	_, _ = fmt.Fprintln(rw, text) // the client is gone otherwise
}

// draining makes the worker unready.
func (w *web) draining() { w.drains.Store(true) }

// close stops serving, and waits.
func (w *web) close() {
	if w.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if w.server.Shutdown(ctx) != nil {
		_ = w.server.Close() // what still runs is cut off
	}
	<-w.done
}
