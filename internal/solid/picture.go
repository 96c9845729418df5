package solid

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // decoders
	_ "image/png"

	"golang.org/x/image/draw"
	_ "golang.org/x/image/webp"
)

// The largest picture that is decoded.
const (
	MaxSide   = 16384
	MaxPixels = 40 << 20
)

// MediaType returns image/png, image/jpeg or image/webp. It reads the header
// alone, and fails for anything else and for pictures beyond the limits.
func MediaType(data []byte) (string, error) {
	c, format, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return "", errors.New("it is not a PNG, JPEG or WebP picture")
	}
	if c.Width < 1 || c.Height < 1 || c.Width > MaxSide || c.Height > MaxSide || c.Width*c.Height > MaxPixels {
		return "", fmt.Errorf("it has %d × %d pixels, the limits are %d a side and %d in all", c.Width, c.Height, MaxSide, MaxPixels)
	}
	switch format {
	case "png", "jpeg", "webp":
		return "image/" + format, nil
	}
	return "", fmt.Errorf("it is a %s picture, not PNG, JPEG or WebP", format)
}

// Decode decodes a PNG, JPEG or WebP picture within the limits.
func Decode(data []byte) (image.Image, error) {
	if _, err := MediaType(data); err != nil {
		return nil, err
	}
	img, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("the picture is damaged: %w", err)
	}
	return img, nil
}

// reduce returns the picture with its longer side at most that long. RGBA holds
// colours premultiplied by alpha, as averaging needs them.
func reduce(img image.Image, side int) *image.RGBA {
	b := img.Bounds()
	w, h := scaled(b.Dx(), b.Dy(), min(side, max(b.Dx(), b.Dy())))
	return resize(img, w, h)
}

func resize(img image.Image, w, h int) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	if b := img.Bounds(); b.Dx() == w && b.Dy() == h {
		draw.Draw(out, out.Rect, img, b.Min, draw.Src)
	} else {
		draw.BiLinear.Scale(out, out.Rect, img, b, draw.Src, nil)
	}
	return out
}

// scaled returns a size of the same shape whose longer side is that long.
func scaled(w, h, side int) (int, int) {
	if w >= h {
		return side, max(1, (h*side+w/2)/w)
	}
	return max(1, (w*side+h/2)/h), side
}

// bleed makes the picture opaque: where keep is false, the colours of the nearest
// kept pixels flow in, so that no fringe of background shows at the outline. It
// averages down to one pixel and fills on the way up.
func bleed(img *image.RGBA, keep func(x, y int) bool) {
	type layer struct {
		w, h int
		px   [][4]float32 // colour times weight, and weight
	}
	w, h := img.Rect.Dx(), img.Rect.Dy()
	base := layer{w, h, make([][4]float32, w*h)}
	for y := range h {
		for x := range w {
			i := img.PixOffset(x, y)
			if a := float32(img.Pix[i+3]); a > 0 && keep(x, y) {
				base.px[y*w+x] = [4]float32{float32(img.Pix[i]) / a * 255, float32(img.Pix[i+1]) / a * 255, float32(img.Pix[i+2]) / a * 255, 1}
			}
		}
	}
	layers := []layer{base}
	for l := base; l.w > 1 || l.h > 1; {
		n := layer{(l.w + 1) / 2, (l.h + 1) / 2, nil}
		n.px = make([][4]float32, n.w*n.h)
		for y := range l.h {
			for x := range l.w {
				from, to := l.px[y*l.w+x], &n.px[y/2*n.w+x/2]
				for c := range 3 {
					to[c] += from[c] * from[3]
				}
				to[3] += from[3]
			}
		}
		for i := range n.px {
			if p := &n.px[i]; p[3] > 0 {
				*p = [4]float32{p[0] / p[3], p[1] / p[3], p[2] / p[3], 1}
			}
		}
		layers = append(layers, n)
		l = n
	}
	for i := len(layers) - 2; i >= 0; i-- {
		l, up := layers[i], layers[i+1]
		for y := range l.h {
			for x := range l.w {
				if p := &l.px[y*l.w+x]; p[3] == 0 {
					*p = up.px[y/2*up.w+x/2]
				}
			}
		}
	}
	for i, p := range base.px {
		q := img.Pix[4*i : 4*i+4 : 4*i+4]
		for c := range 3 {
			q[c] = uint8(min(max(p[c]+0.5, 0), 255))
		}
		q[3] = 255
	}
}
