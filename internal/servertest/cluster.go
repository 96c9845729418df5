package servertest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/testcontainers/testcontainers-go"
)

// Cluster is a NATS cluster with JetStream of three nodes, named n1 to n3.
type Cluster struct {
	// Nodes can be killed and started one by one. They have the same Prefix.
	Nodes []*Broker
}

const clusterSize = 3

// NewCluster returns a cluster of the test's own, which is removed when the test
// ends. Its nodes tell clients nothing of each other: a client knows those whose
// URLs it was given.
func NewCluster(t testing.TB) *Cluster {
	t.Helper()
	s := need(t)
	nodes, remove, err := s.make.newCluster(t.Context())
	if err != nil {
		t.Fatal("servertest: ", err)
	}
	t.Cleanup(func() {
		for _, n := range nodes {
			discard(t, n)
		}
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		if err := remove(ctx); err != nil {
			t.Error("servertest: ", err)
		}
	})
	c := &Cluster{}
	for _, n := range nodes {
		b := newBroker(n, false)
		if len(c.Nodes) > 0 {
			b.Prefix = c.Nodes[0].Prefix
		}
		c.Nodes = append(c.Nodes, b)
	}
	return c
}

// URLs are the addresses of all nodes.
func (c *Cluster) URLs() []string {
	var out []string
	for _, n := range c.Nodes {
		out = append(out, n.URL)
	}
	return out
}

// Node returns the node of a name, as the broker gives it for leaders.
func (c *Cluster) Node(name string) *Broker {
	n, err := strconv.Atoi(strings.TrimPrefix(name, "n"))
	if err != nil || n < 1 || n > len(c.Nodes) {
		return nil
	}
	return c.Nodes[n-1]
}

const nodeConfig = natsConfig + `
server_name: n%d
cluster {
  name: meshmill-test
  listen: "0.0.0.0:6222"
  no_advertise: true
  routes: [%s]
}
`

// connectable is all that a node of a cluster can be asked for alone.
func connectable(_ context.Context, addr string) error {
	nc, err := nats.Connect("nats://"+addr, nats.Timeout(time.Second))
	if err == nil {
		nc.Close()
	}
	return err
}

func (e *engine) newCluster(ctx context.Context) (nodes []server, remove func(context.Context) error, err error) {
	host, _ := os.Hostname()
	name := "meshmill-test-" + strings.ToLower(rand.Text()[:10])
	made, err := e.docker.NetworkCreate(ctx, name, client.NetworkCreateOptions{
		Labels: map[string]string{labelPID: strconv.Itoa(os.Getpid()), labelHost: host},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("make a network: %w", err)
	}
	remove = func(ctx context.Context) error {
		_, err := e.docker.NetworkRemove(ctx, made.ID, client.NetworkRemoveOptions{})
		return err
	}
	defer func() {
		if err != nil {
			for _, n := range nodes {
				err = errors.Join(err, n.remove(context.WithoutCancel(ctx)))
			}
			err = errors.Join(err, remove(context.WithoutCancel(ctx)))
		}
	}()
	var routes []string
	for i := range clusterSize {
		routes = append(routes, fmt.Sprintf(`"nats://n%d:6222"`, i+1))
	}
	var ctrs []*containerServer
	for i := range clusterSize {
		config := fmt.Sprintf(nodeConfig, i+1, strings.Join(routes, ", "))
		srv, err := e.run(ctx, testcontainers.ContainerRequest{
			Image:          e.images[natsImage],
			Cmd:            []string{"-c", "/nats.conf"},
			Networks:       []string{name},
			NetworkAliases: map[string][]string{name: {fmt.Sprintf("n%d", i+1)}},
			Files: []testcontainers.ContainerFile{{
				Reader: strings.NewReader(config), ContainerFilePath: "/nats.conf", FileMode: 0o644,
			}},
		}, "4222/tcp", connectable)
		if err != nil {
			return nodes, nil, err
		}
		nodes = append(nodes, srv)
		ctrs = append(ctrs, srv.(*containerServer))
	}
	for _, c := range ctrs {
		c.ready = natsReady // from now on there is a quorum
		if err := c.wait(ctx); err != nil {
			return nodes, nil, err
		}
	}
	return nodes, remove, nil
}

// sweepNetworks removes the networks of processes that have ended.
func (e *engine) sweepNetworks(ctx context.Context, host string) error {
	list, err := e.docker.NetworkList(ctx, client.NetworkListOptions{Filters: make(client.Filters).Add("label", labelHost+"="+host)})
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range list.Items {
		pid, err := strconv.Atoi(n.Labels[labelPID])
		if err != nil || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_, err := e.docker.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (p *inProcess) newCluster(ctx context.Context) (nodes []server, remove func(context.Context) error, err error) {
	remove = func(context.Context) error { return nil }
	var ports []int
	var routes []string
	for range clusterSize {
		port, err := freePort(ctx)
		if err != nil {
			return nil, nil, err
		}
		ports = append(ports, port)
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", port))
	}
	var all []*inProcessNATS
	for i := range clusterSize {
		dir, err := os.MkdirTemp("", "meshmill-test-nats-")
		if err != nil {
			return nodes, nil, err
		}
		n := &inProcessNATS{dir: dir, cluster: func(o *natsserver.Options) {
			o.ServerName = fmt.Sprintf("n%d", i+1)
			o.Cluster = natsserver.ClusterOpts{Name: "meshmill-test", Host: "127.0.0.1", Port: ports[i], NoAdvertise: true}
			o.Routes = natsserver.RoutesFromStr(strings.Join(routes, ","))
		}}
		nodes, all = append(nodes, n), append(all, n)
		if err := n.start(ctx); err != nil {
			return nodes, nil, errors.Join(err, n.remove(ctx))
		}
	}
	for _, n := range all {
		if err := until(ctx, func(ctx context.Context) error { return natsReady(ctx, n.addr()) }); err != nil {
			return nodes, nil, err
		}
	}
	return nodes, remove, nil
}
