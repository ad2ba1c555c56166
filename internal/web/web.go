// Package web serves the daemon's status over HTTP: a page, JSON, metrics and probes. It
// is read-only, and trusts nothing that comes in.
package web

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/status"
)

//go:embed page.html page.js plots.js page.css
var files embed.FS

// Server is the value of the header of that name.
const Server = "sockdog"

// Handler serves the status in the store, metrics and ages. It answers to every address,
// to localhost and to these names: another name in a Host header may be a foreign page
// that reads this through DNS rebinding.
func Handler(store *Store, metrics func(*status.Status) []byte, ages http.Handler, names ...string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", &shared{kind: "text/plain; version=0.0.4; charset=utf-8", current: store.Current,
		render: func(s *status.Status) ([]byte, error) { return metrics(s), nil }})
	mux.Handle("GET /api/v1/status", &shared{kind: "application/json", current: store.Current, render: statusText})
	// Probes have little time: they do not wait for a fresh status.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { judge(w, turning(store.turned.Load(), time.Now()), "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		s := store.last.Load()
		judge(w, ready(s), "ok"+instead(s))
	})
	mux.Handle("GET "+AgesPath, ages)
	mux.Handle("GET /{$}", file("page.html", "text/html"))
	for name, kind := range map[string]string{"page.js": "text/javascript", "plots.js": "text/javascript", "page.css": "text/css"} {
		mux.Handle("GET /"+name, file(name, kind))
	}
	return guard(mux, names)
}

// guard refuses requests for a name that is not ours, and sets the headers that keep
// browsers from misusing an answer.
func guard(next http.Handler, names []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Server", Server)
		header.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-store")
		if !ours(r.Host, names) {
			http.Error(w, "sockdog does not answer to the name in this request's Host header: use its address, localhost, or the name that it listens on", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ours reports whether host, with or without a port, is an address or one of our
// names. A name can be made to point here by whoever owns it; an address cannot.
// No browser leaves the header out.
func ours(host string, names []string) bool {
	if name, port, err := net.SplitHostPort(host); err == nil && strings.Trim(port, "0123456789") == "" {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), ".")
	if _, err := netip.ParseAddr(host); err == nil || host == "" || strings.EqualFold(host, "localhost") {
		return true
	}
	return slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(host, strings.TrimSuffix(name, ".")) })
}

// loopBound is how old the last sign of life may be before the loop, which gives one every
// few seconds, counts as hanging.
const loopBound = 10 * time.Second

// turning says why the watch loop may not turn; empty: it does.
func turning(last *time.Time, now time.Time) string {
	switch {
	case last == nil:
		return "starting"
	case now.Sub(*last) > loopBound:
		return fmt.Sprintf("the watch loop has not turned for %s", now.Sub(*last).Truncate(time.Second))
	}
	return ""
}

// ready says what the daemon is still waiting for; empty: nothing.
func ready(s *status.Status) string {
	if s == nil || !s.Ready {
		return status.NotReady
	}
	return ""
}

// instead adds to "ok" that the rules of the file are not in force.
func instead(s *status.Status) string {
	if s == nil || s.File.Instead() == "" {
		return ""
	}
	return status.ReadyBut + s.File.Instead()
}

func judge(w http.ResponseWriter, why, ok string) {
	if why != "" {
		http.Error(w, why, http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, ok)
}

func statusText(s *status.Status) ([]byte, error) {
	if s == nil {
		return nil, errors.New("starting")
	}
	text, err := json.Marshal(s)
	return append(text, '\n'), err
}

func file(name, kind string) http.Handler {
	return &shared{
		kind:    kind + "; charset=utf-8",
		current: func() *status.Status { return nil },
		render:  func(*status.Status) ([]byte, error) { return files.ReadFile(name) },
	}
}
