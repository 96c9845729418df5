package meshfile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"path"
	"strconv"
	"strings"
)

// isBinarySTL goes by the length, since the 80 bytes of header may say
// anything, "solid" included: 50 bytes for each triangle follow their number.
func isBinarySTL(f *file) bool {
	n := stlTriangles(f)
	return n > 0 && 84+50*n == f.size
}

func stlTriangles(f *file) int64 {
	if len(f.head) < 84 {
		return 0
	}
	return int64(binary.LittleEndian.Uint32(f.head[80:]))
}

// zipBudget bounds what is read to list an archive, and thereby the memory
// that its list takes.
const zipBudget = 4 << 20

// zipEntry is the least that one file takes in an archive's list.
const zipEntry = 46

var errBudget = errors.New("too much to read")

// budget is a ReaderAt that gives up after so many bytes. It is not safe for
// concurrent use.
type budget struct {
	r    io.ReaderAt
	left int64
	err  error // the first that r returned, other than the end
}

func (b *budget) ReadAt(p []byte, off int64) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errBudget
	}
	if off < 0 { // what a broken archive leads to is not a failed read
		return 0, zip.ErrFormat
	}
	n, err := b.r.ReadAt(p, off)
	// The end record of a large archive. What it gives as the number of files
	// is allocated ahead, if the file is as large as so many would make it.
	if n >= 40 && string(p[:4]) == "PK\x06\x06" && binary.LittleEndian.Uint64(p[32:]) > zipBudget/zipEntry {
		return 0, errBudget
	}
	if err != nil && !errors.Is(err, io.EOF) && b.err == nil {
		b.err = err
	}
	return n, err
}

// checkZIP reads the central directory and the place of each entry, not the
// entries: what they expand to is not bounded by anything here.
func checkZIP(f *file) (Format, error) {
	b := &budget{r: f.r, left: zipBudget}
	archive, err := zip.NewReader(b, f.size)
	switch {
	case b.err != nil:
		return "", b.err
	case errors.Is(err, errBudget):
		return "", looks("a ZIP archive of too many files")
	case err != nil && !errors.Is(err, zip.ErrInsecurePath): // no name is used
		return "", looks("a ZIP archive that is broken or truncated")
	case len(archive.File) == 0:
		return "", looks("an empty ZIP archive")
	}
	var first *zip.File
	begin := int64(math.MaxInt64)
	for _, e := range archive.File {
		at, err := e.DataOffset()
		switch {
		case b.err != nil:
			return "", b.err
		case errors.Is(err, errBudget):
			return "", looks("a ZIP archive of too many files")
		case err != nil, at < 0, at > f.size, e.CompressedSize64 > uint64(f.size-at):
			return "", looks("a ZIP archive that is broken or truncated")
		}
		if at < begin {
			first, begin = e, at
		}
	}
	// USDZ specification, "File Layout": the first file is the default layer,
	// and nothing is compressed.
	switch strings.ToLower(path.Ext(first.Name)) {
	case ".usd", ".usda", ".usdc":
		if first.Method == zip.Store {
			return USDZ, nil
		}
	}
	return ZIP, nil
}

// checkFBX walks the top-level records of a binary FBX, each of which says
// where it ends, up to the empty one that closes the list.
func checkFBX(f *file) error {
	const header = 27 // the words, two more bytes, the version
	if f.size < header {
		return truncated("an FBX header takes %d bytes, the file has %d", header, f.size)
	}
	wide := binary.LittleEndian.Uint32(f.head[23:]) >= 7500
	at := int64(header)
	for range 10_000 {
		n := int64(13)
		if wide {
			n = 25
		}
		if f.size-at < n {
			return truncated("the FBX file ends before its list of records does, at %d bytes", f.size)
		}
		h, err := f.bytes(at, n)
		if err != nil {
			return err
		}
		end := uint64(binary.LittleEndian.Uint32(h))
		if wide {
			end = binary.LittleEndian.Uint64(h)
		}
		switch {
		case end == 0 && at == header:
			return looks("an FBX file with nothing in it")
		case end == 0:
			return nil
		case end > uint64(f.size):
			return truncated("an FBX record ends at %d bytes, the file has %d", end, f.size)
		case end < uint64(at+n):
			return looks("a broken FBX file")
		}
		at = int64(end)
	}
	return looks("a broken FBX file")
}

func checkFBXText(f *file) error {
	if !isText(f.head) {
		return looks("a broken FBX file")
	}
	in := &faults{r: f.section(0)}
	for line := range lines(in, false) {
		if bytes.HasPrefix(line, []byte("Objects:")) {
			return nil
		}
	}
	if in.err != nil {
		return in.err
	}
	return looks("an FBX file without objects; it may be truncated")
}

// isMP4 takes the whole family of ISO base media files.
func isMP4(f *file) bool { return len(f.head) >= 12 && string(f.head[4:8]) == "ftyp" }

// checkMP4 walks the top-level boxes. Those that hold the film's description
// must be there, and none may reach beyond the file.
func checkMP4(f *file) error {
	switch brand := string(f.head[8:12]); brand {
	case "avif", "avis":
		return looks("an AVIF image")
	case "heic", "heix", "heim", "heis", "hevc", "mif1", "msf1":
		return looks("a HEIF image")
	}
	at, moov := int64(0), false
	for range 10_000 {
		if at == f.size {
			break
		}
		if f.size-at < 8 {
			return truncated("a box of the MP4 file takes 8 bytes, %d are left", f.size-at)
		}
		h, err := f.bytes(at, min(16, f.size-at))
		if err != nil {
			return err
		}
		n, least := uint64(binary.BigEndian.Uint32(h)), uint64(8)
		switch {
		case n == 0: // to the end of the file
			n = uint64(f.size - at)
		case n == 1 && len(h) == 16:
			n, least = binary.BigEndian.Uint64(h[8:]), 16
		}
		switch {
		case n < least:
			return looks("a broken MP4 file")
		case n > uint64(f.size-at):
			return truncated("a box of the MP4 file says %d bytes, %d are left", n, f.size-at)
		}
		moov = moov || string(h[4:8]) == "moov"
		at += int64(n)
	}
	if !moov {
		return looks("an MP4 file without a film in it")
	}
	return nil
}

// plyWidths are the sizes of the scalar types, by both sets of names.
var plyWidths = map[string]int64{
	"char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2,
	"int": 4, "uint": 4, "int32": 4, "uint32": 4, "float": 4, "float32": 4, "double": 8, "float64": 8,
}

const maxPLYHeader = 64 << 10

// checkPLY reads the header, and checks that the file can hold what it names:
// a list may be empty, so the sum is the least that it takes.
func checkPLY(f *file) error {
	head, err := f.bytes(0, min(f.size, maxPLYHeader))
	if err != nil {
		return err
	}
	var format string
	var vertices, count, need uint64
	whole := false
	at := int64(len(head)) // where the data begin
	for line := range lines(bytes.NewReader(head), false) {
		words := strings.Fields(string(line))
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "format":
			if len(words) == 3 {
				format = words[1]
			}
		case "element":
			if len(words) != 3 {
				return looks("a broken PLY file")
			}
			if count, err = strconv.ParseUint(words[2], 10, 63); err != nil {
				return looks("a broken PLY file")
			}
			if words[1] == "vertex" {
				vertices = count
			}
			if format == "ascii" {
				need = saturate(need, count, 2) // a digit and the line's end
			}
		case "property":
			width, ok := plyWidths[words[min(1, len(words)-1)]]
			if len(words) == 5 && words[1] == "list" {
				width, ok = plyWidths[words[2]]
			}
			if !ok {
				return looks("a broken PLY file")
			}
			if format != "ascii" {
				need = saturate(need, count, uint64(width))
			}
		case "end_header":
			whole = true
			at = int64(bytes.Index(head, []byte("end_header")) + len("end_header\n"))
		}
		if whole {
			break
		}
	}
	switch {
	case !whole:
		return truncated("the PLY header has no end")
	case format != "ascii" && format != "binary_little_endian" && format != "binary_big_endian":
		return looks("a PLY file of an unknown format")
	case vertices == 0:
		return looks("a PLY file without vertices")
	case need > uint64(max(f.size-at, 0)):
		return truncated("the PLY header says at least %d bytes of data, the file has %d", need, max(f.size-at, 0))
	}
	return nil
}

// saturate returns sum + a*b, or the largest number if that overflows.
func saturate(sum, a, b uint64) uint64 {
	if b != 0 && a > (math.MaxUint64-sum)/b {
		return math.MaxUint64
	}
	return sum + a*b
}
