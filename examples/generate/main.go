// Command generate draws the sample images of this repository. They are drawn
// here, from nothing, so that they may be used for anything.
//
//	go run ./examples/generate examples/images
package main

import (
	"bytes"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"strings"
)

// samples are the pictures by their path. One has a name that needs quoting
// everywhere, some are in folders, and one is a JPEG with a background.
var samples = map[string]func(c *canvas){
	"mushroom.png":                    mushroom,
	"rocket.png":                      rocket,
	"rubber-duck.png":                 duck,
	"teal mug.jpg":                    mug,
	"très odd näme (final) #2.png":    sword,
	"furniture/oak-chair.png":         chair,
	"game assets/potions/healing.png": potion,
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	for name, draw := range samples {
		c := new(canvas)
		draw(c)
		data, err := encode(name, c.image())
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func encode(name string, img image.Image) ([]byte, error) {
	var b bytes.Buffer
	var err error
	if strings.HasSuffix(name, ".jpg") {
		err = jpeg.Encode(&b, img, &jpeg.Options{Quality: 88})
	} else {
		enc := png.Encoder{CompressionLevel: png.BestCompression}
		err = enc.Encode(&b, img)
	}
	return b.Bytes(), err
}
