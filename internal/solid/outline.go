package solid

import (
	"image"
	"math"
	"slices"
)

// field says, at each node of a grid, how much of the object is there, from 0 to
// 1; its outline is where the field is 0.5. The grid has an empty border.
type field struct {
	w, h int
	v    []float64
}

func (f *field) at(x, y int) float64     { return f.v[y*f.w+x] }
func (f *field) inside(i int) bool       { return f.v[i] >= 0.5 }
func (f *field) neighbours(i int) [4]int { return [4]int{i - 1, i + 1, i - f.w, i + f.w} }

// outline finds the object: by its alpha if the picture has any, else by how it
// differs from the background at the picture's edge. If neither shows an object
// it is the whole picture.
func outline(img *image.RGBA, grid int) (f *field, byAlpha bool) {
	w, h := scaled(img.Rect.Dx(), img.Rect.Dy(), grid)
	small := resize(img, w, h)
	f = &field{w: w + 2, h: h + 2, v: make([]float64, (w+2)*(h+2))}
	byAlpha = hasAlpha(img)
	for y := range h {
		for x := range w {
			if byAlpha {
				f.v[(y+1)*f.w+x+1] = float64(small.Pix[small.PixOffset(x, y)+3]) / 255
			}
		}
	}
	if !byAlpha {
		f.fromBackground(small)
	}
	f.dropSpecks()
	inside := 0
	for i := range f.v {
		if f.inside(i) {
			inside++
		}
	}
	if share := float64(inside) / float64(w*h); share < 0.005 || (!byAlpha && share > 0.97) {
		for y := range h {
			for x := range w {
				f.v[(y+1)*f.w+x+1] = 1
			}
		}
	}
	return f, byAlpha
}

// hasAlpha reports whether a good part of the picture is see-through.
func hasAlpha(img *image.RGBA) bool {
	clear := 0
	for i := 3; i < len(img.Pix); i += 4 {
		if img.Pix[i] < 64 {
			clear++
		}
	}
	return clear*200 > len(img.Pix)/4
}

// fromBackground models the background as a plane through the colours of the
// picture's edge, which a studio's gradient is, and takes as the object all that
// cannot be reached from the edge without crossing a different colour.
func (f *field) fromBackground(img *image.RGBA) {
	w, h := img.Rect.Dx(), img.Rect.Dy()
	var edge [][2]int
	for x := range w {
		edge = append(edge, [2]int{x, 0}, [2]int{x, h - 1})
	}
	for y := range h {
		edge = append(edge, [2]int{0, y}, [2]int{w - 1, y})
	}
	planes := [3]plane{}
	for c := range planes {
		planes[c] = fitPlane(edge, func(x, y int) float64 { return float64(img.Pix[img.PixOffset(x, y)+c]) })
	}
	distance := func(x, y int) float64 {
		var d, back vec
		for c := range planes {
			back[c] = planes[c].at(x, y)
			d[c] = float64(img.Pix[img.PixOffset(x, y)+c]) - back[c]
		}
		// A background that is merely darker, not of another colour, is a shadow.
		if l := back.length(); l > 0 {
			along := (d[0]*back[0] + d[1]*back[1] + d[2]*back[2]) / l
			if along < 0 && along > -0.3*l {
				for c := range d {
					d[c] -= 0.6 * along * back[c] / l
				}
			}
		}
		return d.length()
	}
	spread := make([]float64, len(edge))
	for i, p := range edge {
		spread[i] = distance(p[0], p[1])
	}
	slices.Sort(spread)
	threshold := max(28, 2.5*spread[len(spread)*3/4])
	for y := range h {
		for x := range w {
			f.v[(y+1)*f.w+x+1] = min(1, distance(x, y)/(2*threshold))
		}
	}
	f.fillHoles()
}

// fillHoles makes what is enclosed part of the object, unless it is so large and
// so like the background that one looks through, as through a handle.
func (f *field) fillHoles() {
	seen := make([]bool, len(f.v))
	for start := range f.v { // the first is the border, so the first region is the outside
		if seen[start] || f.inside(start) {
			continue
		}
		seen[start] = true
		region, sum := []int{start}, 0.0
		for n := 0; n < len(region); n++ {
			sum += f.v[region[n]]
			for _, j := range f.neighbours(region[n]) {
				if j >= 0 && j < len(f.v) && !seen[j] && !f.inside(j) {
					seen[j] = true
					region = append(region, j)
				}
			}
		}
		through := len(region) > len(f.v)/200 && sum/float64(len(region)) < 0.25
		if start != 0 && !through {
			for _, i := range region {
				f.v[i] = 1
			}
		}
	}
}

// eroded returns the field with one node taken off at the outline.
func (f *field) eroded() *field {
	e := &field{f.w, f.h, make([]float64, len(f.v))}
	for y := 1; y < f.h-1; y++ {
		for x := 1; x < f.w-1; x++ {
			least := 1.0
			for dy := -1; dy <= 1; dy++ {
				for dx := -1; dx <= 1; dx++ {
					least = min(least, f.at(x+dx, y+dy))
				}
			}
			e.v[y*f.w+x] = least
		}
	}
	return e
}

type plane struct{ c, x, y float64 }

func (p plane) at(x, y int) float64 { return p.c + p.x*float64(x) + p.y*float64(y) }

// fitPlane is the least-squares fit of a plane.
func fitPlane(points [][2]int, value func(x, y int) float64) plane {
	n := float64(len(points))
	var mx, my, mv float64
	for _, p := range points {
		mx, my, mv = mx+float64(p[0])/n, my+float64(p[1])/n, mv+value(p[0], p[1])/n
	}
	var xx, xy, yy, xv, yv float64
	for _, p := range points {
		dx, dy, dv := float64(p[0])-mx, float64(p[1])-my, value(p[0], p[1])-mv
		xx, xy, yy, xv, yv = xx+dx*dx, xy+dx*dy, yy+dy*dy, xv+dx*dv, yv+dy*dv
	}
	det := xx*yy - xy*xy
	if det < 1e-9 {
		return plane{c: mv}
	}
	a, b := (xv*yy-yv*xy)/det, (yv*xx-xv*xy)/det
	return plane{mv - a*mx - b*my, a, b}
}

// dropSpecks removes parts much smaller than the largest.
func (f *field) dropSpecks() {
	part := make([]int, len(f.v)) // 0: none yet
	sizes := []int{0}
	for start := range f.v {
		if part[start] != 0 || !f.inside(start) {
			continue
		}
		sizes = append(sizes, 0)
		queue := []int{start}
		part[start] = len(sizes) - 1
		for len(queue) > 0 {
			i := queue[len(queue)-1]
			queue = queue[:len(queue)-1]
			sizes[len(sizes)-1]++
			for _, j := range f.neighbours(i) { // the border is empty, so j exists
				if part[j] == 0 && f.inside(j) {
					part[j] = len(sizes) - 1
					queue = append(queue, j)
				}
			}
		}
	}
	least := slices.Max(sizes) / 100
	for i, p := range part {
		if p != 0 && sizes[p] < least {
			f.v[i] = 0
		}
	}
}

// inflate returns the height of the surface at each node, in units of the longer
// side. It solves Poisson's equation ∇²φ = -4 with φ = 0 on the outline; the
// square root of φ is a half ball over a disc, and as round over any outline.
func (f *field) inflate(cell float64) []float64 {
	const (
		relax = 1.88 // over-relaxation; near the best for grids of this size
		turns = 400
		flat  = 0.62 // depth compared with a round body
		most  = 0.20 // no part is deeper than this
	)
	type node struct {
		i    int
		diag float64
	}
	var nodes []node
	for i := range f.v {
		if !f.inside(i) {
			continue
		}
		n := node{i: i}
		for _, j := range f.neighbours(i) {
			if f.inside(j) {
				n.diag++
			} else {
				// The outline is this part of a cell away, not a whole cell.
				n.diag += 1 / max(0.1, f.crossing(i, j))
			}
		}
		nodes = append(nodes, n)
	}
	phi := make([]float64, len(f.v))
	for range turns {
		var change float64
		for _, n := range nodes {
			next := (phi[n.i-1] + phi[n.i+1] + phi[n.i-f.w] + phi[n.i+f.w] + 4) / n.diag
			d := relax * (next - phi[n.i])
			phi[n.i] += d
			change = max(change, math.Abs(d))
		}
		if change < 0.02 {
			break
		}
	}
	for i, v := range phi {
		if v > 0 {
			z := flat * math.Sqrt(v) * cell
			phi[i] = most * math.Tanh(z/most)
		} else if f.inside(i) {
			phi[i] = 1e-3 * cell
		}
	}
	return phi
}

// crossing is how far from node i, on the way to node j, the outline is.
func (f *field) crossing(i, j int) float64 {
	// Not at a node itself: triangles would have no area.
	return min(max((f.v[i]-0.5)/(f.v[i]-f.v[j]), 0.03), 0.97)
}
