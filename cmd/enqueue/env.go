package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/meshmill/meshmill/internal/config"
)

// envPrefix begins the variables of flags that are no settings: --max-jobs is
// MESHMILL_ENQUEUE_MAX_JOBS.
const envPrefix = "MESHMILL_ENQUEUE_"

func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// hasEnv reports whether a flag may come from the environment. Settings have
// variables of their own; nothing is simulated unless the command line says so.
func hasEnv(f *pflag.Flag) bool {
	switch f.Name {
	case "help", "version", "simulate":
		return false
	case "embedded":
		return true
	}
	return !f.Hidden && !config.IsSetting(f.Name)
}

// fromEnvironment sets the flags of a command that were not given from their
// variables. The variable of a flag that may be repeated has a value on each
// line.
func (a *app) fromEnvironment(cmd *cobra.Command) error {
	a.byEnv = map[string]bool{}
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || !hasEnv(f) {
			return
		}
		text, ok := a.lookup(envName(f.Name))
		if !ok || text == "" {
			return
		}
		values := []string{text}
		if f.Value.Type() == "stringArray" {
			values = strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
		}
		for _, v := range values {
			if err := cmd.Flags().Set(f.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("%s is %q, and --%s does not take that", envName(f.Name), v, f.Name))
				return
			}
		}
		a.byEnv[f.Name] = true
	})
	return usage(errors.Join(errs...))
}

// unless empties the value of a flag that came from the environment, where the
// command line says something else that excludes it.
func (a *app) unless(value *string, flag string, cmd *cobra.Command) {
	if a.byEnv[flag] {
		*value = ""
		cmd.Flags().Lookup(flag).Changed = false
	}
}
