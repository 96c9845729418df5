package simulator

import (
	"container/list"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"path"
	"sync"

	"github.com/meshmill/meshmill/internal/solid"
)

// file returns the bytes of a session's file. They depend on the session alone,
// so that they are the same after a restart.
func (s *Simulator) file(ss *session, name string) ([]byte, error) {
	ext := path.Ext(name)
	switch {
	case name == "input":
		return s.image(ss.Image)
	case ext == ".mp4":
		return noVideo, nil
	}
	opt, shape := variant(ss, name)
	key, err := json.Marshal([]any{ss.Image, opt, shape, ext})
	if err != nil {
		return nil, err
	}
	if s.cfg.TinyMeshes {
		key = []byte(ext)
	}
	if data := s.meshes.get(string(key)); data != nil {
		return data, nil
	}
	data, err, _ := s.making.Do(string(key), func() (any, error) {
		s.cpu <- struct{}{} // meshes cost CPU that the tests need too
		defer func() { <-s.cpu }()
		m, err := s.build(ss, opt, shape)
		if err != nil {
			return nil, err
		}
		data, err := m.Encode(ext[1:])
		if err == nil {
			s.meshes.put(string(key), data)
		}
		return data, err
	})
	if err != nil {
		return nil, err
	}
	return data.([]byte), nil
}

func (s *Simulator) build(ss *session, opt solid.Options, shape shape) (*solid.Mesh, error) {
	if s.cfg.TinyMeshes {
		return solid.Tiny(), nil
	}
	raw, err := s.image(ss.Image)
	if err != nil {
		return nil, fmt.Errorf("the image is gone: %w", err)
	}
	img, err := solid.Decode(raw)
	if err != nil {
		return nil, err
	}
	m, err := solid.Build(img, opt)
	if err != nil {
		return nil, err
	}
	if len(shape.Box) == 3 {
		m.Fit([3]float64(shape.Box), shape.Keep)
	}
	if len(shape.Pivot) == 3 {
		m.Pivot([3]float64(shape.Pivot))
	}
	return m, nil
}

// shape is what the options say about the size and origin of a mesh.
type shape struct {
	Box   []float64
	Keep  bool
	Pivot []float64
}

// variant says how a session's options change its mesh: enough to see that they
// arrived. A preview is coarser than a refined mesh.
func variant(ss *session, name string) (solid.Options, shape) {
	grid := 96
	switch {
	case ss.Gen == lab:
		if r := ss.number("resolution", 256); r <= 512 {
			grid = 48 + int(r*80/512)
		}
	case ss.text("resolution", "high_poly") == "low_poly", len(name) > 8 && name[:8] == "preview_":
		grid = 64
	}
	sh := shape{Box: ss.numbers("scaled_bbox"), Keep: ss.flag("preserve_aspect_ratio"), Pivot: ss.numbers("pivot_point")}
	return solid.Options{Grid: grid}, sh
}

// noVideo is the start of an MP4 file, and a box that says why there is no more.
var noVideo = append(mp4Box("ftyp", "isom\x00\x00\x02\x00isomiso2"), mp4Box("free", "meshmill-simulator: a test double, it makes no videos")...)

func mp4Box(kind, content string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(8+len(content))), kind+content...)
}

// meshCache keeps the files made last, up to maxCache bytes.
type meshCache struct {
	mu    sync.Mutex
	size  int
	order list.List // of *cached, the last used in front
	by    map[string]*list.Element
}

type cached struct {
	key  string
	data []byte
}

const maxCache = 64 << 20

func (c *meshCache) get(key string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.by[key]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).data
}

func (c *meshCache) put(key string, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[string]*list.Element{}
	}
	if c.by[key] != nil {
		return
	}
	c.by[key] = c.order.PushFront(&cached{key, data})
	c.size += len(data)
	for c.size > maxCache && c.order.Len() > 1 {
		last := c.order.Back()
		old := c.order.Remove(last).(*cached)
		delete(c.by, old.key)
		c.size -= len(old.data)
	}
}
