package main

import (
	"image"
	"image/color"
	"math"
)

// side is the width and height of every picture, and of the plane that shapes
// are drawn on, in pixels. Y is down.
const side = 512

// shape tells the distance from a point to its edge, negative inside. Distances
// outside may be too small, never too large.
type shape func(x, y float64) float64

type point struct{ x, y float64 }

func circle(cx, cy, r float64) shape {
	return func(x, y float64) float64 { return math.Hypot(x-cx, y-cy) - r }
}

func ellipse(cx, cy, rx, ry float64) shape {
	return func(x, y float64) float64 {
		x, y = x-cx, y-cy
		k := math.Hypot(x/rx, y/ry)
		g := math.Hypot(x/(rx*rx), y/(ry*ry))
		if g == 0 {
			return -min(rx, ry)
		}
		return k * (k - 1) / g
	}
}

// limb is a straight limb from a to b, with a radius at each end.
func limb(a, b point, ra, rb float64) shape {
	dx, dy := b.x-a.x, b.y-a.y
	l2 := dx*dx + dy*dy
	return func(x, y float64) float64 {
		t := min(max(((x-a.x)*dx+(y-a.y)*dy)/l2, 0), 1)
		ex, ey := x-a.x-t*dx, y-a.y-t*dy
		return math.Sqrt(ex*ex+ey*ey) - (ra + t*(rb-ra))
	}
}

// polygon is closed, its corners rounded by r.
func polygon(r float64, p ...point) shape {
	return func(x, y float64) float64 {
		d := math.Inf(1)
		in := false
		for i, j := 0, len(p)-1; i < len(p); j, i = i, i+1 {
			ex, ey := p[j].x-p[i].x, p[j].y-p[i].y
			wx, wy := x-p[i].x, y-p[i].y
			t := min(max((wx*ex+wy*ey)/(ex*ex+ey*ey), 0), 1)
			wx, wy = wx-t*ex, wy-t*ey
			d = min(d, wx*wx+wy*wy)
			if (p[i].y > y) != (p[j].y > y) && x < ex*(y-p[i].y)/ey+p[i].x {
				in = !in
			}
		}
		if d = math.Sqrt(d); in {
			d = -d
		}
		return d - r
	}
}

// blob is a smooth closed curve through the points.
func blob(p ...point) shape { return polygon(0, smooth(p, true)...) }

// stroke is a smooth open curve through the points, as thick as twice r.
func stroke(r float64, p ...point) shape {
	line := smooth(p, false)
	var limbs []shape
	for i := 1; i < len(line); i++ {
		limbs = append(limbs, limb(line[i-1], line[i], r, r))
	}
	return join(limbs...)
}

// smooth puts a Catmull-Rom spline through the points.
func smooth(p []point, closed bool) []point {
	const parts = 8
	n := len(p)
	at := func(i int) point {
		if closed {
			return p[(i+n)%n]
		}
		return p[min(max(i, 0), n-1)]
	}
	last := n
	if !closed {
		last = n - 1
	}
	var out []point
	for i := range last {
		a, b, c, d := at(i-1), at(i), at(i+1), at(i+2)
		for k := range parts {
			t := float64(k) / parts
			spline := func(a, b, c, d float64) float64 {
				return b + t*((c-a)+t*((2*a-5*b+4*c-d)+t*(3*(b-c)+d-a)))/2
			}
			out = append(out, point{spline(a.x, b.x, c.x, d.x), spline(a.y, b.y, c.y, d.y)})
		}
	}
	if !closed {
		out = append(out, p[n-1])
	}
	return out
}

func join(s ...shape) shape {
	return func(x, y float64) float64 {
		d := s[0](x, y)
		for _, o := range s[1:] {
			d = min(d, o(x, y))
		}
		return d
	}
}

func within(a, b shape) shape {
	return func(x, y float64) float64 { return max(a(x, y), b(x, y)) }
}

func without(a, b shape) shape {
	return func(x, y float64) float64 { return max(a(x, y), -b(x, y)) }
}

func grown(a shape, by float64) shape {
	return func(x, y float64) float64 { return a(x, y) - by }
}

// rotated turns a shape clockwise about a point.
func rotated(a shape, cx, cy, degrees float64) shape {
	sin, cos := math.Sincos(degrees * math.Pi / 180)
	return func(x, y float64) float64 {
		x, y = x-cx, y-cy
		return a(cx+x*cos+y*sin, cy-x*sin+y*cos)
	}
}

// rgb is a colour with parts from 0 to 1.
type rgb struct{ r, g, b float64 }

func hex(v uint32) rgb {
	return rgb{float64(v>>16) / 255, float64(v>>8&255) / 255, float64(v&255) / 255}
}

func (c rgb) mix(d rgb, t float64) rgb {
	t = min(max(t, 0), 1)
	return rgb{c.r + (d.r-c.r)*t, c.g + (d.g-c.g)*t, c.b + (d.b-c.b)*t}
}

// paint gives the colour of a point.
type paint func(x, y float64) rgb

func flat(c uint32) paint { return func(_, _ float64) rgb { return hex(c) } }

// vertical runs from one colour at y0 to another at y1.
func vertical(y0, y1 float64, from, to uint32) paint {
	return func(_, y float64) rgb { return hex(from).mix(hex(to), (y-y0)/(y1-y0)) }
}

// horizontal is like vertical.
func horizontal(x0, x1 float64, from, to uint32) paint {
	return func(x, _ float64) rgb { return hex(from).mix(hex(to), (x-x0)/(x1-x0)) }
}

// canvas is a picture in the making, with premultiplied alpha.
type canvas struct {
	pix [side * side][4]float64
	// every draws only one of that many rows, for tests; 0 is all.
	every int
}

// put lays a colour over a pixel.
func (c *canvas) put(x, y int, p rgb, alpha float64) {
	q := &c.pix[y*side+x]
	for i, v := range [4]float64{p.r, p.g, p.b, 1} {
		q[i] = v*alpha + q[i]*(1-alpha)
	}
}

// fill paints a shape evenly.
func (c *canvas) fill(s shape, p paint, alpha float64) {
	c.each(s, 0.5, func(x, y int, px, py, d float64) {
		c.put(x, y, p(px, py), alpha*cover(d))
	})
}

// soft paints a shape that fades away over the given distance at its edge.
func (c *canvas) soft(s shape, p paint, alpha, fade float64) {
	c.each(s, fade/2, func(x, y int, px, py, d float64) {
		t := min(max(0.5-d/fade, 0), 1)
		c.put(x, y, p(px, py), alpha*t*t*(3-2*t))
	})
}

// body paints a shape as a solid thing: its edge is round over the depth, lit
// from the upper left, with a thin dark line around.
func (c *canvas) body(s shape, p paint, depth float64) {
	c.fill(grown(s, 2.5), func(x, y float64) rgb { return p(x, y).mix(hex(0x1a1320), 0.58) }, 1)
	c.each(s, 0.5, func(x, y int, px, py, d float64) {
		var gx, gy float64
		k := min(max(1+d/depth, 0), 1)
		if k > 0 {
			const h = 0.75
			gx, gy = s(px+h, py)-s(px-h, py), s(px, py+h)-s(px, py-h)
			if l := math.Hypot(gx, gy); l > 0 {
				gx, gy = gx/l, gy/l
			}
		}
		k *= k * (3 - 2*k) * 0.95
		nz := math.Sqrt(1 - k*k)
		light := -0.5*gx*k - 0.6*gy*k + 0.62*nz
		base := p(px, py)
		col := base
		if light > 0.62 {
			col = base.mix(rgb{1, 0.98, 0.92}, (light-0.62)*1.25)
		} else {
			col = base.mix(rgb{base.r * 0.28, base.g * 0.2, base.b * 0.36}, (0.62-light)*0.85)
		}
		c.put(x, y, col, cover(d))
	})
}

// each calls f for every pixel that is in a shape, or no farther from it.
func (c *canvas) each(s shape, far float64, f func(x, y int, px, py, d float64)) {
	const block = 16 // whole blocks that are too far away are left out
	for by := 0; by < side; by += block {
		for bx := 0; bx < side; bx += block {
			if s(float64(bx)+block/2, float64(by)+block/2) > block*0.75+far {
				continue
			}
			for y := by; y < by+block; y++ {
				if c.every > 0 && y%c.every != 0 {
					continue
				}
				for x := bx; x < bx+block; x++ {
					px, py := float64(x)+0.5, float64(y)+0.5
					if d := s(px, py); d < far {
						f(x, y, px, py, d)
					}
				}
			}
		}
	}
}

func cover(d float64) float64 { return min(max(0.5-d, 0), 1) }

// image returns the picture with plain alpha.
func (c *canvas) image() *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, side, side))
	for i, p := range c.pix {
		if p[3] < 1.0/255 {
			continue
		}
		// In steps of 5, which nobody sees and which halves the file.
		at := func(v float64) uint8 { return uint8(math.Round(min(max(v/p[3], 0), 1)*51) * 5) }
		img.SetNRGBA(i%side, i/side, color.NRGBA{at(p[0]), at(p[1]), at(p[2]), uint8(math.Round(min(p[3], 1) * 255))})
	}
	return img
}
