// Package probe asks a service over HTTP whether it is well.
package probe

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Timeout is how long a service has to answer.
const Timeout = 5 * time.Second

// Client makes probes. Each has a connection of its own, and its answer is its status
// alone: what follows, however long, is not read.
type Client struct{ http http.Client }

// New returns a Client that waits for an answer for so long.
func New(timeout time.Duration) *Client {
	return &Client{http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{KeepAlive: -1}).DialContext,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Fetch returns nil if the service answers with a status of 200 to 399. As a probe of the
// kubelet does, it takes a redirection for an answer; it does not follow it, for where that
// leads may be another service.
func (c *Client) Fetch(url string) error {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "sockdog")
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	response.Body.Close() // which ends the connection
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("GET %s: %s", url, response.Status)
	}
	return nil
}
