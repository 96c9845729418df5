package solid

import (
	"archive/zip"
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"strconv"

	"github.com/qmuntal/gltf"
	"github.com/qmuntal/gltf/modeler"
)

// Formats lists what Encode can make. "zip" holds mesh.obj, mesh.mtl and
// texture.jpg.
var Formats = []string{"glb", "obj", "stl", "ply", "usdz", "zip"}

// Encode returns the mesh as a file of one of the Formats.
func (m *Mesh) Encode(format string) ([]byte, error) {
	switch format {
	case "glb":
		return m.glb()
	case "obj":
		return m.obj(false), nil
	case "stl":
		return m.stl(), nil
	case "ply":
		return m.ply(), nil
	case "usdz":
		return m.usdz()
	case "zip":
		return m.objZip()
	}
	return nil, fmt.Errorf("there is no writer for the format %q", format)
}

const generator = "Meshmill solid"

func (m *Mesh) glb() ([]byte, error) {
	doc := gltf.NewDocument()
	doc.Asset.Generator = generator
	var indices any
	if len(m.Positions) <= math.MaxUint16 {
		short := make([]uint16, 0, 3*len(m.Triangles))
		for _, t := range m.Triangles {
			short = append(short, uint16(t[0]), uint16(t[1]), uint16(t[2]))
		}
		indices = short
	} else {
		long := make([]uint32, 0, 3*len(m.Triangles))
		for _, t := range m.Triangles {
			long = append(long, t[:]...)
		}
		indices = long
	}
	primitive := &gltf.Primitive{
		Indices: new(modeler.WriteIndices(doc, indices)),
		Attributes: gltf.PrimitiveAttributes{
			gltf.POSITION:   modeler.WritePosition(doc, m.Positions),
			gltf.NORMAL:     modeler.WriteNormal(doc, m.Normals),
			gltf.TEXCOORD_0: modeler.WriteTextureCoord(doc, m.UV),
		},
		Material: new(0),
	}
	img, err := modeler.WriteImage(doc, "texture", "image/jpeg", bytes.NewReader(m.Texture))
	if err != nil {
		return nil, fmt.Errorf("write the texture: %w", err)
	}
	doc.Samplers = []*gltf.Sampler{{MagFilter: gltf.MagLinear, MinFilter: gltf.MinLinear, WrapS: gltf.WrapClampToEdge, WrapT: gltf.WrapClampToEdge}}
	doc.Textures = []*gltf.Texture{{Sampler: new(0), Source: new(img)}}
	doc.Materials = []*gltf.Material{{
		Name: "picture",
		PBRMetallicRoughness: &gltf.PBRMetallicRoughness{
			BaseColorTexture: &gltf.TextureInfo{Index: 0}, MetallicFactor: new(0.0), RoughnessFactor: new(0.8),
		},
	}}
	doc.Meshes = []*gltf.Mesh{{Name: "solid", Primitives: []*gltf.Primitive{primitive}}}
	doc.Nodes = []*gltf.Node{{Name: "solid", Mesh: new(0)}}
	doc.Scenes[0].Nodes = []int{0}
	var out bytes.Buffer
	enc := gltf.NewEncoder(&out)
	enc.AsBinary = true
	if err := enc.Encode(doc); err != nil {
		return nil, fmt.Errorf("write the GLB: %w", err)
	}
	return out.Bytes(), nil
}

// decimal appends a number as the text formats want it.
func decimal(b []byte, f float32) []byte { return strconv.AppendFloat(b, float64(f), 'f', 5, 32) }

func (m *Mesh) obj(material bool) []byte {
	b := []byte("# " + generator + "\n")
	if material {
		b = append(b, "mtllib mesh.mtl\nusemtl picture\n"...)
	}
	b = append(b, "o solid\n"...)
	row := func(word string, values ...float32) {
		b = append(b, word...)
		for _, v := range values {
			b = decimal(append(b, ' '), v)
		}
		b = append(b, '\n')
	}
	for _, p := range m.Positions {
		row("v", p[:]...)
	}
	for _, t := range m.UV {
		row("vt", t[0], 1-t[1])
	}
	for _, n := range m.Normals {
		row("vn", n[:]...)
	}
	for _, t := range m.Triangles {
		b = append(b, 'f')
		for _, i := range t {
			b = fmt.Appendf(b, " %d/%d/%d", i+1, i+1, i+1)
		}
		b = append(b, '\n')
	}
	return b
}

const material = "newmtl picture\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd texture.jpg\n"

func (m *Mesh) objZip() ([]byte, error) {
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for _, f := range []struct {
		name string
		data []byte
	}{{"mesh.obj", m.obj(true)}, {"mesh.mtl", []byte(material)}, {"texture.jpg", m.Texture}} {
		w, err := z.Create(f.name)
		if err == nil {
			_, err = w.Write(f.data)
		}
		if err != nil {
			return nil, fmt.Errorf("write the archive: %w", err)
		}
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("write the archive: %w", err)
	}
	return out.Bytes(), nil
}

func (m *Mesh) stl() []byte {
	b := make([]byte, 80, 84+50*len(m.Triangles))
	copy(b, generator) // must not begin with "solid", the word of the text form
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.Triangles)))
	for _, t := range m.Triangles {
		n := m.at(t[1]).minus(m.at(t[0])).cross(m.at(t[2]).minus(m.at(t[0])))
		l := max(n.length(), 1e-30)
		for _, c := range n {
			b = appendFloat(b, float32(c/l))
		}
		for _, i := range t {
			for _, c := range m.Positions[i] {
				b = appendFloat(b, c)
			}
		}
		b = append(b, 0, 0)
	}
	return b
}

func appendFloat(b []byte, f float32) []byte {
	return binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
}

func (m *Mesh) ply() []byte {
	b := fmt.Appendf(nil, "ply\nformat binary_little_endian 1.0\ncomment %s\nelement vertex %d\n", generator, len(m.Positions))
	for _, name := range []string{"x", "y", "z", "nx", "ny", "nz", "s", "t"} {
		b = append(b, "property float "+name+"\n"...)
	}
	b = fmt.Appendf(b, "property uchar red\nproperty uchar green\nproperty uchar blue\nelement face %d\nproperty list uchar int vertex_indices\nend_header\n", len(m.Triangles))
	for i := range m.Positions {
		for _, v := range m.Positions[i] {
			b = appendFloat(b, v)
		}
		for _, v := range m.Normals[i] {
			b = appendFloat(b, v)
		}
		b = appendFloat(appendFloat(b, m.UV[i][0]), 1-m.UV[i][1])
		c := m.colour(i)
		b = append(b, c.R, c.G, c.B)
	}
	for _, t := range m.Triangles {
		b = append(b, 3)
		for _, i := range t {
			b = binary.LittleEndian.AppendUint32(b, i)
		}
	}
	return b
}

// usdz is a ZIP archive without compression in which every file begins at a
// multiple of 64 bytes; the first file is the scene.
func (m *Mesh) usdz() ([]byte, error) {
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for _, f := range []struct {
		name string
		data []byte
	}{{"mesh.usda", m.usda()}, {"texture.jpg", m.Texture}} {
		if err := z.Flush(); err != nil {
			return nil, fmt.Errorf("write the USDZ: %w", err)
		}
		const header, field = 30, 4 // local file header; head of an extra field
		begin := out.Len() + header + len(f.name) + field
		pad := (64 - begin%64) % 64
		extra := binary.LittleEndian.AppendUint16([]byte{0x86, 0x19}, uint16(pad))
		w, err := z.CreateRaw(&zip.FileHeader{
			Name: f.name, Method: zip.Store, CRC32: crc32.ChecksumIEEE(f.data),
			CompressedSize64: uint64(len(f.data)), UncompressedSize64: uint64(len(f.data)),
			Extra: append(extra, make([]byte, pad)...),
		})
		if err == nil {
			_, err = w.Write(f.data)
		}
		if err != nil {
			return nil, fmt.Errorf("write the USDZ: %w", err)
		}
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("write the USDZ: %w", err)
	}
	return out.Bytes(), nil
}

func (m *Mesh) usda() []byte {
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	_, _ = io.WriteString(w, usdaHead)
	row := func(name string, n int, item func(b []byte, i int) []byte) {
		_, _ = io.WriteString(w, "        "+name+" = [")
		var b []byte
		for i := range n {
			b = b[:0]
			if i > 0 {
				b = append(b, ", "...)
			}
			_, _ = w.Write(item(b, i))
		}
		_, _ = io.WriteString(w, "]\n")
	}
	tuple := func(b []byte, values ...float32) []byte {
		b = append(b, '(')
		for i, v := range values {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = decimal(b, v)
		}
		return append(b, ')')
	}
	row("int[] faceVertexCounts", len(m.Triangles), func(b []byte, _ int) []byte { return append(b, '3') })
	row("int[] faceVertexIndices", 3*len(m.Triangles), func(b []byte, i int) []byte {
		return strconv.AppendUint(b, uint64(m.Triangles[i/3][i%3]), 10)
	})
	row("point3f[] points", len(m.Positions), func(b []byte, i int) []byte { return tuple(b, m.Positions[i][:]...) })
	row("normal3f[] normals", len(m.Normals), func(b []byte, i int) []byte { return tuple(b, m.Normals[i][:]...) })
	row("texCoord2f[] primvars:st", len(m.UV), func(b []byte, i int) []byte { return tuple(b, m.UV[i][0], 1-m.UV[i][1]) })
	_, _ = io.WriteString(w, usdaTail)
	_ = w.Flush() // to memory
	// Primvars need their interpolation, which goes behind the array.
	return bytes.Replace(out.Bytes(), []byte("]\n"+usdaTail), []byte("] (\n            interpolation = \"vertex\"\n        )\n"+usdaTail), 1)
}

const usdaHead = `#usda 1.0
(
    defaultPrim = "solid"
    metersPerUnit = 1
    upAxis = "Y"
)

def Xform "solid" (
    kind = "component"
)
{
    def Mesh "mesh" (
        prepend apiSchemas = ["MaterialBindingAPI"]
    )
    {
        uniform token subdivisionScheme = "none"
        rel material:binding = </solid/picture>
`

const usdaTail = `    }

    def Material "picture"
    {
        token outputs:surface.connect = </solid/picture/surface.outputs:surface>

        def Shader "surface"
        {
            uniform token info:id = "UsdPreviewSurface"
            color3f inputs:diffuseColor.connect = </solid/picture/texture.outputs:rgb>
            float inputs:roughness = 0.8
            token outputs:surface
        }

        def Shader "texture"
        {
            uniform token info:id = "UsdUVTexture"
            asset inputs:file = @texture.jpg@
            float2 inputs:st.connect = </solid/picture/st.outputs:result>
            float3 outputs:rgb
        }

        def Shader "st"
        {
            uniform token info:id = "UsdPrimvarReader_float2"
            string inputs:varname = "st"
            float2 outputs:result
        }
    }
}
`
