package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Clients share descriptors and memory with the watch, and must not cost it much. A
// client that connects while maxConns others are connected takes the place of an idle
// one, or else of the one with the longest request, if that has had minTime: a slow or
// hostile client keeps no other out. At most maxConns/minTime clients a second get in
// that way, which bounds the cost of those that connect again and again.
const (
	maxConns = 256
	minTime  = 100 * time.Millisecond
)

// The kernel buffers little for a client, and drops one that does not read.
const (
	bufferSize = 16 << 10
	unreadFor  = 10 * time.Second
)

// Listen listens for [Serve]. Multipath TCP is of no use here, and has fewer options.
func Listen(address string) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = errors.Join( // inherited by each connection
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, bufferSize),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, bufferSize),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unreadFor.Milliseconds())))
		})
		return errors.Join(err, failed)
	}}
	config.SetMultipathTCP(false)
	return config.Listen(context.Background(), "tcp", address)
}

// Serve serves on l until ctx is done, and then drops all connections: no answer is
// worth waiting for. It closes l.
func Serve(ctx context.Context, l net.Listener, handler http.Handler, log *slog.Logger) error {
	limited := &limitListener{Listener: l, done: ctx.Done(), conns: make(map[net.Conn]*phase)}
	server := &http.Server{
		Handler:           refuseBodies(handler),
		ReadHeaderTimeout: 2 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      unreadFor,
		// Longer than Prometheus waits between scrapes: the side that closes first keeps
		// the TIME_WAIT socket.
		IdleTimeout:                  2 * time.Minute,
		MaxHeaderBytes:               8 << 10,
		DisableGeneralOptionsHandler: true,
		ConnState:                    limited.track,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(limited); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", l.Addr(), err)
	}
	return nil
}

// refuseBodies refuses requests with a body before it arrives: net/http would read it,
// to use the connection again.
func refuseBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			next.ServeHTTP(w, r)
			return
		}
		http.NewResponseController(w).SetReadDeadline(time.Now()) // of what has not come
		w.Header().Set("Connection", "close")
		http.Error(w, "sockdog takes no request bodies", http.StatusRequestEntityTooLarge)
	})
}

// limitListener is a listener with maxConns connections open at once.
type limitListener struct {
	net.Listener
	done <-chan struct{} // Accept waits no longer

	mu    sync.Mutex
	conns map[net.Conn]*phase
}

// phase is what a connection does.
type phase struct {
	doing int
	since time.Time
}

const (
	idle   = iota // it is between two requests, and is the first to be evicted
	asking        // a request
)

// retryAdmit is how often a client that waits looks for a place.
const retryAdmit = 5 * time.Millisecond

func (l *limitListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	for !l.admit(conn, time.Now()) {
		select {
		case <-time.After(retryAdmit):
		case <-l.done:
			conn.Close()
			return nil, net.ErrClosed
		}
	}
	return conn, nil
}

// admit adds a connection, in the place of another if there is no room, and reports
// whether it could.
func (l *limitListener) admit(conn net.Conn, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) >= maxConns {
		worst := slices.MinFunc(slices.Collect(maps.Keys(l.conns)), func(a, b net.Conn) int {
			p, q := l.conns[a], l.conns[b]
			return cmp.Or(cmp.Compare(p.doing, q.doing), p.since.Compare(q.since))
		})
		if p := l.conns[worst]; p.doing == asking {
			if now.Sub(p.since) < minTime {
				return false
			}
			if tcp, ok := worst.(*net.TCPConn); ok {
				tcp.SetLinger(0) // the kernel must not keep what the client does not read
			}
		}
		worst.Close()
		delete(l.conns, worst)
	}
	l.conns[conn] = &phase{asking, now}
	return true
}

// track notes what a connection does.
func (l *limitListener) track(conn net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.conns[conn]
	switch {
	case p == nil: // it was evicted
	case state == http.StateClosed:
		delete(l.conns, conn)
	case state == http.StateIdle:
		p.doing, p.since = idle, time.Now()
	case state == http.StateActive && p.doing == idle:
		p.doing, p.since = asking, time.Now()
	}
}
