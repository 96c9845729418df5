package worker

import (
	"context"
	"errors"
	"io"

	"github.com/meshmill/meshmill/internal/engine"
	"github.com/meshmill/meshmill/internal/fetch"
	"github.com/meshmill/meshmill/internal/meshfile"
	"github.com/meshmill/meshmill/internal/picture"
)

// fetcher is package fetch as the engine wants it.
type fetcher struct{ client *fetch.Client }

func (f *fetcher) Fetch(ctx context.Context, url string, limit int64) (engine.Download, error) {
	file, err := f.client.Download(ctx, url, limit)
	if err == nil {
		return download{file}, nil
	}
	switch fetch.ReasonOf(err) {
	case fetch.Expired:
		return nil, &engine.FetchError{Expired: true, Err: err}
	case fetch.Refused, fetch.TooLarge:
		return nil, &engine.FetchError{Permanent: true, Err: err}
	}
	return nil, err
}

type download struct{ *fetch.File }

func (d download) Private() bool { return d.File.Private }

// content tells files by their content.
type content struct{}

func (content) Image(data []byte) (mediaType, ext string, err error) {
	info, err := picture.Identify(data, picture.DefaultLimits)
	return info.MediaType, info.Ext, err
}

func (content) Mesh(r io.ReaderAt, size int64) (format, mediaType string, err error) {
	f, err := meshfile.Identify(r, size)
	if _, ok := errors.AsType[*meshfile.Error](err); ok {
		err = &engine.ContentError{Err: err}
	}
	if err != nil {
		return "", "", err
	}
	return string(f), meshfile.MediaType(f), nil
}
