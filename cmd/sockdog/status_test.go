package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/control"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/status/statustest"
	"github.com/sockdog/sockdog/internal/web"
)

// telling serves a status, and returns the address.
func telling(t *testing.T, s *status.Status) string {
	t.Helper()
	board := web.NewStore()
	board.Show(s)
	server := httptest.NewServer(web.Handler(board, nil, http.NotFoundHandler()))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// The exit status tells whether a problem stands.
func TestStatusProblem(t *testing.T) {
	for _, problem := range []bool{true, false} {
		s := statustest.Lively(time.Now())
		if !problem {
			s.Problems = nil
		}
		var out bytes.Buffer
		err := showStatus(t.Context(), &out, telling(t, s), "table")
		if bad := errors.Is(err, errPrinted); bad != problem || err != nil && !bad || !strings.Contains(out.String(), "RULE") {
			t.Errorf("error %v; a problem stands: %v\n%s", err, problem, &out)
		}
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

// readiness is a daemon, as its control socket has it.
type readiness struct {
	control.Handler
	ready   bool
	instead string
}

func (r readiness) Ready() (ready bool, instead string) { return r.ready, r.instead }

// TestStatusReady: the control socket tells whether the daemon is ready, else the page does.
func TestStatusReady(t *testing.T) {
	const none, no, yes = -1, 0, 1
	for _, test := range []struct {
		name         string
		socket, page int
		want         string // in the error; empty: it is ready
	}{
		{"both are", yes, yes, ""},
		{"only the socket is there", yes, none, ""},
		{"only the page is there", none, yes, ""},
		{"the page is another's", no, yes, "not ready: no rules are in force yet"},
		{"the socket is not", no, none, "not ready: no rules are in force yet"},
		{"the page is not", none, no, "not ready: no rules are in force yet"},
		{"nobody is there", none, none, "no sockdog answers on "},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("RUNTIME_DIRECTORY", dir)
			address := "127.0.0.1:1"
			if test.page != none {
				address = telling(t, &status.Status{Time: time.Now(), Ready: test.page == yes})
			}
			if test.socket != none {
				listeners, err := control.Listen(control.Paths("", ""))
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				served := make(chan error)
				go func() { served <- control.Serve(ctx, listeners[0], readiness{ready: test.socket == yes}) }()
				t.Cleanup(func() { cancel(); <-served })
			}
			cmd := statusCommand()
			var out bytes.Buffer
			cmd.SetOut(&out)
			cmd.SetContext(t.Context())
			var f controlFlags
			err := f.showReady(cmd, address, true, true)
			if text := fmt.Sprint(err); test.want == "" && (err != nil || out.String() != "ready\n") || !strings.Contains(text, test.want) || strings.Contains(text, "\n") {
				t.Errorf("error %v, printed %q; want an error with %q", err, &out, test.want)
			}
		})
	}
}
