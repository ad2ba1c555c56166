package web

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sockdog/sockdog/internal/metrics"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/status/statustest"
)

// handler serves one status; nil: none yet.
func handler(s *status.Status, names ...string) http.Handler {
	store := showing(s)
	return Handler(store, metrics.Text, noAges, names...)
}

func showing(s *status.Status) *Store {
	store := NewStore()
	if s != nil {
		store.Show(s)
	}
	return store
}

// looped is a store in which a daemon's loop shows how things stand.
func looped(t *testing.T) *Store {
	store := showing(statustest.Lively(time.Now()))
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-store.Asked():
			case <-tick.C:
			case <-t.Context().Done():
				return
			}
			store.Show(statustest.Lively(time.Now()))
		}
	}()
	return store
}

var noAges = NewAges("v1", sock.Origin{}, func() sock.Instant { return 0 })

func ask(h http.Handler, method, path, host string) *http.Response {
	request := httptest.NewRequest(method, path, nil)
	request.Host = host
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, request)
	return answer.Result()
}

func TestPaths(t *testing.T) {
	h := handler(statustest.Lively(time.Now()))
	for path, kind := range map[string]string{
		"/":              "text/html; charset=utf-8",
		"/page.js":       "text/javascript; charset=utf-8",
		"/plots.js":      "text/javascript; charset=utf-8",
		"/page.css":      "text/css; charset=utf-8",
		"/api/v1/status": "application/json",
		"/metrics":       "text/plain; version=0.0.4; charset=utf-8",
		"/healthz":       "text/plain; charset=utf-8",
		"/readyz":        "text/plain; charset=utf-8",
	} {
		t.Run(path, func(t *testing.T) {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				answer := ask(h, method, path, "127.0.0.1:9797")
				if answer.StatusCode != http.StatusOK {
					t.Errorf("%s: %s", method, answer.Status)
				}
				if got := answer.Header.Get("Content-Type"); got != kind {
					t.Errorf("%s: Content-Type %q, want %q", method, got, kind)
				}
			}
			for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodTrace} {
				answer := ask(h, method, path, "127.0.0.1:9797")
				if answer.StatusCode != http.StatusMethodNotAllowed || answer.Header.Get("Allow") != "GET, HEAD" {
					t.Errorf("%s: %s, Allow: %s", method, answer.Status, answer.Header.Get("Allow"))
				}
			}
		})
	}
	for _, path := range []string{"/web.go", "/page.html", "/api/v1/", "/debug/pprof/", "/metrics/"} {
		if answer := ask(h, http.MethodGet, path, "127.0.0.1:9797"); answer.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, answer.Status)
		}
	}
}

// What a browser needs to know stands on every answer, and on the bad ones too.
func TestHeaders(t *testing.T) {
	h := handler(statustest.Lively(time.Now()))
	for _, test := range []struct{ method, path, host string }{
		{http.MethodGet, "/", "127.0.0.1"},
		{http.MethodGet, "/api/v1/status", "127.0.0.1"},
		{http.MethodGet, "/none", "127.0.0.1"},
		{http.MethodPost, "/", "127.0.0.1"},
		{http.MethodGet, "/", "example.com"},
	} {
		answer := ask(h, test.method, test.path, test.host)
		got := map[string]string{}
		for _, name := range []string{"Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Cache-Control", "Cross-Origin-Resource-Policy", "Access-Control-Allow-Origin", "Server"} {
			got[name] = answer.Header.Get(name)
		}
		want := map[string]string{
			"Content-Security-Policy":      "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
			"X-Content-Type-Options":       "nosniff",
			"Referrer-Policy":              "no-referrer",
			"Cache-Control":                "no-store",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Access-Control-Allow-Origin":  "",
			"Server":                       "sockdog",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", test, diff)
		}
	}
}

func TestHost(t *testing.T) {
	h := handler(statustest.Lively(time.Now()), "node-7", "node-7.example.com", "shop.example.com.")
	for host, want := range map[string]int{
		"127.0.0.1":               200,
		"127.0.0.1:9797":          200,
		"[::1]:9797":              200,
		"[::1]":                   200,
		"10.1.2.3:9797":           200,
		"localhost":               200,
		"LOCALHOST:8080":          200,
		"localhost.:9797":         200,
		"node-7:9797":             200,
		"NODE-7.example.com":      200,
		"shop.example.com:9797":   200,
		"shop.example.com.":       200,
		"":                        200, // HTTP/1.0, and no browser
		"example.com":             421,
		"example.com:9797":        421,
		"localhost.example.com":   421,
		"127.0.0.1.example.com":   421,
		"node-7.example.com.evil": 421,
		"127.0.0.1:9797:80":       421,
		"127.0.0.1:9797.evil.com": 421,
		"localhost:evil.com":      421,
		"[::1]:9797.evil.com":     421,
		"127.0.0.1:":              200,
		"[::1":                    200, // an address all the same
		"a b":                     421,
	} {
		for _, path := range []string{"/", "/metrics", "/healthz", "/api/v1/status"} {
			if got := ask(h, http.MethodGet, path, host).StatusCode; got != want {
				t.Errorf("Host %q at %s: %d, want %d", host, path, got, want)
			}
		}
	}
}

func TestHealth(t *testing.T) {
	made := func(ago time.Duration, ready bool) *status.Status {
		return &status.Status{Time: time.Now().Add(-ago), Ready: ready}
	}
	for _, test := range []struct {
		name            string
		status          *status.Status
		healthy, readyz int
	}{
		{"before the loop turns", nil, 503, 503},
		{"before the first look", made(0, false), 200, 503},
		{"watching", made(time.Second, true), 200, 200},
		{"the loop hangs", made(11*time.Second, true), 503, 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := handler(test.status)
			if got := ask(h, http.MethodGet, "/healthz", "127.0.0.1").StatusCode; got != test.healthy {
				t.Errorf("healthz %d, want %d", got, test.healthy)
			}
			if got := ask(h, http.MethodGet, "/readyz", "127.0.0.1").StatusCode; got != test.readyz {
				t.Errorf("readyz %d, want %d", got, test.readyz)
			}
		})
	}
}

// A probe may read with which rules it is ready, if not with those of the file.
func TestReadyInstead(t *testing.T) {
	for _, test := range []struct {
		file status.RulesFile
		want string
	}{
		{status.RulesFile{Path: "r.yaml", OK: true}, "ok\n"},
		{status.RulesFile{Path: "r.yaml", BuiltIn: true, Error: "r.yaml:1:1: bad\nworse"}, "ok, but with the built-in rules: r.yaml:1:1: bad\n"},
		{status.RulesFile{Path: "r.yaml", Error: "r.yaml:1:1: bad"}, "ok, but with the rules from before: r.yaml:1:1: bad\n"},
	} {
		response := ask(handler(&status.Status{Time: time.Now(), Ready: true, File: test.file}), http.MethodGet, "/readyz", "127.0.0.1")
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK || string(text) != test.want {
			t.Errorf("%+v: %d %q, %v; want %q", test.file, response.StatusCode, text, err, test.want)
		}
	}
}

// A loop that gives signs of life turns, however old the last status is.
func TestHealthByTurns(t *testing.T) {
	store := showing(&status.Status{Time: time.Now().Add(-time.Hour)})
	store.Turned()
	if got := ask(Handler(store, metrics.Text, noAges), http.MethodGet, "/healthz", "127.0.0.1").StatusCode; got != http.StatusOK {
		t.Errorf("healthz %d, want 200", got)
	}
}

func TestStatus(t *testing.T) {
	want := statustest.Lively(time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC))
	var got status.Status
	if err := json.NewDecoder(ask(handler(want), http.MethodGet, "/api/v1/status", "127.0.0.1").Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("after it was sent (-want +got):\n%s", diff)
	}
	if answer := ask(handler(nil), http.MethodGet, "/api/v1/status", "127.0.0.1"); answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("before there is one: %s", answer.Status)
	}
}

// The page has the states in the order of everything else, each with a colour.
func TestPageStates(t *testing.T) {
	script, err := files.ReadFile("page.js")
	if err != nil {
		t.Fatal(err)
	}
	style, err := files.ReadFile("page.css")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(script), "const states = [")
	list, _, _ = strings.Cut(list, "]")
	var got []string
	for _, name := range regexp.MustCompile(`"(.*?)"`).FindAllStringSubmatch(list, -1) {
		got = append(got, name[1])
		if !strings.Contains(string(style), "\n."+name[1]+" { --state: ") {
			t.Errorf("%s has no colour", name[1])
		}
	}
	if diff := cmp.Diff(status.States, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The page takes nothing from elsewhere, and no markup but its own.
func TestPageIsWhole(t *testing.T) {
	for _, name := range []string{"page.html", "page.js", "plots.js", "page.css"} {
		text, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "//cdn", "url(", "@import", " style=", " onclick="} {
			if strings.Contains(string(text), bad) {
				t.Errorf("%s contains %s", name, bad)
			}
		}
		// Without a script, nothing asks.
		if name == "page.html" && strings.Contains(string(text), "Loading") {
			t.Error("page.html claims what its script does")
		}
		if n := strings.Count(strings.ReplaceAll(string(text), "http://www.w3.org/", ""), "://"); n > 0 {
			t.Errorf("%s names a foreign address", name)
		}
	}
}

func BenchmarkStatus(b *testing.B) {
	h := handler(statustest.Lively(time.Now()))
	b.ReportAllocs()
	for b.Loop() {
		ask(h, http.MethodGet, "/api/v1/status", "127.0.0.1")
	}
}
