// Command enqueue turns images into jobs, and shows and resolves jobs. With
// --embedded it runs everything that is needed in this process.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/meshmill/meshmill/internal/connect"
)

// The exit statuses. They are a contract with people's scripts.
const (
	statusOK          = 0
	statusError       = 1
	statusUsage       = 2 // usage or configuration
	statusSomeFailed  = 3 // some jobs failed or are parked
	statusInterrupted = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.LookupEnv))
}

// run is the whole command; it returns the exit status. When ctx ends, jobs go
// on without it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, lookup func(string) (string, bool)) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, lookup: lookup}
	root := a.command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return statusOK
	case errors.Is(err, errSomeFailed):
		return statusSomeFailed // told in the summary
	case ctx.Err() != nil:
		return statusInterrupted // told by the command
	}
	fmt.Fprintln(stderr, errorText(err))
	if _, ok := errors.AsType[*usageError](err); ok || errors.Is(err, connect.ErrLocked) || errors.Is(err, connect.ErrMixed) {
		return statusUsage
	}
	return statusError
}

// usageError is a mistake in how the command was called or configured.
type usageError struct{ err error }

func (u *usageError) Error() string { return u.err.Error() }
func (u *usageError) Unwrap() error { return u.err }

// usage marks err as the caller's mistake; nil stays nil.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err}
}

func usagef(format string, args ...any) error { return usage(fmt.Errorf(format, args...)) }

// errSomeFailed: the command did its work, but some jobs failed or are parked.
var errSomeFailed = errors.New("some jobs failed or are parked")
