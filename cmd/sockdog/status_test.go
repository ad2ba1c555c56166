package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/status/statustest"
	"github.com/sockdog/sockdog/internal/web"
)

var update = flag.Bool("update", false, "write the golden files anew")

// telling serves a status, and returns the address.
func telling(t *testing.T, s *status.Status) string {
	t.Helper()
	board := web.NewBoard()
	if s != nil {
		board.Show(s)
	}
	return listening(t, web.Handler(board, http.NotFoundHandler(), http.NotFoundHandler()))
}

func listening(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// speaking listens, says something to who connects and hangs up.
func speaking(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte(text))
			conn.Close()
		}
	}()
	return l.Addr().String()
}

func TestStatus(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	defer func() { time.Local = local }()
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	empty := &status.Status{Version: "v0.4.0", Host: "node-7", Time: now, Started: now.Add(-time.Minute), File: status.RulesFile{BuiltIn: true, OK: true, Loaded: now.Add(-time.Minute)}}
	large := &status.Status{
		Version: "v0.4.0", Host: "node-7", Time: now, Started: now.Add(-time.Minute), Ready: true, File: status.RulesFile{Path: "r.yaml", OK: true, Loaded: now.Add(-time.Minute)},
		Sockets: status.Sockets{"close-wait": 7}, SocketsAt: now.Add(-190 * time.Second), SocketsEverySeconds: 900,
	}
	evil := statustest.Lively(now)
	evil.Problems, evil.Notes, evil.Rules, evil.Sockets = nil, nil, nil, nil
	evil.Actions = evil.Actions[:1]
	evil.Actions[0].Time = now.Add(-4 * time.Hour)
	unable := statustest.Lively(now)
	unable.Problems, unable.Rules, unable.Sockets = nil, unable.Rules[:1], nil
	unable.ActionPossible["kill"] = false
	unable.Actions = append(unable.Actions, append(unable.Actions, unable.Actions...)...)
	evil.Actions[0].Comm = "\x1b]0;caught\a\nroot"
	for _, test := range []struct {
		name   string
		status *status.Status
		bad    bool // exit status 1
	}{
		{"lively", statustest.Lively(now), true},
		{"empty", empty, false},
		{"large", large, false},
		{"escapes", evil, false},
		{"unable", unable, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			err := showStatus(t.Context(), &out, telling(t, test.status), "table")
			if bad := errors.As(err, new(found)) && err.Error() == ""; bad != test.bad || err != nil && !bad {
				t.Errorf("error %v; a problem stands: %v", err, test.bad)
			}
			same(t, "testdata/status/"+test.name+".txt", out.String())
		})
	}
}

// On a terminal no line is broken by it, and nothing of what was done is lost.
func TestStatusFits(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	defer func() { time.Local = local }()
	s := statustest.Lively(time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC))
	s.Problems[1].Text = "the rules file is not in force: /etc/sockdog/rules.yaml:12:7: unknown key \"dprot\": did you mean dport?\n" +
		"/etc/sockdog/rules.yaml:14:7: unknown state \"close-wiat\": did you mean close-wait?\nand 47 more: sockdog check /etc/sockdog/rules.yaml"
	for _, cells := range []int{60, 80, 120} {
		var out strings.Builder
		if err := printStatus(&out, s, cells); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > cells {
				t.Errorf("%d cells, of %d: %s", n, cells, line)
			}
		}
		same(t, fmt.Sprintf("testdata/status/lively_%d.txt", cells), out.String())
	}
}

// same compares with a golden file, or writes it anew.
func same(t *testing.T, golden, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStatusJSON(t *testing.T) {
	s := statustest.Lively(time.Now())
	s.Problems = nil
	var out bytes.Buffer
	if err := showStatus(t.Context(), &out, telling(t, s), "json"); err != nil {
		t.Fatal(err)
	}
	var got status.Status
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s.Sockets, got.Sockets); diff != "" || !strings.HasPrefix(out.String(), "{\n  \"version\"") {
		t.Errorf("sockets (-want +got):\n%s\n%s", diff, &out)
	}
}

func TestStatusErrors(t *testing.T) {
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	answer := func(code int, text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			w.Write([]byte(text))
		})
	}
	for _, test := range []struct{ name, address, want string }{
		{"nothing listens", nobody.Addr().String(), "nothing listens on 127.0.0.1:"},
		{"starting", telling(t, nil), "is not ready to answer: try again in a moment"},
		{"another program", listening(t, http.NotFoundHandler()), "is no sockdog"},
		{"another JSON", listening(t, answer(http.StatusOK, `{"status":"UP"}`)), "is no sockdog"},
		{"no JSON", listening(t, answer(http.StatusOK, `<html>`)), "is no sockdog"},
		{"a redirect", listening(t, http.RedirectHandler("/elsewhere", http.StatusFound)), "is no sockdog"},
		{"a foreign 503", listening(t, answer(http.StatusServiceUnavailable, "")), "is no sockdog"},
		{"a foreign 421", listening(t, answer(http.StatusMisdirectedRequest, "")), "is no sockdog"},
		{"no HTTP", speaking(t, "SSH-2.0-OpenSSH_9.6\r\n"), "is no sockdog"},
		{"nothing said", speaking(t, ""), "is no sockdog"},
		{"a name of somebody else", listening(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Host = "shop.example.com"
			web.Handler(web.NewBoard(), http.NotFoundHandler(), http.NotFoundHandler()).ServeHTTP(w, r)
		})), "use its address"},
		{"no such host", "sockdog.invalid:1", "--address takes what --listen of the daemon says"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			err := showStatus(t.Context(), &out, test.address, "table")
			if !errors.As(err, new(found)) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if out.Len() > 0 {
				t.Errorf("it printed %q", &out)
			}
		})
	}
}
