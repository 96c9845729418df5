package servertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
)

// containerServer is a server in a container.
type containerServer struct {
	docker   client.APIClient
	ctr      testcontainers.Container
	hostPort string
	ready    func(ctx context.Context, addr string) error
}

// run makes and starts a container, and waits until its server answers. The
// port is chosen here, because a published port that Docker chooses changes
// with each start.
func (e *engine) run(ctx context.Context, req testcontainers.ContainerRequest, port string, ready func(context.Context, string) error) (server, error) {
	name, _ := os.Hostname()
	req.Labels = map[string]string{labelPID: strconv.Itoa(os.Getpid()), labelHost: name}
	publishAt := netip.IPv4Unspecified()
	if e.host == "127.0.0.1" {
		publishAt = netip.MustParseAddr(e.host)
	}
	req.ExposedPorts = []string{port}
	var err error
	for range 5 { // the port is free when it is found, and may be gone when it is used
		var free int
		if free, err = freePort(ctx); err != nil {
			return nil, err
		}
		req.HostConfigModifier = func(hc *container.HostConfig) {
			hc.PortBindings = network.PortMap{network.MustParsePort(port): {
				{HostIP: publishAt, HostPort: strconv.Itoa(free)},
			}}
		}
		var s *containerServer
		if s, err = e.try(ctx, req, free, ready); err == nil {
			return s, nil
		}
		if !strings.Contains(err.Error(), "already allocated") && !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	return nil, fmt.Errorf("start %s: %w", req.Image, err)
}

func (e *engine) try(ctx context.Context, req testcontainers.ContainerRequest, port int, ready func(context.Context, string) error) (*containerServer, error) {
	ctr, err := testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{ContainerRequest: req, Started: true})
	s := &containerServer{docker: e.docker, ctr: ctr, ready: ready, hostPort: net.JoinHostPort(e.host, strconv.Itoa(port))}
	if err == nil {
		err = s.wait(ctx)
	}
	if err != nil {
		if ctr != nil {
			cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
			defer cancel()
			err = errors.Join(err, s.remove(cleanup))
		}
		return nil, err
	}
	return s, nil
}

func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// wait waits until the server answers; if it does not, the error tells the end
// of its log.
func (s *containerServer) wait(ctx context.Context) error {
	if err := until(ctx, func(ctx context.Context) error { return s.ready(ctx, s.hostPort) }); err != nil {
		return fmt.Errorf("no answer at %s: %w; its log ends: %s", s.hostPort, err, s.log(context.WithoutCancel(ctx)))
	}
	return nil
}

// until waits until f succeeds, or returns its last error.
func until(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

func (s *containerServer) log(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := s.ctr.Logs(ctx)
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	raw, _ := io.ReadAll(io.LimitReader(r, 1<<20))
	return string(raw[max(0, len(raw)-1000):])
}

func (s *containerServer) addr() string { return s.hostPort }

func (s *containerServer) kill(ctx context.Context) error {
	_, err := s.docker.ContainerKill(ctx, s.ctr.GetContainerID(), client.ContainerKillOptions{Signal: "SIGKILL"})
	if err != nil {
		return fmt.Errorf("kill the container: %w", err)
	}
	wait := s.docker.ContainerWait(ctx, s.ctr.GetContainerID(), client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case <-wait.Result:
		return nil
	case err := <-wait.Error:
		return fmt.Errorf("wait for the end of the container: %w", err)
	}
}

func (s *containerServer) stop(ctx context.Context) error {
	if err := s.ctr.Stop(ctx, new(10*time.Second)); err != nil {
		return fmt.Errorf("stop the container: %w", err)
	}
	return nil
}

func (s *containerServer) start(ctx context.Context) error {
	if err := s.ctr.Start(ctx); err != nil {
		return fmt.Errorf("start the container again: %w", err)
	}
	return s.wait(ctx)
}

func (s *containerServer) remove(ctx context.Context) error {
	if err := s.ctr.Terminate(ctx, testcontainers.StopTimeout(0)); err != nil {
		return fmt.Errorf("remove the container: %w", err)
	}
	return nil
}
