package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/storage"
)

// image is a picture that is about to be converted.
type image struct {
	data      []byte
	mediaType string
	private   bool // its URL cannot be reached by the provider
}

// The values of Record.Delivery.
const (
	deliverInline  = "inline"
	deliverPresign = "presign"
	deliverURL     = "url"
)

// loadImage reads the image and checks it. Its errors are faults: Permanent if
// the image is no good, Retryable if it cannot be had now.
func (j *job) loadImage(ctx context.Context) (*image, error) {
	if key := j.keptImage(); key != "" {
		img, err := j.loadObject(ctx, key)
		if jobs.KindOf(err) != jobs.Permanent || j.request.Image.URL == "" {
			return img, err
		}
	}
	img := &image{}
	var err error
	if img.data, img.private, err = j.readURL(ctx, j.request.Image.URL); err != nil {
		return nil, err
	}
	mediaType, ext, err := j.ports.Content.Image(img.data)
	if err != nil {
		return nil, jobs.Faultf(jobs.Permanent, "image", "%w", err)
	}
	img.mediaType = mediaType
	// Keep what the URL gave: it may change, and the result is judged by it.
	key := jobs.InputKey(sum(img.data), ext)
	if _, err := j.ports.Store.Stat(ctx, key); err != nil {
		if _, err := j.ports.Store.Put(ctx, key, bytes.NewReader(img.data), int64(len(img.data)), mediaType); err != nil {
			return nil, jobs.Faultf(jobs.Retryable, "image", "store it: %w", err)
		}
	}
	j.request.Image.Object, j.request.Image.MediaType = key, mediaType
	return img, nil
}

// keptImage is the key of the image, or of what its URL gave at an earlier try.
func (j *job) keptImage() string {
	if j.request.Image.Object == "" && j.rec != nil {
		return j.rec.Request.Image.Object
	}
	return j.request.Image.Object
}

// loadObject reads an image from the bucket, and sees that its content is what
// its name says.
func (j *job) loadObject(ctx context.Context, key string) (*image, error) {
	data, err := j.readObject(ctx, key)
	if err != nil {
		return nil, err
	}
	mediaType, _, err := j.ports.Content.Image(data)
	if err != nil {
		return nil, jobs.Faultf(jobs.Permanent, "image", "%w", err)
	}
	if want := strings.TrimSuffix(path.Base(key), path.Ext(key)); want != sum(data) {
		return nil, jobs.Faultf(jobs.Permanent, "image", "%s has been changed: its content does not match its name", key)
	}
	j.request.Image.Object, j.request.Image.MediaType = key, mediaType
	// Its URL, if it came by one, may have expired since.
	return &image{data: data, mediaType: mediaType, private: true}, nil
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

func (j *job) readObject(ctx context.Context, key string) ([]byte, error) {
	data, err := j.ports.Store.GetBytes(ctx, key, j.cfg.MaxImageBytes)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, jobs.Faultf(jobs.Permanent, "image", "%s is not in the bucket", key)
	case err != nil:
		return nil, jobs.Faultf(jobs.Retryable, "image", "%w", err)
	}
	return data, nil
}

func (j *job) readURL(ctx context.Context, url string) (data []byte, private bool, err error) {
	f, err := j.ports.Fetcher.Fetch(ctx, url, j.cfg.MaxImageBytes)
	if err != nil {
		fault := jobs.Faultf(jobs.Retryable, "image", "%w", err)
		if fe, ok := errors.AsType[*FetchError](err); ok && (fe.Permanent || fe.Expired) {
			fault.Kind = jobs.Permanent
		}
		return nil, false, fault
	}
	defer f.Close()
	data = make([]byte, f.Size())
	if _, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, false, jobs.Faultf(jobs.Retryable, "image", "%w", err)
	}
	return data, f.Private(), nil
}

// deliver puts the image into the form in which it goes to the provider.
func (j *job) deliver(ctx context.Context, img *image, marker string) (jobs.Delivery, string, error) {
	if j.cfg.Presign {
		key := j.request.Image.Object
		ext := strings.TrimPrefix(path.Ext(key), ".")
		// Later stages of a session may read the image again.
		url, err := j.ports.Store.Presign(ctx, key, min(j.cfg.JobTimeout+time.Hour, mostPresign), marker+ext)
		if err != nil {
			return jobs.Delivery{}, "", jobs.Faultf(jobs.Retryable, "image", "presign: %w", err)
		}
		return jobs.Delivery{URL: url, MediaType: img.mediaType}, deliverPresign, nil
	}
	if url := j.request.Image.URL; url != "" && !img.private {
		return jobs.Delivery{URL: url, MediaType: img.mediaType}, deliverURL, nil
	}
	if up, ok := j.provider.(jobs.Uploader); ok {
		uctx, cancel := context.WithTimeoutCause(ctx, uploadTimeout, fmt.Errorf("no answer within %v", uploadTimeout))
		defer cancel()
		url, err := up.Upload(uctx, img.data, img.mediaType)
		if err != nil {
			if f, ok := errors.AsType[*jobs.Fault](err); ok && f.Kind == jobs.Unknown {
				// An upload costs nothing, so it may always be repeated.
				again := *f
				again.Kind = jobs.Retryable
				err = &again
			}
			return jobs.Delivery{}, "", err
		}
		return jobs.Delivery{URL: url, MediaType: img.mediaType}, deliverInline, nil
	}
	return jobs.Delivery{Bytes: img.data, MediaType: img.mediaType}, deliverInline, nil
}

// mostPresign is the longest time that S3 signs a URL for.
const mostPresign = 7 * 24 * time.Hour

// uploadTimeout bounds the upload of one image to a provider.
const uploadTimeout = 2 * time.Minute
