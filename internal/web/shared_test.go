package web

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sockdog/sockdog/internal/status"
)

// However many ask, an answer is made once for each status, and once a second where
// the loop hangs.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s atomic.Pointer[status.Status]
		made := 0
		h := &shared{kind: "text/x-test", current: s.Load, render: func(*status.Status) ([]byte, error) {
			made++
			return fmt.Appendf(nil, "number %d", made), nil
		}}
		asked := func(want string) {
			t.Helper()
			var all sync.WaitGroup
			for i := range 100 {
				all.Go(func() {
					request := httptest.NewRequest(http.MethodGet, "/metrics?name[]=up", nil)
					if i%2 == 0 {
						request.Header.Set("Accept-Encoding", "deflate, gzip;q=0.8")
					}
					answer := httptest.NewRecorder()
					h.ServeHTTP(answer, request)
					body := io.Reader(answer.Body)
					if i%2 == 0 {
						var err error
						if body, err = gzip.NewReader(body); err != nil {
							t.Error(err)
							return
						}
					}
					text, err := io.ReadAll(body)
					if err != nil || string(text) != want {
						t.Errorf("%q, %v, want %q", text, err, want)
					}
					header := answer.Header()
					if header.Get("Content-Type") != "text/x-test" || header.Get("Vary") != "Accept-Encoding" || header.Get("Content-Length") == "" {
						t.Errorf("header %v", header)
					}
				})
			}
			all.Wait()
		}
		asked("number 1")
		s.Store(&status.Status{})
		asked("number 2")
		time.Sleep(freshFor - 1)
		asked("number 2")
		time.Sleep(time.Nanosecond)
		asked("number 3")
		asked("number 3")
	})
}

func TestTakesGzip(t *testing.T) {
	for header, want := range map[string]bool{
		"": false, "gzip": true, "GZIP": true, "br, gzip": true, "gzip;q=0.5, deflate": true, "gzip ; q=1.0": true,
		"gzip;q=0": false, "gzip; q=0.000": false, "identity": false, "x-gzip2": false, "*": false, "gzip;q=x": true,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept-Encoding", header)
		if got := takesGzip(r); got != want {
			t.Errorf("%q: %v", header, got)
		}
	}
}
