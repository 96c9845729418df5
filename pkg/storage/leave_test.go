package storage_test

import (
	"bytes"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/meshmill/meshmill/pkg/storage"
)

// leaveUpload begins a multipart upload, sends a part and goes away.
func leaveUpload(t *testing.T, cfg storage.Config, key string) {
	t.Helper()
	c := s3.New(s3.Options{
		BaseEndpoint: &cfg.Endpoint, Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(cfg.AccessKeyID, cfg.SecretAccessKey, ""),
	})
	up, err := c.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &cfg.Bucket, Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.UploadPart(t.Context(), &s3.UploadPartInput{
		Bucket: &cfg.Bucket, Key: &key, UploadId: up.UploadId, PartNumber: aws.Int32(1), Body: bytes.NewReader(make([]byte, 5*mib)),
	}); err != nil {
		t.Fatal(err)
	}
}
