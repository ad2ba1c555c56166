package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
