package web

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sockdog/sockdog/internal/status/statustest"
)

// serve runs Serve with a handler on a port of its own.
func serve(t *testing.T, h http.Handler) (address string, stop func() error) {
	t.Helper()
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, h, slog.New(slog.DiscardHandler)) }()
	return l.Addr().String(), func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(30 * time.Second):
			return errors.New("Serve did not end")
		}
	}
}

func dial(t *testing.T, address, request string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return conn
}

// verifyNoLeak overlooks what net/http waits for, half a second, after it has sent
// an answer that ends a connection.
func verifyNoLeak(t *testing.T) {
	goleak.VerifyNone(t, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

func TestServe(t *testing.T) {
	defer verifyNoLeak(t)
	reached := make(chan struct{})
	address, stop := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			close(reached)
			<-r.Context().Done()
		}
	}))
	get := "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
	for _, test := range []struct{ name, request, want string }{
		{"a request", get + "\r\n", "HTTP/1.1 200 OK"},
		{"a header too large", get + "X: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", "HTTP/1.1 431 Request Header Fields Too Large"},
		{"no HTTP", "\x16\x03\x01\x02\x00\x01\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	} {
		t.Run(test.name, func(t *testing.T) {
			line, err := bufio.NewReader(dial(t, address, test.request)).ReadString('\n')
			if err != nil || strings.TrimSpace(line) != test.want {
				t.Errorf("%q, %v, want %q", line, err, test.want)
			}
		})
	}
	// Requests under way, connections at rest and half a header keep nobody up.
	dial(t, address, "GET /hang HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	dial(t, address, "GET / HT")
	<-reached
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A listener that breaks is an error, and tells where.
func TestServeBroken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	err = Serve(t.Context(), l, http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "serve HTTP on 127.0.0.1:") {
		t.Errorf("error %v", err)
	}
}

// Who announces a body is refused before it comes.
func TestBodies(t *testing.T) {
	defer verifyNoLeak(t)
	address, stop := serve(t, handler(statustest.Lively(time.Now())))
	for name, announced := range map[string]string{
		"small":          "Content-Length: 9\r\n\r\n",
		"large":          "Content-Length: 1000000000\r\n\r\nx",
		"in chunks":      "Transfer-Encoding: chunked\r\n\r\n",
		"half a chunk":   "Transfer-Encoding: chunked\r\n\r\n9\r\nx",
		"asked for":      "Content-Length: 9\r\nExpect: 100-continue\r\n\r\n",
		"the only one":   "Content-Length: 9\r\nConnection: close\r\n\r\n",
		"that has come":  "Content-Length: 9\r\n\r\n012345678",
		"and a question": "Content-Length: 9\r\n\r\n012345678" + request,
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			conn := dial(t, address, "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"+announced)
			text, err := io.ReadAll(conn)
			if errors.Is(err, syscall.ECONNRESET) {
				err = nil // there was more of it
			}
			line, _, _ := strings.Cut(string(text), "\r\n")
			if err != nil || line != "HTTP/1.1 413 Request Entity Too Large" || strings.Count(string(text), "HTTP/1.1") != 1 {
				t.Errorf("%q, %v", text, err)
			}
			if took := time.Since(began); took > 900*time.Millisecond {
				t.Errorf("the connection was held for %v", took)
			}
		})
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// What a client sends, and what it does not read, takes up little memory of the kernel's.
func TestBuffers(t *testing.T) {
	defer verifyNoLeak(t)
	const most = 1 << 20 // both buffers, as the kernel counts them, and the client's
	var written atomic.Int64
	done := make(chan struct{})
	address, stop := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			<-done
			return
		}
		for text := make([]byte, 1<<10); r.Context().Err() == nil; {
			n, err := w.Write(text)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	}))
	unread := dial(t, address, "")
	unread.(*net.TCPConn).SetReadBuffer(1 << 10)
	io.WriteString(unread, request)
	unasked := dial(t, address, "GET /hang HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	unasked.SetWriteDeadline(time.Now().Add(2 * time.Second))
	n, err := unasked.Write(make([]byte, 64<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n > 4*most { // most of it waits with the client
		t.Errorf("%d bytes were taken that nobody wants: %v", n, err)
	}
	if n := written.Load(); n > most {
		t.Errorf("%d bytes wait for who does not read", n)
	}
	close(done)
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// However many connect, so many are served at once, and who comes later takes the
// place of who has been at it for the longest.
func TestMaxConns(t *testing.T) {
	defer verifyNoLeak(t)
	served := make(chan struct{}, 2*maxConns)
	var at, most atomic.Int64
	address, stop := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n := at.Add(1)
		defer at.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		served <- struct{}{}
		<-r.Context().Done()
	}))
	began := time.Now()
	first := dial(t, address, request)
	<-served
	for range maxConns {
		dial(t, address, request)
	}
	for range maxConns {
		<-served
	}
	if took := time.Since(began); took < minTime {
		t.Errorf("the first had %v", took)
	}
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the first, when the last was served: %v", err)
	}
	if most.Load() > maxConns+1 { // it may take a moment to end
		t.Errorf("%d were served at once", most.Load())
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// Readers who keep their connections keep nobody out.
func TestConnsAtRest(t *testing.T) {
	defer verifyNoLeak(t)
	address, stop := serve(t, http.NotFoundHandler())
	for range 2 * maxConns {
		conn := dial(t, address, request)
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
			t.Fatalf("no answer: %v", err)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

const request = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
