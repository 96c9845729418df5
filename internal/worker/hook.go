//go:build !chaos

package worker

import "github.com/meshmill/meshmill/internal/engine"

// instrument is where test builds (tag chaos) put their kill points.
func instrument(p engine.Ports) engine.Ports { return p }
