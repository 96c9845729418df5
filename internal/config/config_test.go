package config_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"github.com/meshmill/meshmill/internal/config"
)

func load(t *testing.T, need config.Need, env map[string]string, args ...string) (config.Config, error) {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Register(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return config.Load(flags, func(name string) (string, bool) { v, ok := env[name]; return v, ok }, need)
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	c, err := load(t, config.NeedNothing, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]any{
		"bucket": c.Bucket, "jobs": c.Names.JobsStream(), "csm": c.CSM, "modelslab": c.ModelsLab,
		"lease": c.Lease, "unknown": c.OnUnknown, "min": c.PollMin, "max": c.PollMax, "timeout": c.JobTimeout,
		"grace": c.Grace, "delivery": c.ImageDelivery, "private": c.AllowPrivateURLs, "mesh": c.MaxMeshBytes,
		"listen": c.Listen, "data": c.Data, "level": c.LogLevel, "format": c.LogFormat,
	}
	want := map[string]any{
		"bucket": "meshmill", "jobs": "MESHMILL_JOBS",
		"csm":       config.Account{BaseURL: "https://api.csm.ai", Concurrency: 5},
		"modelslab": config.Account{BaseURL: "https://modelslab.com/api/v6", Concurrency: 5},
		"lease":     30 * time.Second, "unknown": "park", "min": 2 * time.Second, "max": 30 * time.Second,
		"timeout": 2 * time.Hour, "grace": 90 * time.Second, "delivery": "inline", "private": false,
		"mesh": int64(2 << 30), "listen": "127.0.0.1:8080", "data": "./meshmill-data",
		"level": zerolog.InfoLevel, "format": "auto",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

func TestFlagThenEnvironmentThenDefault(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"MESHMILL_LEASE": "10s", "MESHMILL_GRACE": "5s", "MESHMILL_LISTEN": "", "MESHMILL_BUCKET": "",
		"NATS_URL": "one:4222, tls://two", "MESHMILL_PREFIX": "acme", "CSM_API_KEY": "sk-secret",
	}
	c, err := load(t, config.NeedBroker, env, "--lease=20s", "--allow-private-urls", "--max-mesh-bytes=500MB")
	if err != nil {
		t.Fatal(err)
	}
	if c.Lease != 20*time.Second || c.Grace != 5*time.Second {
		t.Errorf("lease %s, grace %s: want 20s from the flag, 5s from the environment", c.Lease, c.Grace)
	}
	if c.Listen != "" || !c.IsSet("MESHMILL_LISTEN") {
		t.Errorf("listen = %q: an empty variable turns it off", c.Listen)
	}
	if c.Bucket != "meshmill" || c.IsSet("MESHMILL_BUCKET") {
		t.Errorf("bucket = %q: an empty variable is one that is not set", c.Bucket)
	}
	if c.NATSURL != "nats://one:4222,tls://two" {
		t.Errorf("brokers = %q", c.NATSURL)
	}
	if !c.AllowPrivateURLs || c.MaxMeshBytes != 500_000_000 || c.Names.JobsStream() != "ACME_JOBS" || c.CSM.APIKey.Reveal() != "sk-secret" {
		t.Errorf("config = %+v", c)
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		env  map[string]string
		args []string
		want []string
	}{
		"no broker":     {nil, nil, []string{"NATS_URL is not set, must be the broker's address such as nats://127.0.0.1:4222; --embedded needs none"}},
		"broker":        {map[string]string{"NATS_URL": "http://u:pw@host"}, nil, []string{`NATS_URL is "http://host", must be one or more broker addresses, separated by commas, such as nats://127.0.0.1:4222`}},
		"two brokers":   {nil, []string{"--embedded", "--nats-url=x"}, []string{"NATS_URL (--nats-url) cannot be given together with --embedded, which brings its own broker"}},
		"simulate":      {map[string]string{"NATS_URL": "x"}, []string{"--simulate"}, []string{"--simulate works with --embedded only: a broker that others use must not get simulated results"}},
		"duration":      {map[string]string{"MESHMILL_GRACE": "soon"}, []string{"--embedded"}, []string{`MESHMILL_GRACE is "soon", must be a duration from 0s to 1h, such as 90s`}},
		"negative":      {nil, []string{"--embedded", "--grace=-1s"}, []string{`MESHMILL_GRACE (--grace) is "-1s", must be a duration from 0s to 1h, such as 90s`}},
		"lease":         {nil, []string{"--embedded", "--lease=500ms"}, []string{`MESHMILL_LEASE (--lease) is "500ms", must be a duration from 1s to 1h, such as 30s`}},
		"poll":          {map[string]string{"MESHMILL_POLL_MIN": "1m"}, []string{"--embedded"}, []string{"MESHMILL_POLL_MIN is 1m, must not be more than MESHMILL_POLL_MAX, which is 30s"}},
		"concurrency":   {map[string]string{"CSM_CONCURRENCY": "0"}, []string{"--embedded"}, []string{`CSM_CONCURRENCY is "0", must be a whole number from 1 to 10000, such as 5`}},
		"prefix":        {map[string]string{"MESHMILL_PREFIX": "A.b"}, []string{"--embedded"}, []string{`MESHMILL_PREFIX is "A.b", must be 1 to 32 lower-case letters, digits, _ or -, beginning with a letter, such as meshmill`}},
		"choice":        {map[string]string{"MESHMILL_ON_UNKNOWN": "retry"}, []string{"--embedded"}, []string{`MESHMILL_ON_UNKNOWN is "retry", must be one of park, resubmit, such as park`}},
		"listen":        {map[string]string{"MESHMILL_LISTEN": "8080"}, []string{"--embedded"}, []string{`MESHMILL_LISTEN is "8080", must be an address to listen on, or empty for none, such as 127.0.0.1:8080`}},
		"size":          {map[string]string{"MESHMILL_MAX_MESH_BYTES": "2 gigs"}, []string{"--embedded"}, []string{`MESHMILL_MAX_MESH_BYTES is "2 gigs", must be a size from 1KiB to 1TiB, in bytes or with KiB, MiB, GiB, TiB, KB, MB, GB or TB, such as 2GiB`}},
		"truth":         {map[string]string{"MESHMILL_ALLOW_PRIVATE_URLS": "yes"}, []string{"--embedded"}, []string{`MESHMILL_ALLOW_PRIVATE_URLS is "yes", must be true or false, such as true`}},
		"url":           {map[string]string{"CSM_BASE_URL": "api.csm.ai"}, []string{"--embedded"}, []string{`CSM_BASE_URL is "api.csm.ai", must be an http or https address without user name, query or fragment, such as https://api.csm.ai`}},
		"secret hidden": {map[string]string{"CSM_API_KEY": "sk secret"}, []string{"--embedded"}, []string{"CSM_API_KEY is not valid, must be text without spaces and line ends"}},
		"half a pair":   {map[string]string{"NATS_CERT": "c.pem"}, []string{"--embedded"}, []string{"NATS_CERT and NATS_KEY must be set together, such as /etc/meshmill/client.pem and /etc/meshmill/client-key.pem"}},
		"half a key":    {map[string]string{"NATS_URL": "x", "AWS_ACCESS_KEY_ID": "a"}, nil, []string{"AWS_SECRET_ACCESS_KEY is not set, but AWS_ACCESS_KEY_ID is: set both or neither"}},
		"price":         {map[string]string{"CSM_COST": "cheap"}, []string{"--embedded"}, []string{`CSM_COST is "cheap", must be an amount of US dollars for each job, or MODE=AMOUNT with commas between, such as v2=0.20,v1=0.60`}},
		"threshold":     {map[string]string{"MESHMILL_ASK_ABOVE": "much"}, []string{"--embedded"}, []string{`MESHMILL_ASK_ABOVE is "much", must be a number of jobs such as 100, an amount such as 20USD, or off, such as 20USD`}},
		"empty flag":    {nil, []string{"--embedded", "--bucket="}, []string{"MESHMILL_BUCKET (--bucket) is empty, such as meshmill"}},
		"all at once": {map[string]string{"MESHMILL_GRACE": "x", "CSM_CONCURRENCY": "x", "MESHMILL_LOG_LEVEL": "loud"}, nil, []string{
			`CSM_CONCURRENCY is "x", must be a whole number from 1 to 10000, such as 5`,
			`MESHMILL_GRACE is "x", must be a duration from 0s to 1h, such as 90s`,
			`MESHMILL_LOG_LEVEL is "loud", must be one of debug, info, warn, error, such as info`,
			"NATS_URL is not set, must be the broker's address such as nats://127.0.0.1:4222; --embedded needs none",
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, config.NeedBroker, tc.env, tc.args...)
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(tc.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("mistakes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{
		"1024": 1024, "2KiB": 2048, "1.5MiB": 3 << 19, "500MB": 500e6, "2GiB": 2 << 30, "1TiB": 1 << 40, "1 GB": 1e9, "3M": 3e6,
	} {
		c, err := load(t, config.NeedNothing, map[string]string{"MESHMILL_MAX_MESH_BYTES": in})
		if err != nil || c.MaxMeshBytes != want {
			t.Errorf("%s = %d, %v; want %d", in, c.MaxMeshBytes, err, want)
		}
	}
	for _, in := range []string{"1023", "2TiB", "-5", "KiB", "1e9", "0x400", "99999999999999999999TB"} {
		if _, err := load(t, config.NeedNothing, map[string]string{"MESHMILL_MAX_MESH_BYTES": in}); err == nil {
			t.Errorf("%s was taken", in)
		}
	}
}

func TestSecretIsNeverShown(t *testing.T) {
	t.Parallel()
	c, err := load(t, config.NeedBroker, map[string]string{
		"NATS_URL": "nats://user:hunter2@a:1,nats://token-hunter2@b", "CSM_API_KEY": "hunter2", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hunter2",
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Brokers(); got != "nats://a:1,nats://b" {
		t.Errorf("brokers = %q", got)
	}
	c.NATSURL = ""
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	shown := []string{string(asJSON)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		shown = append(shown, fmt.Sprintf(verb, c), fmt.Sprintf(verb, c.CSM.APIKey), fmt.Sprintf(verb, &c.CSM))
	}
	for _, s := range shown {
		if strings.Contains(s, "hunter2") || strings.Contains(s, "68756e74657232") {
			t.Errorf("shows the secret: %s", s)
		}
	}
	if s := fmt.Sprintf("%v|%v|%#v", c.CSM.APIKey, config.Secret(""), c.CSM.APIKey); s != `[set]||"[set]"` {
		t.Errorf("secret prints as %s", s)
	}
}

func TestSecretsHaveNoFlag(t *testing.T) {
	t.Parallel()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Register(flags)
	flags.VisitAll(func(f *pflag.Flag) {
		if strings.Contains(f.Name, "api-key") || strings.Contains(f.Name, "secret") || strings.Contains(f.Name, "token") {
			t.Errorf("--%s would carry a secret", f.Name)
		}
		if !config.IsSetting(f.Name) {
			t.Errorf("--%s is not reported as a setting", f.Name)
		}
	})
}

func TestConnect(t *testing.T) {
	t.Parallel()
	c, err := load(t, config.NeedBroker, map[string]string{"NATS_URL": "nats://u:hunter2@127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Connect(t.Context(), "test", zerolog.Nop())
	want := "the broker at nats://127.0.0.1:1 cannot be reached: nothing answers there; check NATS_URL and that the broker runs"
	if err == nil || err.Error() != want {
		t.Errorf("error = %v\nwant %s", err, want)
	}
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := c.Connect(ctx, "test", zerolog.Nop()); !errors.Is(err, gone) {
		t.Errorf("error = %v, want the context's cause", err)
	}
	c.NATSCreds = filepath.Join(t.TempDir(), "none")
	if _, err := c.Connect(t.Context(), "test", zerolog.Nop()); err == nil || !strings.HasPrefix(err.Error(), "NATS_CREDS cannot be read: ") {
		t.Errorf("error = %v, want the variable that names the missing file", err)
	}
}

func TestConnectionLastsForEver(t *testing.T) {
	t.Parallel()
	c, err := load(t, config.NeedNothing, nil)
	if err != nil {
		t.Fatal(err)
	}
	opts, err := c.NATSOptions("worker-1", zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	o := nats.GetDefaultOptions()
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			t.Fatal(err)
		}
	}
	if o.Name != "worker-1" || o.MaxReconnect != -1 || !o.AllowReconnect {
		t.Errorf("options: name %q, reconnects %d, allowed %t", o.Name, o.MaxReconnect, o.AllowReconnect)
	}
}

// TestTableInREADME keeps the documented settings and the real ones the same.
func TestTableInREADME(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if errors.Is(err, os.ErrNotExist) {
		t.Fatal("there is no README.md")
	}
	if err != nil {
		t.Fatal(err)
	}
	_, rest, begins := strings.Cut(string(readme), "<!-- config:begin -->\n")
	table, _, ends := strings.Cut(rest, "<!-- config:end -->")
	if !begins || !ends {
		t.Fatal("README.md has no table of settings between config:begin and config:end")
	}
	if diff := cmp.Diff(strings.TrimSpace(config.Table()), strings.TrimSpace(table)); diff != "" {
		t.Errorf("README.md differs from the settings (-settings +README):\n%s", diff)
	}
}
