package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

func (s *Simulator) labRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST "+ModelsLabPath+"/3d/image_to_3d", s.api(ModelsLab, Create, s.labCreate))
	mux.HandleFunc("POST "+ModelsLabPath+"/3d/fetch/{id}", s.api(ModelsLab, Poll, s.labFetch))
	mux.HandleFunc("POST "+ModelsLabPath+"/base64_to_url", s.api(ModelsLab, Upload, s.labUpload))
}

// labError is a refusal. The documents give error statuses, practice gives HTTP
// 200; the error codes page spells the field "messege".
func labError(status int, message any) reply {
	return asJSON(status, map[string]any{"status": "error", "messege": message})
}

// labCall reads a body and checks the key in it: authorization is a field of the
// body on every call, fetch included.
func (s *Simulator) labCall(r *http.Request) (key string, body map[string]any, refusal *reply) {
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body == nil {
		return "", nil, new(labError(http.StatusOK, "Invalid JSON body"))
	}
	key, _ = body["key"].(string)
	if key == "" || (s.cfg.ModelsLabKey != "" && key != s.cfg.ModelsLabKey) {
		return "", nil, new(labError(http.StatusUnauthorized, "Invalid API key"))
	}
	delete(body, "key")
	return key, body, nil
}

func number(least, most float64, whole bool) check {
	return func(v any) bool {
		f, ok := v.(float64)
		return ok && f >= least && f <= most && (!whole || f == math.Trunc(f))
	}
}

func isText(v any) bool { _, ok := v.(string); return ok || v == nil }

// labFields are those of image_to_3d, Body Attributes, and of the current
// reference.
var labFields = map[string]check{
	"model_id": isText, "render": isBool, "foreground_ratio": number(0, 1, false), "remove_bg": isBool,
	"resolution": number(1, 512, true), "chunk_size": number(1, 12000, true), "seed": number(0, math.MaxUint32, true),
	"temp": oneOf("yes", "no"), "output_format": oneOf("obj", "stl", "ply", "glb"), "multi_image": isBool,
	"ss_guidance_strength": number(0, 100, false), "ss_sampling_steps": number(1, 50, true),
	"slat_guidance_strength": number(0, 10, false), "slat_sampling_steps": number(1, 50, true),
	"mesh_simplify": number(0.9, 0.98, false), "webhook": isText, "track_id": isText,
}

// labOptions checks a create body and returns the image's URL. It is sent under
// two names, since the documents disagree on which is read.
func labOptions(body map[string]any) (string, map[string][]string) {
	wrong := map[string][]string{}
	image, _ := body["image"].(string)
	initImage, _ := body["init_image"].(string)
	for _, name := range slices.Sorted(maps.Keys(body)) {
		switch ok := labFields[name]; {
		case name == "image" || name == "init_image":
		case ok == nil:
			wrong[name] = []string{"The " + name + " field is not known."}
		case !ok(body[name]):
			wrong[name] = []string{"The " + name + " field is invalid."}
		}
	}
	ref := image
	if ref == "" {
		ref = initImage
	}
	if !strings.HasPrefix(ref, "http://") && !strings.HasPrefix(ref, "https://") {
		wrong["image"] = []string{"The image field must be a valid URL."}
	} else if initImage != "" && initImage != ref {
		wrong["init_image"] = []string{"The init_image field differs from image."}
	}
	return ref, wrong
}

func (s *Simulator) labCreate(w http.ResponseWriter, r *http.Request) {
	none := &Fault{}
	key, body, refusal := s.labCall(r)
	var img *picture
	if refusal == nil {
		ref, wrong := labOptions(body)
		if len(wrong) == 0 {
			var err error
			if img, err = s.take(r.Context(), ref); err != nil {
				wrong["image"] = []string{"The image " + err.Error() + "."}
			}
		}
		if len(wrong) > 0 {
			refusal = new(labError(http.StatusOK, wrong))
		}
	}
	if refusal != nil {
		s.perform(w, none, func() reply { return *refusal })
		return
	}
	delete(body, "image")
	delete(body, "init_image")
	f := s.match(ModelsLab, Create, img.sha, img.sha, false)
	s.perform(w, &f, func() reply {
		ss := &session{Provider: ModelsLab, Gen: lab, Options: body, Image: img.sha, Media: img.media, ImageURL: img.url}
		err := s.buy(Create, ss, keyEnd(key), func(ss *session, now time.Time) {
			ss.plan(now, &s.cfg.Durations, s.cfg.Seed, &f, stepConvert)
		})
		if errors.Is(err, errLimit) {
			return asJSON(http.StatusTooManyRequests, map[string]any{
				"status": "error", "message": fmt.Sprintf("Rate limit exceeded. Maximum %d queued requests allowed.", s.cfg.ModelsLabLimit), "retry_after": 30,
			})
		} else if err != nil {
			return labError(http.StatusInternalServerError, err.Error())
		}
		if roll(s.cfg.Seed, math.MaxUint64, ss.Code, 0) < s.cfg.ModelsLabSync {
			s.wait(time.Until(ss.busyUntil()))
		}
		return s.labStatus(ss, r, &f)
	})
}

func (s *Simulator) labFetch(w http.ResponseWriter, r *http.Request) {
	none := &Fault{}
	_, _, refusal := s.labCall(r)
	ss := s.find(ModelsLab, r.PathValue("id"))
	if refusal == nil && ss == nil {
		refusal = new(labError(http.StatusOK, "Request not found"))
	}
	if refusal != nil {
		s.perform(w, none, func() reply { return *refusal })
		return
	}
	f := s.match(ModelsLab, Poll, ss.Code, ss.Image, false)
	s.perform(w, &f, func() reply { return s.labStatus(ss, r, &f) })
}

// labStatus is an answer to create or fetch; both have the same shapes. What the
// family of endpoints does differently from one to the next (the spelling of
// message, the form of an output that is not there yet) differs here by session.
func (s *Simulator) labStatus(ss *session, r *http.Request, f *Fault) reply {
	now := time.Now()
	p := ss.at(now)
	id := json.Number(ss.Code)
	if f.WrongID {
		id = "1"
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(ss.Code))
	message := []string{"message", "messege"}[h.Sum32()%2]
	switch {
	case p.failed:
		return asJSON(http.StatusOK, map[string]any{"status": "failed", "id": id, message: "The 3D model could not be generated"})
	case p.running:
		left := time.Until(ss.busyUntil())
		return asJSON(http.StatusOK, map[string]any{
			"status": "processing", "id": id, "eta": int(math.Ceil(left.Seconds())),
			message: "Request processing started", "tip": "Your image is processing in background, you can get this image using fetch API",
			"fetch_result": fmt.Sprintf("http://%s%s/3d/fetch/%s", r.Host, ModelsLabPath, ss.Code),
			"output":       []any{[]string{}, "", nil}[h.Sum32()/2%3],
			"future_links": []string{s.labFile(ss, r, f, "out")}, "meta": map[string]any{}, "extra_assets": []string{},
		})
	}
	meta := map[string]any{"file_prefix": fileID(ss.Code), "image": withoutQuery(ss.ImageURL), "foreground_ratio": ".85", "seed": 3480183101}
	for _, name := range []string{"chunk_size", "remove_bg", "render", "resolution", "temp"} {
		if v, ok := ss.Options[name]; ok {
			meta[name] = v
		}
	}
	if v := ss.number("seed", 0); v > 0 {
		meta["seed"] = v
	}
	return asJSON(http.StatusOK, map[string]any{
		"status": "success", "generationTime": math.Round(now.Sub(ss.CreatedAt).Seconds()*100) / 100, "id": id,
		"output": []string{s.labFile(ss, r, f, "out")}, "proxy_links": []string{s.labFile(ss, r, f, "proxy")}, "meta": meta,
	})
}

// maxUpload is the largest image of base64_to_url: "5 MB", read as the lesser.
const maxUpload = 5_000_000

func (s *Simulator) labUpload(w http.ResponseWriter, r *http.Request) {
	none := &Fault{}
	_, body, refusal := s.labCall(r)
	var data []byte
	var p *picture
	if refusal == nil {
		var err error
		uri, _ := body["base64_string"].(string)
		if data, err = parseDataURI(uri); err == nil && len(data) > maxUpload {
			err = fmt.Errorf("is larger than %d bytes", maxUpload)
		}
		if err == nil {
			p, err = s.take(r.Context(), uri)
		}
		if err != nil {
			refusal = new(labError(http.StatusOK, map[string][]string{"base64_string": {"The base64_string " + err.Error() + "."}}))
		}
	}
	if refusal != nil {
		s.perform(w, none, func() reply { return *refusal })
		return
	}
	f := s.match(ModelsLab, Upload, p.sha, p.sha, false)
	s.perform(w, &f, func() reply {
		if err := s.keep(p.sha, data); err != nil {
			return labError(http.StatusInternalServerError, err.Error())
		}
		link := fmt.Sprintf("http://%s%s%s%s", r.Host, uploadPath, p.sha, extension(p.media))
		if f.ResultURL != "" {
			link = f.ResultURL
		}
		return asJSON(http.StatusOK, map[string]any{"status": "success", "id": idOf(p.sha, "upload"), "output": []string{link}})
	})
}
