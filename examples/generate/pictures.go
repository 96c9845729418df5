package main

import "math"

// mushroom is the red one with white spots.
func mushroom(c *canvas) {
	stalk := blob(point{214, 280}, point{206, 360}, point{186, 440}, point{206, 474}, point{256, 482}, point{306, 474}, point{326, 440}, point{306, 360}, point{298, 280})
	c.body(stalk, vertical(280, 480, 0xd8c6a4, 0xf6ead0), 46)
	gills := ellipse(256, 288, 168, 42)
	c.body(gills, flat(0xd8c09a), 20)
	for i := -8; i <= 8; i++ {
		x := float64(i) * 19
		c.fill(within(limb(point{256 + x*0.35, 262}, point{256 + x, 330}, 1.2, 1.6), grown(gills, -5)), flat(0x8c6c50), 0.55)
	}
	skirt := blob(point{206, 322}, point{256, 334}, point{306, 322}, point{318, 356}, point{286, 372}, point{256, 362}, point{226, 372}, point{194, 356})
	c.body(skirt, vertical(320, 372, 0xfff6e2, 0xd9c4a0), 12)
	cap := blob(point{256, 46}, point{352, 78}, point{424, 160}, point{448, 252}, point{424, 292}, point{350, 282}, point{256, 274}, point{162, 282}, point{88, 292}, point{64, 252}, point{88, 160}, point{160, 78})
	c.body(cap, vertical(50, 290, 0xf0452e, 0xb81d24), 90)
	for _, s := range [][4]float64{{232, 112, 42, 30}, {342, 150, 34, 30}, {146, 176, 30, 32}, {254, 206, 36, 28}, {392, 236, 24, 26}, {112, 252, 22, 17}, {330, 252, 20, 14}, {298, 70, 18, 10}} {
		c.body(within(ellipse(s[0], s[1], s[2], s[3]), grown(cap, -4)), flat(0xfff4e4), 14)
	}
	c.soft(rotated(ellipse(150, 112, 46, 15), 150, 112, -38), flat(0xffffff), 0.4, 22)
}

// rocket is a toy, ready to go.
func rocket(c *canvas) {
	turn := func(s shape) shape { return rotated(s, 256, 256, 24) }
	lay := func(s shape, p paint, depth float64) { c.body(turn(s), p, depth) }
	lay(blob(point{256, 500}, point{226, 440}, point{214, 404}, point{256, 392}, point{298, 404}, point{286, 440}), vertical(392, 500, 0xff9a1f, 0xf0441c), 30)
	lay(blob(point{256, 464}, point{240, 426}, point{236, 402}, point{276, 402}, point{272, 426}), vertical(396, 464, 0xfff4a8, 0xffc02e), 16)
	for _, m := range []float64{-1, 1} {
		at := func(x, y float64) point { return point{256 + m*x, y} }
		lay(blob(at(60, 270), at(104, 318), at(124, 384), at(120, 424), at(84, 398), at(48, 384)), vertical(270, 420, 0xe8452f, 0xa81f2c), 26)
	}
	lay(polygon(6, point{226, 376}, point{286, 376}, point{296, 402}, point{216, 402}), horizontal(216, 296, 0x8b93a6, 0x4a5164), 12)
	hull := blob(point{256, 22}, point{304, 92}, point{330, 190}, point{328, 290}, point{300, 380}, point{256, 388}, point{212, 380}, point{184, 290}, point{182, 190}, point{208, 92})
	lay(hull, horizontal(180, 332, 0xffffff, 0xc3cbdc), 62)
	lay(within(hull, func(_, y float64) float64 { return y - 118 }), vertical(22, 118, 0xff6a4a, 0xc92a30), 40)
	lay(within(hull, func(_, y float64) float64 { return math.Abs(y-340) - 15 }), flat(0x3b6fd4), 34)
	lay(circle(256, 196, 47), flat(0x9aa4b8), 12)
	lay(circle(256, 196, 34), vertical(160, 230, 0x9fe4ff, 0x1f6fc4), 16)
	c.fill(turn(rotated(ellipse(244, 182, 15, 7), 244, 182, -35)), flat(0xffffff), 0.85)
	for _, x := range []float64{206, 306} {
		lay(circle(x, 278, 6), flat(0x8b93a6), 5)
	}
	lay(polygon(9, point{256, 314}, point{256, 428}), vertical(310, 430, 0xf0523a, 0x9c1c2a), 9)
}

// duck is the one for the bath.
func duck(c *canvas) {
	body := blob(point{62, 232}, point{104, 272}, point{162, 292}, point{226, 284}, point{300, 262}, point{384, 280}, point{430, 340}, point{420, 410}, point{360, 456}, point{256, 470}, point{150, 454}, point{84, 404}, point{52, 318}, point{48, 262})
	yellow := vertical(60, 480, 0xffe04a, 0xf4a91c)
	c.body(body, yellow, 84)
	head := circle(312, 172, 108)
	c.body(head, yellow, 82)
	// The neck runs into the body without a line.
	c.soft(within(ellipse(316, 282, 74, 16), grown(body, -6)), flat(0xf7b82a), 0.9, 24)
	wing := blob(point{142, 352}, point{172, 326}, point{240, 322}, point{312, 340}, point{300, 388}, point{252, 422}, point{196, 416}, point{152, 392})
	c.body(wing, vertical(320, 430, 0xffdb45, 0xea9a16), 34)
	c.fill(stroke(2.2, point{190, 398}, point{232, 404}, point{270, 390}), flat(0xb46a0c), 0.7)
	c.fill(stroke(2.2, point{202, 378}, point{244, 384}, point{284, 368}), flat(0xb46a0c), 0.7)
	beak := blob(point{396, 176}, point{424, 164}, point{466, 176}, point{486, 196}, point{462, 216}, point{424, 226}, point{398, 214})
	c.body(beak, vertical(164, 226, 0xff8a2c, 0xe0521a), 24)
	c.fill(stroke(2.4, point{406, 200}, point{440, 202}, point{478, 197}), flat(0x9c3008), 0.9)
	c.body(ellipse(350, 138, 25, 31), flat(0xffffff), 12)
	c.body(ellipse(357, 142, 14, 19), flat(0x231a2c), 8)
	c.fill(circle(351, 133, 6), flat(0xffffff), 1)
	c.fill(ellipse(384, 236, 18, 9), flat(0xff7a3c), 0.35)
	c.soft(rotated(ellipse(258, 110, 34, 12), 258, 110, -40), flat(0xffffff), 0.6, 16)
	c.body(blob(point{300, 72}, point{286, 42}, point{306, 30}, point{312, 50}, point{332, 34}, point{340, 50}, point{326, 72}), flat(0xffd93f), 12)
}

// sword is a hero's.
func sword(c *canvas) {
	turn := func(s shape) shape { return rotated(s, 256, 256, 42) }
	lay := func(s shape, p paint, depth float64) { c.body(turn(s), p, depth) }
	blade := polygon(2, point{256, -46}, point{290, 16}, point{286, 356}, point{226, 356}, point{222, 16})
	lay(blade, flat(0xc8d4e4), 12)
	c.fill(turn(within(grown(blade, -4), func(x, _ float64) float64 { return 256 - x })), flat(0x8296b4), 0.75)
	c.fill(turn(within(grown(blade, -4), func(x, _ float64) float64 { return x - 256 })), flat(0xf2f8ff), 0.55)
	c.fill(turn(limb(point{256, 64}, point{256, 350}, 4, 11)), flat(0x6f83a4), 0.9)
	for _, y := range []float64{170, 228, 286} {
		lay(polygon(1, point{256, y - 19}, point{267, y}, point{256, y + 19}, point{245, y}), flat(0x4fd8ff), 7)
	}
	lay(limb(point{256, 380}, point{256, 494}, 17, 15), flat(0x7a4326), 14)
	for y := 398.0; y < 490; y += 19 {
		c.fill(turn(within(limb(point{236, y + 7}, point{276, y - 7}, 3.4, 3.4), limb(point{256, 380}, point{256, 494}, 16, 14))), flat(0x3c1d14), 0.85)
	}
	lay(blob(point{152, 330}, point{186, 350}, point{256, 346}, point{326, 350}, point{360, 330}, point{372, 356}, point{330, 388}, point{256, 392}, point{182, 388}, point{140, 356}), vertical(330, 392, 0xffd95a, 0xc0811c), 20)
	lay(circle(256, 368, 23), flat(0xe8b030), 8)
	lay(circle(256, 368, 15), vertical(350, 386, 0xff6f8c, 0xa80f3c), 12)
	lay(circle(256, 516, 27), vertical(490, 540, 0xffd95a, 0xb87818), 20)
}

// potion is full of something green.
func potion(c *canvas) {
	glass := join(circle(256, 326, 150), polygon(4, point{214, 120}, point{298, 120}, point{298, 240}, point{214, 240}))
	c.body(glass, flat(0xbfe6ea), 26)
	liquid := within(grown(circle(256, 326, 150), -17), func(x, y float64) float64 { return 270 + 7*math.Sin(x/26) - y })
	c.body(liquid, vertical(270, 470, 0x7df25a, 0x109a58), 58)
	c.fill(within(ellipse(256, 272, 117, 15), grown(circle(256, 326, 150), -17)), flat(0xb8ff8a), 0.9)
	for _, b := range [][3]float64{{206, 356, 17}, {292, 322, 11}, {318, 388, 20}, {250, 420, 12}, {178, 312, 8}, {262, 372, 7}} {
		c.body(circle(b[0], b[1], b[2]), flat(0xa4ff86), b[2])
		c.fill(circle(b[0]-b[2]/3, b[1]-b[2]/3, b[2]/4), flat(0xffffff), 0.9)
	}
	c.body(limb(point{206, 126}, point{306, 126}, 17, 17), flat(0xd4f2f4), 14)
	c.body(polygon(6, point{224, 54}, point{288, 54}, point{282, 112}, point{230, 112}), vertical(54, 112, 0xd09a5c, 0x8c5a30), 18)
	c.body(limb(point{212, 216}, point{300, 216}, 9, 9), flat(0xb4763c), 8)
	c.body(polygon(3, point{292, 220}, point{342, 246}, point{328, 296}, point{278, 268}), flat(0xf2dfb4), 7)
	c.body(within(circle(311, 257, 13), polygon(0, point{290, 230}, point{335, 252}, point{320, 290}, point{285, 270})), flat(0xc0392b), 7)
	c.soft(stroke(10, point{136, 330}, point{146, 274}, point{184, 224}), flat(0xffffff), 0.85, 10)
	c.soft(circle(144, 374, 8), flat(0xffffff), 0.8, 8)
}

// chair stands on four legs of oak.
func chair(c *canvas) {
	wood := func(x, y float64) rgb {
		grain := math.Sin(y*0.09+2.2*math.Sin(x*0.035)) * math.Sin(x*0.12+y*0.017)
		return hex(0xc88a4a).mix(hex(0x94592a), 0.5+0.38*grain)
	}
	dark := func(x, y float64) rgb { return wood(x, y).mix(hex(0x4a2814), 0.35) }
	leg := func(a, b point, p paint) { c.body(limb(a, b, 13, 9), p, 11) }
	// Behind: legs that go up into the back.
	leg(point{196, 290}, point{178, 446}, dark)
	leg(point{380, 276}, point{398, 424}, dark)
	c.body(limb(point{186, 396}, point{392, 378}, 6, 6), dark, 6)
	c.body(limb(point{184, 40}, point{194, 290}, 13, 14), wood, 12)
	c.body(limb(point{384, 30}, point{380, 280}, 13, 14), wood, 12)
	for i := range 4 {
		x := 226 + float64(i)*40
		c.body(limb(point{x - 2, 86 - float64(i)*2}, point{x, 258 - float64(i)*3}, 8, 8), wood, 8)
	}
	c.body(blob(point{176, 48}, point{280, 26}, point{392, 36}, point{396, 84}, point{284, 78}, point{180, 98}), wood, 16)
	c.body(limb(point{196, 254}, point{380, 242}, 10, 10), wood, 9)
	// Seat and cushion, seen a little from above.
	seat := polygon(12, point{192, 276}, point{386, 262}, point{418, 340}, point{130, 362})
	c.body(func(x, y float64) float64 { return min(seat(x, y), seat(x, y-14)) }, dark, 16)
	c.body(seat, wood, 12)
	c.body(blob(point{204, 264}, point{290, 254}, point{376, 252}, point{398, 296}, point{404, 326}, point{290, 340}, point{150, 346}, point{166, 308}), vertical(250, 346, 0x4fa3a5, 0x2c6e7a), 26)
	c.soft(ellipse(282, 292, 16, 5), flat(0x174650), 0.6, 14)
	leg(point{142, 378}, point{120, 496}, wood)
	leg(point{406, 358}, point{432, 476}, wood)
	c.body(limb(point{132, 440}, point{420, 420}, 7, 7), wood, 6)
}

// mug is a photograph: it has a background, a table and a shadow.
func mug(c *canvas) {
	everywhere := func(_, _ float64) float64 { return -100 }
	c.fill(everywhere, vertical(0, side, 0xe9e6e1, 0xd6d1ca), 1)
	c.soft(ellipse(262, 434, 170, 12), flat(0x8c847c), 0.4, 34)
	handle := without(ellipse(378, 264, 84, 96), ellipse(374, 264, 48, 60))
	c.body(handle, vertical(160, 370, 0x2f9c95, 0x176660), 22)
	wall := []point{{100, 116}, {372, 116}}
	for i := range 21 { // the foot is as round as the rim
		sin, cos := math.Sincos(float64(i) * math.Pi / 20)
		wall = append(wall, point{236 + 120*cos, 396 + 34*sin})
	}
	cup := polygon(0, wall...)
	c.body(cup, horizontal(100, 372, 0x3ab5ab, 0x1a746e), 44)
	c.fill(within(cup, stripe(300)), flat(0xf2efe6), 0.9)
	c.fill(within(cup, stripe(336)), flat(0xf2b84b), 0.9)
	c.soft(within(cup, limb(point{156, 160}, point{166, 370}, 12, 10)), flat(0xffffff), 0.4, 14)
	c.soft(within(cup, limb(point{340, 160}, point{330, 380}, 14, 12)), flat(0x06302e), 0.3, 22)
	c.body(ellipse(236, 116, 136, 38), flat(0x49c2b8), 10)
	c.fill(ellipse(236, 118, 122, 30), vertical(88, 148, 0x0f4a46, 0x1d7a73), 1)
	c.fill(within(ellipse(236, 130, 112, 24), ellipse(236, 118, 122, 30)), vertical(106, 150, 0x3a1d10, 0x6a3c20), 1)
	c.soft(within(ellipse(206, 128, 34, 5), ellipse(236, 118, 122, 30)), flat(0xd9a878), 0.55, 8)
	c.grain()
}

// stripe is a band around the cup, curved like its rim.
func stripe(y0 float64) shape {
	return func(x, y float64) float64 {
		t := (x - 236) / 132
		return math.Abs(y-y0-30*math.Sqrt(max(0, 1-t*t))) - 9
	}
}

// grain adds the noise of a camera, the same every time.
func (c *canvas) grain() {
	seed := uint32(1)
	for i := range c.pix {
		seed = seed*1664525 + 1013904223
		n := (float64(seed>>16)/65536 - 0.5) * 0.02
		for k := range 3 {
			c.pix[i][k] += n
		}
	}
}
