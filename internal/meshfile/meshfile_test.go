package meshfile_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/qmuntal/gltf"

	"github.com/meshmill/meshmill/internal/meshfile"
)

// triangle returns a document of one triangle, for tests to damage.
func triangle() *gltf.Document {
	data := make([]byte, 44)
	for i, v := range []float32{0, 0, 0, 1, 0, 0, 0, 1, 0} {
		binary.Encode(data[4*i:], binary.LittleEndian, v)
	}
	copy(data[36:], []byte{0, 0, 1, 0, 2, 0})
	doc := gltf.NewDocument()
	doc.Buffers = []*gltf.Buffer{{ByteLength: len(data), Data: data}}
	doc.BufferViews = []*gltf.BufferView{{ByteLength: 36}, {ByteOffset: 36, ByteLength: 6}}
	doc.Accessors = []*gltf.Accessor{
		{BufferView: new(0), ComponentType: gltf.ComponentFloat, Type: gltf.AccessorVec3, Count: 3},
		{BufferView: new(1), ComponentType: gltf.ComponentUshort, Type: gltf.AccessorScalar, Count: 3},
	}
	doc.Meshes = []*gltf.Mesh{{Primitives: []*gltf.Primitive{{Attributes: gltf.PrimitiveAttributes{gltf.POSITION: 0}, Indices: new(1)}}}}
	doc.Nodes = []*gltf.Node{{Mesh: new(0)}}
	doc.Scenes[0].Nodes = []int{0}
	return doc
}

func encode(t testing.TB, doc *gltf.Document, asBinary bool) []byte {
	t.Helper()
	var b bytes.Buffer
	e := gltf.NewEncoder(&b)
	e.AsBinary = asBinary
	if err := e.Encode(doc); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func goodGLB(t testing.TB) []byte { return encode(t, triangle(), true) }

func goodGLTF(t testing.TB) []byte {
	doc := triangle()
	doc.Buffers[0].EmbeddedResource()
	return encode(t, doc, false)
}

// glb puts chunks into a container; each begins with its four-letter type.
func glb(chunks ...string) []byte {
	var body []byte
	for _, c := range chunks {
		body = binary.LittleEndian.AppendUint32(body, uint32(len(c)-4))
		body = append(body, c...)
	}
	head := binary.LittleEndian.AppendUint32([]byte("glTF\x02\x00\x00\x00"), uint32(12+len(body)))
	return append(head, body...)
}

// damaged returns the JSON of a GLB whose binary chunk is right, after edit.
func damaged(t testing.TB, edit func(map[string]any)) []byte {
	t.Helper()
	whole := goodGLB(t)
	n := binary.LittleEndian.Uint32(whole[12:])
	var doc map[string]any
	if err := json.Unmarshal(whole[20:20+n], &doc); err != nil {
		t.Fatal(err)
	}
	edit(doc)
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return glb("JSON"+string(text), "BIN\x00"+string(whole[20+n+8:]))
}

func stl(triangles int, header string) []byte {
	b := make([]byte, 84+50*triangles)
	copy(b[:80], header)
	binary.LittleEndian.PutUint32(b[80:], uint32(triangles))
	return b
}

const asciiSTL = "solid cube\n facet normal 0 0 1\n  outer loop\n   vertex 0 0 0\n   vertex 1 0 0\n   vertex 0 1 0\n  endloop\n endfacet\nendsolid cube\n"

func ply(format, vertexLine, body string) []byte {
	return []byte("ply\nformat " + format + " 1.0\ncomment made in C:\\temp\\\n" + vertexLine +
		"\nproperty float x\nproperty float y\nproperty float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n" + body)
}

func archive(t testing.TB, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		name, stored := strings.CutPrefix(e, "stored:")
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		if stored {
			h.Method = zip.Store
		}
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(f, "content of "+name)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// fbx returns a binary FBX of some records, with a footer as real ones have.
func fbx(version uint32, records int) []byte {
	b := append([]byte("Kaydara FBX Binary  \x00\x1a\x00"), binary.LittleEndian.AppendUint32(nil, version)...)
	width := 4
	if version >= 7500 {
		width = 8
	}
	for range records {
		end := uint64(len(b) + 3*width + 1 + 4 + 10)
		word := binary.LittleEndian.AppendUint64(nil, end)[:width]
		b = append(append(b, word...), make([]byte, 2*width)...)
		b = append(b, "\x04Node0123456789"...)
	}
	b = append(b, make([]byte, 3*width+1)...)
	return append(b, "footer"...)
}

func box(kind, body string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))) + kind + body
}

func mp4() []byte {
	wide := "\x00\x00\x00\x01mdat" + string(binary.BigEndian.AppendUint64(nil, 20)) + "film"
	return []byte(box("ftyp", "isom\x00\x00\x02\x00isom") + box("moov", "what is in it") + wide + "\x00\x00\x00\x00free the rest")
}

func good(t testing.TB) map[string]struct {
	want meshfile.Format
	data []byte
} {
	draco := triangle()
	draco.Accessors[0].BufferView = nil // an extension holds the data
	sparse := triangle()
	sparse.Accessors[0].Sparse = &gltf.Sparse{Count: 1, Indices: gltf.SparseIndices{BufferView: 1, ComponentType: gltf.ComponentUshort}, Values: gltf.SparseValues{BufferView: 0}}
	external := triangle()
	external.Buffers[0] = &gltf.Buffer{URI: "mesh.bin", ByteLength: 44}
	type c = struct {
		want meshfile.Format
		data []byte
	}
	text := func(f meshfile.Format, s string) c { return c{f, []byte(s)} }
	return map[string]c{
		"glb":                          {"glb", goodGLB(t)},
		"glb with compressed data":     {"glb", encode(t, draco, true)},
		"glb with sparse data":         {"glb", encode(t, sparse, true)},
		"glb with an unknown chunk":    {"glb", glb(append([]string{"JSON" + string(mustJSON(t, goodGLTF(t)))}, "XTRA1234")...)},
		"glb with unpadded chunks":     {"glb", damaged(t, func(m map[string]any) { m["extras"] = "x" })},
		"gltf":                         {"gltf", goodGLTF(t)},
		"gltf after a byte order mark": {"gltf", append([]byte("\ufeff \r\n"), goodGLTF(t)...)},
		"gltf with an outside buffer":  {"gltf", mustJSON(t, encode(t, external, false))},
		"obj":                          text("obj", "# cube\nmtllib a.mtl\no cube\nv 0 0 0\nv 1 0 0\nv 0 1.5e-3 -0\nvt 0 0\nusemtl m\nf 1/1 2/1 3/1\n"),
		"obj, CRLF":                    text("obj", "\ufeff# cube\r\n\r\nv 0 0 0 1 1 1\r\nv 1 0 0\r\nv 0 1 0\r\nf 1//1 2//1 3//1\r\n"),
		"obj, CR":                      text("obj", "v 0 0 0\rv 1 0 0\rv 0 1 0\rf 1 2 3"),
		"obj, joined lines":            text("obj", "v 0 0 \\\n0\nv\t1\t0\t0\nv 0 1 0\nf -3 \\\r\n-2 -1"),
		"obj, Latin-1 and odd words":   text("obj", "# caf\xe9\nsolid_angle 7\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"),
		"obj, long comment":            text("obj", "#"+strings.Repeat("x", 300_000)+"\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"),
		"obj, faces far behind":        text("obj", strings.Repeat("v 0 0 0\n", 100_000)+"f 1 2 3\n"),
		"binary stl":                   {"stl", stl(3, "made by a test")},
		"binary stl that says solid":   {"stl", stl(1, "solid something")},
		"ascii stl":                    text("stl", asciiSTL),
		"ascii stl, CRLF, upper case":  text("stl", "\r\n"+strings.ToUpper(strings.ReplaceAll(asciiSTL, "\n", "\r\n"))),
		"ascii ply":                    {"ply", ply("ascii", "element vertex 3", "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")},
		"binary ply":                   {"ply", ply("binary_little_endian", "element vertex 3", strings.Repeat("\x00", 36+1+12))},
		"ply, CRLF":                    {"ply", bytes.ReplaceAll(ply("ascii", "element vertex 3", "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"), []byte("\n"), []byte("\r\n"))},
		"fbx 7400":                     {"fbx", fbx(7400, 3)},
		"fbx 7700":                     {"fbx", fbx(7700, 3)},
		"ascii fbx":                    text("fbx", "; FBX 7.3.0 project file\nFBXHeaderExtension:  {\n}\nObjects:  {\n}\n"),
		"usda":                         text("usd", "#usda 1.0\n()\n"),
		"usdc":                         text("usd", "PXR-USDC\x00\x08\x00"),
		"usdz":                         {"usdz", archive(t, "stored:model.usdc", "stored:0/texture.png")},
		"zip":                          {"zip", archive(t, "mesh.obj", "mesh.mtl", "texture.png")},
		"zip with usd not first":       {"zip", archive(t, "stored:a.png", "stored:model.usdc")},
		"zip with compressed usd":      {"zip", archive(t, "model.usdc")},
		"zip with names that climb":    {"zip", archive(t, "../../etc/passwd")},
		"mp4":                          {"mp4", mp4()},
	}
}

// mustJSON checks and trims a document made for the test.
func mustJSON(t testing.TB, b []byte) []byte {
	t.Helper()
	if !json.Valid(b) {
		t.Fatalf("not valid JSON: %s", b)
	}
	return bytes.TrimSpace(b)
}

func identify(b []byte) (meshfile.Format, error) {
	return meshfile.Identify(bytes.NewReader(b), int64(len(b)))
}

func TestGood(t *testing.T) {
	t.Parallel()
	for name, tc := range good(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := identify(tc.data); err != nil || got != tc.want {
				t.Errorf("got %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestBad(t *testing.T) {
	t.Parallel()
	whole := goodGLB(t)
	set := func(off int, v uint32) []byte {
		b := bytes.Clone(whole)
		binary.LittleEndian.PutUint32(b[off:], v)
		return b
	}
	edit := func(f func(map[string]any)) string { return string(damaged(t, f)) }
	first := func(m map[string]any, list string) map[string]any { return m[list].([]any)[0].(map[string]any) }
	lying := func(list, field string, value any) string {
		return edit(func(m map[string]any) { first(m, list)[field] = value })
	}
	for name, tc := range map[string]struct{ data, looks string }{
		"empty":            {"", "empty"},
		"blank":            {" \r\n\t", "blank"},
		"HTML":             {"<!DOCTYPE html><html><title>404</title>", "an HTML page"},
		"HTML after space": {"\ufeff\n <!-- x -->\n<HTML lang=en>", "an HTML page"},
		"XML":              {`<?xml version="1.0"?><a/>`, "an XML document"},
		"S3 error": {
			`<?xml version="1.0"?><Error><Code>SignatureDoesNotMatch</Code><StringToSign>SECRET</StringToSign></Error>`,
			"an XML error document (SignatureDoesNotMatch)",
		},
		"odd S3 error":    {`<Error><Code>SECRET 1</Code></Error>`, "an XML error document"},
		"SVG":             {`<svg xmlns="http://www.w3.org/2000/svg"/>`, "an SVG image"},
		"COLLADA":         {`<?xml version="1.0"?><COLLADA>`, "a COLLADA document"},
		"JSON":            {`{"status":"error","message":"SECRET"}`, "a JSON document"},
		"JSON with asset": {`{"asset":"SECRET"}`, "a JSON document"},
		"JSON array":      {`[1,2]`, "a JSON document"},
		"JSON string":     {`"expired"`, "a JSON string"},
		"broken JSON":     {`{"asset":{"version":"2.0"}`, "a JSON document that is broken or truncated"},
		"text":            {"Not found: SECRET\n", "plain text"},
		"text with v":     {"v for vendetta\n", "plain text"},
		"PNG":             {"\x89PNG\r\n\x1a\n\x00\x00", "a PNG image"},
		"JPEG":            {"\xff\xd8\xff\xe0\x00\x10JFIF", "a JPEG image"},
		"WebP":            {"RIFF\x00\x00\x00\x00WEBPVP8 ", "a WebP image"},
		"WAV":             {"RIFF\x00\x00\x00\x00WAVEfmt ", "a sound or AVI video"},
		"AVIF":            {box("ftyp", "avif\x00\x00\x00\x00"), "an AVIF image"},
		"HEIC":            {box("ftyp", "heic\x00\x00\x00\x00"), "a HEIF image"},
		"PDF":             {"%PDF-1.7\n", "a PDF document"},
		"gzip":            {"\x1f\x8b\x08\x00\x00\x00", "gzip data"},
		"tar":             {strings.Repeat("a", 100) + strings.Repeat("\x00", 157) + "ustar\x0000", "a tar archive"},
		"program":         {"MZ\x90\x00\x03", "a program"},
		"MZ in a text":    {"MZ is the beginning of a text", "plain text"},
		"binary":          {"\x01\x02\x03\x04", "unknown binary data"},
		"zeros":           {strings.Repeat("\x00", 200), "unknown binary data"},

		"GLB, header only":    {string(whole[:12]), fmt.Sprintf("truncated: the GLB header says %d bytes, the file has 12", len(whole))},
		"GLB, cut":            {string(whole[:200]), fmt.Sprintf("truncated: the GLB header says %d bytes, the file has 200", len(whole))},
		"GLB, half header":    {"glTF\x02\x00", "truncated: a GLB header takes 12 bytes, the file has 6"},
		"GLB, no chunk":       {string(glb()), "truncated: the GLB file ends before its JSON chunk"},
		"GLB, version 1":      {string(set(4, 1)), "a GLB file of version 1, where only 2 can be used"},
		"GLB, says more":      {string(set(8, 0xffffffff)), fmt.Sprintf("truncated: the GLB header says 4294967295 bytes, the file has %d", len(whole))},
		"GLB, says less":      {string(set(8, uint32(len(whole)-4))), fmt.Sprintf("a GLB file with something behind it: the header says %d bytes, the file has %d", len(whole)-4, len(whole))},
		"GLB, JSON too long":  {string(set(12, 0xffffffff)), fmt.Sprintf("truncated: a GLB chunk says 4294967295 bytes, %d are left", len(whole)-20)},
		"GLB, JSON too short": {string(set(12, 8)), ""},
		"GLB, binary first":   {string(glb("BIN\x001234")), "a GLB file that does not begin with its JSON chunk"},
		"GLB, not JSON":       {string(glb("JSONSECRET")), "a GLB file with JSON that cannot be read as glTF"},
		"GLB, null":           {string(glb("JSONnull")), "a GLB file with an asset version other than 2"},
		"GLB, only JSON":      {string(glb("JSON" + `{"asset":{"version":"2.0"}}`)), "a GLB file with no mesh in it"},
		"GLB, no binary chunk": {
			string(whole[:8]) + string(binary.LittleEndian.AppendUint32(nil, 20+binary.LittleEndian.Uint32(whole[12:]))) + string(whole[12:20+binary.LittleEndian.Uint32(whole[12:])]),
			"a GLB file with buffer 0 of 44 bytes, of which it holds 0",
		},
		"GLB, many chunks": {string(glb(append([]string{"JSON{}"}, strings.Split(strings.Repeat("XTRA,", 100), ",")[:100]...)...)), "a GLB file of too many chunks"},

		"no meshes":           {edit(func(m map[string]any) { delete(m, "meshes") }), "a GLB file with no mesh in it"},
		"null mesh":           {edit(func(m map[string]any) { m["meshes"] = []any{nil} }), "a GLB file with an empty mesh 0"},
		"mesh of nothing":     {edit(func(m map[string]any) { m["meshes"] = []any{map[string]any{}} }), "a GLB file with no mesh in it"},
		"null primitive":      {lying("meshes", "primitives", []any{nil}), "a GLB file with a broken mesh 0: an empty primitive"},
		"no position":         {lying("meshes", "primitives", []any{map[string]any{"attributes": map[string]any{"NORMAL": 0}}}), "a GLB file with no mesh in it"},
		"position nowhere":    {lying("meshes", "primitives", []any{map[string]any{"attributes": map[string]any{"POSITION": 7}}}), "a GLB file with a broken mesh 0: there is no accessor 7"},
		"indices nowhere":     {lying("meshes", "primitives", []any{map[string]any{"attributes": map[string]any{"POSITION": 0}, "indices": -1}}), "a GLB file with a broken mesh 0: there is no accessor -1"},
		"no vertices":         {lying("accessors", "count", 0), "a GLB file with no mesh in it"},
		"count too large":     {lying("accessors", "count", 4), "a GLB file with accessor 0 out of bounds"},
		"count huge":          {lying("accessors", "count", int64(1)<<62), "a GLB file with accessor 0 out of bounds"},
		"count negative":      {lying("accessors", "count", -1), "a GLB file with accessor 0 out of bounds"},
		"count not a number":  {lying("accessors", "count", "SECRET"), "a GLB file with JSON that cannot be read as glTF"},
		"accessor offset":     {lying("accessors", "byteOffset", 1), "a GLB file with accessor 0 out of bounds"},
		"accessor elsewhere":  {lying("accessors", "bufferView", 9), "a GLB file with accessor 0 out of bounds"},
		"accessor negative":   {lying("accessors", "byteOffset", -4), "a GLB file with accessor 0 out of bounds"},
		"null accessor":       {edit(func(m map[string]any) { m["accessors"] = []any{nil} }), "a GLB file with accessor 0 out of bounds"},
		"stride huge":         {lying("bufferViews", "byteStride", int64(1)<<62), "a GLB file with accessor 0 out of bounds"},
		"view too long":       {lying("bufferViews", "byteLength", 45), "a GLB file with buffer view 0 out of bounds"},
		"view overflows":      {lying("bufferViews", "byteOffset", int64(math.MaxInt64)), "a GLB file with buffer view 0 out of bounds"},
		"view of no buffer":   {lying("bufferViews", "buffer", 1), "a GLB file with buffer view 0 out of bounds"},
		"null view":           {edit(func(m map[string]any) { m["bufferViews"] = []any{nil} }), "a GLB file with buffer view 0 out of bounds"},
		"null buffer":         {edit(func(m map[string]any) { m["buffers"] = []any{nil} }), "a GLB file with buffer 0 without a length"},
		"buffer too long":     {lying("buffers", "byteLength", 60), "a GLB file with buffer 0 of 60 bytes, of which it holds 44"},
		"buffer of 4 GiB":     {lying("buffers", "byteLength", int64(1)<<32+4), "a GLB file with buffer 0 of 4294967300 bytes, of which it holds 44"},
		"buffer negative":     {lying("buffers", "byteLength", -(int64(1)<<32)+4), "a GLB file with buffer 0 without a length"},
		"second buffer":       {edit(func(m map[string]any) { m["buffers"] = append(m["buffers"].([]any), map[string]any{"byteLength": 4}) }), "a GLB file with buffer 1 of 4 bytes, of which it holds 0"},
		"data URI too short":  {lying("buffers", "uri", "data:application/octet-stream;base64,AAAA"), "a GLB file with buffer 0 of 44 bytes, of which it holds 3"},
		"asset of version 1":  {edit(func(m map[string]any) { m["asset"] = map[string]any{"version": "1.0"} }), "a GLB file with an asset version other than 2"},
		"gltf without meshes": {`{"asset":{"version":"2.0"}}`, "a glTF document with no mesh in it"},

		"OBJ without faces":   {"v 0 0 0\nv 1 0 0\n", "an OBJ file without faces; it may be truncated"},
		"OBJ, not a number":   {"v 0 0 NaN\nf 1 2 3\n", "plain text"},
		"OBJ, broken face":    {"v 0 0 0\nf 1 2", "an OBJ file with a broken face; it may be truncated"},
		"OBJ, index 0":        {"v 0 0 0\nf 0 1 2\n", "an OBJ file with a broken face; it may be truncated"},
		"MTL":                 {"newmtl a\nKd 1 1 1\n", "plain text"},
		"long text":           {strings.Repeat("word\n", 50_000) + "v 0 0 0\nf 1 2 3\n", "plain text"},
		"STL, cut":            {string(stl(3, "x")[:130]), "truncated: the STL header says 3 triangles and so 234 bytes, the file has 130"},
		"STL solid, cut":      {string(stl(3, "solid x")[:130]), "truncated: the STL header says 3 triangles and so 234 bytes, the file has 130"},
		"STL, none":           {string(stl(0, "solid x")), "an STL file of a wrong length or without triangles"},
		"ASCII STL, cut":      {asciiSTL[:len(asciiSTL)-20], "truncated: the STL file has no endsolid"},
		"ASCII STL, none":     {"solid x\nendsolid x\n", "an STL file without triangles"},
		"solid prose":         {"solid gold\n", "plain text"},
		"PLY, no end":         {"ply\nformat ascii 1.0\nelement vertex 3\n", "truncated: the PLY header has no end"},
		"PLY, cut":            {string(ply("binary_little_endian", "element vertex 3", strings.Repeat("\x00", 36))), "truncated: the PLY header says at least 37 bytes of data, the file has 36"},
		"PLY, ASCII cut":      {string(ply("ascii", "element vertex 1000", "0 0 0\n")), "truncated: the PLY header says at least 2002 bytes of data, the file has 6"},
		"PLY, huge":           {string(ply("binary_big_endian", "element vertex 9223372036854775807", "")), "truncated: the PLY header says at least 18446744073709551615 bytes of data, the file has 0"},
		"PLY, none":           {string(ply("ascii", "element vertex 0", "3 0 0 0\n")), "a PLY file without vertices"},
		"PLY, negative":       {string(ply("ascii", "element vertex -1", "")), "a broken PLY file"},
		"PLY, odd format":     {string(ply("base64", "element vertex 3", strings.Repeat("x", 99))), "a PLY file of an unknown format"},
		"FBX, cut":            {string(fbx(7400, 3)[:70]), "truncated: an FBX record ends at 81 bytes, the file has 70"},
		"FBX, header only":    {string(fbx(7400, 3)[:27]), "truncated: the FBX file ends before its list of records does, at 27 bytes"},
		"FBX, half header":    {string(fbx(7400, 3)[:22]), "truncated: an FBX header takes 27 bytes, the file has 22"},
		"FBX, nothing":        {string(fbx(7700, 0)), "an FBX file with nothing in it"},
		"FBX, backwards":      {strings.Replace(string(fbx(7400, 1)), "\x36\x00\x00\x00", "\x1b\x00\x00\x00", 1), "a broken FBX file"},
		"ASCII FBX, cut":      {"; FBX 7.3.0 project file\nFBXHeader", "an FBX file without objects; it may be truncated"},
		"MP4, cut":            {string(mp4()[:40]), "truncated: a box of the MP4 file says 21 bytes, 20 are left"},
		"MP4, no film":        {box("ftyp", "isom\x00\x00\x02\x00"), "an MP4 file without a film in it"},
		"MP4, tiny box":       {box("ftyp", "isom\x00\x00\x02\x00") + "\x00\x00\x00\x07moov", "a broken MP4 file"},
		"MP4, huge box":       {box("ftyp", "isom") + "\x00\x00\x00\x01moov\xff\xff\xff\xff\xff\xff\xff\xff", "truncated: a box of the MP4 file says 18446744073709551615 bytes, 16 are left"},
		"ZIP, empty":          {string(archive(t)), "an empty ZIP archive"},
		"ZIP, cut":            {string(archive(t, "a.obj")[:60]), "a ZIP archive that is broken or truncated"},
		"ZIP, only the list":  {"PK\x03\x04" + string(archive(t, "a.obj")[30:]), "a ZIP archive that is broken or truncated"},
		"ZIP, entry too long": {string(longEntry(t)), "a ZIP archive that is broken or truncated"},
		"ZIP, too many":       {string(archive(t, manyNames()...)), "a ZIP archive of too many files"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := identify([]byte(tc.data))
			e, ok := errors.AsType[*meshfile.Error](err)
			if !ok || got != "" {
				t.Fatalf("got %q, %v", got, err)
			}
			if tc.looks != "" && e.Looks != tc.looks {
				t.Errorf("looks like %q,\nwant       %q", e.Looks, tc.looks)
			}
			if strings.Contains(err.Error(), "SECRET") {
				t.Errorf("the error repeats the content: %v", err)
			}
		})
	}
}

// longEntry returns an archive whose list gives an entry more bytes than there are.
func longEntry(t testing.TB) []byte {
	b := archive(t, "stored:a.obj")
	binary.LittleEndian.PutUint32(b[bytes.Index(b, []byte("PK\x01\x02"))+20:], 1<<20)
	return b
}

func manyNames() []string {
	names := make([]string, 5000)
	for i := range names {
		names[i] = fmt.Sprintf("stored:%01000d", i)
	}
	return names
}

// Of a file that says how long it is, no beginning passes.
func TestTruncations(t *testing.T) {
	t.Parallel()
	for name, whole := range map[string][]byte{
		"glb": goodGLB(t), "gltf": goodGLTF(t), "stl": stl(2, "solid"), "ply": ply("binary_little_endian", "element vertex 3", strings.Repeat("\x01", 37)),
		"zip": archive(t, "a.obj", "b.mtl"), "usdz": archive(t, "stored:a.usdc"),
		"fbx": bytes.TrimSuffix(fbx(7400, 3), []byte("footer")),
		"mp4": []byte(box("ftyp", "isom\x00\x00\x02\x00") + box("moov", "what is in it")),
	} {
		if _, err := identify(whole); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for n := range whole {
			if got, err := identify(whole[:n]); err == nil {
				t.Errorf("the first %d bytes of a %s of %d pass as %q", n, name, len(whole), got)
			} else if _, ok := errors.AsType[*meshfile.Error](err); !ok {
				t.Errorf("the first %d bytes of a %s: %T %v", n, name, err, err)
			}
		}
	}
}

// What a file says of itself must not decide how much memory it takes.
func TestMemory(t *testing.T) {
	objects := `{"asset":{"version":"2.0"},"nodes":[` + strings.Repeat("{},", 5<<20) + `{}]}`
	numbers := `{"asset":{"version":"2.0"},"extras":[` + strings.Repeat("0,", 8<<20-100) + `0]}`
	huge := damaged(t, func(m map[string]any) {
		m["buffers"].([]any)[0].(map[string]any)["byteLength"] = int64(1)<<32 + 4
		m["accessors"].([]any)[0].(map[string]any)["count"] = int64(1) << 40
	})
	for name, tc := range map[string]struct {
		data []byte
		most uint64
	}{
		"lying lengths":   {huge, 1 << 20},
		"many objects":    {glb("JSON" + objects), 20 << 20},
		"many values":     {glb("JSON" + numbers), 20 << 20},
		"long JSON":       {glb("JSON" + strings.Repeat(" ", 40<<20)), 1 << 20},
		"PLY":             {ply("ascii", "element vertex 9223372036854775807", ""), 1 << 20},
		"a line of text":  {[]byte(strings.Repeat("v", 20<<20)), 1 << 20},
		"a list of files": {zip64(1<<30/30 - 100), 1 << 20},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r := io.ReaderAt(bytes.NewReader(tc.data))
		size := int64(len(tc.data))
		if name == "a list of files" {
			r, size = sparse{tc.data, 1 << 30}, 1<<30
		}
		_, err := meshfile.Identify(r, size)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: passes", name)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > tc.most {
			t.Errorf("%s: %d bytes allocated, want at most %d (%v)", name, took, tc.most, err)
		}
	}
}

// zip64 returns the end of an archive that claims so many files.
func zip64(files uint64) []byte {
	le := binary.LittleEndian
	end := append([]byte("PK\x06\x06"), make([]byte, 52)...)
	le.PutUint64(end[32:], files)
	le.PutUint64(end[40:], 46) // the list's size
	locator := append([]byte("PK\x06\x07"), make([]byte, 16)...)
	le.PutUint64(locator[8:], 1<<30-22-20-56)
	le.PutUint32(locator[16:], 1)
	last := append([]byte("PK\x05\x06"), make([]byte, 18)...)
	le.PutUint16(last[10:], 0xffff)
	return append(append(end, locator...), last...)
}

// sparse is a file of zeros with a ZIP's first bytes in front and a tail.
type sparse struct {
	tail []byte
	size int64
}

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for i := range p {
		switch at := off + int64(i); {
		case at < 4:
			p[i] = "PK\x03\x04"[at]
		case at >= s.size:
			return i, io.EOF
		case at >= s.size-int64(len(s.tail)):
			p[i] = s.tail[at-s.size+int64(len(s.tail))]
		}
	}
	return len(p), nil
}

// faulty fails to read beyond its first bytes.
type faulty struct {
	data []byte
	ok   int
}

var errDisk = errors.New("disk on fire")

func (f faulty) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > int64(f.ok) {
		return 0, errDisk
	}
	return bytes.NewReader(f.data).ReadAt(p, off)
}

// A failed read is not the file's fault, and must not look like it.
func TestReadErrors(t *testing.T) {
	t.Parallel()
	pad := strings.Repeat("# comment\n", 10_000)
	for name, data := range map[string][]byte{
		"glb":       damaged(t, func(m map[string]any) { m["extras"] = strings.Repeat("x", 10_000) }),
		"gltf":      bytes.Replace(goodGLTF(t), []byte("{"), append([]byte("{"), bytes.Repeat([]byte(" "), 10_000)...), 1),
		"obj":       []byte(pad + "v 0 0 0\nf 1 2 3\n"),
		"stl":       []byte(strings.Replace(asciiSTL, "\n", "\n"+pad, 1)),
		"ply":       ply("ascii", strings.Repeat("comment\n", 10_000)+"element vertex 3", "0 0 0\n"),
		"zip":       append([]byte("PK\x03\x04"), bytes.Repeat([]byte("x"), 10_000)...),
		"fbx":       append(fbx(7400, 300), make([]byte, 10_000)...),
		"fbx ascii": []byte("; FBX 7.3\n" + strings.Repeat(pad, 2) + "Objects: {\n"),
		"mp4":       []byte(box("ftyp", "isom") + box("free", pad) + box("moov", "x")),
	} {
		_, err := meshfile.Identify(faulty{data, 4096}, int64(len(data)))
		if _, ok := errors.AsType[*meshfile.Error](err); ok || !errors.Is(err, errDisk) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := meshfile.Identify(faulty{data, 0}, int64(len(data))); !errors.Is(err, errDisk) {
			t.Errorf("%s, at once: %v", name, err)
		}
	}
	if _, err := meshfile.Identify(strings.NewReader("glTF"), 100); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("shorter than said: %v", err)
	}
}

func TestMediaType(t *testing.T) {
	t.Parallel()
	for f, want := range map[meshfile.Format]string{
		meshfile.GLB: "model/gltf-binary", meshfile.GLTF: "model/gltf+json", meshfile.OBJ: "model/obj", meshfile.STL: "model/stl",
		meshfile.USDZ: "model/vnd.usdz+zip", meshfile.ZIP: "application/zip", meshfile.MP4: "video/mp4",
		meshfile.PLY: "application/octet-stream", meshfile.FBX: "application/octet-stream", meshfile.USD: "application/octet-stream", "": "application/octet-stream",
	} {
		if got := meshfile.MediaType(f); got != want {
			t.Errorf("%q: got %s, want %s", f, got, want)
		}
	}
}

func FuzzIdentify(f *testing.F) {
	for _, tc := range good(f) {
		if len(tc.data) < 10_000 {
			f.Add(tc.data)
		}
	}
	f.Add([]byte(`{"asset":{"version":"2.0"},"buffers":[null],"meshes":[{"primitives":[null]}]}`))
	f.Add(glb(`JSON{"asset":{"version":"2.0"},"buffers":[null]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := identify(b)
		if _, ok := errors.AsType[*meshfile.Error](err); (err == nil) == (got == "") || err != nil && !ok {
			t.Errorf("got %q, %v", got, err)
		}
	})
}
