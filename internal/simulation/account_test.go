package simulation

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"time"

	"github.com/meshmill/meshmill/internal/enginetest"
)

// takes is how long a provider works on a stage.
const takes = 12 * time.Second

// account is a provider's side: its sessions, and what it has sold.
type account struct {
	s        *sim
	name     string
	sessions []*session // oldest first
	sales    []sale
}

type session struct {
	code   string
	image  string // as it was sent
	job    *history
	stage  int
	since  time.Time
	opened time.Time
}

// sale is one paid call that had its effect.
type sale struct {
	job     *history
	session string
	stage   string
	attempt int // of the record at that time
}

func (a *account) find(code string) *session {
	for _, ss := range a.sessions {
		if ss.code == code {
			return ss
		}
	}
	return nil
}

// sell books a paid call and returns the session.
func (a *account) sell(w *worker, h *history, ss *session, stage int, image string) *session {
	now := time.Now()
	if ss == nil {
		ss = &session{code: strconv.Itoa(1000 + len(a.sessions)), image: image, job: h, opened: now}
		if a.name == "csm" {
			ss.code = "SESSION_" + ss.code
		}
		a.sessions = append(a.sessions, ss)
	}
	ss.stage, ss.since = stage, now
	a.s.check.sold(a, w, h, ss, h.flow.stages[stage])
	return ss
}

// working reports a session that the provider is at work on.
func (ss *session) working() bool {
	return !ss.job.flow.atOnce && time.Since(ss.since) < takes
}

func meshURL(code string) string { return "https://files.test/MESH_glb_" + code }

// wire is the network between one worker and one account.
type wire struct {
	s *sim
	w *worker
	a *account
}

// answer is what a provider says.
type answer struct {
	status  int
	body    []byte
	session string // that a paid call has told of
}

func jsonf(status int, format string, args ...any) answer {
	return answer{status: status, body: fmt.Appendf(nil, format, args...)}
}

// RoundTrip implements http.RoundTripper. A call may break before its first
// byte has left, after its effect, and while its answer is on the way.
func (t *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	do := func(op, id string, ready func(time.Time) time.Duration, effect func() error) error {
		return t.s.Do(ctx, enginetest.Call{Op: op, Worker: t.w.name, ID: id}, ready, effect)
	}
	route, last := t.route(req)
	paid := strings.HasPrefix(route, "paid.")
	if paid {
		if err := do("http.connect", last, nil, func() error { return nil }); err != nil {
			return nil, err
		}
	}
	if trace := httptrace.ContextClientTrace(ctx); trace != nil {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
	}
	var got answer
	id, effect := t.effect(route, last, req, body, &got)
	err := do(route, id, nil, func() error { effect(); return nil })
	switch {
	case errors.Is(err, errRefused):
		got = jsonf(http.StatusTooManyRequests, `{"status":"error","error":"Too Many Requests","message":"slow down","statusCode":429}`)
	case err != nil:
		return nil, err
	case paid && t.s.plan.Answer > 0:
		at := time.Now().Add(t.s.plan.Answer)
		if err := do("http.answer", id, func(now time.Time) time.Duration { return at.Sub(now) }, func() error { return nil }); err != nil {
			return nil, err
		}
	}
	if got.session != "" {
		t.s.check.told(got.session, t.w)
	}
	return &http.Response{
		StatusCode: got.status, Status: strconv.Itoa(got.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(got.body)),
		ContentLength: int64(len(got.body)), Request: req,
	}, nil
}

// route names the call, and the last word of its path.
func (t *wire) route(req *http.Request) (op, last string) {
	path := req.URL.Path
	last = path[strings.LastIndexByte(path, '/')+1:]
	switch {
	case req.Method == http.MethodGet, strings.Contains(path, "/fetch/"):
		return "http.get", last
	case strings.Contains(path, "/get-3d/preview/"):
		return "paid.preview", last
	case strings.Contains(path, "/get-3d/refine/"):
		return "paid.refine", last
	case strings.HasSuffix(path, "/base64_to_url"):
		return "http.upload", last
	}
	return "paid.create", last
}

// effect returns what the call does at the provider, and what it is about.
func (t *wire) effect(route, last string, req *http.Request, body []byte, got *answer) (id string, do func()) {
	a := t.a
	csm := a.name == "csm"
	switch route {
	case "paid.create":
		var b struct {
			ImageURL string `json:"image_url"`
			Image    string `json:"image"`
		}
		t.s.must(json.Unmarshal(body, &b))
		image := b.ImageURL + b.Image
		h := t.s.check.byImage(image)
		return h.id, func() {
			ss := a.sell(t.w, h, nil, 0, image)
			if csm {
				*got = envelope(ss.csmData())
			} else {
				*got = ss.labData()
			}
			got.session = ss.code
		}
	case "paid.preview", "paid.refine":
		ss := a.find(last)
		stage := 1
		if route == "paid.refine" {
			stage = 2
		}
		return ss.job.id, func() {
			a.sell(t.w, ss.job, ss, stage, "")
			*got = envelope(fmt.Sprintf(`{"scenario":%q,"unique_trial_key":"k","status":"unprocessed"}`, last))
			got.session = ss.code
		}
	case "http.upload":
		var b struct {
			Data string `json:"base64_string"`
		}
		t.s.must(json.Unmarshal(body, &b))
		h := t.s.check.byImage(b.Data)
		return h.id, func() {
			*got = jsonf(200, `{"status":"success","id":7,"output":["https://files.test/upload/%s"]}`, h.id)
		}
	}
	if csm && last == "image-to-3d-sessions" {
		page, _ := strconv.Atoi(req.URL.Query().Get("page"))
		return "list " + strconv.Itoa(page), func() { *got = a.list(page) }
	}
	return last, func() {
		ss := a.find(last)
		switch {
		case ss == nil:
			*got = jsonf(404, `{"error":"Not Found","message":"Session not found","statusCode":404}`)
		case csm:
			*got = envelope(ss.csmData())
		default:
			*got = ss.labData()
		}
	}
}

// envelope is what CSM's answers come in.
func envelope(data string) answer {
	return jsonf(200, `{"error":"","message":"","statusCode":200,"data":%s}`, data)
}

// list shows the newest sessions first, but for those that it lags behind with.
func (a *account) list(page int) answer {
	var items []string
	for i := len(a.sessions) - 1; i >= 0 && page == 0; i-- {
		if ss := a.sessions[i]; time.Since(ss.opened) >= a.s.plan.Lag {
			items = append(items, ss.csmData())
		}
	}
	if page == 0 { // the account has been used before
		opened := a.s.began.Add(-time.Hour).UTC().Format(stamp)
		items = append(items, fmt.Sprintf(`{"session_code":"SESSION_1","image_url":"https://bucket.test/x?filename=meshmill.older.a1.png","session_status":"complete","created_at":%q}`, opened))
	}
	return envelope(`{"results":[` + strings.Join(items, ",") + `]}`)
}

// stamp is how CSM writes a time.
const stamp = "2006-01-02T15:04:05.000Z"

// csmData is a session as CSM shows it.
func (ss *session) csmData() string {
	f := ss.job.flow
	field, status, extra := "status", "", ""
	if f.options == nil {
		field, status = "session_status", "in_progress"
		if !ss.working() {
			status, extra = "complete", fmt.Sprintf(`,"mesh_url_glb":%q`, meshURL(ss.code))
		}
	} else {
		words := [][2]string{{"spin_generate_processing", "spin_generate_done"}, {"training_preview", "preview_done"}, {"training_refine", "refine_done"}}[ss.stage]
		if status = words[0]; !ss.working() {
			status = words[1]
		}
		if ss.stage > 0 || !ss.working() {
			extra = `,"spins":[{"image_url":"https://files.test/spin_0.mp4"},{"image_url":"https://files.test/spin_1.mp4"}]`
		}
		if ss.stage == 1 && !ss.working() {
			extra += fmt.Sprintf(`,"preview_mesh_url_glb":%q`, meshURL(ss.code))
		}
		if ss.stage == 2 && !ss.working() {
			extra += fmt.Sprintf(`,"mesh_url_glb":%q`, meshURL(ss.code))
		}
	}
	return fmt.Sprintf(`{"session_code":%q,"image_url":%q,%q:%q,"created_at":%q%s}`,
		ss.code, ss.image, field, status, ss.opened.UTC().Format(stamp), extra)
}

// labData is a session as ModelsLab shows it.
func (ss *session) labData() answer {
	if ss.working() {
		return jsonf(200, `{"status":"processing","id":%s,"eta":10,"output":[]}`, ss.code)
	}
	return jsonf(200, `{"status":"success","id":%s,"output":[%q]}`, ss.code, meshURL(ss.code))
}

// byImage returns the job that an image belongs to, in whatever form it went.
func (c *checker) byImage(image string) *history {
	if _, data, ok := strings.Cut(image, ";base64,"); ok {
		raw, err := base64.StdEncoding.DecodeString(data)
		c.s.must(err)
		image = strings.TrimPrefix(string(raw), "PICTURE ")
	}
	image = strings.TrimPrefix(image, "https://files.test/upload/")
	for _, h := range c.jobs {
		if h.id == image || strings.Contains(image, h.key) {
			return h
		}
	}
	panic("an image of no job: " + image)
}
