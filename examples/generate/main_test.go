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

// The images in the repository are what this program draws. Pixels are compared,
// not bytes, since encoders change with Go's releases; and with a tolerance,
// since rounding differs between processors.
func TestSamplesAreUpToDate(t *testing.T) {
	t.Parallel()
	for name, draw := range samples {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stored, err := os.ReadFile(filepath.Join(images, filepath.FromSlash(name)))
			if err != nil {
				t.Fatalf("%v; run: go run ./examples/generate examples/images", err)
			}
			if len(stored) > 60_000 {
				t.Errorf("%d bytes, want at most 60000", len(stored))
			}
			drawn, err := encode(name, draw())
			if err != nil {
				t.Fatal(err)
			}
			a, b := decode(t, stored), decode(t, drawn)
			if a.Bounds() != b.Bounds() {
				t.Fatalf("stored %v, drawn %v", a.Bounds(), b.Bounds())
			}
			differ := 0
			for y := range side {
				for x := range side {
					r1, g1, b1, a1 := a.At(x, y).RGBA()
					r2, g2, b2, a2 := b.At(x, y).RGBA()
					for _, d := range [4]int{int(r1) - int(r2), int(g1) - int(g2), int(b1) - int(b2), int(a1) - int(a2)} {
						if d > 6<<8 || d < -(6<<8) {
							differ++
							break
						}
					}
				}
			}
			if differ > side*side/1000 {
				t.Errorf("%d pixels differ; run: go run ./examples/generate examples/images", differ)
			}
		})
	}
}

func decode(t *testing.T, data []byte) image.Image {
	t.Helper()
	img, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return img
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
