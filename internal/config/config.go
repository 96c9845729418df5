// Package config reads the settings of Meshmill's commands: from a flag, then
// from the environment, then the default. One table names every setting; the
// flags, the messages and the table in README.md are made from it.
package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"github.com/meshmill/meshmill/internal/cost"
	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

// Config is what Load returns. Its zero value is not useful.
type Config struct {
	// Embedded asks for a broker and an object store in this process.
	Embedded bool
	// Simulate asks for simulated providers. It needs Embedded.
	Simulate bool

	// NATSURL holds broker addresses, separated by commas. They may hold a
	// password: use Brokers to show them.
	NATSURL string
	// NATSCreds, NATSCA, NATSCert and NATSKey are paths, or empty.
	NATSCreds, NATSCA, NATSCert, NATSKey string

	// S3Endpoint, S3Region and the keys are empty where the AWS SDK's own chain
	// is to find them.
	S3Endpoint, S3Region, S3AccessKeyID string
	S3SecretAccessKey, S3SessionToken   Secret
	Bucket                              string
	// Names are made from MESHMILL_PREFIX.
	Names jobs.Names

	CSM, ModelsLab Account
	// CSMCost and ModelsLabCost are what a person says a job costs there.
	CSMCost, ModelsLabCost cost.Prices
	// AskAbove is from where on a person is asked before jobs are enqueued.
	AskAbove cost.Threshold

	Lease            time.Duration
	OnUnknown        string // OnUnknownPark or OnUnknownResubmit
	PollMin, PollMax time.Duration
	JobTimeout       time.Duration
	Grace            time.Duration
	ImageDelivery    string // DeliverInline or DeliverPresign
	AllowPrivateURLs bool
	MaxMeshBytes     int64
	Listen           string // empty turns it off
	Data             string
	LogLevel         zerolog.Level
	LogFormat        string // LogAuto, LogConsole or LogJSON

	set map[string]bool
}

// Account is one provider's account.
type Account struct {
	APIKey  Secret
	BaseURL string
	// Concurrency is how many sessions may be in flight over the whole fleet.
	Concurrency int
}

// The values of the settings that are a choice.
const (
	OnUnknownPark     = "park"
	OnUnknownResubmit = "resubmit"
	DeliverInline     = "inline"
	DeliverPresign    = "presign"
	LogAuto           = "auto"
	LogConsole        = "console"
	LogJSON           = "json"
)

// StorageConfig says where the bucket is. Keys go along only as a whole pair;
// a temporary key, or none, is left to the AWS SDK's own chain.
func (c *Config) StorageConfig() storage.Config {
	s := storage.Config{Bucket: c.Bucket, Endpoint: c.S3Endpoint, Region: c.S3Region}
	if c.S3SecretAccessKey != "" && c.S3SessionToken == "" {
		s.AccessKeyID, s.SecretAccessKey = c.S3AccessKeyID, c.S3SecretAccessKey.Reveal()
	}
	return s
}

// IsSet reports whether the user set a variable, by flag or environment, rather
// than leaving it at its default.
func (c *Config) IsSet(variable string) bool { return c.set[variable] }

type setting struct {
	variable string
	// flag is empty for secrets, which other users of the machine could read
	// from the list of processes.
	flag    string
	def     string
	doc     string
	example string
	parse   parser
	// empty makes an empty value count as set.
	empty bool
}

const week = 7 * 24 * time.Hour

var settings = []setting{
	{"NATS_URL", "nats-url", "", "broker addresses, separated by commas; required unless `--embedded`", "nats://127.0.0.1:4222", brokerURLs, false},
	{"NATS_CREDS", "nats-creds", "", "credentials file for the broker", "/etc/meshmill/nats.creds", text(func(c *Config) *string { return &c.NATSCreds }), false},
	{"NATS_CA", "nats-ca", "", "file with the certificates that sign the broker's", "/etc/meshmill/ca.pem", text(func(c *Config) *string { return &c.NATSCA }), false},
	{"NATS_CERT", "nats-cert", "", "file with this client's certificate, together with `NATS_KEY`", "/etc/meshmill/client.pem", text(func(c *Config) *string { return &c.NATSCert }), false},
	{"NATS_KEY", "nats-key", "", "file with the private key of `NATS_CERT`", "/etc/meshmill/client-key.pem", text(func(c *Config) *string { return &c.NATSKey }), false},

	{"AWS_ENDPOINT_URL_S3", "s3-endpoint", "", "address of the object storage, empty for AWS itself; path-style addressing whenever it is set", "http://127.0.0.1:9000", httpURL(func(c *Config) *string { return &c.S3Endpoint }), false},
	{"AWS_REGION", "s3-region", "", "region of the bucket", "eu-central-1", text(func(c *Config) *string { return &c.S3Region }), false},
	{"AWS_ACCESS_KEY_ID", "s3-access-key-id", "", "access key; like everything else of AWS it may come from the SDK's own files and roles", "AKIAEXAMPLE", text(func(c *Config) *string { return &c.S3AccessKeyID }), false},
	{"AWS_SECRET_ACCESS_KEY", "", "", "secret of the access key", "", secret(func(c *Config) *Secret { return &c.S3SecretAccessKey }), false},
	{"AWS_SESSION_TOKEN", "", "", "token of a temporary access key", "", secret(func(c *Config) *Secret { return &c.S3SessionToken }), false},
	{"MESHMILL_BUCKET", "bucket", "meshmill", "bucket for inputs and results", "meshmill", bucket, false},
	{"MESHMILL_PREFIX", "prefix", jobs.DefaultPrefix, "first token of every subject and key-value bucket, in capitals of every stream", "meshmill", prefix, false},

	{"CSM_API_KEY", "", "", "key of the CSM.ai account", "", secret(func(c *Config) *Secret { return &c.CSM.APIKey }), false},
	{"CSM_BASE_URL", "csm-base-url", "https://api.csm.ai", "address of the CSM.ai API", "https://api.csm.ai", httpURL(func(c *Config) *string { return &c.CSM.BaseURL }), false},
	{"CSM_CONCURRENCY", "csm-concurrency", "5", "sessions in flight on the CSM.ai account over the whole fleet", "5", whole(func(c *Config) *int { return &c.CSM.Concurrency }, 1, 10000), false},
	{"CSM_COST", "csm-cost", "", "estimate of what one job costs in US dollars, for all modes or for each (`v2=0.20,v1 refine=1`); CSM.ai sells credits at USD 0.20, but not in public how many a job takes, so nothing is assumed", "v2=0.20,v1=0.60", prices(func(c *Config) *cost.Prices { return &c.CSMCost }), false},
	{"MODELSLAB_API_KEY", "", "", "key of the ModelsLab account", "", secret(func(c *Config) *Secret { return &c.ModelsLab.APIKey }), false},
	{"MODELSLAB_BASE_URL", "modelslab-base-url", "https://modelslab.com/api/v6", "address of the ModelsLab API", "https://modelslab.com/api/v6", httpURL(func(c *Config) *string { return &c.ModelsLab.BaseURL }), false},
	{"MODELSLAB_CONCURRENCY", "modelslab-concurrency", "5", "sessions in flight on the ModelsLab account over the whole fleet", "5", whole(func(c *Config) *int { return &c.ModelsLab.Concurrency }, 1, 10000), false},
	{"MODELSLAB_COST", "modelslab-cost", "", "likewise for ModelsLab, whose price of a mesh is not public", "0.05", prices(func(c *Config) *cost.Prices { return &c.ModelsLabCost }), false},

	{"MESHMILL_ASK_ABOVE", "ask-above", "100", "on a terminal, ask before more than so many jobs are enqueued, or jobs for more than an amount (`20USD`); `off` never asks", "20USD", askAbove, false},
	{"MESHMILL_LEASE", "lease", "30s", "how long a silent worker keeps a job before another takes over", "30s", duration(func(c *Config) *time.Duration { return &c.Lease }, time.Second, time.Hour), false},
	{"MESHMILL_ON_UNKNOWN", "on-unknown", OnUnknownPark, "`park` or `resubmit`: what to do when it cannot be found out whether a paid call went through", OnUnknownPark, choice(func(c *Config) *string { return &c.OnUnknown }, OnUnknownPark, OnUnknownResubmit), false},
	{"MESHMILL_POLL_MIN", "poll-min", "2s", "shortest interval between polls of a session", "2s", duration(func(c *Config) *time.Duration { return &c.PollMin }, 10*time.Millisecond, time.Hour), false},
	{"MESHMILL_POLL_MAX", "poll-max", "30s", "longest interval between polls of a session", "30s", duration(func(c *Config) *time.Duration { return &c.PollMax }, 10*time.Millisecond, time.Hour), false},
	{"MESHMILL_JOB_TIMEOUT", "job-timeout", "2h", "longest a provider session may run", "2h", duration(func(c *Config) *time.Duration { return &c.JobTimeout }, time.Second, week), false},
	{"MESHMILL_GRACE", "grace", "90s", "on shutdown, longest wait for a paid call in flight", "90s", duration(func(c *Config) *time.Duration { return &c.Grace }, 0, time.Hour), false},
	{"MESHMILL_IMAGE_DELIVERY", "image-delivery", DeliverInline, "`inline` (data URI, or the provider's own upload call) or `presign` (a presigned GET URL of the bucket)", DeliverInline, choice(func(c *Config) *string { return &c.ImageDelivery }, DeliverInline, DeliverPresign), false},
	{"MESHMILL_ALLOW_PRIVATE_URLS", "allow-private-urls", "false", "allow image and result URLs on loopback and private addresses", "true", truth(func(c *Config) *bool { return &c.AllowPrivateURLs }), false},
	{"MESHMILL_MAX_MESH_BYTES", "max-mesh-bytes", "2GiB", "largest result file taken", "2GiB", size(func(c *Config) *int64 { return &c.MaxMeshBytes }, 1<<10, 1<<40), false},
	{"MESHMILL_LISTEN", "listen", "127.0.0.1:8080", "address for health and metrics; empty turns it off", "127.0.0.1:8080", listen, true},
	{"MESHMILL_DATA", "data", "./meshmill-data", "folder of the embedded servers", "./meshmill-data", text(func(c *Config) *string { return &c.Data }), false},
	{"MESHMILL_LOG_LEVEL", "log-level", "info", "`debug`, `info`, `warn` or `error`", "info", logLevel, false},
	{"MESHMILL_LOG_FORMAT", "log-format", LogAuto, "`auto` is console on a terminal, JSON otherwise; or `console`, `json`", LogJSON, choice(func(c *Config) *string { return &c.LogFormat }, LogAuto, LogConsole, LogJSON), false},
}

// Register adds the flag of every setting to a command's flags, and --embedded
// and --simulate, which have no variable: nothing is simulated unasked.
func Register(flags *pflag.FlagSet) {
	for _, s := range settings {
		if s.flag == "" {
			continue
		}
		v := &flagValue{text: s.def, kind: kind(s.example)}
		f := flags.VarPF(v, s.flag, "", strings.ReplaceAll(s.doc, "`", "")+" ["+s.variable+"]")
		if v.kind == "bool" {
			f.NoOptDefVal = "true"
		}
	}
	flags.Bool("embedded", false, "run the broker and the object storage in this process, with their data in --data")
	flags.Bool("simulate", false, "with --embedded: simulated providers on loopback; nothing is bought")
}

// flagValue holds a flag's text until Load: mistakes are reported together
// with those of the environment.
type flagValue struct{ text, kind string }

func (v *flagValue) String() string     { return v.text }
func (v *flagValue) Set(s string) error { v.text = s; return nil }
func (v *flagValue) Type() string       { return v.kind }

// kind names the type of a setting in a command's help.
func kind(example string) string {
	if _, err := time.ParseDuration(example); err == nil {
		return "duration"
	}
	if _, err := strconv.Atoi(example); err == nil {
		return "int"
	}
	switch {
	case example == "true":
		return "bool"
	case strings.Contains(example, "://"):
		return "url"
	case strings.HasPrefix(example, "/"):
		return "path"
	}
	return "string"
}

// IsSetting reports whether a flag is one that Register adds.
func IsSetting(flag string) bool {
	if flag == "embedded" || flag == "simulate" {
		return true
	}
	for _, s := range settings {
		if s.flag == flag {
			return true
		}
	}
	return false
}

// Need is what a command cannot do without.
type Need uint8

const (
	// NeedNothing: the command works without a broker.
	NeedNothing Need = iota
	// NeedBroker: NATS_URL or --embedded must be given.
	NeedBroker
)

// Load reads every setting: from its flag, then from the environment, then its
// default. Lookup is os.LookupEnv. The error joins one error for each mistake,
// with the variable's name, what was wrong and an example; it shows no secret.
func Load(flags *pflag.FlagSet, lookup func(string) (string, bool), need Need) (Config, error) {
	c := Config{set: map[string]bool{}}
	var errs []error
	for _, s := range settings {
		value, name := s.def, s.variable
		if v, ok := lookup(s.variable); ok && (v != "" || s.empty) {
			value, c.set[s.variable] = v, true
		}
		if f := flags.Lookup(s.flag); s.flag != "" && f != nil && f.Changed {
			value, name, c.set[s.variable] = f.Value.String(), s.variable+" (--"+s.flag+")", true
		}
		if value == "" && !s.empty {
			if c.set[s.variable] {
				errs = append(errs, fmt.Errorf("%s is empty%s", name, such(s.example)))
			}
			continue
		}
		if err := s.parse(&c, value); err != nil {
			errs = append(errs, wrong(&s, name, value, err))
		}
	}
	c.Embedded, _ = flags.GetBool("embedded")
	c.Simulate, _ = flags.GetBool("simulate")
	return c, errors.Join(append(errs, c.check(flags, need)...)...)
}

func wrong(s *setting, name, value string, must error) error {
	if s.flag == "" {
		return fmt.Errorf("%s is not valid, must be text %w", name, must)
	}
	if s.variable == "NATS_URL" {
		value = redact(value)
	}
	return fmt.Errorf("%s is %q, must be %w%s", name, clip(value), must, such(s.example))
}

func such(example string) string {
	if example == "" {
		return ""
	}
	return ", such as " + example
}

func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// check looks at what settings mean together.
func (c *Config) check(flags *pflag.FlagSet, need Need) []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.NATSURL == "" && !c.set["NATS_URL"] && !c.Embedded && need == NeedBroker {
		bad("NATS_URL is not set, must be the broker's address such as nats://127.0.0.1:4222; --embedded needs none")
	}
	if c.Embedded {
		if f := flags.Lookup("nats-url"); f != nil && f.Changed {
			bad("NATS_URL (--nats-url) cannot be given together with --embedded, which brings its own broker")
		}
		if f := flags.Lookup("s3-endpoint"); f != nil && f.Changed {
			bad("AWS_ENDPOINT_URL_S3 (--s3-endpoint) cannot be given together with --embedded, which brings its own object storage")
		}
	}
	if c.Simulate && !c.Embedded {
		bad("--simulate works with --embedded only: a broker that others use must not get simulated results")
	}
	if c.PollMin > c.PollMax && c.PollMax > 0 {
		bad("MESHMILL_POLL_MIN is %s, must not be more than MESHMILL_POLL_MAX, which is %s", short(c.PollMin), short(c.PollMax))
	}
	if (c.NATSCert == "") != (c.NATSKey == "") {
		bad("NATS_CERT and NATS_KEY must be set together, such as /etc/meshmill/client.pem and /etc/meshmill/client-key.pem")
	}
	if c.S3AccessKeyID == "" && c.S3SecretAccessKey != "" && !c.Embedded {
		bad("AWS_ACCESS_KEY_ID is not set, but AWS_SECRET_ACCESS_KEY is: set both or neither")
	}
	if c.S3AccessKeyID != "" && c.S3SecretAccessKey == "" && !c.Embedded {
		bad("AWS_SECRET_ACCESS_KEY is not set, but AWS_ACCESS_KEY_ID is: set both or neither")
	}
	return errs
}

// Table returns the rows of a Markdown table of every setting, with its head.
func Table() string {
	var b strings.Builder
	b.WriteString("| variable | flag | default | meaning |\n|---|---|---|---|\n")
	for _, s := range settings {
		flag, def := "none: secrets never come by flag", "none"
		if s.flag != "" {
			flag = "`--" + s.flag + "`"
		}
		if s.def != "" {
			def = "`" + s.def + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.variable, flag, def, s.doc)
	}
	return b.String()
}
