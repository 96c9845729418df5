package storage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// The reasons that callers can tell apart with errors.Is. The error around one
// says in words what to do.
var (
	// ErrNotFound: the bucket is there, the object is not.
	ErrNotFound = errors.New("object not found")
	// ErrNoBucket: the store answers, the bucket is not there.
	ErrNoBucket = errors.New("bucket not found")
	// ErrDenied: the credentials are missing, wrong or do not allow the call.
	ErrDenied = errors.New("access denied")
	// ErrUnreachable: the store cannot be reached, does not answer in time, or
	// answers that it cannot serve at the moment.
	ErrUnreachable = errors.New("object store unreachable")
	// ErrFull: the store has no room left, or the quota is used up.
	ErrFull = errors.New("object store full")
	// ErrTooLarge: the object is larger than the caller or the store allows.
	ErrTooLarge = errors.New("object too large")
	// ErrDamaged: the bytes are not those that were stored.
	ErrDamaged = errors.New("object damaged")
)

// errSlow is the cause of the deadlines set here.
var errSlow = errors.New("no answer in time")

// namedCredentials makes a failure to find credentials recognisable.
type namedCredentials struct{ aws.CredentialsProvider }

type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

func (n namedCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := n.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		err = &credentialsError{err}
	}
	return c, err
}

// refusal is an error with words of its own. Its text leaves out that of its
// causes, because an SDK's error text holds the request's URL.
type refusal struct {
	text   string
	causes []error
}

func (r *refusal) Error() string   { return r.text }
func (r *refusal) Unwrap() []error { return r.causes }

// fail turns what a call returned into the error that the caller sees. ctx is
// the caller's own context. A nil err also tells that the bucket is there.
func (b *Bucket) fail(ctx context.Context, op, key string, err error) error {
	if err == nil {
		b.seen.Store(true)
		return nil
	}
	if key != "" {
		op += " " + key
	}
	kind, r := b.explain(ctx, err)
	return &jobs.Fault{Kind: kind, Op: "storage: " + op, Err: r}
}

func (b *Bucket) explain(ctx context.Context, err error) (jobs.Kind, *refusal) {
	because := func(reason error, format string, args ...any) *refusal {
		return &refusal{fmt.Sprintf(format, args...), []error{reason, err}}
	}
	if ctx.Err() != nil {
		return jobs.Retryable, because(context.Cause(ctx), "given up: %v", context.Cause(ctx))
	}
	if c, ok := errors.AsType[*credentialsError](err); ok {
		return jobs.Retryable, because(ErrDenied, "no usable credentials for %s: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (%s)", b.where(), clean(lastText(c.err)))
	}
	status := 0
	if re, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		status = re.HTTPStatusCode()
	}
	code, message := "", ""
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		code, message = api.ErrorCode(), clean(api.ErrorMessage())
	}
	said := clean(strings.TrimSpace(fmt.Sprintf("%d %s", status, code)))
	switch code {
	case "NoSuchKey":
		return jobs.Permanent, because(ErrNotFound, "there is no such object in %s", b.what())
	case "NoSuchBucket":
		return jobs.Retryable, because(ErrNoBucket, "there is no %s at %s: create it, or set MESHMILL_BUCKET", b.what(), b.where())
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken":
		return jobs.Retryable, because(ErrDenied, "%s does not accept the credentials (%s): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", b.where(), said)
	case "RequestTimeTooSkewed":
		return jobs.Retryable, because(ErrDenied, "%s refuses because the clocks differ too much: set this machine's clock", b.where())
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return jobs.Retryable, because(ErrDenied, "%s is not in region %s (%s): set AWS_REGION to the bucket's region", b.what(), b.region, said)
	case "BucketAlreadyExists":
		return jobs.Retryable, because(ErrDenied, "%s belongs to someone else: choose another name with MESHMILL_BUCKET", b.what())
	case "EntityTooLarge":
		return jobs.Permanent, because(ErrTooLarge, "%s does not take an object of this size", b.where())
	case "QuotaExceeded", "XMinioStorageFull", "NoSpaceLeftOnDevice", "XMinioAdminBucketQuotaExceeded":
		return jobs.Retryable, because(ErrFull, "%s has no room left (%s): free space or raise the quota", b.where(), said)
	}
	switch {
	case status == http.StatusInsufficientStorage:
		return jobs.Retryable, because(ErrFull, "%s has no room left (%s): free space or raise the quota", b.where(), said)
	case status == http.StatusUnauthorized || status == http.StatusForbidden || code == "AccessDenied":
		return jobs.Retryable, because(ErrDenied, "%s does not allow this on %s (%s): check the credentials and their rights", b.where(), b.what(), said)
	case status >= 500 || status == http.StatusTooManyRequests || code == "SlowDown":
		return jobs.Retryable, because(ErrUnreachable, "%s cannot serve at the moment (%s)", b.where(), said)
	case status >= 300 && status < 400:
		return jobs.Retryable, because(ErrUnreachable, "%s answers with a redirect (%s): check AWS_ENDPOINT_URL_S3 and AWS_REGION", b.where(), said)
	case status >= 400:
		return jobs.Permanent, because(errors.New(said), "%s refuses the call (%s: %s)", b.where(), said, message)
	case status >= 200:
		return jobs.Retryable, b.notS3(err)
	}
	return jobs.Retryable, because(ErrUnreachable, "cannot reach %s: %s: check that it runs, the network and AWS_ENDPOINT_URL_S3", b.where(), clean(lastText(err)))
}

func (b *Bucket) notS3(cause error) *refusal {
	causes := []error{ErrUnreachable}
	if cause != nil {
		causes = append(causes, cause)
	}
	return &refusal{b.where() + " does not answer like an S3 store: check AWS_ENDPOINT_URL_S3", causes}
}

func (b *Bucket) where() string {
	if b.endpoint == "" {
		return "Amazon S3 in " + b.region
	}
	return "the object store at " + b.endpoint
}

func (b *Bucket) what() string { return fmt.Sprintf("bucket %q", b.name) }

// lastText finds words for a transport error that hold no URL.
func lastText(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return errSlow.Error()
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return "the host name " + e.Name + " is not known (" + e.Err + ")"
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Err.Error()
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err.Error()
	}
	for next := err; next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err.Error()
}

// clean bounds foreign text and takes out what could confuse a terminal.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}
