package bulk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"

	"github.com/meshmill/meshmill/internal/picture"
	"github.com/meshmill/meshmill/pkg/jobs"
)

// prepare reads and uploads one source.
func (p *Pipeline) prepare(ctx context.Context, s Source) prepared {
	t := s.Template
	if t == nil {
		t = &p.Template
	}
	refused := func(err error) prepared { return prepared{out: Outcome{Source: s, Template: t, Err: err}} }
	taken := func(m jobs.Image) prepared {
		return prepared{out: Outcome{Source: s, Template: t, Image: m.Public()}, image: m}
	}
	switch {
	case s.Err != nil:
		return refused(s.Err)
	case ctx.Err() != nil:
		return prepared{fatal: context.Cause(ctx)}
	case s.URL != "":
		return taken(jobs.Image{URL: s.URL, MediaType: s.MediaType, Name: s.Name})
	case s.Object != "":
		return taken(jobs.Image{Object: s.Object, MediaType: s.MediaType, Name: s.Name})
	}
	data, info, err := picture.Read(s.Path, p.Limits)
	if err != nil {
		return refused(err)
	}
	image := jobs.Image{MediaType: info.MediaType, Name: s.Name}
	if p.Store == nil {
		sum := sha256.Sum256(data)
		image.Object = jobs.InputKey(hex.EncodeToString(sum[:]), info.Ext)
		return taken(image)
	}
	image.Object, _, err = p.Store.PutInput(ctx, bytes.NewReader(data), info.Ext, info.MediaType)
	switch {
	case ctx.Err() != nil:
		return prepared{fatal: context.Cause(ctx)}
	case err != nil && jobs.KindOf(err) == jobs.Permanent:
		return refused(err)
	case err != nil:
		return prepared{fatal: err}
	}
	if p.Uploaded != nil {
		p.Uploaded()
	}
	return taken(image)
}
