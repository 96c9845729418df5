package download

import (
	"cmp"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// File is a file of a job's result.
type File struct {
	ID  string // of the job
	Key string // in the bucket
	URI string
	// Name is where it belongs below the folder, with slashes. It is safe: no
	// part of it leads out of the folder.
	Name string
	// SHA256 is empty for a file whose hash nobody has recorded.
	SHA256 string
	Size   int64
}

// Files lists the files of a job: its outputs, of some formats if any are
// given, and its manifest if that is wanted.
func Files(r *jobs.Record, formats []string, manifest bool) []File {
	base := baseName(r)
	var list []File
	for _, o := range r.Outputs {
		if len(formats) > 0 && !slices.Contains(formats, o.Format) {
			continue
		}
		name := base
		// A second file of a format keeps its own name behind the image's.
		if own := strings.TrimSuffix(path.Base(o.Key), path.Ext(o.Key)); own != r.ID {
			name += "." + safePart(own)
		}
		ext := path.Ext(o.Key)
		list = append(list, File{ID: r.ID, Key: o.Key, URI: o.URI, Name: name + safeExt(cmp.Or(ext, "."+o.Format)), SHA256: o.SHA256, Size: o.SizeBytes})
	}
	if manifest && r.Manifest != "" {
		list = append(list, File{ID: r.ID, Key: r.Manifest, URI: r.Manifest, Name: base + ".manifest.json"})
	}
	return list
}

// baseName is the safe name of a job's image without its extension, or the
// job's id if the image has none.
func baseName(r *jobs.Record) string {
	name := r.Request.Image.Name
	if u, err := url.Parse(name); name == "" || err == nil && u.Host != "" {
		if name == "" {
			u, err = url.Parse(r.Request.Image.URL)
		}
		if err == nil && u != nil {
			name = path.Base(u.Path)
		}
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		if part = safePart(part); part != "" {
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return r.ID
	}
	last := len(parts) - 1
	for _, ext := range []string{".png", ".jpg", ".jpeg", ".webp"} {
		if s := parts[last]; len(s) > len(ext) && strings.EqualFold(s[len(s)-len(ext):], ext) {
			parts[last] = s[:len(s)-len(ext)]
			break
		}
	}
	const depth = 32
	return strings.Join(parts[max(0, len(parts)-depth):], "/")
}

// maxPart bounds a part of a name in bytes; file systems take 255, of which the
// names of parts that are being written and ids need some.
const maxPart = 160

// reserved are the names that Windows keeps for devices.
var reserved = []string{
	"con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9",
	"lpt1", "lpt2", "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
}

// safePart makes one part of a path that every file system takes, and that no
// command takes for a flag; empty if nothing is left of it.
func safePart(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r), strings.ContainsRune(`/\:*?"<>|`, r):
			return '_'
		}
		return r
	}, strings.ToValidUTF8(s, "_"))
	s = strings.TrimRight(strings.TrimSpace(s), ". ")
	for strings.HasPrefix(s, ".") || strings.HasPrefix(s, "-") {
		s = "_" + strings.TrimLeft(s, ".-")
	}
	if len(s) > maxPart {
		s = strings.TrimRight(strings.ToValidUTF8(s[:maxPart], ""), ". ")
	}
	if stem, _, _ := strings.Cut(s, "."); slices.Contains(reserved, strings.ToLower(stem)) {
		s = "_" + s
	}
	if strings.Trim(s, "_") == "" {
		return ""
	}
	return s
}

// safeExt is an extension of letters and digits.
func safeExt(ext string) string {
	ext = strings.Map(func(r rune) rune {
		if r == '.' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, ext)
	return ext[:min(len(ext), 16)]
}
