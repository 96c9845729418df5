package solid

import (
	"bytes"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"math"
	"sync"
)

// Options of Build. The zero value is valid.
type Options struct {
	// Grid is the number of cells along the longer side, 8 to 256; 0 is 96. Time
	// and size grow with its square.
	Grid int
	// Texture bounds the longer side of the texture in pixels, 8 to 2048; 0 is
	// 512. It is never larger than the picture.
	Texture int
}

// Mesh is a closed, textured triangle mesh. Y is up, and the front, with the
// picture, looks along +Z, as glTF wants it. The longer side of the picture is
// one unit long.
type Mesh struct {
	Positions [][3]float32
	Normals   [][3]float32
	// UV has its origin in the upper left corner of the texture.
	UV [][2]float32
	// Triangles are counter-clockwise seen from outside.
	Triangles [][3]uint32
	// Texture is a JPEG file.
	Texture []byte

	colours *image.RGBA // the texture, for formats that colour vertices
}

// Build makes the mesh of a picture.
func Build(img image.Image, opt Options) (*Mesh, error) {
	b := img.Bounds()
	if b.Dx() < 1 || b.Dy() < 1 {
		return nil, errors.New("the picture is empty")
	}
	grid, side := 96, 512
	if opt.Grid > 0 {
		grid = min(max(opt.Grid, 8), 256)
	}
	if opt.Texture > 0 {
		side = min(max(opt.Texture, 8), 2048)
	}
	work := reduce(img, max(side, 2*grid))
	f, byAlpha := outline(work, grid)
	m := &Mesh{}
	m.cut(f)
	m.addNormals()

	tex := reduce(work, side)
	sure := f.eroded()
	tw, th := float64(tex.Rect.Dx()), float64(tex.Rect.Dy())
	bleed(tex, func(x, y int) bool {
		if byAlpha {
			return tex.Pix[tex.PixOffset(x, y)+3] >= 64
		}
		// Keep off the outline, where object and background mix.
		return sure.sample((float64(x)+0.5)/tw, (float64(y)+0.5)/th) > 0.5
	})
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, tex, &jpeg.Options{Quality: 90}); err != nil {
		return nil, err
	}
	m.Texture, m.colours = buf.Bytes(), tex
	return m, nil
}

// sample interpolates the field at texture coordinates.
func (f *field) sample(u, v float64) float64 {
	x, y := u*float64(f.w-2)+0.5, v*float64(f.h-2)+0.5
	x0, y0 := min(int(x), f.w-2), min(int(y), f.h-2)
	fx, fy := x-float64(x0), y-float64(y0)
	return (f.at(x0, y0)*(1-fx)+f.at(x0+1, y0)*fx)*(1-fy) + (f.at(x0, y0+1)*(1-fx)+f.at(x0+1, y0+1)*fx)*fy
}

// cut walks the cells of the grid (marching squares). The front and the back
// have nodes of their own and share the vertices on the outline, which closes
// the mesh.
func (m *Mesh) cut(f *field) {
	gw, gh := float64(f.w-2), float64(f.h-2)
	cell := 1 / max(gw, gh)
	height := f.inflate(cell)
	add := func(x, y, z float64) uint32 {
		// Node x stands for the middle of pixel x-1 of the grid.
		u, v := (x-0.5)/gw, (y-0.5)/gh
		m.UV = append(m.UV, [2]float32{float32(min(max(u, 0), 1)), float32(min(max(v, 0), 1))})
		m.Positions = append(m.Positions, [3]float32{float32((u - 0.5) * gw * cell), float32((0.5 - v) * gh * cell), float32(z)})
		return uint32(len(m.Positions) - 1)
	}
	// corner: front and back vertex of a node; rim: vertex on the edge between
	// two nodes, by the lower one and the direction.
	corner := map[int][2]uint32{}
	rim := map[[2]int]uint32{}
	cornerOf := func(i int) [2]uint32 {
		v, ok := corner[i]
		if !ok {
			x, y := float64(i%f.w), float64(i/f.w)
			v = [2]uint32{add(x, y, height[i]), add(x, y, -height[i])}
			corner[i] = v
		}
		return v
	}
	rimOf := func(i, j int) [2]uint32 {
		key := [2]int{min(i, j), max(i, j)}
		v, ok := rim[key]
		if !ok {
			in, out := i, j
			if !f.inside(in) {
				in, out = j, i
			}
			t := f.crossing(in, out)
			x := float64(in%f.w) + t*float64(out%f.w-in%f.w)
			y := float64(in/f.w) + t*float64(out/f.w-in/f.w)
			v = add(x, y, 0)
			rim[key] = v
		}
		return [2]uint32{v, v}
	}
	var poly [][2]uint32
	for y := range f.h - 1 {
		for x := range f.w - 1 {
			i := y*f.w + x
			corners := [4]int{i, i + 1, i + f.w + 1, i + f.w}
			first := -1 // every triangle has a corner, so none is flat on the rim
			for k, c := range corners {
				if f.inside(c) {
					first = k
					break
				}
			}
			if first < 0 {
				continue
			}
			poly = poly[:0]
			for k := range 4 {
				c, next := corners[(first+k)%4], corners[(first+k+1)%4]
				if f.inside(c) {
					poly = append(poly, cornerOf(c))
				}
				if f.inside(c) != f.inside(next) {
					poly = append(poly, rimOf(c, next))
				}
			}
			for k := 1; k+1 < len(poly); k++ {
				a, b, c := poly[0], poly[k], poly[k+1]
				m.Triangles = append(m.Triangles, [3]uint32{a[0], c[0], b[0]}, [3]uint32{a[1], b[1], c[1]})
			}
		}
	}
}

type vec [3]float64

func (a vec) minus(b vec) vec { return vec{a[0] - b[0], a[1] - b[1], a[2] - b[2]} }
func (a vec) cross(b vec) vec {
	return vec{a[1]*b[2] - a[2]*b[1], a[2]*b[0] - a[0]*b[2], a[0]*b[1] - a[1]*b[0]}
}
func (a vec) length() float64 { return math.Sqrt(a[0]*a[0] + a[1]*a[1] + a[2]*a[2]) }

func (m *Mesh) at(i uint32) vec {
	p := m.Positions[i]
	return vec{float64(p[0]), float64(p[1]), float64(p[2])}
}

// addNormals gives every vertex the mean of its triangles' normals, by area.
func (m *Mesh) addNormals() {
	sums := make([]vec, len(m.Positions))
	for _, t := range m.Triangles {
		a := m.at(t[0])
		n := m.at(t[1]).minus(a).cross(m.at(t[2]).minus(a))
		for _, i := range t {
			for c := range n {
				sums[i][c] += n[c]
			}
		}
	}
	m.Normals = make([][3]float32, len(sums))
	for i, s := range sums {
		if l := s.length(); l > 0 {
			m.Normals[i] = [3]float32{float32(s[0] / l), float32(s[1] / l), float32(s[2] / l)}
		} else {
			m.Normals[i] = [3]float32{0, 0, 1}
		}
	}
}

// Bounds returns the smallest box around the mesh.
func (m *Mesh) Bounds() (least, most [3]float64) {
	least, most = vec{math.Inf(1), math.Inf(1), math.Inf(1)}, vec{math.Inf(-1), math.Inf(-1), math.Inf(-1)}
	for _, p := range m.Positions {
		for c := range p {
			least[c], most[c] = min(least[c], float64(p[c])), max(most[c], float64(p[c]))
		}
	}
	return least, most
}

// Fit scales the mesh to a box of width, height and depth. A side that is not
// positive follows the others; if none is, nothing happens. With keep the mesh
// is as large as fits into the box without stretching.
func (m *Mesh) Fit(box [3]float64, keep bool) {
	least, most := m.Bounds()
	var scale [3]float64
	smallest := math.Inf(1)
	for c, side := range box {
		if size := most[c] - least[c]; side > 0 && size > 0 {
			scale[c] = side / size
			smallest = min(smallest, scale[c])
		}
	}
	if math.IsInf(smallest, 1) {
		return
	}
	for c := range scale {
		if keep || scale[c] == 0 {
			scale[c] = smallest
		}
	}
	for i := range m.Positions {
		for c := range scale {
			m.Positions[i][c] = float32(float64(m.Positions[i][c]) * scale[c])
		}
	}
	m.addNormals()
}

// Pivot moves the origin to a point of the bounding box, each coordinate from
// -0.5 to 0.5.
func (m *Mesh) Pivot(p [3]float64) {
	least, most := m.Bounds()
	for i := range m.Positions {
		for c := range p {
			m.Positions[i][c] -= float32((least[c]+most[c])/2 + p[c]*(most[c]-least[c]))
		}
	}
}

// colour is the texture at a vertex.
func (m *Mesh) colour(i int) color.RGBA {
	if m.colours == nil {
		return color.RGBA{200, 200, 200, 255}
	}
	r := m.colours.Rect
	x := min(int(float64(m.UV[i][0])*float64(r.Dx())), r.Dx()-1)
	y := min(int(float64(m.UV[i][1])*float64(r.Dy())), r.Dy()-1)
	return m.colours.RGBAAt(x, y)
}

// Tiny returns a small orange disc, a constant mesh of a few kilobytes. It is
// shared: do not change it.
var Tiny = sync.OnceValue(func() *Mesh {
	img := image.NewRGBA(image.Rect(0, 0, 32, 32))
	for y := range 32 {
		for x := range 32 {
			if math.Hypot(float64(x)-15.5, float64(y)-15.5) < 14 {
				img.SetRGBA(x, y, color.RGBA{230, 120, 40, 255})
			}
		}
	}
	m, err := Build(img, Options{Grid: 8, Texture: 8})
	if err != nil {
		panic(err) // a constant input
	}
	return m
})
