package bulk

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/meshmill/meshmill/internal/picture"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// Source is an image to enqueue: a file, a URL, or an object of the bucket.
type Source struct {
	// Exactly one of Path, URL and Object is set, or Err.
	Path, URL, Object string
	// MediaType is that of a URL or object; it may be empty.
	MediaType string
	// ID is the job's if it is not to be derived.
	ID string
	// Template is the job's; nil is the pipeline's.
	Template *Template
	// Name is what people call the image. It may hold control characters.
	Name string
	// Place is where a list names it, such as "line 7".
	Place string
	// Err says why it cannot be enqueued.
	Err error
}

// Folders yields the images below folders, folder after folder. With more than
// one, names begin with the folder's own.
func Folders(dirs []string, filter picture.Filter) iter.Seq[Source] {
	return func(yield func(Source) bool) {
		for _, dir := range dirs {
			for e := range picture.Walk(dir, filter) {
				name := e.Name
				if len(dirs) > 1 {
					name = path.Join(picture.SafeName(filepath.Base(filepath.Clean(dir))), name)
				}
				if !yield(Source{Path: e.Path, Name: name, Err: e.Err}) {
					return
				}
			}
		}
	}
}

// CheckFolders reports folders that do not exist, are no folders, or hold no
// image: every mistake at once.
func CheckFolders(dirs []string, filter picture.Filter) error {
	var errs []error
	for _, dir := range dirs {
		name := picture.SafeName(dir)
		st, err := os.Stat(dir)
		switch {
		case errors.Is(err, os.ErrNotExist):
			errs = append(errs, fmt.Errorf("the folder %q does not exist", name))
		case err != nil:
			errs = append(errs, fmt.Errorf("the folder %q cannot be read: %w", name, errors.Unwrap(err)))
		case !st.IsDir():
			errs = append(errs, fmt.Errorf("%q is not a folder; use: enqueue file %q", name, name))
		default:
			if err := checkFolder(dir, name, filter); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// checkFolder looks for a first image.
func checkFolder(dir, name string, filter picture.Filter) error {
	var first error
	n := 0
	for e := range picture.Walk(dir, filter) {
		if e.Err == nil {
			return nil
		}
		if n++; first == nil {
			first = fmt.Errorf("%q %w", e.Name, e.Err)
		}
	}
	what := "PNG, JPEG or WebP image in it"
	if len(filter.Include)+len(filter.Exclude) > 0 {
		what += " that --include and --exclude let through"
	}
	if first == nil {
		return fmt.Errorf("the folder %q has no %s", name, what)
	}
	if n > 1 {
		return fmt.Errorf("the folder %q has no %s: %w, and %d more", name, what, first, n-1)
	}
	return fmt.Errorf("the folder %q has no %s: %w", name, what, first)
}

// Files yields files.
func Files(paths []string) iter.Seq[Source] {
	return func(yield func(Source) bool) {
		for _, p := range paths {
			if !yield(Source{Path: p, Name: picture.SafeName(filepath.ToSlash(filepath.Clean(p)))}) {
				return
			}
		}
	}
}

// CheckFiles reads every file and reports those that cannot be converted:
// every mistake at once.
func CheckFiles(paths []string, limits picture.Limits) error {
	var errs []error
	for _, p := range paths {
		if _, _, err := picture.Read(p, limits); err != nil {
			errs = append(errs, fmt.Errorf("%q %w", picture.SafeName(p), err))
		}
	}
	return errors.Join(errs...)
}

// URLs yields addresses of images. Names leave out what may be secret.
func URLs(urls []string) iter.Seq[Source] {
	return func(yield func(Source) bool) {
		for _, u := range urls {
			if !yield(Source{URL: u, Name: jobs.Image{URL: u}.Public().URL}) {
				return
			}
		}
	}
}

// CheckURLs reports addresses that cannot be those of images: every mistake at
// once. Unless private is set, addresses that plainly are on this machine or on a
// private network are among them. It calls nobody.
func CheckURLs(urls []string, private bool) error {
	var errs []error
	for _, s := range urls {
		u, err := url.Parse(s)
		switch {
		case err != nil:
			errs = append(errs, errors.New("an address is not a URL, must be like https://example.com/oak.png"))
		case (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
			errs = append(errs, fmt.Errorf("%q is not an http or https URL, must be like https://example.com/oak.png", jobs.Image{URL: s}.Public().URL))
		case u.User != nil:
			errs = append(errs, fmt.Errorf("%q holds a user name or password, which would be stored with the job", jobs.Image{URL: s}.Public().URL))
		case !private && isPrivate(u.Hostname()):
			errs = append(errs, fmt.Errorf("%q is on this machine or a private network; MESHMILL_ALLOW_PRIVATE_URLS=true would allow it", jobs.Image{URL: s}.Public().URL))
		}
	}
	return errors.Join(errs...)
}

func isPrivate(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && !(ip.Unmap().IsGlobalUnicast() && !ip.Unmap().IsPrivate())
}
