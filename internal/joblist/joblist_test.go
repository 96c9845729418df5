package joblist_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshmill/meshmill/internal/joblist"
)

var key = "inputs/" + strings.Repeat("0a", 32) + ".png"

func TestLists(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text   string
		format joblist.Format
		want   []joblist.Line
		bad    map[int]string // errors by line
	}{
		"json lines": {
			text: `
{"schema":"meshmill.job.v1","id":"a","provider":"csm","image":{"url":"https://example.com/a.png","name":"a"},"options":{"resolution":"low_poly"},"formats":["glb"],"batch":"b","labels":{"k":"v"},"enqueued_at":"2026-01-01T00:00:00Z","lane":"interactive","preset":"base"}

{"image":"chairs/oak.png"}` + "\r\n" + `{"image":{"object":"` + key + `","media_type":"image/png"}}`,
			want: []joblist.Line{
				{Number: 1, ID: "a", Provider: "csm", URL: "https://example.com/a.png", Name: "a", Options: map[string]any{"resolution": "low_poly"},
					Formats: []string{"glb"}, Batch: "b", Labels: map[string]string{"k": "v"}, Lane: "interactive", Preset: "base"},
				{Number: 3, Path: "chairs/oak.png"},
				{Number: 4, Object: key, MediaType: "image/png"},
			},
		},
		"bad json lines": {
			format: joblist.JSONL,
			text: "{\"image\":\"a.png\"}\nhello\n{\"image\":\"a.png\",\"otpions\":{}}\n{}\n{\"image\":{\"url\":\"x\",\"path\":\"y\"}}\n" +
				"{\"image\":\"a\"} {}\n{\"schema\":\"other\",\"image\":\"a\"}\n{\"image\":7}\n{\"image\":{\"object\":\"x\"}}\n{\"image\":\"" + strings.Repeat("x", 300<<10) + "\"}\n{\"image\":\"b.png\"}",
			want: []joblist.Line{{Number: 1, Path: "a.png"}, {Number: 11, Path: "b.png"}},
			bad: map[int]string{
				2: "is not a job: invalid character 'h' looking for beginning of value", 3: `is not a job: unknown field "otpions"`,
				4: "has 0 images, must have one: a url, a path or an object of the bucket", 5: "has 2 images, must have one: a url, a path or an object of the bucket",
				6: "is not a job: something follows the JSON object", 7: `has the schema "other", must be "meshmill.job.v1"`,
				8: "is not a job: cannot unmarshal number into Go value of type joblist.jsonImage", 9: `names the object "x", must be inputs/<sha256>.<ext>`,
				10: "is longer than 262144 bytes",
			},
		},
		"csv": {
			text: "\xef\xbb\xbfimage,name,id,provider,preset,formats,batch,lane,option.resolution,label.sku\n" +
				"https://example.com/a.png,\"oak, old\",x,csm,base,glb obj,b,bulk,low_poly,7\nimg/a.png,,,,,,,,,\n" + key + ",,,,,,,,,\n",
			want: []joblist.Line{
				{Number: 2, URL: "https://example.com/a.png", Name: "oak, old", ID: "x", Provider: "csm", Preset: "base", Formats: []string{"glb", "obj"},
					Batch: "b", Lane: "bulk", OptionTexts: map[string]string{"resolution": "low_poly"}, Labels: map[string]string{"sku": "7"}},
				{Number: 3, Path: "img/a.png"},
				{Number: 4, Object: key},
			},
		},
		"bad csv lines": {
			text: "path,name\na.png,a\nb.png\n,empty\nc\"x,y\nd.png,d\n",
			want: []joblist.Line{{Number: 2, Path: "a.png", Name: "a"}, {Number: 6, Path: "d.png", Name: "d"}},
			bad: map[int]string{3: "has 1 fields, the header has 2", 4: "has 0 images, must have one: a url, a path or an object of the bucket",
				5: "is not CSV: bare \" in non-quoted-field"},
		},
		"empty": {text: ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := joblist.New(iotest.OneByteReader(strings.NewReader(tc.text)), tc.format)
			if err != nil {
				t.Fatal(err)
			}
			var got []joblist.Line
			bad := map[int]string{}
			for line := range l.Lines() {
				if line.Err != nil {
					bad[line.Number] = line.Err.Error()
					continue
				}
				got = append(got, line)
			}
			if tc.bad == nil {
				tc.bad = bad
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" || l.Err() != nil {
				t.Errorf("error %v, lines (-want +got):\n%s", l.Err(), diff)
			}
			if diff := cmp.Diff(tc.bad, bad); diff != "" {
				t.Errorf("bad lines (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadHeaders(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"image,colour\n":                         `the column "colour" is unknown, known are image, url,`,
		"image,image\n":                          `the column "image" is there twice`,
		"name,batch\n":                           "no column names the image: image, url, path or object",
		"image,option.\n":                        `the column "option." is unknown`,
		"\"image" + strings.Repeat("x", 600<<10): "its header cannot be read: a record is longer than 262144 bytes: is a quote not closed?",
	} {
		_, err := joblist.New(strings.NewReader(text), joblist.CSV)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("header %.30q: error %v, want %s", text, err, want)
		}
	}
	if _, err := joblist.New(strings.NewReader(""), joblist.CSV); err == nil {
		t.Error("an empty CSV file has no header")
	}
	if _, err := joblist.New(strings.NewReader(""), "xml"); err == nil {
		t.Error("the format xml was taken")
	}
}

func TestBrokenReader(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, text := range []string{"{\"image\":\"a\"}\n{", "image\na\n"} {
		l, err := joblist.New(io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken)), "")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for range l.Lines() {
			n++
		}
		if !errors.Is(l.Err(), broken) || n != 1 {
			t.Errorf("%q: error %v after %d lines, want that of the reader after 1", text, l.Err(), n)
		}
	}
}

// An unclosed quote does not take the rest of a large file into memory.
func TestUnclosedQuote(t *testing.T) {
	t.Parallel()
	text := "image\na.png\n\"b.png\n" + strings.Repeat("c.png\n", 300_000)
	l, err := joblist.New(strings.NewReader(text), "")
	if err != nil {
		t.Fatal(err)
	}
	for range l.Lines() {
	}
	if l.Err() == nil || !strings.Contains(l.Err().Error(), "is a quote not closed?") {
		t.Errorf("error %v", l.Err())
	}
}

func FuzzLists(f *testing.F) {
	f.Add([]byte("{\"image\":\"a.png\",\"options\":{\"x\":[1]}}\n"), true)
	f.Add([]byte("image,label.x\n\"a\",b\n"), false)
	f.Fuzz(func(t *testing.T, data []byte, jsonl bool) {
		format := joblist.CSV
		if jsonl {
			format = joblist.JSONL
		}
		l, err := joblist.New(strings.NewReader(string(data)), format)
		if err != nil {
			return
		}
		for line := range l.Lines() {
			images := 0
			for _, s := range []string{line.Path, line.URL, line.Object} {
				if s != "" {
					images++
				}
			}
			if line.Number < 1 || (line.Err == nil) != (images == 1) {
				t.Errorf("line %s", fmt.Sprintf("%+v", line))
			}
		}
	})
}
