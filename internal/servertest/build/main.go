// Command build compiles the servers that the integration tests run in
// containers and makes images of them, so that the tests need not wait for it.
// What is there already it leaves as it is. Without a Docker engine it does
// nothing and says so.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/meshmill/meshmill/internal/servertest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := servertest.Prepare(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "servertest:", err)
		os.Exit(1)
	}
}
