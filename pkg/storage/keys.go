package storage

import (
	"fmt"
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// checkKey refuses keys that stores, and the file system under the embedded
// one, would take for something else.
func checkKey(op, key string) error {
	problem := ""
	switch {
	case key == "":
		problem = "is empty"
	case len(key) > 1024:
		problem = "is longer than 1024 bytes"
	case !utf8.ValidString(key) || strings.ContainsFunc(key, unicode.IsControl) || strings.Contains(key, `\`):
		problem = "holds a control character, a backslash or invalid UTF-8"
	case !fs.ValidPath(key) || key == ".":
		problem = "has an empty, . or .. segment"
	default:
		for part := range strings.SplitSeq(key, "/") {
			if len(part) > 255 {
				problem = "has a segment longer than 255 bytes"
			}
		}
	}
	if problem == "" {
		return nil
	}
	return jobs.Faultf(jobs.Permanent, "storage: "+op, "key %.60q %s", key, problem)
}

// safeName makes a file name that can stand in a header: ASCII letters, digits,
// dot, dash and underscore; at most 100 bytes, never empty, no leading dot. It
// keeps the extension of a name that is too long.
func safeName(name string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
			return r
		}
		return '_'
	}, name)
	clean = strings.TrimLeft(clean, ".")
	if len(clean) > 100 {
		ext := ""
		if i := strings.LastIndexByte(clean, '.'); i >= 0 && len(clean)-i <= 16 {
			ext = clean[i:]
		}
		clean = clean[:100-len(ext)] + ext
	}
	if clean == "" {
		return "file"
	}
	return clean
}

func checkMediaType(mediaType string) error {
	if len(mediaType) > 200 || strings.ContainsFunc(mediaType, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("media type %.60q is not printable ASCII of at most 200 bytes", mediaType)
	}
	return nil
}
