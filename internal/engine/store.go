package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/meshmill/meshmill/pkg/jobs"
)

const (
	// copyTries bounds the tries at one delivery; then another worker may.
	copyTries = 6
	// badFor is for how long a file that is not what it should be is fetched
	// again, with fresh links: the provider's own storage may lag.
	badFor = time.Minute
)

// store copies the session's files into the bucket, the manifest last.
func (j *job) store(ctx context.Context) error {
	j.slotted()
	if err := j.freeSlot(ctx); err != nil {
		return later(ctx, 5*time.Second, err)
	}
	j.planAnyway()
	var bad insistence
	for n := 1; ; n++ {
		err := j.copyAll(ctx)
		if err == nil || ctx.Err() != nil || errors.Is(err, errAgain) || errors.Is(err, errFenced) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		j.log.Warn().Err(err).Int("try", n).Msg("result not stored yet")
		j.progress(err.Error())
		j.files = nil // fresh links for the next try
		fetch, isFetch := errors.AsType[*FetchError](err)
		_, isContent := errors.AsType[*ContentError](err)
		switch {
		case isFetch && fetch.Permanent:
			// It may be a matter of configuration, and it has been paid for.
			return j.park(ctx, jobs.Permanent, "the result was not fetched: %s; see MESHMILL_MAX_MESH_BYTES and MESHMILL_ALLOW_PRIVATE_URLS, then run: enqueue resolve %s --session %s", err, j.id, j.rec.Session)
		case isContent && bad.again(badFor):
			return j.fail(ctx, jobs.Permanent, "the result was refused: %s (session %s)", err, j.rec.Session)
		case time.Since(j.rec.StoringAt) >= j.cfg.JobTimeout:
			return j.park(ctx, jobs.Retryable, "the result could not be stored for %v: %s; when the cause is mended, run: enqueue resolve %s --session %s",
				j.cfg.JobTimeout, err, j.id, j.rec.Session)
		case n >= copyTries && !isContent:
			return later(ctx, 30*time.Second, err)
		}
		if err := j.pass(ctx, max(backoff(n, time.Second, 30*time.Second), after(err))); err != nil {
			return err
		}
	}
}

// copyAll makes one try at storing everything, and completes the job.
func (j *job) copyAll(ctx context.Context) error {
	if j.files == nil {
		status, err := j.ask(ctx)
		if err != nil {
			return err
		}
		if status.Phase != jobs.Done || len(status.Files) == 0 {
			return fmt.Errorf("%s no longer offers the files of session %s (%s)", j.provider.Name(), j.rec.Session, status.Detail)
		}
		j.files = status.Files
	}
	files, missing := choose(j.files, j.plan.Formats)
	if len(files) == 0 {
		return fmt.Errorf("%s offers no file for session %s", j.provider.Name(), j.rec.Session)
	}
	var outputs []jobs.Output
	for _, f := range files {
		out, err := j.copyFile(ctx, f, outputs)
		if err != nil {
			return fmt.Errorf("the %s file: %w", f.Format, err)
		}
		if out != nil {
			outputs = append(outputs, *out)
		}
	}
	if err := j.ensureReceipt(); err != nil {
		return err
	}
	now := time.Now().UTC()
	manifest := jobs.ManifestKey(j.id)
	err := j.ports.Store.PutJSON(ctx, manifest, jobs.Manifest{
		Schema: jobs.ManifestSchema, ID: j.id, Provider: j.provider.Name(), Session: j.rec.Session, Attempt: j.rec.Attempt,
		Request: j.rec.Request, Outputs: outputs, Missing: missing,
		EnqueuedAt: j.rec.Request.EnqueuedAt, SubmittedAt: j.rec.SubmittedAt, StoringAt: j.rec.StoringAt, StoredAt: now,
	})
	if err != nil {
		return err
	}
	state := jobs.Completed
	if j.rec.State == jobs.Cancelled { // see keepResult
		state, now = jobs.Cancelled, j.rec.FinishedAt
	}
	return j.save(ctx, state, func(r *jobs.Record) {
		r.Outputs, r.Missing, r.Manifest, r.Error, r.FinishedAt, r.Slot = outputs, missing, manifest, nil, now, 0
	})
}

// choose picks the wanted files and tells which formats are missing. If the
// provider made none of them, whatever it made is kept: it has been paid for.
func choose(files []jobs.File, wanted []string) (chosen []jobs.File, missing []string) {
	for _, w := range wanted {
		i := slices.IndexFunc(files, func(f jobs.File) bool { return f.Format == w && f.URL != "" })
		if i < 0 {
			missing = append(missing, w)
			continue
		}
		chosen = append(chosen, files[i])
	}
	if len(chosen) == 0 {
		for _, f := range files {
			if f.URL != "" {
				chosen = append(chosen, f)
			}
		}
	}
	return chosen, missing
}

// copyFile stores one file under a name that a repeated copy gives again. It
// returns nil for a file with the content of one in done.
func (j *job) copyFile(ctx context.Context, f jobs.File, done []jobs.Output) (*jobs.Output, error) {
	file, err := j.fetchFile(ctx, f)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	format, mediaType, err := j.ports.Content.Mesh(file, file.Size())
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(done, func(o jobs.Output) bool { return o.SHA256 == file.SHA256() }) {
		return nil, nil
	}
	key := jobs.MeshKey(j.id, jobs.MeshName(j.id, format))
	taken := func(k string) bool { return slices.ContainsFunc(done, func(o jobs.Output) bool { return o.Key == k }) }
	if taken(key) {
		key = jobs.MeshKey(j.id, ownName(f.URL, format))
	}
	for n := 2; taken(key); n++ {
		key = jobs.MeshKey(j.id, fmt.Sprintf("%s-%d.%s", j.id, n, format))
	}
	obj, err := j.ports.Store.Put(ctx, key, io.NewSectionReader(file, 0, file.Size()), file.Size(), mediaType)
	if err != nil {
		return nil, err
	}
	if obj.SHA256 != file.SHA256() {
		return nil, errors.New("what was stored is not what was fetched")
	}
	j.ports.Observer.Stored(j.provider.Name(), file.Size())
	return &jobs.Output{
		Format: format, Key: key, URI: j.ports.Store.URI(key), SizeBytes: file.Size(), SHA256: file.SHA256(), MediaType: mediaType,
	}, nil
}

// fetchFile downloads a file from the first of its addresses that works.
func (j *job) fetchFile(ctx context.Context, f jobs.File) (Download, error) {
	var fails, hopeless []error
	for _, u := range append([]string{f.URL}, f.Alternatives...) {
		file, err := j.ports.Fetcher.Fetch(ctx, u, j.cfg.MaxMeshBytes)
		if err == nil {
			return file, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if fe, ok := errors.AsType[*FetchError](err); ok && fe.Permanent {
			hopeless = append(hopeless, err)
		} else {
			fails = append(fails, err)
		}
	}
	if len(fails) > 0 {
		return nil, errors.Join(fails...) // as long as one address may still work
	}
	return nil, errors.Join(hopeless...)
}

// ownName is the base name that a file has at the provider, made safe as part
// of a key.
func ownName(address, format string) string {
	name := "file"
	if u, err := url.Parse(address); err == nil {
		name = strings.TrimSuffix(path.Base(u.Path), path.Ext(u.Path))
	}
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '_'
	}, name)
	return name[:min(len(name), 100)] + "." + format
}
