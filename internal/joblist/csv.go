package joblist

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// columns of a CSV file, besides option.NAME and label.KEY.
var columns = []string{
	"image", "url", "path", "object", "media_type", "name", "id", "provider", "preset", "formats", "batch", "lane",
}

// guard fails a read that takes too much for one record: a quote that is never
// closed would take the rest of the file.
type guard struct {
	r    io.Reader
	left int
}

var errLong = fmt.Errorf("a record is longer than %d bytes: is a quote not closed?", maxLine)

func (g *guard) Read(p []byte) (int, error) {
	if g.left <= 0 {
		return 0, errLong
	}
	n, err := g.r.Read(p[:min(len(p), g.left)])
	g.left -= n
	return n, err
}

// openCSV reads the header.
func (l *Reader) openCSV() error {
	g := &guard{r: l.r, left: 2 * maxLine}
	r := csv.NewReader(g)
	r.ReuseRecord = true
	head, err := r.Read()
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("it is empty, and a CSV file needs a header, such as: image,name,batch")
	case err != nil:
		return fmt.Errorf("its header cannot be read: %w", err)
	}
	names := make([]string, len(head))
	var errs []error
	for i, h := range head {
		names[i] = strings.TrimSpace(h)
		prefix, key, dotted := strings.Cut(names[i], ".")
		known := slices.Contains(columns, names[i]) || dotted && key != "" && (prefix == "option" || prefix == "label")
		switch {
		case !known:
			errs = append(errs, fmt.Errorf("the column %.40q is unknown, known are %s, option.NAME and label.KEY", names[i], strings.Join(columns, ", ")))
		case slices.Contains(names[:i], names[i]):
			errs = append(errs, fmt.Errorf("the column %.40q is there twice", names[i]))
		}
	}
	if !slices.ContainsFunc(columns[:4], func(c string) bool { return slices.Contains(names, c) }) {
		errs = append(errs, errors.New("no column names the image: image, url, path or object"))
	}
	l.lines = func(yield func(Line) bool) { l.records(r, g, names, yield) }
	return errors.Join(errs...)
}

func (l *Reader) records(r *csv.Reader, g *guard, names []string, yield func(Line) bool) {
	for {
		g.left = 2 * maxLine // what the reader holds in advance is less than one of them
		fields, err := r.Read()
		bad, isBad := errors.AsType[*csv.ParseError](err)
		var line Line
		switch {
		case errors.Is(err, io.EOF):
			return
		case isBad && errors.Is(err, csv.ErrFieldCount):
			line = Line{Number: bad.StartLine, Err: fmt.Errorf("has %d fields, the header has %d", len(fields), len(names))}
		case isBad:
			line = Line{Number: bad.StartLine, Err: fmt.Errorf("is not CSV: %w", bad.Err)}
		case err != nil:
			l.err = err
			return
		default:
			n, _ := r.FieldPos(0)
			if line, err = record(names, fields); err != nil {
				line = Line{Err: err}
			}
			line.Number = n
		}
		if !yield(line) {
			return
		}
	}
}

// record makes a line of the fields of a record. Empty fields are not there.
func record(names, fields []string) (Line, error) {
	var l Line
	var image jsonImage
	for i, v := range fields {
		v = strings.Clone(strings.TrimSpace(v)) // the reader uses the record again
		if v == "" {
			continue
		}
		switch names[i] {
		case "image":
			image.guess(v)
		case "url":
			image.URL = v
		case "path":
			image.Path = v
		case "object":
			image.Object = v
		case "media_type":
			image.MediaType = v
		case "name":
			image.Name = v
		case "id":
			l.ID = v
		case "provider":
			l.Provider = v
		case "preset":
			l.Preset = v
		case "batch":
			l.Batch = v
		case "lane":
			l.Lane = v
		case "formats":
			l.Formats = strings.FieldsFunc(v, func(r rune) bool { return strings.ContainsRune(",; ", r) })
		default:
			prefix, key, _ := strings.Cut(names[i], ".")
			to := &l.Labels
			if prefix == "option" {
				to = &l.OptionTexts
			}
			if *to == nil {
				*to = map[string]string{}
			}
			(*to)[key] = v
		}
	}
	return l, image.into(&l)
}
