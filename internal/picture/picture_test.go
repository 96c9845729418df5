package picture_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshmill/meshmill/internal/picture"
)

func drawing(w, h int) image.Image {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			m.Set(x, y, color.NRGBA{uint8(x * 7), uint8(y * 5), uint8(x ^ y), 255})
		}
	}
	return m
}

func pngOf(tb testing.TB, w, h int) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, drawing(w, h)); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func jpegOf(tb testing.TB, w, h int) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, drawing(w, h), nil); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// webpOf returns the headers of a lossless WebP image of 16 by 16 pixels, with
// nothing for its pixels: nobody decodes them here.
func webpOf(testing.TB) []byte {
	const w, h = 16, 16
	vp8l := binary.LittleEndian.AppendUint32([]byte{0x2f}, (w-1)|(h-1)<<14)
	vp8l = append(vp8l, make([]byte, 7)...)
	b := binary.LittleEndian.AppendUint32([]byte("RIFF"), uint32(12+len(vp8l)))
	b = binary.LittleEndian.AppendUint32(append(b, "WEBPVP8L"...), uint32(len(vp8l)))
	return append(b, vp8l...)
}

// withThumbnail puts a small JPEG into an APP1 segment of a larger one.
func withThumbnail(outer, inner []byte) []byte {
	size := len(inner) + 2
	app1 := append([]byte{0xff, 0xe1, byte(size >> 8), byte(size)}, inner...)
	return append(append(append([]byte{}, outer[:2]...), app1...), outer[2:]...)
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	small := picture.Limits{MaxBytes: 1 << 20, MinSide: 16, MaxSide: 64}
	aPNG, aJPEG, aWebP := pngOf(t, 40, 30), jpegOf(t, 33, 17), webpOf(t)
	thumb := withThumbnail(aJPEG, jpegOf(t, 16, 16))
	tests := map[string]struct {
		data    []byte
		want    picture.Info
		problem string
	}{
		"png":                         {aPNG, picture.Info{MediaType: "image/png", Ext: "png", Width: 40, Height: 30}, ""},
		"jpeg":                        {aJPEG, picture.Info{MediaType: "image/jpeg", Ext: "jpg", Width: 33, Height: 17}, ""},
		"webp":                        {aWebP, picture.Info{MediaType: "image/webp", Ext: "webp", Width: 16, Height: 16}, ""},
		"jpeg with thumbnail":         {thumb, picture.Info{MediaType: "image/jpeg", Ext: "jpg", Width: 33, Height: 17}, ""},
		"png and more":                {append(bytes.Clone(aPNG), "trailer"...), picture.Info{MediaType: "image/png", Ext: "png", Width: 40, Height: 30}, ""},
		"cut png":                     {aPNG[:len(aPNG)-5], picture.Info{}, "is a PNG image that was cut off: its end is missing"},
		"png head only":               {aPNG[:20], picture.Info{}, "is a PNG image that was cut off: its end is missing"},
		"cut jpeg":                    {aJPEG[:len(aJPEG)-2], picture.Info{}, "is a JPEG image that was cut off: its end is missing"},
		"cut jpeg, whole thumbnail":   {thumb[:len(thumb)-2], picture.Info{}, "is a JPEG image that was cut off: its end is missing"},
		"cut webp":                    {aWebP[:len(aWebP)-3], picture.Info{}, "is a WebP image that was cut off: its end is missing"},
		"empty":                       {nil, picture.Info{}, "is empty"},
		"pdf":                         {[]byte("%PDF-1.7 ..."), picture.Info{}, "is not a PNG, JPEG or WebP image: it begins like a PDF"},
		"gif":                         {[]byte("GIF89a......"), picture.Info{}, "is not a PNG, JPEG or WebP image: it begins like a GIF image; convert it to PNG"},
		"heic":                        {[]byte("\x00\x00\x00\x18ftypheic...."), picture.Info{}, "is not a PNG, JPEG or WebP image: it begins like a HEIC image; convert it to PNG"},
		"svg":                         {[]byte("<?xml version='1.0'?>\n<svg xmlns=''/>"), picture.Info{}, "is not a PNG, JPEG or WebP image: it begins like an SVG drawing; convert it to PNG"},
		"html":                        {[]byte("\n<!DOCTYPE html><html>"), picture.Info{}, "is not a PNG, JPEG or WebP image: it begins like an HTML page"},
		"text":                        {[]byte("dear all,\nplease"), picture.Info{}, "is not a PNG, JPEG or WebP image: it begins like text"},
		"noise":                       {[]byte("\x00\x01\x02\x03\x04"), picture.Info{}, "is not a PNG, JPEG or WebP image: its beginning is unknown"},
		"a wave file is not an image": {[]byte("RIFF\x04\x00\x00\x00WAVE"), picture.Info{}, "is not a PNG, JPEG or WebP image: its beginning is unknown"},
		"narrow":                      {pngOf(t, 40, 15), picture.Info{}, "is 40×15 pixels, each side must be at least 16"},
		"wide":                        {pngOf(t, 65, 20), picture.Info{}, "is 65×20 pixels, each side must be at most 64"},
		"large":                       {make([]byte, 1<<20+1), picture.Info{}, "has 1048577 bytes, at most 1048576 are taken"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := picture.Identify(tc.data, small)
			if got != tc.want {
				t.Errorf("info = %+v, want %+v", got, tc.want)
			}
			if tc.problem == "" {
				if err != nil {
					t.Errorf("error = %v", err)
				}
				return
			}
			if _, ok := errors.AsType[*picture.Error](err); !ok || err.Error() != tc.problem {
				t.Errorf("error = %v\nwant %s", err, tc.problem)
			}
		})
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := filepath.Join(dir, "a.png")
	write(t, good, pngOf(t, 20, 20))
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	data, info, err := picture.Read(good, picture.DefaultLimits)
	if err != nil || info.Width != 20 || !bytes.Equal(data, pngOf(t, 20, 20)) {
		t.Errorf("read %d bytes, %+v, %v", len(data), info, err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "does not exist",
		dir:                        "is a folder, not an image",
		pipe:                       "is not a regular file",
	} {
		if _, _, err := picture.Read(path, picture.DefaultLimits); err == nil || err.Error() != want {
			t.Errorf("%s: error = %v, want %s", path, err, want)
		}
	}
	if _, _, err := picture.Read(filepath.Join(dir, "none"), picture.DefaultLimits); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error = %v, want one that is os.ErrNotExist", err)
	}
	if _, _, err := picture.Read(good, picture.Limits{MaxBytes: 10, MinSide: 1, MaxSide: 100}); err == nil || !strings.Contains(err.Error(), "at most 10 are taken") {
		t.Errorf("error = %v, want the limit", err)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWalk(t *testing.T) {
	t.Parallel()
	root, elsewhere := t.TempDir(), t.TempDir()
	img := pngOf(t, 20, 20)
	for _, name := range []string{"b.png", "a/2.png", "a/10.jpg", "a/deep/x.dat", "c/no extension", "c/caf\u0065\u0301.png", ".hidden.png", ".git/x.png", "z\xff\x1b[2J.png"} {
		write(t, filepath.Join(root, name), img)
	}
	write(t, filepath.Join(root, "notes.txt"), []byte("hello"))
	write(t, filepath.Join(root, "liar.png"), []byte("hello"))
	write(t, filepath.Join(root, "void.jpg"), nil)
	write(t, filepath.Join(elsewhere, "linked.webp"), img)
	for link, to := range map[string]string{
		"link":     elsewhere, // a folder elsewhere
		"c/loop":   root,      // back to the beginning
		"again":    filepath.Join(root, "a"),
		"file.lnk": filepath.Join(elsewhere, "linked.webp"),
		"dangling": filepath.Join(root, "nowhere.png"),
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(root, "pipe.png"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		filter picture.Filter
		want   []string
	}{
		"all": {picture.Filter{}, []string{
			"a/10.jpg", "a/2.png", "a/deep/x.dat", "b.png", "c/cafe\u0301.png", "c/no extension",
			"dangling: does not exist", "file.lnk",
			"liar.png: is not a PNG, JPEG or WebP image: it begins like text",
			"link/linked.webp", "void.jpg: is empty", `z\xff` + "\x1b[2J.png",
		}},
		"include":       {picture.Filter{Include: []string{"*.png"}, Exclude: []string{"l*", "z*"}}, []string{"a/2.png", "b.png", "c/cafe\u0301.png", "dangling: does not exist"}},
		"whole names":   {picture.Filter{Include: []string{"a/**/*.dat", "c/*"}, Exclude: []string{"dangling"}}, []string{"a/deep/x.dat", "c/cafe\u0301.png", "c/no extension"}},
		"no such depth": {picture.Filter{Include: []string{"a/*"}, Exclude: []string{"dangling", "a/deep"}}, []string{"a/10.jpg", "a/2.png"}},
		"folder left":   {picture.Filter{Exclude: []string{"a", "**/c", "[lfvz]*", "dangling"}}, []string{"again/10.jpg", "again/2.png", "again/deep/x.dat", "b.png"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := tc.filter.Check(); err != nil {
				t.Fatal(err)
			}
			var got []string
			for e := range picture.Walk(root, tc.filter) {
				if e.Err != nil {
					got = append(got, e.Name+": "+e.Err.Error())
					continue
				}
				got = append(got, e.Name)
				if _, _, err := picture.Read(e.Path, picture.DefaultLimits); err != nil {
					t.Errorf("%s cannot be read: %v", e.Path, err)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("found (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("may be left early", func(t *testing.T) {
		t.Parallel()
		n := 0
		for range picture.Walk(root, picture.Filter{}) {
			if n++; n == 2 {
				break
			}
		}
		if n != 2 {
			t.Errorf("%d entries after the break", n)
		}
	})
}

func TestWalkReportsWhatItCannotRead(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	root := t.TempDir()
	write(t, filepath.Join(root, "a/x.png"), pngOf(t, 20, 20))
	write(t, filepath.Join(root, "b.png"), pngOf(t, 20, 20))
	if err := os.Chmod(filepath.Join(root, "a"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(root, "a"), 0o700) })
	var got []string
	for e := range picture.Walk(root, picture.Filter{}) {
		if e.Err != nil {
			e.Name += ": " + e.Err.Error()
		}
		got = append(got, e.Name)
	}
	if diff := cmp.Diff([]string{"a: cannot be read: permission denied", "b.png"}, got); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
}

func TestFilterCheck(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"[", "a/[x", ""} {
		if err := (picture.Filter{Exclude: []string{bad}}).Check(); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestSafeName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"oak.png": "oak.png", "e\u0301": "e\u0301", "\u00e9": "\u00e9", "a\xffb\xc3": `a\xffb\xc3`, "\ufffd": "\ufffd", "": "",
	} {
		if got := picture.SafeName(in); got != want {
			t.Errorf("SafeName(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzIdentify(f *testing.F) {
	for _, seed := range [][]byte{pngOf(f, 20, 20), jpegOf(f, 20, 20), webpOf(f), withThumbnail(jpegOf(f, 20, 20), jpegOf(f, 16, 16)), []byte("%PDF"), []byte("\xff\xd8\xff"), nil} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := picture.Identify(data, picture.DefaultLimits)
		if err != nil {
			if e, ok := errors.AsType[*picture.Error](err); !ok || e.Problem == "" {
				t.Fatalf("error %v is no *picture.Error", err)
			}
			return
		}
		if info.Width < 16 || info.Height < 16 || info.MediaType == "" || info.Ext == "" || !picture.Looks(data) {
			t.Fatalf("accepted %d bytes as %+v", len(data), info)
		}
	})
}
