package simulator

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/meshmill/meshmill/internal/solid"
)

const (
	maxImage     = 20 << 20
	fetchTimeout = 15 * time.Second
)

// picture is an image that came with a call.
type picture struct {
	sha   string
	media string
	url   string // as sent; empty for an inline image
}

// take reads the image of a call, from a data URI or a URL, checks that it is
// one, and keeps it.
func (s *Simulator) take(ctx context.Context, ref string) (*picture, error) {
	var data []byte
	var err error
	p := &picture{}
	switch {
	case strings.HasPrefix(ref, "data:"):
		data, err = parseDataURI(ref)
	case strings.HasPrefix(ref, "http://"), strings.HasPrefix(ref, "https://"):
		p.url = ref
		data, err = s.fetch(ctx, ref)
	default:
		return nil, errors.New("must be an http URL or a data URI such as data:image/png;base64,…")
	}
	if err != nil {
		return nil, err
	}
	if p.media, err = solid.MediaType(data); err != nil {
		return nil, fmt.Errorf("is not a usable image: %w", err)
	}
	if !s.cfg.TinyMeshes {
		if _, err := solid.Decode(data); err != nil {
			return nil, fmt.Errorf("is not a usable image: %w", err)
		}
	}
	sum := sha256.Sum256(data)
	p.sha = hex.EncodeToString(sum[:])
	if s.cfg.TinyMeshes {
		return p, nil
	}
	return p, s.keep(p.sha, data)
}

// keep stores an image under its hash.
func (s *Simulator) keep(sha string, data []byte) error {
	name := filepath.Join(s.root, "images", sha)
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	return writeFile(name, data)
}

func (s *Simulator) image(sha string) ([]byte, error) {
	return os.ReadFile(filepath.Join(s.root, "images", sha))
}

func parseDataURI(uri string) ([]byte, error) {
	head, body, ok := strings.Cut(strings.TrimPrefix(uri, "data:"), ",")
	media, isBase64 := strings.CutSuffix(head, ";base64")
	if !ok || !isBase64 || !strings.HasPrefix(media, "image/") {
		return nil, errors.New("must begin like data:image/png;base64,")
	}
	if base64.StdEncoding.DecodedLen(len(body)) > maxImage+3 {
		return nil, fmt.Errorf("is larger than %d bytes", maxImage)
	}
	data, err := base64.StdEncoding.DecodeString(body)
	if err != nil {
		return nil, errors.New("is not valid base64")
	}
	return data, nil
}

// fetch reads an image as the provider's servers would. An upload of its own is
// taken from the folder, since its URL may name the port of an earlier run.
func (s *Simulator) fetch(ctx context.Context, ref string) ([]byte, error) {
	u, err := url.Parse(ref)
	if err != nil {
		return nil, errors.New("is not a valid URL")
	}
	if strings.HasPrefix(u.Path, uploadPath) && isLoopback(u.Hostname()) {
		if sha, ok := uploadName(path.Base(u.Path)); ok {
			if data, err := s.image(sha); err == nil {
				return data, nil
			}
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, fetchTimeout, errors.New("the image took too long"))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ref, nil)
	if err != nil {
		return nil, errors.New("is not a valid URL")
	}
	resp, err := s.fetcher.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot be fetched: %s", withoutURL(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("cannot be fetched: HTTP %d", resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxImage+1))
	if err != nil {
		return nil, fmt.Errorf("cannot be fetched: %s", withoutURL(err))
	}
	if len(data) > maxImage {
		return nil, fmt.Errorf("is larger than %d bytes", maxImage)
	}
	return data, nil
}

func newFetcher() *http.Client {
	return &http.Client{
		Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, MaxIdleConnsPerHost: 8, IdleConnTimeout: 10 * time.Second},
		CheckRedirect: func(_ *http.Request, via []*http.Request) error {
			if len(via) > 3 {
				return errors.New("too many redirects")
			}
			return nil
		},
	}
}

func withoutURL(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return err.Error()
}

// withoutQuery is a URL without what may be its signature.
func withoutQuery(ref string) string {
	u, err := url.Parse(ref)
	if err != nil || ref == "" {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
