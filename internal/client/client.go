// Package client asks a running sockdog for its status and for the ages of sockets, and
// believes ages only of somebody who may be believed.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/web"
)

// DefaultAddress is where a daemon listens, and is asked.
const DefaultAddress = "127.0.0.1:9797"

// Off reports whether an address says that nobody listens or is to be asked.
func Off(address string) bool { return address == "" || address == "off" }

// maxAnswer is the size in bytes of an answer: far more than a daemon tells.
const maxAnswer = 16 << 20

// conn is a connection to what listens on an address.
type conn struct {
	address string
	within  time.Duration // the time for all that is asked
	tcp     net.Conn
	http    http.Client
}

// dial connects to an address. No proxy and no redirect are followed: it is this
// address that is to be asked.
func dial(ctx context.Context, address string, within time.Duration) (*conn, error) {
	c := &conn{address: address, within: within}
	fresh := true
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		if fresh {
			fresh = false
			return c.tcp, nil
		}
		return c.connect(ctx)
	}}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	_, err := c.connect(ctx)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("nothing listens on %s%w", address, silent{err})
	case err != nil:
		return nil, c.why(err)
	}
	return c, nil
}

func (c *conn) connect(ctx context.Context) (net.Conn, error) {
	tcp, err := new(net.Dialer).DialContext(ctx, "tcp", c.address)
	if err != nil {
		return nil, err
	}
	_ = tcp.(*net.TCPConn).SetLinger(0) // who is asked each second must not be left with sockets in TIME_WAIT
	c.tcp = tcp
	return tcp, nil
}

// silent is an error that has been put into words.
type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }

func (c *conn) close() { c.tcp.Close() }

// why puts into words why an address could not be asked.
func (c *conn) why(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s did not answer within %v%w", c.address, c.within, silent{context.DeadlineExceeded})
	}
	return err
}

// get fetches what sockdog has under a path.
func (c *conn) get(ctx context.Context, path string) (text []byte, code int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.address+path, nil)
	if err != nil {
		return nil, 0, err
	}
	answer, err := c.http.Do(request)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, 0, c.why(err)
	} else if err != nil {
		return nil, 0, c.stranger() // that speaks something else
	}
	defer answer.Body.Close()
	if answer.Header.Get("Server") != web.Server {
		return nil, 0, c.stranger()
	}
	text, err = io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("the answer of the sockdog on %s was cut short: %w", c.address, err)
	case len(text) > maxAnswer:
		return nil, 0, fmt.Errorf("the sockdog on %s sent an impossibly long answer", c.address)
	case answer.StatusCode == http.StatusMisdirectedRequest:
		return nil, 0, fmt.Errorf("the daemon does not answer to the name in %s: use its address", c.address)
	}
	return text, answer.StatusCode, nil
}

func (c *conn) stranger() error { return fmt.Errorf("what listens on %s is no sockdog", c.address) }

// Status asks the daemon at an address for its status, and returns it as it came, too.
func Status(ctx context.Context, address string) ([]byte, *status.Status, error) {
	const within = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, err := dial(ctx, address, within)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, nil, fmt.Errorf("%w: start sockdog run, or say with --address what its --listen says", err)
	case err != nil:
		return nil, nil, hinted(err)
	}
	defer c.close()
	text, code, err := c.get(ctx, "/api/v1/status")
	switch {
	case err != nil:
		return nil, nil, hinted(err)
	case code == http.StatusServiceUnavailable:
		return nil, nil, fmt.Errorf("the daemon on %s is not ready to answer: try again in a moment", address)
	}
	var s status.Status
	if err := json.Unmarshal(text, &s); code != http.StatusOK || err != nil || s.Time.IsZero() {
		return nil, nil, hinted(c.stranger())
	}
	return text, &s, nil
}

// hinted adds what to say instead of a wrong address.
func hinted(err error) error {
	return fmt.Errorf("%w; --address takes what --listen of the daemon says", err)
}
