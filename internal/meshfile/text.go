package meshfile

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"iter"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// maxLine is how much of one line is looked at.
const maxLine = 64 << 10

// lines yields the lines of r, which may end in \n, \r or both, without their
// ends. With join, a backslash at the end joins a line with the next. What is
// beyond maxLine is dropped. The slice is valid until the next line. It ends at
// the first error of r.
func lines(r io.Reader, join bool) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		var line []byte
		for {
			c, err := in.ReadByte()
			switch {
			case err != nil:
				if len(line) > 0 {
					yield(line)
				}
				return
			case c != '\n' && c != '\r':
				if len(line) < maxLine {
					line = append(line, c)
				}
			case join && len(line) > 0 && line[len(line)-1] == '\\':
				line[len(line)-1] = ' '
				if next, _ := in.Peek(1); c == '\r' && len(next) == 1 && next[0] == '\n' {
					_, _ = in.Discard(1)
				}
			default:
				if !yield(line) {
					return
				}
				line = line[:0]
			}
		}
	}
}

// isText reports whether b holds no byte that texts do not.
func isText(b []byte) bool {
	return !bytes.ContainsFunc(b, func(r rune) bool { return r < ' ' && !strings.ContainsRune("\t\n\v\f\r\x1b", r) || r == 0x7f })
}

// faults remembers the error that lines leaves out.
type faults struct {
	r   io.Reader
	err error
}

func (f *faults) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

func isSTLText(f *file) bool {
	text := bytes.TrimSpace(bytes.TrimPrefix(f.head, []byte("\ufeff")))
	return len(text) >= 5 && bytes.EqualFold(text[:5], []byte("solid"))
}

// checkSTLText looks at the beginning and the end of an ASCII STL.
func checkSTLText(f *file) error {
	if !isText(f.head) {
		return f.brokenSTL()
	}
	begin := bytes.ToLower(f.head)
	tail, err := f.bytes(f.size-min(f.size, headSize), min(f.size, headSize))
	if err != nil {
		return err
	}
	ended := bytes.Contains(bytes.ToLower(tail), []byte("endsolid"))
	switch {
	case bytes.Contains(begin, []byte("facet")) && bytes.Contains(begin, []byte("vertex")) && ended:
		return nil
	case bytes.Contains(begin, []byte("facet")):
		return truncated("the STL file has no endsolid")
	case ended:
		return looks("an STL file without triangles")
	}
	return looks("plain text")
}

// brokenSTL says what may be a binary STL of the wrong length.
func (f *file) brokenSTL() error {
	if n := stlTriangles(f); n > 0 && 84+50*n > f.size {
		return truncated("the STL header says %d triangles and so %d bytes, the file has %d", n, 84+50*n, f.size)
	}
	return looks("an STL file of a wrong length or without triangles")
}

// other deals with files that have no magic bytes, and names what is no mesh.
func (f *file) other() (Format, error) {
	if name := foreign(f.head); name != "" {
		return "", looks("%s", name)
	}
	if !isText(f.head) {
		header := bytes.TrimRight(f.head[:min(80, len(f.head))], "\x00")
		if len(f.head) >= 84 && isText(header) && 84+50*stlTriangles(f) > f.size {
			return "", f.brokenSTL()
		}
		return "", looks("unknown binary data")
	}
	text := bytes.TrimSpace(bytes.TrimPrefix(f.head, []byte("\ufeff")))
	switch {
	case len(text) == 0:
		return "", looks("blank")
	case text[0] == '{':
		return as(GLTF, checkGLTF)(f)
	case text[0] == '[':
		return "", looks("a JSON document")
	case text[0] == '<':
		return "", looks("%s", markup(text))
	case text[0] == '"' && f.size < headSize:
		return "", looks("a JSON string")
	}
	return as(OBJ, checkOBJ)(f)
}

// signatures are the first bytes of files that servers give instead of meshes.
var signatures = []struct{ begin, name string }{
	{"\x89PNG", "a PNG image"}, {"\xff\xd8\xff", "a JPEG image"}, {"GIF8", "a GIF image"},
	{"BM", "a BMP image"}, {"II*\x00", "a TIFF image"}, {"MM\x00*", "a TIFF image"},
	{"\x1aE\xdf\xa3", "a Matroska or WebM video"}, {"%PDF", "a PDF document"},
	{"\x1f\x8b", "gzip data"}, {"BZh", "bzip2 data"}, {"\xfd7zXZ", "xz data"}, {"\x28\xb5\x2f\xfd", "zstd data"},
	{"7z\xbc\xaf", "a 7-Zip archive"}, {"Rar!", "a RAR archive"}, {"\x7fELF", "a program"}, {"MZ", "a program"},
	{"BLENDER", "a Blender file"}, {"DRACO", "bare Draco data"},
}

func foreign(head []byte) string {
	if len(head) >= 12 && string(head[:4]) == "RIFF" {
		if string(head[8:12]) == "WEBP" {
			return "a WebP image"
		}
		return "a sound or AVI video"
	}
	if len(head) >= 262 && string(head[257:262]) == "ustar" {
		return "a tar archive"
	}
	for _, s := range signatures {
		// Two letters may begin any text.
		if bytes.HasPrefix(head, []byte(s.begin)) && (len(s.begin) > 2 || !isText(head)) {
			return s.name
		}
	}
	return ""
}

var errorCode = regexp.MustCompile(`<Code>([A-Za-z]{1,40})</Code>`)

// markup names a text that begins with <.
func markup(text []byte) string {
	lower := bytes.ToLower(text)
	has := func(tags ...string) bool {
		for _, t := range tags {
			if bytes.Contains(lower, []byte(t)) {
				return true
			}
		}
		return false
	}
	switch {
	case has("<!doctype html", "<html", "<head", "<body", "<script"):
		return "an HTML page"
	case has("<svg"):
		return "an SVG image"
	case has("<collada"):
		return "a COLLADA document"
	case has("<error"):
		// The code alone: what else object stores say repeats the signature.
		if m := errorCode.FindSubmatch(text); m != nil {
			return "an XML error document (" + string(m[1]) + ")"
		}
		return "an XML error document"
	}
	return "an XML document"
}

// checkOBJ looks for the first vertex and the first face. Any other line may
// be anything that is text, since writers add words of their own; but a text
// without a vertex early on is no OBJ.
func checkOBJ(f *file) error {
	const patience = 1000 // lines that are neither comments nor known words
	in := &faults{r: f.section(0)}
	vertices, strange := 0, 0
	seen := false // a face
	for line := range lines(in, true) {
		line = bytes.TrimSpace(bytes.TrimPrefix(line, []byte("\ufeff")))
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		word, rest, _ := bytes.Cut(bytes.ReplaceAll(line, []byte("\t"), []byte(" ")), []byte(" "))
		switch string(word) {
		case "v":
			if vertices++; vertices == 1 && !isVertex(rest) {
				return looks("plain text")
			}
		case "f":
			if seen = isFace(rest); !seen {
				return looks("an OBJ file with a broken face; it may be truncated")
			}
		case "vt", "vn", "vp", "g", "o", "s", "l", "p", "mtllib", "usemtl":
		default:
			strange++
		}
		if seen || vertices == 0 && strange > patience || !isText(line) {
			break
		}
	}
	switch {
	case in.err != nil:
		return in.err
	case vertices > 0 && seen:
		return nil
	case vertices > 0:
		return looks("an OBJ file without faces; it may be truncated")
	}
	return looks("plain text")
}

func isVertex(rest []byte) bool {
	words := bytes.Fields(rest)
	if len(words) < 3 {
		return false
	}
	for _, w := range words[:3] {
		if v, err := strconv.ParseFloat(string(w), 64); err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
			return false
		}
	}
	return true
}

// isFace takes v, v/vt, v//vn and v/vt/vn, each at least three times.
func isFace(rest []byte) bool {
	words := bytes.Fields(rest)
	for _, w := range words {
		if i := bytes.IndexByte(w, '/'); i >= 0 {
			w = w[:i]
		}
		if n, err := strconv.Atoi(string(w)); err != nil || n == 0 {
			return false
		}
	}
	return len(words) >= 3
}
