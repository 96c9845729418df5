// Package picture recognises the images that can be converted, by their
// content, and finds them in folders. It decodes headers only: it never holds
// the pixels of an image.
package picture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"io"
	"os"

	"golang.org/x/image/webp"
)

// Info is what the content of an image says about it.
type Info struct {
	MediaType     string // "image/png", "image/jpeg" or "image/webp"
	Ext           string // "png", "jpg" or "webp", without a dot
	Width, Height int    // in pixels
}

// Limits bound the images that are taken.
type Limits struct {
	MaxBytes         int64
	MinSide, MaxSide int // in pixels, each of width and height
}

// DefaultLimits are wide enough for any photograph. Neither provider documents
// limits of its own.
var DefaultLimits = Limits{MaxBytes: 20 << 20, MinSide: 16, MaxSide: 16384}

// Error is returned for content that is not an image that can be converted.
// Its text completes the sentence that begins with the image's name.
type Error struct{ Problem string }

// Error returns the problem.
func (e *Error) Error() string { return e.Problem }

func errorf(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// The beginnings of the formats that can be converted.
const (
	pngMagic  = "\x89PNG\r\n\x1a\n"
	jpegMagic = "\xff\xd8\xff"
)

// Looks reports whether content that begins with head claims to be an image
// that can be converted. It needs 12 bytes.
func Looks(head []byte) bool {
	return hasPrefix(head, pngMagic) || hasPrefix(head, jpegMagic) || isWebP(head)
}

func isWebP(head []byte) bool {
	return len(head) >= 12 && string(head[:4]) == "RIFF" && string(head[8:12]) == "WEBP"
}

func hasPrefix(b []byte, prefix string) bool { return bytes.HasPrefix(b, []byte(prefix)) }

// Identify recognises an image by its content. It finds files that were cut
// off where that is cheap; it does not decode the pixels. Its error is an
// *Error.
func Identify(data []byte, limits Limits) (Info, error) {
	if int64(len(data)) > limits.MaxBytes {
		return Info{}, tooLarge(int64(len(data)), limits)
	}
	var (
		info   Info
		decode func(io.Reader) (image.Config, error)
		whole  func([]byte) bool
	)
	switch {
	case len(data) == 0:
		return Info{}, errorf("is empty")
	case hasPrefix(data, pngMagic):
		info, decode, whole = Info{MediaType: "image/png", Ext: "png"}, png.DecodeConfig, wholePNG
	case hasPrefix(data, jpegMagic):
		info, decode, whole = Info{MediaType: "image/jpeg", Ext: "jpg"}, jpeg.DecodeConfig, wholeJPEG
	case isWebP(data):
		info, decode, whole = Info{MediaType: "image/webp", Ext: "webp"}, webp.DecodeConfig, wholeWebP
	default:
		return Info{}, errorf("is not a PNG, JPEG or WebP image: %s", resembles(data))
	}
	kind := map[string]string{"png": "PNG", "jpg": "JPEG", "webp": "WebP"}[info.Ext]
	c, err := decode(bytes.NewReader(data))
	cut := !whole(data)
	switch {
	case err != nil && cut, err == nil && cut:
		return Info{}, errorf("is a %s image that was cut off: its end is missing", kind)
	case err != nil:
		return Info{}, errorf("is a damaged %s image: %s", kind, clip(err.Error()))
	case c.Width < limits.MinSide || c.Height < limits.MinSide:
		return Info{}, errorf("is %d×%d pixels, each side must be at least %d", c.Width, c.Height, limits.MinSide)
	case c.Width > limits.MaxSide || c.Height > limits.MaxSide:
		return Info{}, errorf("is %d×%d pixels, each side must be at most %d", c.Width, c.Height, limits.MaxSide)
	}
	info.Width, info.Height = c.Width, c.Height
	return info, nil
}

func tooLarge(n int64, limits Limits) error {
	return errorf("has %d bytes, at most %d are taken", n, limits.MaxBytes)
}

func clip(s string) string {
	const most = 100
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// Read reads an image from a regular file, following symbolic links, and
// identifies it. It holds at most limits.MaxBytes.
func Read(path string, limits Limits) ([]byte, Info, error) {
	// Looked at before it is opened: opening a named pipe would block.
	st, err := os.Stat(path)
	if err != nil {
		return nil, Info{}, unwrapPath(err)
	}
	switch {
	case st.IsDir():
		return nil, Info{}, errorf("is a folder, not an image")
	case !st.Mode().IsRegular():
		return nil, Info{}, errorf("is not a regular file")
	case st.Size() > limits.MaxBytes:
		return nil, Info{}, tooLarge(st.Size(), limits)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, Info{}, unwrapPath(err)
	}
	defer f.Close()
	var buf bytes.Buffer
	buf.Grow(int(st.Size()) + bytes.MinRead)
	if _, err := buf.ReadFrom(io.LimitReader(f, limits.MaxBytes+1)); err != nil {
		return nil, Info{}, unwrapPath(err)
	}
	info, err := Identify(buf.Bytes(), limits)
	if err != nil {
		return nil, Info{}, err
	}
	return buf.Bytes(), info, nil
}

// unwrapPath takes operation and path off an error of package os: the caller
// names the file in its own way.
func unwrapPath(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		if errors.Is(p.Err, os.ErrNotExist) {
			return &missing{p.Err}
		}
		return fmt.Errorf("cannot be read: %w", p.Err)
	}
	return err
}

type missing struct{ err error }

func (*missing) Error() string   { return "does not exist" }
func (m *missing) Unwrap() error { return m.err }

// wholePNG walks the chunks to IEND, as PNG (third edition), section 5 lays
// them out.
func wholePNG(data []byte) bool {
	for b := data[len(pngMagic):]; len(b) >= 12; {
		size := uint64(binary.BigEndian.Uint32(b))
		if size+12 > uint64(len(b)) {
			return false
		}
		if string(b[4:8]) == "IEND" {
			return true
		}
		b = b[size+12:]
	}
	return false
}

// wholeJPEG looks for the end-of-image marker after the first start-of-scan
// segment. Within a scan a 0xFF byte of data is always followed by a zero, so
// the marker cannot be data; before it, it may be the end of a thumbnail.
func wholeJPEG(data []byte) bool {
	b := data[2:]
	for len(b) >= 4 && b[0] == 0xff {
		marker := b[1]
		if marker == 0xff { // fill byte
			b = b[1:]
			continue
		}
		if marker == 0x01 || (marker >= 0xd0 && marker <= 0xd8) { // no length
			b = b[2:]
			continue
		}
		size := int(binary.BigEndian.Uint16(b[2:]))
		if size < 2 || size+2 > len(b) {
			return false
		}
		b = b[size+2:]
		if marker == 0xda {
			return bytes.Contains(b, []byte{0xff, 0xd9})
		}
	}
	return false
}

// wholeWebP compares the length in the RIFF header.
func wholeWebP(data []byte) bool {
	return uint64(binary.LittleEndian.Uint32(data[4:]))+8 <= uint64(len(data))
}

// resembles says what content that is no image begins like.
func resembles(data []byte) string {
	head := data[:min(len(data), 512)]
	for _, k := range []struct{ magic, what string }{
		{"%PDF", "a PDF"},
		{"GIF8", "a GIF image; convert it to PNG"},
		{"BM", "a BMP image; convert it to PNG"},
		{"II*\x00", "a TIFF image; convert it to PNG"},
		{"MM\x00*", "a TIFF image; convert it to PNG"},
		{"\x00\x00\x01\x00", "an icon; convert it to PNG"},
		{"8BPS", "a Photoshop document; export it as PNG"},
		{"glTF", "a binary glTF mesh"},
		{"PK\x03\x04", "a ZIP archive"},
		{"\x1f\x8b", "a gzip archive"},
		{"\x7fELF", "a program"},
	} {
		if hasPrefix(head, k.magic) {
			return "it begins like " + k.what
		}
	}
	if len(head) >= 12 && string(head[4:8]) == "ftyp" {
		switch string(head[8:12]) {
		case "avif", "avis":
			return "it begins like an AVIF image; convert it to PNG"
		case "heic", "heix", "mif1", "msf1", "heim", "heis", "hevc":
			return "it begins like a HEIC image; convert it to PNG"
		}
		return "it begins like a video"
	}
	lower := bytes.ToLower(bytes.TrimSpace(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf"))))
	switch {
	case bytes.Contains(lower, []byte("<svg")):
		return "it begins like an SVG drawing; convert it to PNG"
	case hasPrefix(lower, "<!doctype html"), hasPrefix(lower, "<html"):
		return "it begins like an HTML page"
	case hasPrefix(lower, "<?xml"):
		return "it begins like an XML document"
	case !bytes.ContainsFunc(head, func(r rune) bool { return r < '\t' || (r > '\r' && r < ' ') || r == 0xfffd }):
		return "it begins like text"
	}
	return "its beginning is unknown"
}
