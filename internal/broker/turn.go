package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// turnValue says who does a task that one worker does at a time.
type turnValue struct {
	Worker string    `json:"worker"`
	Until  time.Time `json:"until"`
}

// TakeTurn reports whether it is the worker's turn at a task, and if so keeps
// others from it for d. It is a courtesy, not a lock: the task must be harmless
// when two do it.
func (f *Fleet) TakeTurn(ctx context.Context, task, worker string, d time.Duration) (bool, error) {
	key := "turn." + task
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	e, err := f.kv.Get(ctx, key)
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, fmt.Errorf("read %s: %w", key, err)
	}
	now := time.Now()
	rev := uint64(0)
	if err == nil {
		var t turnValue
		if json.Unmarshal(e.Value(), &t) == nil && t.Worker != worker && now.Before(t.Until) {
			return false, nil
		}
		rev = e.Revision()
	}
	body, err := json.Marshal(turnValue{worker, now.Add(d).UTC()})
	if err != nil {
		return false, err
	}
	if rev == 0 {
		_, err = f.kv.Create(ctx, key, body)
	} else {
		_, err = f.kv.Update(ctx, key, body, rev)
	}
	switch {
	case isConflict(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("write %s: %w", key, err)
	}
	return true, nil
}
