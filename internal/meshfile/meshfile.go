// Package meshfile tells what a result file is by its content, whatever its
// name or media type say, and refuses what is broken or something else.
//
// It reads structure, not geometry: a file that passes is whole as far as its
// own lengths and offsets tell, and holds at least one mesh where the format
// lets that be seen cheaply. Memory and reading are bounded whatever the file
// claims of itself, because the file comes from outside.
package meshfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Format is a file format, by its usual extension without a dot.
type Format string

// The formats that Identify knows.
const (
	GLB  Format = "glb"  // binary glTF 2.0
	GLTF Format = "gltf" // glTF 2.0 as JSON; buffers outside are not looked for
	OBJ  Format = "obj"  // Wavefront
	STL  Format = "stl"  // binary or ASCII
	PLY  Format = "ply"  // binary or ASCII
	FBX  Format = "fbx"  // binary or ASCII
	USD  Format = "usd"  // bare usda or usdc
	USDZ Format = "usdz" // a ZIP archive that begins with a stored USD file
	ZIP  Format = "zip"  // any other ZIP archive
	MP4  Format = "mp4"  // MPEG-4 and QuickTime video
)

// MediaType returns the registered media type of a format, or
// application/octet-stream for those that have none (FBX, PLY, bare USD) and
// for unknown ones.
func MediaType(f Format) string {
	switch f {
	case GLB:
		return "model/gltf-binary"
	case GLTF:
		return "model/gltf+json"
	case OBJ:
		return "model/obj"
	case STL:
		return "model/stl"
	case USDZ:
		return "model/vnd.usdz+zip"
	case ZIP:
		return "application/zip"
	case MP4:
		return "video/mp4"
	}
	return "application/octet-stream"
}

// Error reports a file that is not a usable result.
type Error struct {
	// Looks says what the file looks like instead, in words that hold nothing
	// of its content: "an HTML page", "a PNG image", "empty", "truncated: the
	// GLB header says 1234 bytes, the file has 900".
	Looks string
}

// Error returns "not a usable result file: " and Looks.
func (e *Error) Error() string { return "not a usable result file: " + e.Looks }

func looks(format string, args ...any) error { return &Error{Looks: fmt.Sprintf(format, args...)} }

func truncated(format string, args ...any) error { return looks("truncated: "+format, args...) }

// headSize is how much of the beginning is looked at to choose a format.
const headSize = 4096

// Identify returns the format of the size bytes of r. Its error is an *Error
// if the file is at fault, and any other if reading failed. It is safe for
// concurrent use if r is.
func Identify(r io.ReaderAt, size int64) (Format, error) {
	if size <= 0 {
		return "", looks("empty")
	}
	f := &file{r: r, size: size}
	head, err := f.bytes(0, min(size, headSize))
	if err != nil {
		return "", err
	}
	f.head = head
	for _, k := range kinds {
		if k.is(f) {
			return k.check(f)
		}
	}
	return f.other()
}

// kind is a group of formats that shows itself in a file's first bytes.
type kind struct {
	is    func(*file) bool
	check func(*file) (Format, error)
}

var kinds = []kind{
	{begins("glTF"), as(GLB, checkGLB)},
	{begins("PK\x03\x04", "PK\x05\x06"), checkZIP},
	{begins("Kaydara FBX Binary"), as(FBX, checkFBX)},
	{begins("; FBX "), as(FBX, checkFBXText)},
	{begins("ply\n", "ply\r"), as(PLY, checkPLY)},
	{begins("#usda ", "PXR-USDC"), as(USD, accept)},
	{isMP4, as(MP4, checkMP4)},
	{isBinarySTL, as(STL, accept)},
	{isSTLText, as(STL, checkSTLText)},
}

// as makes f the format of what passes the check.
func as(f Format, check func(*file) error) func(*file) (Format, error) {
	return func(in *file) (Format, error) {
		if err := check(in); err != nil {
			return "", err
		}
		return f, nil
	}
}

func accept(*file) error { return nil }

func begins(prefixes ...string) func(*file) bool {
	return func(f *file) bool {
		for _, p := range prefixes {
			if bytes.HasPrefix(f.head, []byte(p)) {
				return true
			}
		}
		return false
	}
}

// file is what is being looked at.
type file struct {
	r    io.ReaderAt
	size int64
	head []byte // its first headSize bytes, or all of it
}

// bytes reads n bytes at off. The caller bounds n, and keeps to the size.
func (f *file) bytes(off, n int64) ([]byte, error) {
	b := make([]byte, n)
	got, err := f.r.ReadAt(b, off)
	if int64(got) == n {
		return b, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("read %d bytes at %d: %w", n, off, err)
}

// section returns a reader of the file from off to its end.
func (f *file) section(off int64) *io.SectionReader {
	return io.NewSectionReader(f.r, off, f.size-off)
}
