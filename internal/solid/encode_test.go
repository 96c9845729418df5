package solid_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"image/jpeg"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/qmuntal/gltf"
	"github.com/qmuntal/gltf/modeler"

	"github.com/meshmill/meshmill/internal/solid"
)

// checkGLB reads a GLB with a library that knows nothing of this package.
func checkGLB(t *testing.T, data []byte) {
	t.Helper()
	doc := new(gltf.Document)
	if err := gltf.NewDecoder(bytes.NewReader(data)).Decode(doc); err != nil {
		t.Fatal(err)
	}
	p := doc.Meshes[0].Primitives[0]
	pos, err := modeler.ReadPosition(doc, doc.Accessors[p.Attributes[gltf.POSITION]], nil)
	if err != nil {
		t.Fatal(err)
	}
	index, err := modeler.ReadIndices(doc, doc.Accessors[*p.Indices], nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range index {
		if int(i) >= len(pos) {
			t.Fatalf("index %d of %d vertices", i, len(pos))
		}
	}
	a := doc.Accessors[p.Attributes[gltf.POSITION]]
	for _, v := range pos {
		for c := range v {
			if float64(v[c]) < a.Min[c]-1e-6 || float64(v[c]) > a.Max[c]+1e-6 || math.IsNaN(float64(v[c])) {
				t.Fatalf("vertex %v is outside %v … %v", v, a.Min, a.Max)
			}
		}
	}
	normals, err := modeler.ReadNormal(doc, doc.Accessors[p.Attributes[gltf.NORMAL]], nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range normals {
		if l := math.Sqrt(float64(n[0]*n[0] + n[1]*n[1] + n[2]*n[2])); math.Abs(l-1) > 1e-3 {
			t.Fatalf("normal %v has length %g", n, l)
		}
	}
	for i, v := range doc.BufferViews {
		if v.ByteOffset+v.ByteLength > len(doc.Buffers[v.Buffer].Data) {
			t.Errorf("buffer view %d is out of bounds", i)
		}
	}
	raw, err := modeler.ReadBufferView(doc, doc.BufferViews[*doc.Images[0].BufferView])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jpeg.Decode(bytes.NewReader(raw)); err != nil {
		t.Errorf("texture: %v", err)
	}
}

func TestFormats(t *testing.T) {
	t.Parallel()
	m, err := solid.Build(ring(200, 160, true), solid.Options{Grid: 40})
	if err != nil {
		t.Fatal(err)
	}
	checks := map[string]func(t *testing.T, b []byte){
		"glb": checkGLB,
		"obj": func(t *testing.T, b []byte) {
			lines := strings.Split(string(b), "\n")
			n := map[string]int{}
			for _, l := range lines {
				word, _, _ := strings.Cut(l, " ")
				n[word]++
			}
			if n["v"] != len(m.Positions) || n["vt"] != len(m.UV) || n["f"] != len(m.Triangles) || n["mtllib"] != 0 {
				t.Errorf("lines: %v", n)
			}
		},
		"stl": func(t *testing.T, b []byte) {
			if len(b) != 84+50*len(m.Triangles) || int(binary.LittleEndian.Uint32(b[80:])) != len(m.Triangles) || bytes.HasPrefix(b, []byte("solid")) {
				t.Errorf("%d bytes for %d triangles, begins %q", len(b), len(m.Triangles), b[:10])
			}
		},
		"ply": func(t *testing.T, b []byte) {
			head, body, ok := bytes.Cut(b, []byte("end_header\n"))
			if !ok || !bytes.HasPrefix(head, []byte("ply\nformat binary_little_endian 1.0\n")) ||
				!bytes.Contains(head, fmt.Appendf(nil, "element vertex %d\n", len(m.Positions))) {
				t.Fatalf("header: %s", head)
			}
			if want := len(m.Positions)*(8*4+3) + len(m.Triangles)*13; len(body) != want {
				t.Errorf("%d bytes of data, want %d", len(body), want)
			}
		},
		"zip": func(t *testing.T, b []byte) {
			files := unzip(t, b)
			if !bytes.Contains(files["mesh.obj"], []byte("mtllib mesh.mtl")) || !bytes.Contains(files["mesh.mtl"], []byte("map_Kd texture.jpg")) || !bytes.Equal(files["texture.jpg"], m.Texture) {
				t.Errorf("files: %d", len(files))
			}
		},
		"usdz": func(t *testing.T, b []byte) {
			z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			if z.File[0].Name != "mesh.usda" {
				t.Errorf("first file is %s", z.File[0].Name)
			}
			for _, f := range z.File {
				if at, err := f.DataOffset(); err != nil || at%64 != 0 || f.Method != zip.Store {
					t.Errorf("%s: at %d, method %d, %v", f.Name, at, f.Method, err)
				}
			}
			scene := string(unzip(t, b)["mesh.usda"])
			if !strings.HasPrefix(scene, "#usda 1.0\n") || strings.Count(scene, "{") != strings.Count(scene, "}") || !strings.Contains(scene, `interpolation = "vertex"`) {
				t.Error("the scene is not well formed")
			}
		},
	}
	for _, format := range solid.Formats {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			b, err := m.Encode(format)
			if err != nil {
				t.Fatal(err)
			}
			checks[format](t, b)
			if again, _ := m.Encode(format); !bytes.Equal(b, again) {
				t.Error("a second time the bytes differ")
			}
		})
	}
	if _, err := m.Encode("fbx"); err == nil {
		t.Error("fbx can be written")
	}
}

func unzip(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if files[f.Name], err = io.ReadAll(r); err != nil { // checks the sums too
			t.Errorf("%s: %v", f.Name, err)
		}
	}
	return files
}
