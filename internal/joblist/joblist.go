// Package joblist reads lists of jobs that people and scripts have written: JSON
// Lines in the fields of a request, or CSV with a header. A line that cannot be
// read does not end the list.
package joblist

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// Line is one job of a list. What is empty is left to whoever imports it.
type Line struct {
	// Number is the line's in the file, from 1.
	Number int
	// Err says why the line is no job. Then the rest is empty.
	Err error

	ID, Provider, Preset, Batch string
	Lane                        string
	// Options are JSON values, and OptionTexts those of a CSV file, as people
	// write them on a command line.
	Options     map[string]any
	OptionTexts map[string]string
	Formats     []string
	Labels      map[string]string
	// Exactly one of Path, URL and Object is set. A Path is as it was written.
	Path, URL, Object string
	MediaType, Name   string
}

// Format is how a list is written.
type Format string

// The formats.
const (
	JSONL Format = "jsonl"
	CSV   Format = "csv"
)

// maxLine bounds one line, or one record of a CSV file, in bytes: a request has
// at most 64 KiB.
const maxLine = 256 << 10

// Reader reads a list. It is not safe for concurrent use.
type Reader struct {
	r     *bufio.Reader
	lines func(yield func(Line) bool)
	err   error
}

// New begins to read a list. Format may be empty: then the first character
// decides, which is { in JSON Lines. The error is about the list as a whole, such
// as a column that is not known. An empty list is no error.
func New(r io.Reader, format Format) (*Reader, error) {
	l := &Reader{r: bufio.NewReaderSize(r, 64<<10)}
	if head, _ := l.r.Peek(3); bytes.Equal(head, []byte("\xef\xbb\xbf")) { // as spreadsheets write it
		_, _ = l.r.Discard(3) // was peeked
	}
	if format == "" {
		format = CSV
		head, err := l.r.Peek(1)
		for ; err == nil && strings.ContainsRune(" \t\r\n", rune(head[0])); head, err = l.r.Peek(1) {
			_, _ = l.r.Discard(1)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if len(head) == 0 || head[0] == '{' {
			format = JSONL
		}
	}
	switch format {
	case JSONL:
		l.lines = l.jsonLines
		return l, nil
	case CSV:
		return l, l.openCSV()
	}
	return nil, fmt.Errorf("the format is %q, must be jsonl or csv", format)
}

// Lines yields every line that is not empty. Read Err afterwards.
func (l *Reader) Lines() iter.Seq[Line] { return l.lines }

// Err is the error that ended the list early, such as one of reading the file.
func (l *Reader) Err() error { return l.err }

// next reads one line without its end. A line that is too long is passed over.
func (l *Reader) next() (line []byte, long bool, err error) {
	for {
		part, err := l.r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			long, line = true, nil
		} else if !long {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimRight(line, "\r\n"), long, err
		}
	}
}

func (l *Reader) jsonLines(yield func(Line) bool) {
	for n := 1; ; n++ {
		text, long, err := l.next()
		if err != nil && !errors.Is(err, io.EOF) {
			l.err = fmt.Errorf("line %d cannot be read: %w", n, err)
			return
		}
		switch {
		case long:
			if !yield(Line{Number: n, Err: fmt.Errorf("is longer than %d bytes", maxLine)}) {
				return
			}
		case len(bytes.TrimSpace(text)) > 0:
			line, bad := parseJSON(text)
			if bad != nil {
				line = Line{Err: bad}
			}
			line.Number = n
			if !yield(line) {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// jsonLine has the fields of a request, and what only a list has.
type jsonLine struct {
	Schema     string            `json:"schema"`
	ID         string            `json:"id"`
	Provider   string            `json:"provider"`
	Image      json.RawMessage   `json:"image"`
	Options    map[string]any    `json:"options"`
	Formats    []string          `json:"formats"`
	Batch      string            `json:"batch"`
	Labels     map[string]string `json:"labels"`
	EnqueuedAt time.Time         `json:"enqueued_at"` // of a request that was stored; set anew
	Preset     string            `json:"preset"`
	Lane       string            `json:"lane"`
}

type jsonImage struct {
	Object    string `json:"object"`
	URL       string `json:"url"`
	Path      string `json:"path"`
	MediaType string `json:"media_type"`
	Name      string `json:"name"`
}

func strict(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields() // a misspelt field must not become a default that costs money
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("is not a job: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("is not a job: something follows the JSON object")
	}
	return nil
}

func parseJSON(text []byte) (Line, error) {
	var j jsonLine
	if err := strict(text, &j); err != nil {
		return Line{}, err
	}
	if j.Schema != "" && j.Schema != jobs.RequestSchema {
		return Line{}, fmt.Errorf("has the schema %.40q, must be %q", j.Schema, jobs.RequestSchema)
	}
	line := Line{
		ID: j.ID, Provider: j.Provider, Preset: j.Preset, Batch: j.Batch, Lane: j.Lane,
		Options: j.Options, Formats: j.Formats, Labels: j.Labels,
	}
	var image jsonImage
	switch raw := bytes.TrimSpace(j.Image); {
	case len(raw) == 0 || bytes.Equal(raw, []byte("null")):
	case raw[0] == '"':
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return Line{}, errors.New("is not a job: image is not text")
		}
		image.guess(s)
	default:
		if err := strict(raw, &image); err != nil {
			return Line{}, err
		}
	}
	return line, image.into(&line)
}

var object = regexp.MustCompile(`^inputs/[0-9a-f]{64}\.[a-z0-9]{1,8}$`)

// guess tells what a text names that may be a URL, an object or a file.
func (m *jsonImage) guess(s string) {
	switch lower := strings.ToLower(s); {
	case strings.HasPrefix(lower, "http://"), strings.HasPrefix(lower, "https://"):
		m.URL = s
	case object.MatchString(s):
		m.Object = s
	default:
		m.Path = s
	}
}

func (m *jsonImage) into(l *Line) error {
	set := slices.DeleteFunc([]string{m.Object, m.URL, m.Path}, func(s string) bool { return s == "" })
	if len(set) != 1 {
		return fmt.Errorf("has %d images, must have one: a url, a path or an object of the bucket", len(set))
	}
	if m.Object != "" && !object.MatchString(m.Object) {
		return fmt.Errorf("names the object %.80q, must be inputs/<sha256>.<ext>", m.Object)
	}
	l.Path, l.URL, l.Object, l.MediaType, l.Name = m.Path, m.URL, m.Object, m.MediaType, m.Name
	return nil
}
