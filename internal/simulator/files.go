package simulator

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"path"
	"regexp"
	"strings"
	"time"
)

// Where the files are, below the host. Real providers keep them on other hosts
// than their APIs; none of these takes a key.
const (
	csmFilePath = "/files/csm/"
	labFilePath = "/files/modelslab/"
	uploadPath  = "/files/uploads/"
)

func (s *Simulator) fileRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET "+csmFilePath+"{code}/{name}", s.api(CSM, Download, s.csmDownload))
	mux.HandleFunc("GET "+labFilePath+"{host}/{name}", s.api(ModelsLab, Download, s.labDownload))
	mux.HandleFunc("GET "+uploadPath+"{name}", s.uploadDownload)
}

// csmFile is the signed URL of a session's file. The one known sample of a
// result link was signed in its query too; such a query must not be logged, and
// a client that drops or changes it gets 403.
func (s *Simulator) csmFile(ss *session, r *http.Request, f *Fault, name string) string {
	if f.ResultURL != "" && name != "input" {
		return f.ResultURL
	}
	p := csmFilePath + ss.Code + "/" + name
	return fmt.Sprintf("http://%s%s?se=%s&sig=%s", r.Host, p, ss.CreatedAt.Add(41*24*time.Hour).UTC().Format("2006-01-02T15%3A04%3A05Z"), signature(p))
}

// signature depends on nothing that changes with a restart.
func signature(p string) string {
	mac := hmac.New(sha256.New, []byte("meshmill-simulator: protects nothing"))
	_, _ = mac.Write([]byte(p))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// labFile is the URL of a result: image_to_3d, Response. These are not signed.
func (s *Simulator) labFile(ss *session, r *http.Request, f *Fault, host string) string {
	if f.ResultURL != "" {
		return f.ResultURL
	}
	return fmt.Sprintf("http://%s%s%s/%s.%s", r.Host, labFilePath, host, fileID(ss.Code), ss.text("output_format", "glb"))
}

// fileID is the UUID-shaped base name of a ModelsLab result.
func fileID(code string) string {
	h := idOf(code, "file")
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-a" + h[17:20] + "-" + h[20:24] + h[:8]
}

// idOf makes a stable id of 24 hexadecimal digits.
func idOf(of, kind string) string {
	sum := sha256.Sum256([]byte(kind + ":" + of))
	return hex.EncodeToString(sum[:12])
}

var uploadPattern = regexp.MustCompile(`^([0-9a-f]{64})\.[a-z]{3,4}$`)

func uploadName(base string) (sha string, ok bool) {
	m := uploadPattern.FindStringSubmatch(base)
	if m == nil {
		return "", false
	}
	return m[1], true
}

func extension(media string) string {
	return map[string]string{"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}[media]
}

// keyless refuses a download that carries a key: it would have gone to a host
// that is not the provider's API.
func (s *Simulator) keyless(w http.ResponseWriter, r *http.Request, provider string) bool {
	q := r.URL.Query()
	if r.Header.Get("X-Api-Key") == "" && r.Header.Get("Authorization") == "" && r.Header.Get("Key") == "" && !q.Has("key") {
		return true
	}
	s.mu.Lock()
	s.violate(Violation{Time: time.Now(), Provider: provider, Kind: "key", Detail: "a download carried an API key"})
	s.mu.Unlock()
	http.Error(w, "a download must not carry an API key", http.StatusBadRequest)
	return false
}

func (s *Simulator) csmDownload(w http.ResponseWriter, r *http.Request) {
	ss := s.find(CSM, r.PathValue("code"))
	name := r.PathValue("name")
	if !s.keyless(w, r, CSM) {
		return
	}
	if !hmac.Equal([]byte(r.URL.Query().Get("sig")), []byte(signature(r.URL.Path))) {
		http.Error(w, "Signature did not match", http.StatusForbidden)
		return
	}
	if ss == nil {
		http.NotFound(w, r)
		return
	}
	now := time.Now()
	ready := false
	switch {
	case name == "input":
		ready = true
	case strings.HasPrefix(name, "spin_"):
		ready = ss.done(stepSpin, now)
	case strings.HasPrefix(name, "preview_mesh."):
		ready = ss.done(stepPreview, now)
	case strings.HasPrefix(name, "mesh."):
		ready = ss.done(stepRefine, now) || ss.done(stepModel, now)
	}
	s.serve(w, r, ss, name, ready)
}

// labDownload answers 404 until the conversion is done: future_links.
func (s *Simulator) labDownload(w http.ResponseWriter, r *http.Request) {
	if !s.keyless(w, r, ModelsLab) {
		return
	}
	name := r.PathValue("name")
	ext := path.Ext(name)
	s.mu.Lock()
	code := s.files[strings.TrimSuffix(name, ext)]
	s.mu.Unlock()
	ss := s.find(ModelsLab, code)
	if ss == nil || ext != "."+ss.text("output_format", "glb") {
		http.NotFound(w, r)
		return
	}
	s.serve(w, r, ss, name, ss.done(stepConvert, time.Now()))
}

func (s *Simulator) uploadDownload(w http.ResponseWriter, r *http.Request) {
	sha, ok := uploadName(r.PathValue("name"))
	if !ok {
		http.NotFound(w, r)
		return
	}
	data, err := s.image(sha)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, r.PathValue("name"), time.Time{}, bytes.NewReader(data))
}

// serve sends one file of a session.
func (s *Simulator) serve(w http.ResponseWriter, r *http.Request, ss *session, name string, ready bool) {
	if !ready {
		http.NotFound(w, r)
		return
	}
	f := s.match(ss.Provider, Download, ss.Code, ss.Image, false)
	s.wait(f.Delay + f.Hold)
	switch {
	case f.Cut == CutBefore || f.Cut == CutAfter:
		panic(http.ErrAbortHandler)
	case f.Answer != nil:
		f.Answer.send(w)
		return
	case f.Endless:
		s.pour(w)
		return
	}
	data, err := s.file(ss, name)
	if err != nil {
		s.cfg.Log.Error().Err(err).Str("session", ss.Code).Str("file", name).Msg("cannot make the file")
		http.Error(w, "cannot make the file: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", mediaTypes[strings.ToLower(path.Ext(name))])
	if f.Cut == CutBody {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:len(data)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	sum := sha256.Sum256(data)
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:8])+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// mediaTypes has generic types where real file hosts do.
var mediaTypes = map[string]string{
	".glb": "model/gltf-binary", ".obj": "text/plain", ".zip": "application/zip", ".usdz": "model/vnd.usdz+zip",
	".stl": "application/octet-stream", ".ply": "application/octet-stream", ".mp4": "video/mp4", "": "application/octet-stream",
}

// pour sends a body that ends with the client or the simulator.
func (s *Simulator) pour(w http.ResponseWriter) {
	block := bytes.Repeat([]byte("glTF"), 16<<10)
	for {
		select {
		case <-s.stop:
			return
		default:
		}
		if _, err := io.Copy(w, bytes.NewReader(block)); err != nil {
			return
		}
	}
}
