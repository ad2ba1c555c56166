// Package client asks a running sockdog for its status and for the ages of sockets, and
// believes ages only of somebody who may be believed.
package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
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

// answer is what listens on an address said, and the connection that it said it on.
type answer struct {
	text []byte
	code int
	conn net.Conn
}

// errNobody says that no process listens on an address.
var errNobody = errors.New("nothing listens")

// ask fetches what sockdog has under a path. Who asks closes the connection.
func ask(ctx context.Context, address, path string, within time.Duration) (*answer, error) {
	a, err := fetch(ctx, address, path)
	switch {
	case err == nil:
		return a, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w on %s", errNobody, address)
	case ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded): // a dial can end a moment before its context
		return nil, fmt.Errorf("%s did not answer within %v", address, within)
	}
	return nil, err
}

// fetch makes one request on one connection. No proxy and no redirect are followed: it
// is this address that is to be asked.
func fetch(ctx context.Context, address, path string) (*answer, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	_ = conn.(*net.TCPConn).SetLinger(0) // who is asked each second must not be left with sockets in TIME_WAIT
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	a := &answer{conn: conn}
	if err := a.read(address, path); err != nil {
		conn.Close()
		return nil, err
	}
	return a, nil
}

func (a *answer) read(address, path string) error {
	stranger := fmt.Errorf("what listens on %s is not sockdog", address)
	request, err := http.NewRequest(http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return err
	}
	if err := request.Write(a.conn); err != nil {
		return stranger
	}
	response, err := http.ReadResponse(bufio.NewReader(io.LimitReader(a.conn, 2*maxAnswer)), request)
	if err != nil {
		return stranger // that speaks something else
	}
	defer response.Body.Close()
	if response.Header.Get("Server") != web.Server {
		return stranger
	}
	a.code = response.StatusCode
	a.text, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("the answer of the sockdog on %s was cut short: %w", address, err)
	case len(a.text) > maxAnswer:
		return fmt.Errorf("the sockdog on %s sent an impossibly long answer", address)
	case a.code == http.StatusMisdirectedRequest:
		return fmt.Errorf("the daemon does not answer to the name in %s: use its address", address)
	}
	return nil
}

// Status asks the daemon at an address for its status, and returns it as it came, too.
func Status(ctx context.Context, address string) ([]byte, *status.Status, error) {
	a, err := askNow(ctx, address, "/api/v1/status")
	if err != nil {
		return nil, nil, err
	}
	if a.code == http.StatusServiceUnavailable {
		return nil, nil, fmt.Errorf("the daemon on %s is not ready to answer: try again in a moment", address)
	}
	var s status.Status
	if err := json.Unmarshal(a.text, &s); a.code != http.StatusOK || err != nil || s.Time.IsZero() {
		return nil, nil, hinted(fmt.Errorf("what listens on %s is not sockdog", address))
	}
	return a.text, &s, nil
}

// DaemonStatus returns the status of the daemon, or nil if none is to be asked or none answers: for
// who can tell a little more by it, and enough without.
func (o *Observers) DaemonStatus(ctx context.Context) *status.Status {
	if Off(o.Daemon) {
		return nil
	}
	_, s, err := Status(ctx, o.Daemon)
	if err != nil {
		return nil
	}
	return s
}

// Ready asks the daemon at an address whether it is ready, and which rules are in force instead
// of its file's; empty: those are.
func Ready(ctx context.Context, address string) (ready bool, instead string, err error) {
	a, err := askNow(ctx, address, "/readyz")
	switch {
	case err != nil:
		return false, "", err
	case a.code != http.StatusOK && a.code != http.StatusServiceUnavailable:
		return false, "", fmt.Errorf("the sockdog on %s does not say whether it is ready: %d %s", address, a.code, http.StatusText(a.code))
	}
	_, instead, _ = strings.Cut(strings.TrimSpace(string(a.text)), status.ReadyBut)
	return a.code == http.StatusOK, instead, nil
}

// askNow fetches what a daemon tells at once.
func askNow(ctx context.Context, address, path string) (*answer, error) {
	const within = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	a, err := ask(ctx, address, path, within)
	switch {
	case errors.Is(err, errNobody):
		return nil, fmt.Errorf("%w: start sockdog run, or say with --address what its --listen says", err)
	case err != nil:
		return nil, hinted(err)
	}
	a.conn.Close()
	return a, nil
}

// hinted adds what to say instead of a wrong address.
func hinted(err error) error {
	return fmt.Errorf("%w; --address takes what --listen of the daemon says", err)
}
