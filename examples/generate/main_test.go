package main

import (
	"bytes"
	"image"
	_ "image/jpeg"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

const images = "../images"

// The images in the repository are what this program draws. Some rows are enough
// to tell, and are compared as pixels with a tolerance: encoders change with Go's
// releases, rounding differs between processors, and JPEG loses detail.
func TestSamplesAreUpToDate(t *testing.T) {
	t.Parallel()
	for name, draw := range samples {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(filepath.Join(images, filepath.FromSlash(name)))
			if err != nil {
				t.Fatalf("%v; run: go run ./examples/generate examples/images", err)
			}
			if len(data) > 60_000 {
				t.Errorf("%d bytes, want at most 60000", len(data))
			}
			stored, format, err := image.Decode(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			c := &canvas{every: 32}
			draw(c)
			drawn := c.image()
			if stored.Bounds() != drawn.Bounds() {
				t.Fatalf("stored %v, drawn %v", stored.Bounds(), drawn.Bounds())
			}
			near := 6 << 8
			if format == "jpeg" {
				near = 32 << 8
			}
			all, differ := 0, 0
			for y := 0; y < side; y += c.every {
				for x := range side {
					r1, g1, b1, a1 := stored.At(x, y).RGBA()
					r2, g2, b2, a2 := drawn.At(x, y).RGBA()
					all++
					for _, d := range [4]int{int(r1) - int(r2), int(g1) - int(g2), int(b1) - int(b2), int(a1) - int(a2)} {
						if d > near || d < -near {
							differ++
							break
						}
					}
				}
			}
			if differ > all/200 {
				t.Errorf("%d of %d pixels differ; run: go run ./examples/generate examples/images", differ, all)
			}
		})
	}
}

func TestNothingElseInTheFolder(t *testing.T) {
	t.Parallel()
	err := filepath.WalkDir(images, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(images, path)
		if samples[filepath.ToSlash(name)] == nil {
			t.Errorf("%s is not drawn by this program", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
