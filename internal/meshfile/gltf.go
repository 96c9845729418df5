package meshfile

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/qmuntal/gltf"
)

// Bounds on the JSON of a glTF, which is decoded in memory. What a converter
// writes for one object takes some kilobytes; buffers inside the JSON take more.
const (
	maxGLBJSON  = 16 << 20
	maxGLTFJSON = 64 << 20
	// The decoded form of {} takes some hundred bytes, and of a number about
	// forty, so that small JSON could fill much memory.
	maxObjects = 100_000
	maxValues  = 1_000_000
)

const (
	chunkJSON = 0x4e4f534a // "JSON"
	chunkBIN  = 0x004e4942 // "BIN\0"
)

// checkGLB reads the container (glTF 2.0 specification, section "GLB File
// Format Specification") and checks the document within.
func checkGLB(f *file) error {
	if f.size < 12 {
		return truncated("a GLB header takes 12 bytes, the file has %d", f.size)
	}
	if v := binary.LittleEndian.Uint32(f.head[4:]); v != 2 {
		return looks("a GLB file of version %d, where only 2 can be used", v)
	}
	if n := int64(binary.LittleEndian.Uint32(f.head[8:])); n > f.size {
		return truncated("the GLB header says %d bytes, the file has %d", n, f.size)
	} else if n < f.size {
		return looks("a GLB file with something behind it: the header says %d bytes, the file has %d", n, f.size)
	}
	var text []byte
	bin := int64(0) // the length of the binary chunk, if there is one
	at := int64(12)
	for i := 0; at < f.size; i++ {
		if f.size-at < 8 {
			return truncated("a GLB chunk's header takes 8 bytes, %d are left", f.size-at)
		}
		h, err := f.bytes(at, 8)
		if err != nil {
			return err
		}
		n, kind := int64(binary.LittleEndian.Uint32(h)), binary.LittleEndian.Uint32(h[4:])
		if at += 8; n > f.size-at {
			return truncated("a GLB chunk says %d bytes, %d are left", n, f.size-at)
		}
		switch {
		case i == 0 && kind != chunkJSON:
			return looks("a GLB file that does not begin with its JSON chunk")
		case i == 0 && n > maxGLBJSON:
			return looks("a GLB file with %d bytes of JSON, more than the %d that are read", n, maxGLBJSON)
		case i == 0:
			if text, err = f.bytes(at, n); err != nil {
				return err
			}
		case i == 1 && kind == chunkBIN:
			bin = n
		case i > 64: // readers skip chunks they do not know; a file full of empty ones is no mesh
			return looks("a GLB file of too many chunks")
		}
		at += n
	}
	if text == nil {
		return truncated("the GLB file ends before its JSON chunk")
	}
	doc, err := decodeGLTF(text)
	if err != nil {
		return looks("a GLB file with %v", err)
	}
	if err := checkDocument(doc, bin); err != nil {
		return looks("a GLB file with %v", err)
	}
	return nil
}

// checkGLTF checks a JSON document, which may be no glTF at all.
func checkGLTF(f *file) error {
	if f.size > maxGLTFJSON {
		return looks("a JSON document of %d bytes, more than the %d that are read", f.size, maxGLTFJSON)
	}
	text, err := f.bytes(0, f.size)
	if err != nil {
		return err
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if !json.Valid(text) {
		return looks("a JSON document that is broken or truncated")
	}
	var top struct {
		Asset *struct {
			Version string `json:"version"`
		} `json:"asset"`
	}
	if json.Unmarshal(text, &top) != nil || top.Asset == nil || top.Asset.Version == "" {
		return looks("a JSON document")
	}
	doc, err := decodeGLTF(text)
	if err != nil {
		return looks("a glTF document with %v", err)
	}
	if err := checkDocument(doc, 0); err != nil {
		return looks("a glTF document with %v", err)
	}
	return nil
}

// decodeGLTF decodes the JSON into the library's types, but not with the
// library's Decoder: that one allocates what a buffer's byteLength says and
// panics on a null among the buffers.
func decodeGLTF(text []byte) (doc *gltf.Document, err error) {
	objects, values := weigh(text)
	if objects > maxObjects || values > maxValues {
		return nil, fmt.Errorf("JSON of %d objects and %d values, more than are read", objects, values)
	}
	// Hooks for extensions, registered by other packages, run on this input too.
	defer func() {
		if p := recover(); p != nil {
			doc, err = nil, fmt.Errorf("JSON that cannot be read as glTF")
		}
	}()
	doc = new(gltf.Document)
	if json.Unmarshal(text, doc) != nil { // its error would quote the file
		return nil, fmt.Errorf("JSON that cannot be read as glTF")
	}
	return doc, nil
}

// weigh counts the objects and arrays, and the values, of a JSON text, valid or not.
func weigh(text []byte) (objects, values int) {
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			objects++
		case c == ',':
			values++
		}
	}
	return objects, values
}

// checkDocument checks that the document holds at least one mesh, and that
// every buffer, view and accessor lies within what it refers to. Bin is the
// length of the GLB's binary chunk.
func checkDocument(doc *gltf.Document, bin int64) error {
	if v := doc.Asset.Version; v != "2" && !strings.HasPrefix(v, "2.") {
		return fmt.Errorf("an asset version other than 2")
	}
	for i, b := range doc.Buffers {
		if b == nil || b.ByteLength <= 0 {
			return fmt.Errorf("buffer %d without a length", i)
		}
		have := int64(math.MaxInt64) // another file's, or an extension's
		switch {
		case b.URI == "" && i == 0:
			have = bin
		case b.URI == "" && len(b.Extensions) == 0:
			have = 0
		case strings.HasPrefix(b.URI, "data:"):
			have = dataLength(b.URI)
		}
		if int64(b.ByteLength) > have {
			return fmt.Errorf("buffer %d of %d bytes, of which it holds %d", i, b.ByteLength, have)
		}
	}
	for i, v := range doc.BufferViews {
		if v == nil || v.Buffer < 0 || v.Buffer >= len(doc.Buffers) ||
			!within(v.ByteOffset, v.ByteLength, doc.Buffers[v.Buffer].ByteLength) || v.ByteStride < 0 {
			return fmt.Errorf("buffer view %d out of bounds", i)
		}
	}
	for i, a := range doc.Accessors {
		if a == nil || !accessorFits(doc, a) {
			return fmt.Errorf("accessor %d out of bounds", i)
		}
	}
	meshes := 0
	for i, m := range doc.Meshes {
		if m == nil {
			return fmt.Errorf("an empty mesh %d", i)
		}
		for _, p := range m.Primitives {
			ok, err := checkPrimitive(doc, p)
			if err != nil {
				return fmt.Errorf("a broken mesh %d: %w", i, err)
			}
			if ok {
				meshes++
			}
		}
	}
	if meshes == 0 {
		return fmt.Errorf("no mesh in it")
	}
	return nil
}

// checkPrimitive reports whether p has vertices.
func checkPrimitive(doc *gltf.Document, p *gltf.Primitive) (bool, error) {
	if p == nil {
		return false, fmt.Errorf("an empty primitive")
	}
	for _, a := range p.Attributes {
		if a < 0 || a >= len(doc.Accessors) {
			return false, fmt.Errorf("there is no accessor %d", a)
		}
	}
	if i := p.Indices; i != nil && (*i < 0 || *i >= len(doc.Accessors)) {
		return false, fmt.Errorf("there is no accessor %d", *i)
	}
	position, ok := p.Attributes[gltf.POSITION]
	return ok && doc.Accessors[position].Count > 0, nil
}

func accessorFits(doc *gltf.Document, a *gltf.Accessor) bool {
	// Without the padding that some types have between elements, so that no
	// file is refused for lacking it at the end.
	size := a.ComponentType.ByteSize() * a.Type.Components()
	if a.BufferView != nil && !elementsFit(doc, *a.BufferView, a.ByteOffset, a.Count, size) {
		return false
	}
	if s := a.Sparse; s != nil {
		return s.Count <= a.Count &&
			elementsFit(doc, s.Indices.BufferView, s.Indices.ByteOffset, s.Count, s.Indices.ComponentType.ByteSize()) &&
			elementsFit(doc, s.Values.BufferView, s.Values.ByteOffset, s.Count, size)
	}
	return a.Count >= 0
}

func elementsFit(doc *gltf.Document, view, offset, count, size int) bool {
	if view < 0 || view >= len(doc.BufferViews) || count < 0 {
		return false
	}
	v := doc.BufferViews[view]
	if count == 0 {
		return within(offset, 0, v.ByteLength)
	}
	stride := max(v.ByteStride, size)
	// By division: the product of two foreign numbers may overflow.
	if count-1 > v.ByteLength/stride {
		return false
	}
	return within(offset, (count-1)*stride+size, v.ByteLength)
}

// within reports whether length bytes at offset lie within total.
func within(offset, length, total int) bool {
	return offset >= 0 && length >= 0 && offset <= total && length <= total-offset
}

// dataLength returns how many bytes a data URI holds, at most.
func dataLength(uri string) int64 {
	head, data, ok := strings.Cut(uri, ",")
	if !ok {
		return 0
	}
	if strings.HasSuffix(head, ";base64") {
		return int64(len(strings.TrimRight(data, "="))) * 3 / 4
	}
	return int64(len(data))
}
