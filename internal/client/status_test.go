package client

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/realtest"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/web"
)

// telling serves a status, and returns the address.
func telling(t *testing.T, s *status.Status) string {
	t.Helper()
	board := web.NewStore()
	if s != nil {
		board.Show(s)
	}
	return listening(t, web.Handler(board, nil, http.NotFoundHandler()))
}

func listening(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// speaking says something to who connects, and hangs up.
func speaking(t *testing.T, text string) string {
	t.Helper()
	return realtest.Listen(t, func(conn net.Conn) { io.WriteString(conn, text) })
}

func TestStatusErrors(t *testing.T) {
	answer := func(code int, text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			w.Write([]byte(text))
		})
	}
	for _, test := range []struct{ name, address, want string }{
		{"nothing listens", realtest.Unused(t), "nothing listens on 127.0.0.1:"},
		{"starting", telling(t, nil), "is not ready to answer: try again in a moment"},
		{"another program", listening(t, http.NotFoundHandler()), "is not sockdog"},
		{"another JSON", listening(t, answer(http.StatusOK, `{"status":"UP"}`)), "is not sockdog"},
		{"no JSON", listening(t, answer(http.StatusOK, `<html>`)), "is not sockdog"},
		{"a redirect", listening(t, http.RedirectHandler("/elsewhere", http.StatusFound)), "is not sockdog"},
		{"a foreign 503", listening(t, answer(http.StatusServiceUnavailable, "")), "is not sockdog"},
		{"a foreign 421", listening(t, answer(http.StatusMisdirectedRequest, "")), "is not sockdog"},
		{"no HTTP", speaking(t, "SSH-2.0-OpenSSH_9.6\r\n"), "is not sockdog"},
		{"nothing said", speaking(t, ""), "is not sockdog"},
		{"a name of somebody else", listening(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Host = "shop.example.com"
			web.Handler(web.NewStore(), nil, http.NotFoundHandler()).ServeHTTP(w, r)
		})), "use its address"},
		{"no such host", "sockdog.invalid:1", "--address takes what --listen of the daemon says"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text, s, err := Status(t.Context(), test.address)
			if err == nil || !strings.Contains(err.Error(), test.want) || text != nil || s != nil {
				t.Errorf("%q, error %v, want %q", text, err, test.want)
			}
		})
	}
}

// Who can do without a status has none where nobody is to be asked, and where none answers.
func TestDaemonStatus(t *testing.T) {
	for name, test := range map[string]struct {
		address string
		want    bool
	}{
		"off":             {"off", false},
		"no address":      {"", false},
		"another program": {listening(t, http.NotFoundHandler()), false},
		"a daemon":        {telling(t, &status.Status{Version: "v9", Time: time.Now()}), true},
	} {
		o := Observers{Daemon: test.address}
		if s := o.DaemonStatus(t.Context()); (s != nil && s.Version == "v9") != test.want || (s != nil) != test.want {
			t.Errorf("%s: %+v", name, s)
		}
	}
}
