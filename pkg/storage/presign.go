package storage

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// Presign returns a URL with which anyone can get the object until ttl has
// passed; ttl is from 1 s to 7 days. The URL is a secret: it belongs into the
// one request it is made for, not into a log, a record or an event.
//
// The URL's query names the file to save as: filename, with all but ASCII
// letters, digits, dot, dash and underscore replaced. So a caller can make the
// URL unique, and know it again by that name. Presign does not call the store,
// and does not find out whether the object is there.
func (b *Bucket) Presign(ctx context.Context, key string, ttl time.Duration, filename string) (string, error) {
	if err := checkKey("presign", key); err != nil {
		return "", err
	}
	if ttl < time.Second || ttl > 7*24*time.Hour {
		return "", jobs.Faultf(jobs.Permanent, "storage: presign "+key, "the time %v is not from 1s to 168h", ttl)
	}
	inner, cancel := context.WithTimeoutCause(ctx, callTimeout, errSlow) // credentials may need a call
	defer cancel()
	req, err := b.presign.PresignGetObject(inner, &s3.GetObjectInput{
		Bucket: &b.name, Key: &key,
		ResponseContentDisposition: aws.String(`attachment; filename="` + safeName(filename) + `"`),
	}, s3.WithPresignExpires(ttl))
	if err != nil {
		return "", b.fail(ctx, "presign", key, err)
	}
	return req.URL, nil
}
