package web

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// serve runs Serve with a handler on a port of its own.
func serve(t *testing.T, h http.Handler) (address string, stop func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
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

// However many connect, so many are served at once, and the others when one of
// those rests.
func TestMostConns(t *testing.T) {
	defer verifyNoLeak(t)
	served, finish := make(chan struct{}, mostConns+1), make(chan struct{})
	address, stop := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		served <- struct{}{}
		select {
		case <-finish:
		case <-r.Context().Done():
		}
	}))
	for range mostConns + 1 {
		dial(t, address, request)
	}
	for range mostConns {
		<-served
	}
	select {
	case <-served:
		t.Errorf("%d connections are served at once", mostConns+1)
	case <-time.After(50 * time.Millisecond):
	}
	finish <- struct{}{}
	<-served
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// Readers who keep their connections keep nobody out.
func TestConnsAtRest(t *testing.T) {
	defer verifyNoLeak(t)
	address, stop := serve(t, http.NotFoundHandler())
	for range 2 * mostConns {
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

// Nor do those who connect and say nothing, or half a request.
func TestSilentConns(t *testing.T) {
	defer verifyNoLeak(t)
	address, stop := serve(t, http.NotFoundHandler())
	for range mostConns {
		dial(t, address, "")
		dial(t, address, "GET / HT")
	}
	began := time.Now()
	conn := dial(t, address, request)
	if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
		t.Fatalf("no answer: %v", err)
	}
	if took := time.Since(began); took > 1500*time.Millisecond {
		t.Errorf("it was answered after %v", took)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

const request = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
