package storage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/meshmill/meshmill/pkg/storage"
)

// exampleBucket opens a bucket on a toy server.
func exampleBucket() (*storage.Bucket, func()) {
	var objects sync.Map
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch body, ok := objects.Load(r.URL.Path); {
		case r.Method == http.MethodPut:
			raw, _ := io.ReadAll(r.Body)
			objects.Store(r.URL.Path, raw)
		case !ok:
			refuse(http.StatusNotFound, "NoSuchKey")(w, r)
		default:
			_, _ = w.Write(body.([]byte))
		}
	}))
	b, err := storage.Open(context.Background(), storage.Config{
		Bucket: "meshmill", Endpoint: srv.URL, AccessKeyID: "id", SecretAccessKey: "key",
	})
	if err != nil {
		panic(err)
	}
	return b, srv.Close
}

func ExampleBucket_Put() {
	bucket, done := exampleBucket()
	defer done()
	ctx := context.Background()
	obj, err := bucket.Put(ctx, "meshes/chair/chair.obj", strings.NewReader("v 0 0 0\n"), -1, "model/obj")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(bucket.URI(obj.Key), obj.Size, obj.SHA256[:8])
	// Output: s3://meshmill/meshes/chair/chair.obj 8 b49022de
}

func ExampleBucket_PutInput() {
	bucket, done := exampleBucket()
	defer done()
	key, _, err := bucket.PutInput(context.Background(), strings.NewReader("an image"), "png", "image/png")
	fmt.Println(key[:15], err)
	// Output: inputs/a5df3fde <nil>
}

func ExampleBucket_GetJSON() {
	bucket, done := exampleBucket()
	defer done()
	ctx := context.Background()
	var manifest struct{ ID string }
	err := bucket.GetJSON(ctx, "meshes/chair/manifest.json", &manifest, 1<<20)
	fmt.Println(errors.Is(err, storage.ErrNotFound), "|", err)
	if err := bucket.PutJSON(ctx, "meshes/chair/manifest.json", map[string]string{"ID": "chair"}); err != nil {
		fmt.Println(err)
	}
	err = bucket.GetJSON(ctx, "meshes/chair/manifest.json", &manifest, 1<<20)
	fmt.Println(manifest.ID, err)
	// Output:
	// true | storage: get meshes/chair/manifest.json: there is no such object in bucket "meshmill"
	// chair <nil>
}

func ExampleBucket_Presign() {
	bucket, done := exampleBucket()
	defer done()
	signed, err := bucket.Presign(context.Background(), "inputs/0a1b.png", time.Hour, "chair 1.png")
	if err != nil {
		fmt.Println(err)
		return
	}
	u, err := url.Parse(signed)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(u.Path, u.Query().Get("response-content-disposition"))
	// Output: /meshmill/inputs/0a1b.png attachment; filename="chair_1.png"
}
