package solid_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshmill/meshmill/internal/solid"
)

// ring has a hole, sharp corners and a saddle where two squares touch.
func ring(w, h int, alpha bool) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			u, v := float64(x)/float64(w), float64(y)/float64(h)
			r := math.Hypot(u-0.4, v-0.4)
			in := (r < 0.33 && r > 0.16) || (u > 0.6 && u < 0.78 && v > 0.6 && v < 0.78) || (u > 0.78 && u < 0.93 && v > 0.78 && v < 0.93)
			switch {
			case in:
				img.SetNRGBA(x, y, color.NRGBA{uint8(200 * u), 60, uint8(200 * v), 255})
			case !alpha: // a studio's gradient
				img.SetNRGBA(x, y, color.NRGBA{uint8(225 - 30*v), uint8(225 - 20*v), 228, 255})
			}
		}
	}
	return img
}

// front draws the mesh as seen from the front, and returns what it covers.
func front(m *solid.Mesh, w, h int) []bool {
	covered := make([]bool, w*h)
	long := float64(max(w, h))
	at := func(i uint32) (float64, float64) {
		p := m.Positions[i]
		return float64(p[0])*long + float64(w)/2, float64(h)/2 - float64(p[1])*long
	}
	for _, t := range m.Triangles {
		x0, y0 := at(t[0])
		x1, y1 := at(t[1])
		x2, y2 := at(t[2])
		area := (x1-x0)*(y2-y0) - (x2-x0)*(y1-y0)
		if area >= 0 { // on the back
			continue
		}
		for y := max(0, int(min(y0, y1, y2))); y <= min(h-1, int(max(y0, y1, y2))); y++ {
			for x := max(0, int(min(x0, x1, x2))); x <= min(w-1, int(max(x0, x1, x2))); x++ {
				px, py := float64(x)+0.5, float64(y)+0.5
				a := ((x1-px)*(y2-py) - (x2-px)*(y1-py)) / area
				b := ((x2-px)*(y0-py) - (x0-px)*(y2-py)) / area
				if a >= 0 && b >= 0 && a+b <= 1 {
					covered[y*w+x] = true
				}
			}
		}
	}
	return covered
}

// overlap is the intersection over the union of a mesh's front and a mask.
func overlap(m *solid.Mesh, w, h int, mask func(x, y int) bool) float64 {
	both, either := 0, 0
	for i, c := range front(m, w, h) {
		in := mask(i%w, i/w)
		if c && in {
			both++
		}
		if c || in {
			either++
		}
	}
	return float64(both) / float64(either)
}

func alphaMask(img image.Image) func(x, y int) bool {
	return func(x, y int) bool {
		_, _, _, a := img.At(x, y).RGBA()
		return a >= 0x8000
	}
}

// closed checks that every directed edge has exactly one opposite: no hole, no
// fin, and all triangles turned the same way.
func closed(t *testing.T, m *solid.Mesh) {
	t.Helper()
	edges := map[[2]uint32]int{}
	for _, tri := range m.Triangles {
		for k := range 3 {
			a, b := tri[k], tri[(k+1)%3]
			if a == b || int(a) >= len(m.Positions) {
				t.Fatalf("triangle %v is not one", tri)
			}
			edges[[2]uint32{a, b}]++
		}
	}
	for e, n := range edges {
		if n != 1 || edges[[2]uint32{e[1], e[0]}] != 1 {
			t.Fatalf("edge %v occurs %d times, its opposite %d times", e, n, edges[[2]uint32{e[1], e[0]}])
		}
	}
	var volume float64
	for _, tri := range m.Triangles {
		a, b, c := m.Positions[tri[0]], m.Positions[tri[1]], m.Positions[tri[2]]
		volume += float64(a[0]*(b[1]*c[2]-b[2]*c[1])+a[1]*(b[2]*c[0]-b[0]*c[2])+a[2]*(b[0]*c[1]-b[1]*c[0])) / 6
	}
	if volume <= 0 {
		t.Errorf("volume %g: the triangles face inwards", volume)
	}
}

func TestShape(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		img  *image.NRGBA
		opt  solid.Options
		want float64
	}{
		"alpha":      {ring(300, 300, true), solid.Options{}, 0.95},
		"wide":       {ring(400, 200, true), solid.Options{}, 0.93},
		"tall":       {ring(150, 400, true), solid.Options{}, 0.9},
		"fine":       {ring(300, 300, true), solid.Options{Grid: 256}, 0.97},
		"background": {ring(300, 300, false), solid.Options{}, 0.93},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := solid.Build(tc.img, tc.opt)
			if err != nil {
				t.Fatal(err)
			}
			closed(t, m)
			size := tc.img.Rect.Size()
			mask := ring(size.X, size.Y, true)
			if got := overlap(m, size.X, size.Y, alphaMask(mask)); got < tc.want {
				t.Errorf("front and picture overlap by %.3f, want %.2f", got, tc.want)
			}
		})
	}
}

// The texture shows the picture where the mesh has it: the colour at the UV of a
// front vertex is the picture's there.
func TestTextureMatchesPicture(t *testing.T) {
	t.Parallel()
	img := ring(300, 300, true)
	m, err := solid.Build(img, solid.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tex, err := jpeg.Decode(bytes.NewReader(m.Texture))
	if err != nil {
		t.Fatal(err)
	}
	size := tex.Bounds().Size()
	wrong := 0
	for i, p := range m.Positions {
		if u := float64(p[0]) + 0.5; math.Abs(u-float64(m.UV[i][0])) > 0.01 {
			t.Fatalf("vertex at x %g has u %g", p[0], m.UV[i][0])
		}
		x, y := (float64(p[0])+0.5)*300, (0.5-float64(p[1]))*300
		want := img.NRGBAAt(int(x), int(y))
		r, _, b, _ := tex.At(min(int(m.UV[i][0]*float32(size.X)), size.X-1), min(int(m.UV[i][1]*float32(size.Y)), size.Y-1)).RGBA()
		if want.A == 255 && (math.Abs(float64(r>>8)-float64(want.R)) > 40 || math.Abs(float64(b>>8)-float64(want.B)) > 40) {
			wrong++
		}
	}
	if wrong > len(m.Positions)/100 {
		t.Errorf("%d of %d vertices have another colour than the picture", wrong, len(m.Positions))
	}
}

// Without alpha, what is enclosed belongs to the object unless one looks through
// it, and a shadow does not.
func TestBackground(t *testing.T) {
	t.Parallel()
	back, body, shade := color.NRGBA{225, 220, 215, 255}, color.NRGBA{40, 90, 160, 255}, color.NRGBA{190, 186, 181, 255}
	img := image.NewNRGBA(image.Rect(0, 0, 200, 200))
	within := func(x, y, x0, y0, x1, y1 int) bool { return x >= x0 && x < x1 && y >= y0 && y < y1 }
	for y := range 200 {
		for x := range 200 {
			c := back
			switch {
			case within(x, y, 70, 70, 110, 110), within(x, y, 130, 60, 136, 66): // a window and a highlight
			case within(x, y, 40, 40, 160, 160):
				c = body
			case within(x, y, 20, 160, 190, 175):
				c = shade
			}
			img.SetNRGBA(x, y, c)
		}
	}
	m, err := solid.Build(img, solid.Options{})
	if err != nil {
		t.Fatal(err)
	}
	covered := front(m, 200, 200)
	for name, p := range map[string]struct {
		x, y int
		want bool
	}{
		"object": {50, 50, true}, "window": {90, 90, false}, "highlight": {133, 63, true}, "shadow": {180, 168, false}, "background": {10, 10, false},
	} {
		if covered[p.y*200+p.x] != p.want {
			t.Errorf("%s is object: %v, want %v", name, !p.want, p.want)
		}
	}
}

func TestOddPictures(t *testing.T) {
	t.Parallel()
	pictures := map[string]image.Image{
		"one pixel":  image.NewGray(image.Rect(0, 0, 1, 1)),
		"empty":      image.NewNRGBA(image.Rect(0, 0, 50, 50)),
		"one colour": image.NewYCbCr(image.Rect(0, 0, 64, 64), image.YCbCrSubsampleRatio420),
		"a line":     image.NewRGBA(image.Rect(5, 7, 900, 8)),
		"16 bit":     image.NewNRGBA64(image.Rect(-3, -3, 20, 20)),
	}

	for name, img := range pictures {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := solid.Build(img, solid.Options{})
			if err != nil {
				t.Fatal(err)
			}
			closed(t, m)
		})
	}
	if _, err := solid.Build(image.NewGray(image.Rect(0, 0, 0, 9)), solid.Options{}); err == nil {
		t.Error("a picture without pixels has a mesh")
	}
}

func TestFitAndPivot(t *testing.T) {
	t.Parallel()
	tests := []struct {
		box   [3]float64
		keep  bool
		pivot [3]float64
		want  func(size, least [3]float64) bool
	}{
		{[3]float64{1, 2, 3}, false, [3]float64{0, -0.5, 0}, func(s, l [3]float64) bool {
			return near(s[0], 1) && near(s[1], 2) && near(s[2], 3) && near(l[1], 0)
		}},
		{[3]float64{-1, 2, -1}, false, [3]float64{-0.5, 0, 0}, func(s, l [3]float64) bool {
			return near(s[1], 2) && near(l[0], 0) && near(l[1], -1)
		}},
		{[3]float64{1, 1, 1}, true, [3]float64{0.5, 0.5, 0.5}, func(s, l [3]float64) bool {
			return near(max(s[0], s[1], s[2]), 1) && s[2] < 0.9 && near(l[2], -s[2])
		}},
		{[3]float64{-1, -1, -1}, false, [3]float64{}, func(s, _ [3]float64) bool { return s[0] < 1 }},
	}
	for _, tc := range tests {
		m, err := solid.Build(ring(100, 100, true), solid.Options{Grid: 24})
		if err != nil {
			t.Fatal(err)
		}
		m.Fit(tc.box, tc.keep)
		m.Pivot(tc.pivot)
		least, most := m.Bounds()
		size := [3]float64{most[0] - least[0], most[1] - least[1], most[2] - least[2]}
		if !tc.want(size, least) {
			t.Errorf("box %v keep %v: size %v from %v", tc.box, tc.keep, size, least)
		}
		closed(t, m)
	}
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-3 }

func TestSampleImages(t *testing.T) {
	t.Parallel()
	n := 0
	err := filepath.WalkDir("../../examples/images", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			img, err := solid.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			m, err := solid.Build(img, solid.Options{})
			if err != nil {
				t.Fatal(err)
			}
			closed(t, m)
			b, err := m.Encode("glb")
			if err != nil {
				t.Fatal(err)
			}
			checkGLB(t, b)
			if size := img.Bounds().Size(); strings.HasSuffix(path, ".png") {
				if got := overlap(m, size.X, size.Y, alphaMask(img)); got < 0.9 {
					t.Errorf("front and picture overlap by %.3f", got)
				}
			}
		})
		return nil
	})
	if err != nil || n < 6 {
		t.Errorf("%d sample images, %v", n, err)
	}
}

func TestTiny(t *testing.T) {
	t.Parallel()
	closed(t, solid.Tiny())
	b, err := solid.Tiny().Encode("glb")
	if err != nil {
		t.Fatal(err)
	}
	checkGLB(t, b)
	if len(b) > 16<<10 {
		t.Errorf("%d bytes are not tiny", len(b))
	}
}

func TestDecodeLimits(t *testing.T) {
	t.Parallel()
	pngHeader := func(w, h uint32) []byte {
		b := []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR")
		b = binary.BigEndian.AppendUint32(b, w)
		b = binary.BigEndian.AppendUint32(b, h)
		b = append(b, 8, 6, 0, 0, 0)
		return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[12:]))
	}
	tests := map[string][]byte{
		"no picture":    []byte("<html>"),
		"nothing":       nil,
		"too wide":      pngHeader(solid.MaxSide+1, 10),
		"too many":      pngHeader(16000, 16000),
		"only a header": pngHeader(100, 100),
		"gif":           []byte("GIF89a\x01\x00\x01\x00\x00\x00\x00;"),
	}
	for name, data := range tests {
		if _, err := solid.Decode(data); err == nil {
			t.Errorf("%s: decoded", name)
		}
	}
	if media, err := solid.MediaType(pngHeader(100, 100)); err != nil || media != "image/png" {
		t.Errorf("png: %q, %v", media, err)
	}
}

func FuzzDecode(f *testing.F) {
	var p, j bytes.Buffer
	img := ring(20, 20, true)
	if err := png.Encode(&p, img); err != nil {
		f.Fatal(err)
	}
	if err := jpeg.Encode(&j, img, nil); err != nil {
		f.Fatal(err)
	}
	f.Add(p.Bytes())
	f.Add(j.Bytes())
	f.Add([]byte("RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		img, err := solid.Decode(data)
		if err != nil {
			return
		}
		if s := img.Bounds().Size(); s.X*s.Y > 1<<20 {
			return // slow, and no different
		}
		m, err := solid.Build(img, solid.Options{Grid: 16, Texture: 16})
		if err != nil {
			t.Fatalf("no mesh of a picture: %v", err)
		}
		closed(t, m)
	})
}

func BenchmarkBuild(b *testing.B) {
	img := ring(512, 512, true)
	for b.Loop() {
		m, err := solid.Build(img, solid.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := m.Encode("glb"); err != nil {
			b.Fatal(err)
		}
	}
}
