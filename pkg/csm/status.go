package csm

import (
	"cmp"
	"encoding/json"
	"path"
	"slices"
	"strings"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// status says what a session's word means for a job that has bought ref.Stage.
func (p *Provider) status(s *Session, ref jobs.Ref) *jobs.Status {
	o := options(ref.Options)
	out := &jobs.Status{Phase: jobs.InProgress, Detail: clip(p.c.e.Clean(s.Status), 80), Percent: s.Percent}
	switch s.Status {
	case StatusSpinDone:
		// The session rests, unless CSM was asked to go on by itself, or the
		// next stage has been bought and this word lags behind.
		if o.flag("generate_preview_mesh") || (ref.Stage != stageCreate && ref.Stage != "") {
			break
		}
		if o.choosesSpin() && len(s.Spins) == 0 && !o.has("selected_spin") {
			break // they lag too
		}
		out.Phase, out.Next = jobs.NeedsStage, stagePreview
		out.NextInput = p.previewInput(o, s.Spins)
	case StatusPreviewDone:
		switch {
		case !o.refined():
			p.done(out, s, s.Preview, s.Mesh)
		case !o.flag("auto_refine") && ref.Stage != stageRefine:
			out.Phase, out.Next, out.NextInput = jobs.NeedsStage, stageRefine, json.RawMessage("{}")
		}
	case StatusRefineDone, StatusComplete:
		p.done(out, s, s.Mesh, nil)
	case statusDone:
		if o.refined() {
			p.done(out, s, s.Mesh, nil)
		} else {
			p.done(out, s, s.Mesh, s.Preview)
		}
	case StatusSpinFailed, StatusPreviewFailed, StatusRefineFailed, StatusFailed:
		out.Phase = jobs.Broken
		out.Message = "CSM reports " + s.Status
		if text := p.c.e.Clean(s.Message); text != "" {
			out.Message += ": " + text
		}
	}
	return out
}

func (p *Provider) previewInput(o options, spins []string) json.RawMessage {
	if !o.choosesSpin() {
		return json.RawMessage("{}")
	}
	choice := o.spin(spins)
	if u, ok := webURL(choice.URL); !ok || u.RawQuery != "" || u.User != nil || u.Fragment != "" {
		choice.URL = ""
	}
	raw, err := json.Marshal(choice)
	if err != nil {
		return nil // an int and a string always encode
	}
	return raw
}

// done makes out a finished session with the files of the first set, or those
// of the second if that is empty. A session whose links are not there yet goes
// on: it is polled until the job's time limit.
func (p *Provider) done(out *jobs.Status, s *Session, set, instead map[string]string) {
	files := fileList(set)
	if len(files) == 0 {
		files = fileList(instead)
	}
	if len(files) == 0 {
		return
	}
	if _, ok := webURL(s.VideoURL); ok {
		files = append(files, jobs.File{Format: "mp4", URL: s.VideoURL})
	}
	out.Phase, out.Files, out.Percent = jobs.Done, files, 100
}

// fileList makes files of the fields mesh_url_<format>, in the order of
// meshFormats. The name of the file in the URL goes before that of the field,
// which is wrong at times: CSM's own client found an .obj under
// preview_mesh_url_zip.
func fileList(set map[string]string) []jobs.File {
	type entry struct {
		format, url string
		certain     bool // the field and the URL agree
	}
	var list []entry
	for field, address := range set {
		u, ok := webURL(address)
		if !ok {
			continue
		}
		format := strings.ToLower(strings.TrimPrefix(path.Ext(u.Path), "."))
		if !slices.Contains(meshFormats, format) || (format == "zip" && field != "") {
			format = field // an archive may hold what the field says
		}
		if slices.Contains(meshFormats, format) {
			list = append(list, entry{format, address, format == field})
		}
	}
	if u := set[""]; len(list) == 0 && u != "" {
		// The only result, under no name: it has been paid for, and its content
		// will tell.
		if _, ok := webURL(u); ok {
			list = append(list, entry{format: catalog.Formats[0], url: u})
		}
	}
	slices.SortFunc(list, func(a, b entry) int {
		certain := 0
		if a.certain != b.certain {
			certain = 1
			if a.certain {
				certain = -1
			}
		}
		return cmp.Or(cmp.Compare(slices.Index(meshFormats, a.format), slices.Index(meshFormats, b.format)), certain, cmp.Compare(a.url, b.url))
	})
	var files []jobs.File
	for _, e := range list {
		if n := len(files); n == 0 || files[n-1].Format != e.format {
			files = append(files, jobs.File{Format: e.format, URL: e.url})
		} else if f := &files[n-1]; f.URL != e.url && !slices.Contains(f.Alternatives, e.url) {
			f.Alternatives = append(f.Alternatives, e.url)
		}
	}
	return files
}

// meshFormats are the formats of meshes that a field or a file name can tell.
var meshFormats = []string{"glb", "obj", "fbx", "usdz", "zip", "stl", "ply"}

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
