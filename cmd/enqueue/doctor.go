package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/doctor"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/storage"
)

// checkLine is a finding in JSON Lines.
type checkLine struct {
	Type    string        `json:"type"`
	Schema  string        `json:"schema"`
	Name    string        `json:"name"`
	Status  doctor.Status `json:"status"`
	Message string        `json:"message"`
}

// doctorSummary is the last line of a check.
type doctorSummary struct {
	Type   string `json:"type"`
	Schema string `json:"schema"`
	OK     int    `json:"ok"`
	Info   int    `json:"info"`
	Warn   int    `json:"warn"`
	Fail   int    `json:"fail"`
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check broker, bucket, keys and providers",
		Long: `Checks what Meshmill works with, and says what to do about what it finds: the
broker, its streams and their settings; the bucket, by writing, reading and
deleting an object; keys, and whether the providers can be reached; clocks. It
buys nothing. The exit status is 1 if something does not work; warnings leave it
at 0.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.load(cmd, config.NeedBroker)
			if err != nil {
				return err
			}
			return a.doctor(cmd.Context(), cfg)
		},
	}
}

func (a *app) doctor(ctx context.Context, cfg config.Config) error {
	sum := doctorSummary{Type: "summary", Schema: lineSchema}
	enc := json.NewEncoder(a.stdout)
	table := progress.NewTable(a.stdout, "CHECK", "", "FINDING")
	var broken error
	tell := func(list ...doctor.Finding) {
		for _, f := range list {
			switch f.Status {
			case doctor.OK:
				sum.OK++
			case doctor.Info:
				sum.Info++
			case doctor.Warn:
				sum.Warn++
			default:
				sum.Fail++
			}
			if a.json {
				broken = errors.Join(broken, enc.Encode(checkLine{"check", lineSchema, f.Name, f.Status, f.Message}))
				continue
			}
			table.Row(f.Name, string(f.Status), f.Message)
		}
	}
	if err := a.diagnose(ctx, cfg, tell); err != nil {
		return errors.Join(err, table.Flush())
	}
	if a.json {
		broken = errors.Join(broken, enc.Encode(sum))
	}
	if err := errors.Join(broken, table.Flush()); err != nil {
		return err
	}
	if sum.Fail > 0 {
		return fmt.Errorf("%d checks failed", sum.Fail)
	}
	a.note("%d checks are good, %d warn", sum.OK+sum.Info, sum.Warn)
	return nil
}

// diagnose checks everything. Its error is only that of ctx.
func (a *app) diagnose(ctx context.Context, cfg config.Config, tell func(...doctor.Finding)) error {
	if cfg.Embedded {
		if _, err := os.Stat(cfg.Data); err != nil {
			tell(doctor.Finding{Name: "data folder", Status: doctor.Info, Message: fmt.Sprintf("there is no data folder %q yet; the first enqueue --embedded makes it", cfg.Data)})
		} else {
			a.diagnoseServers(ctx, cfg, tell)
		}
	} else {
		a.diagnoseServers(ctx, cfg, tell)
	}
	for _, o := range offers {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		tell(doctor.Provider(ctx, doctor.Account{Name: o.Name(), KeyVariable: o.key, Account: *o.account(&cfg)})...)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (a *app) diagnoseServers(ctx context.Context, cfg config.Config, tell func(...doctor.Finding)) {
	fail := func(name string, err error) {
		tell(doctor.Finding{Name: name, Status: doctor.Fail, Message: err.Error()})
	}
	v := progress.New(progress.Options{Out: a.stderr, Off: true, Quiet: a.quiet})
	c, err := connect.Open(ctx, connect.Options{Config: cfg, Name: "meshmill-enqueue", Log: logger(&cfg, v)})
	if err != nil {
		name := "broker"
		if cfg.Embedded {
			name = "data folder"
		}
		fail(name, err)
		if bucket, err := storage.Open(ctx, cfg.StorageConfig()); !cfg.Embedded && err == nil {
			tell(doctor.Bucket(ctx, bucket)...)
		} else if !cfg.Embedded {
			fail("bucket", err)
		}
		return
	}
	defer func() {
		if err := c.Close(context.WithoutCancel(ctx)); err != nil {
			fail("data folder", err)
		}
	}()
	tell(doctor.Broker(ctx, c.NATS, c.Client, cfg.Names, cfg.Embedded)...)
	names := make([]string, len(offers))
	for i, o := range offers {
		names[i] = o.Name()
	}
	if !cfg.Embedded {
		tell(doctor.Workers(ctx, c.NATS, cfg.Names, names)...)
	}
	tell(doctor.Bucket(ctx, c.Bucket)...)
}
