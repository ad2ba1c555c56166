package web

import (
	"bytes"
	"compress/gzip"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/status"
)

// shared serves one answer of next to all clients: it renders a status once, or once a
// second while that stays the same, however many clients ask. Of a request, only the
// path reaches next.
type shared struct {
	current func() *status.Status
	next    http.Handler

	mu   sync.Mutex
	last *answer
}

func (h *shared) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := h.answer(h.current(), r.URL.Path)
	maps.Copy(w.Header(), a.header)
	w.Header().Set("Vary", "Accept-Encoding")
	body := a.body.Bytes()
	if takesGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
		body = a.zipped()
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(a.code)
	w.Write(body)
}

func (h *shared) answer(s *status.Status, path string) *answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.last; a != nil && a.of == s && time.Since(a.at) < freshFor {
		return a
	}
	a := &answer{of: s, at: time.Now(), code: http.StatusOK, header: make(http.Header)}
	a.zipped = sync.OnceValue(func() []byte { return zip(a.body.Bytes()) })
	h.next.ServeHTTP(a, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: path}, Header: make(http.Header)})
	h.last = a
	return a
}

// answer is an answer for many clients, and the [http.ResponseWriter] that records it.
type answer struct {
	of     *status.Status
	at     time.Time
	code   int
	header http.Header
	body   bytes.Buffer
	zipped func() []byte
}

func (a *answer) Header() http.Header            { return a.header }
func (a *answer) WriteHeader(code int)           { a.code = code }
func (a *answer) Write(text []byte) (int, error) { return a.body.Write(text) }

func zip(text []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(text) // into memory
	z.Close()
	return b.Bytes()
}

// takesGzip reports whether a client accepts gzip.
func takesGzip(r *http.Request) bool {
	for coding := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, weight, _ := strings.Cut(strings.ReplaceAll(coding, " ", ""), ";")
		if strings.EqualFold(name, "gzip") {
			q, err := strconv.ParseFloat(strings.TrimPrefix(weight, "q="), 64)
			return err != nil || q > 0
		}
	}
	return false
}
