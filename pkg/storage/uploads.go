package storage

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// AbortUploads gives up the unfinished multipart uploads under prefix that
// began at least olderThan ago, and returns how many. Such are what a process
// leaves that was killed within a Put; they take space and are seen nowhere
// else. Choose olderThan longer than any Put may take: younger ones may be in
// work.
//
// MinIO lists unfinished uploads only where prefix is the whole key, and
// removes its own leftovers after a day.
func (b *Bucket) AbortUploads(ctx context.Context, prefix string, olderThan time.Duration) (n int, err error) {
	limit := time.Now().Add(-olderThan)
	in := &s3.ListMultipartUploadsInput{Bucket: &b.name, Prefix: &prefix}
	for {
		page, err := b.listUploads(ctx, in)
		if err := b.fail(ctx, "list uploads", prefix, err); err != nil {
			return n, err
		}
		for _, u := range page.Uploads {
			key := aws.ToString(u.Key)
			if !strings.HasPrefix(key, prefix) || aws.ToTime(u.Initiated).After(limit) {
				continue
			}
			switch err := b.abort(ctx, key, aws.ToString(u.UploadId)); {
			case err == nil:
				n++
			case isGone(err): // someone else was faster
			default:
				return n, b.fail(ctx, "abort the upload of", key, err)
			}
		}
		marker, id := aws.ToString(page.NextKeyMarker), aws.ToString(page.NextUploadIdMarker)
		if !aws.ToBool(page.IsTruncated) || (marker == aws.ToString(in.KeyMarker) && id == aws.ToString(in.UploadIdMarker)) {
			return n, nil
		}
		in.KeyMarker, in.UploadIdMarker = &marker, &id
	}
}

func (b *Bucket) listUploads(ctx context.Context, in *s3.ListMultipartUploadsInput) (*s3.ListMultipartUploadsOutput, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errSlow)
	defer cancel()
	return b.client.ListMultipartUploads(ctx, in)
}

func (b *Bucket) abort(ctx context.Context, key, id string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, abortTimeout, errSlow)
	defer cancel()
	_, err := b.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.name, Key: &key, UploadId: &id})
	return err
}

func isGone(err error) bool {
	_, gone := errors.AsType[*types.NoSuchUpload](err)
	return gone
}
