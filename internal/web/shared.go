package web

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/status"
)

// shared serves one answer to all clients: it renders a status once, or once a second
// while that stays the same, however many clients ask.
type shared struct {
	kind    string // Content-Type
	current func() *status.Status
	render  func(*status.Status) ([]byte, error)

	mu   sync.Mutex
	last *answer
}

// answer is an answer for many clients.
type answer struct {
	of     *status.Status
	at     time.Time
	text   []byte
	err    error // there is nothing to serve
	zipped func() []byte
}

func (h *shared) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := h.answer(h.current())
	if a.err != nil {
		http.Error(w, a.err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", h.kind)
	w.Header().Set("Vary", "Accept-Encoding")
	body := a.text
	if takesGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
		body = a.zipped()
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}

func (h *shared) answer(s *status.Status) *answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.last; a != nil && a.of == s && time.Since(a.at) < freshFor {
		return a
	}
	a := &answer{of: s, at: time.Now()}
	a.text, a.err = h.render(s)
	a.zipped = sync.OnceValue(func() []byte { return zip(a.text) })
	h.last = a
	return a
}

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
