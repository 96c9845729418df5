package embedded

import (
	"context"
	"path/filepath"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/versity/versitygw/s3response"
)

func (f *folders) PutObject(ctx context.Context, in s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	bucket, key := aws.ToString(in.Bucket), aws.ToString(in.Key)
	defer f.lock(in.Bucket, in.Key)()
	in.Bucket = f.pathOf(in.Bucket)
	out, err := f.posix.PutObject(ctx, in)
	if err == nil {
		err = f.sync(bucket, key)
	}
	return out, f.out(err)
}

func (f *folders) HeadObject(ctx context.Context, in *s3.HeadObjectInput) (*s3.HeadObjectOutput, error) {
	defer f.rlock(in.Bucket, in.Key)()
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	out, err := f.posix.HeadObject(ctx, &c)
	return out, f.out(err)
}

func (f *folders) GetObject(ctx context.Context, in *s3.GetObjectInput) (*s3.GetObjectOutput, error) {
	defer f.rlock(in.Bucket, in.Key)()
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	out, err := f.posix.GetObject(ctx, &c)
	return out, f.out(err)
}

func (f *folders) GetObjectAttributes(ctx context.Context, in *s3.GetObjectAttributesInput) (s3response.GetObjectAttributesResponse, error) {
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	out, err := f.posix.GetObjectAttributes(ctx, &c)
	return out, f.out(err)
}

func (f *folders) ListObjects(ctx context.Context, in *s3.ListObjectsInput) (s3response.ListObjectsResult, error) {
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	out, err := f.posix.ListObjects(ctx, &c)
	out.Name = in.Bucket
	return out, f.out(err)
}

func (f *folders) ListObjectsV2(ctx context.Context, in *s3.ListObjectsV2Input) (s3response.ListObjectsV2Result, error) {
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	out, err := f.posix.ListObjectsV2(ctx, &c)
	out.Name = in.Bucket
	return out, f.out(err)
}

func (f *folders) DeleteObject(ctx context.Context, in *s3.DeleteObjectInput) (*s3.DeleteObjectOutput, error) {
	defer f.lock(in.Bucket, in.Key)()
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	out, err := f.posix.DeleteObject(ctx, &c)
	return out, f.out(err)
}

func (f *folders) DeleteObjects(ctx context.Context, in *s3.DeleteObjectsInput) (s3response.DeleteResult, error) {
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	out, err := f.posix.DeleteObjects(ctx, &c)
	return out, f.out(err)
}

func (f *folders) CreateMultipartUpload(ctx context.Context, in s3response.CreateMultipartUploadInput) (s3response.InitiateMultipartUploadResult, error) {
	bucket := aws.ToString(in.Bucket)
	in.Bucket = f.pathOf(in.Bucket)
	out, err := f.posix.CreateMultipartUpload(ctx, in)
	out.Bucket = bucket
	return out, f.out(err)
}

func (f *folders) UploadPart(ctx context.Context, in *s3.UploadPartInput) (*s3.UploadPartOutput, error) {
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	out, err := f.posix.UploadPart(ctx, &c)
	return out, f.out(err)
}

func (f *folders) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput) (s3response.CompleteMultipartUploadResult, string, error) {
	defer f.lock(in.Bucket, in.Key)()
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	out, version, err := f.posix.CompleteMultipartUpload(ctx, &c)
	out.Bucket = in.Bucket
	if err == nil {
		err = f.sync(aws.ToString(in.Bucket), aws.ToString(in.Key))
	}
	return out, version, f.out(err)
}

func (f *folders) AbortMultipartUpload(ctx context.Context, in *s3.AbortMultipartUploadInput) error {
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	return f.out(f.posix.AbortMultipartUpload(ctx, &c))
}

func (f *folders) ListMultipartUploads(ctx context.Context, in *s3.ListMultipartUploadsInput) (s3response.ListMultipartUploadsResult, error) {
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	out, err := f.posix.ListMultipartUploads(ctx, &c)
	out.Bucket = filepath.Base(out.Bucket)
	return out, f.out(err)
}

func (f *folders) ListParts(ctx context.Context, in *s3.ListPartsInput) (s3response.ListPartsResult, error) {
	c := *in
	c.Bucket = f.pathOf(in.Bucket)
	out, err := f.posix.ListParts(ctx, &c)
	out.Bucket = aws.ToString(in.Bucket)
	return out, f.out(err)
}
