package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestConfirm(t *testing.T) {
	t.Parallel()
	for answer, yes := range map[string]bool{"y\n": true, " YES \n": true, "n\n": false, "\n": false, "": false, "yess\n": false} {
		var errs output
		a := &app{stdin: strings.NewReader(answer), stderr: &errs}
		if err := a.confirm(t.Context(), "All of it?"); (err == nil) != yes {
			t.Errorf("%q: %v", answer, err)
		}
		if errs.String() != "All of it?\nGo on? [y/N] " {
			t.Errorf("it asks %q", errs.String())
		}
	}
	// An interrupt ends the question.
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	cancel(errInterrupt)
	a := &app{stdin: r, stderr: &output{}}
	if err := a.confirm(ctx, "All of it?"); !errors.Is(err, errInterrupt) {
		t.Errorf("error %v, want the interrupt", err)
	}
}
