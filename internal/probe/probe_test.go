package probe_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/probe"
	"github.com/sockdog/sockdog/internal/realtest"
)

// TestFetch: what a service answers decides, at once, and a service that does not answer
// is not well.
func TestFetch(t *testing.T) {
	const timeout = 300 * time.Millisecond
	release := make(chan struct{})
	mux := http.NewServeMux()
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	mux.HandleFunc("/ok", status(http.StatusOK))
	mux.HandleFunc("/no-content", status(http.StatusNoContent))
	mux.HandleFunc("/busy", status(http.StatusServiceUnavailable))
	mux.HandleFunc("/missing", status(http.StatusNotFound))
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/busy", http.StatusFound)
	})
	mux.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/round", http.StatusFound)
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/silent", func(http.ResponseWriter, *http.Request) { <-release })
	mux.HandleFunc("/headers", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X", strings.Repeat("x", 1<<20))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close) // once the tests below have ended, which are in parallel
	t.Cleanup(func() { close(release) })
	noHTTP := realtest.Listen(t, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nX: y"); <-release })
	for _, test := range []struct {
		url  string
		well bool
	}{
		{server.URL + "/ok", true},
		{server.URL + "/no-content", true},
		{server.URL + "/moved", true},
		{server.URL + "/round", true},
		{server.URL + "/endless", true},
		{server.URL + "/busy", false},
		{server.URL + "/missing", false},
		{server.URL + "/silent", false},
		{server.URL + "/headers", false},
		{"http://" + noHTTP, false},
		{"http://" + realtest.Unused(t), false},
		{"http://[::1", false},
	} {
		t.Run(test.url[strings.LastIndex(test.url, "/"):], func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			if err := probe.New(timeout).Fetch(test.url); (err == nil) != test.well {
				t.Errorf("%s: %v", test.url, err)
			}
			if took := time.Since(began); took > timeout+5*time.Second {
				t.Errorf("%s took %v", test.url, took)
			}
		})
	}
}
