package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// interactive reports whether there is somebody to ask.
func (a *app) interactive() bool { return isTerminal(a.stdin) && isTerminal(a.stderr) }

var errDeclined = errors.New("nothing was changed; --yes answers in advance, and MESHMILL_ASK_ABOVE says when to ask")

// confirm asks a question that must be answered with yes. It may only be called
// if there is somebody to ask.
func (a *app) confirm(ctx context.Context, question string) error {
	fmt.Fprintf(a.stderr, "%s\nGo on? [y/N] ", question)
	answer := make(chan string, 1)
	// Reading from a terminal cannot be interrupted: if ctx ends first, this
	// goroutine ends with the process.
	go func() {
		line, _ := bufio.NewReader(io.LimitReader(a.stdin, 1<<10)).ReadString('\n') // no answer is no
		answer <- line
	}()
	select {
	case line := <-answer:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return nil
		}
		return errDeclined
	case <-ctx.Done():
		fmt.Fprintln(a.stderr)
		return context.Cause(ctx)
	}
}
