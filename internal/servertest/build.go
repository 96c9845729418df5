package servertest

import (
	"context"
	"fmt"
	"io"
)

// Prepare builds what the tests need on this machine, and says on out what it
// does. Without a Docker engine there is nothing to do.
func Prepare(ctx context.Context, out io.Writer) error {
	e, err := findEngine(ctx)
	if err != nil {
		fmt.Fprintf(out, "servertest: %v; tests will use embedded servers\n", err)
		return nil
	}
	defer e.docker.Close()
	if err := e.prepare(ctx, out); err != nil {
		return err
	}
	fmt.Fprintln(out, "servertest: ready:", e.words())
	return nil
}
