package jobs

import "time"

// SetPatience shortens how long a client tries, for tests of what follows.
func (c *Client) SetPatience(patience, callTimeout time.Duration) {
	c.patience, c.callTimeout = patience, callTimeout
}
