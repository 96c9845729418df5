package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// The limits that the package promises.
const (
	callTimeout  = 20 * time.Second // one small call, its repeats included
	checkTimeout = 10 * time.Second // Check and Ensure
	abortTimeout = 10 * time.Second // giving up a multipart upload
	attempts     = 3                // sends of one request, the first included
	maxBackoff   = 2 * time.Second  // longest wait between them

	partSize    = 8 << 20 // from this size on an object goes up in parts
	partsInWork = 2       // parts of one object that are sent at a time
	maxParts    = 10000   // of one object, by S3's own limit
)

// Config says which bucket to use and how to reach it. Only Bucket is needed:
// what is empty comes from the AWS SDK's own chain (environment, shared files,
// role of the machine).
type Config struct {
	Bucket string
	// Endpoint is the address of a store that is not AWS: "http://127.0.0.1:9000".
	// Empty leaves it to AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and the shared
	// files. Wherever it comes from, buckets are then addressed by path.
	Endpoint string
	// Region may stay empty where there is an endpoint; "us-east-1" is then used.
	Region string
	// AccessKeyID and SecretAccessKey come together or not at all.
	AccessKeyID, SecretAccessKey string
}

// Bucket is one bucket of an object store. It is safe for concurrent use, and
// holds nothing that needs closing.
type Bucket struct {
	name     string
	endpoint string // for people; empty means AWS itself
	region   string
	client   *s3.Client
	presign  *s3.PresignClient
	upload   *transfermanager.Client
	seen     atomic.Bool // the bucket was there at least once
}

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// Open prepares the use of a bucket. It checks the configuration and calls
// nobody: [Bucket.Check] tells whether the bucket can be used.
func Open(ctx context.Context, cfg Config) (*Bucket, error) {
	return open(ctx, cfg, nil)
}

func open(ctx context.Context, cfg Config, transport http.RoundTripper) (*Bucket, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	loaded, err := cfg.load(ctx)
	if err != nil {
		return nil, fmt.Errorf("storage: read the AWS configuration: %w", err)
	}
	if loaded.Credentials != nil {
		loaded.Credentials = namedCredentials{loaded.Credentials}
	}
	if transport == nil {
		transport = &watch{next: newTransport(loaded.HTTPClient), stall: stallTimeout, reply: replyTimeout, assemble: assembleTimeout}
	}
	b := &Bucket{name: cfg.Bucket}
	b.client = s3.NewFromConfig(loaded, func(o *s3.Options) {
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
		}
		if o.BaseEndpoint != nil {
			o.UsePathStyle = true
			o.Region = cmp.Or(o.Region, "us-east-1")
			if os.Getenv("AWS_REQUEST_CHECKSUM_CALCULATION") == "" {
				// Many stores refuse checksum trailers. Over plain HTTP the
				// signature covers each body's SHA-256, over TLS the connection
				// guards it, so nothing is lost without them.
				o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
			}
		}
		// Get checks the SHA-256 that Put stored, which works everywhere.
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.HTTPClient = &http.Client{Transport: transport, CheckRedirect: refuseRedirect}
		o.Retryer = retry.NewStandard(func(s *retry.StandardOptions) {
			s.MaxAttempts = attempts
			s.MaxBackoff = maxBackoff
			// The SDK's quota would fail calls of one job for those of another.
			s.RateLimiter = ratelimit.None
		})
		o.RetryMaxAttempts = 0 // AWS_MAX_ATTEMPTS must not undo the promise above
	})
	opts := b.client.Options()
	b.region = opts.Region
	if opts.BaseEndpoint != nil {
		if b.endpoint, err = checkEndpoint(*opts.BaseEndpoint); err != nil {
			return nil, fmt.Errorf("storage: %w", err)
		}
	}
	if b.region == "" {
		return nil, errors.New("storage: no region: set AWS_REGION, such as us-east-1, or AWS_ENDPOINT_URL_S3 for a store that is not AWS")
	}
	b.presign = s3.NewPresignClient(b.client)
	b.upload = transfermanager.New(b.client, func(o *transfermanager.Options) {
		o.PartSizeBytes = partSize
		o.MultipartUploadThreshold = partSize
		o.Concurrency = partsInWork
		o.MaxUploadParts = maxParts
		o.FailTimeout = abortTimeout // so that a cancelled Put can still clean up
		o.RequestChecksumCalculation = opts.RequestChecksumCalculation
	})
	return b, nil
}

// load asks the SDK's chain for what cfg does not tell.
func (cfg Config) load(ctx context.Context) (aws.Config, error) {
	keys := credentials.NewStaticCredentialsProvider(cfg.AccessKeyID, cfg.SecretAccessKey, "")
	if strings.HasPrefix(cfg.Endpoint, "http://") && cfg.Region != "" && cfg.AccessKeyID != "" {
		// Nothing to ask, not even for certificates: a broken shared file must
		// not stop embedded servers.
		return aws.Config{Region: cfg.Region, Credentials: keys, Logger: logging.Nop{}}, nil
	}
	load := []func(*config.LoadOptions) error{
		config.WithLogger(logging.Nop{}), // the SDK would write to standard error
	}
	if cfg.Region != "" {
		load = append(load, config.WithRegion(cfg.Region))
	}
	if cfg.AccessKeyID != "" {
		load = append(load, config.WithCredentialsProvider(keys))
	}
	return config.LoadDefaultConfig(ctx, load...)
}

func (cfg Config) check() error {
	if !bucketName.MatchString(cfg.Bucket) || strings.Contains(cfg.Bucket, "..") {
		return fmt.Errorf("bucket %q is not a bucket name: it needs 3 to 63 of a-z, 0-9, dot and dash, such as meshmill (MESHMILL_BUCKET)", cfg.Bucket)
	}
	if (cfg.AccessKeyID == "") != (cfg.SecretAccessKey == "") {
		return errors.New("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set together")
	}
	if cfg.Endpoint != "" {
		if _, err := checkEndpoint(cfg.Endpoint); err != nil {
			return err
		}
	}
	return nil
}

// checkEndpoint returns the address as it may be shown.
func checkEndpoint(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		// The value is not repeated: it may hold a password.
		return "", errors.New("the endpoint of the object store must be like http://127.0.0.1:9000 or https://s3.example.com, without credentials (AWS_ENDPOINT_URL_S3)")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// Name returns the bucket's name.
func (b *Bucket) Name() string { return b.name }

// URI returns the address of an object for people and events: "s3://bucket/key".
func (b *Bucket) URI(key string) string { return "s3://" + b.name + "/" + key }

// Check reports whether the store can be reached and the bucket is there and
// may be listed. It answers within 10 s.
func (b *Bucket) Check(ctx context.Context) error {
	parent := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, errSlow)
	defer cancel()
	// Not a HEAD: its answer has no body, which is where the reason is told.
	out, err := b.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{
		Bucket: &b.name, MaxKeys: aws.Int32(1),
	}, once)
	if err == nil && aws.ToString(out.Name) == "" {
		// The SDK takes any page with status 200 for an empty list.
		return &jobs.Fault{Kind: jobs.Retryable, Op: "storage: check bucket", Err: b.notS3(nil)}
	}
	return b.fail(parent, "check bucket", "", err)
}

// Ensure creates the bucket if it is missing, and checks it like
// [Bucket.Check]. Several processes may do this at once.
func (b *Bucket) Ensure(ctx context.Context) error {
	err := b.Check(ctx)
	if !errors.Is(err, ErrNoBucket) {
		return err
	}
	in := &s3.CreateBucketInput{Bucket: &b.name}
	if b.endpoint == "" && b.region != "us-east-1" {
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{
			LocationConstraint: types.BucketLocationConstraint(b.region),
		}
	}
	parent := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, errSlow)
	defer cancel()
	if _, err = b.client.CreateBucket(ctx, in); err != nil {
		if _, ok := errors.AsType[*types.BucketAlreadyOwnedByYou](err); !ok {
			return b.fail(parent, "create bucket", "", err)
		}
	}
	return b.Check(parent)
}

// once makes a call fail at its first failure: whoever checks wants to know
// how things stand now.
func once(o *s3.Options) { o.Retryer = aws.NopRetryer{} }
