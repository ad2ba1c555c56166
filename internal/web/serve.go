package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	limited := newLimitListener(l)
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
	closed chan struct{}
	close  func() error
	left   chan struct{} // ready when a connection has ended

	mu      sync.Mutex
	conns   []*limitedConn
	waiting bool // there are maxConns, and a client waits
}

// limitedConn is a connection of a limitListener.
type limitedConn struct {
	net.Conn
	of    *limitListener
	begin sync.Once // to read

	// Under of.mu:
	phase phase
	since time.Time // it is in that
}

// phase is what a connection does. The first is the first to be evicted.
type phase int

const (
	idle   phase = iota // between two requests
	asking              // a request
	fresh               // the server has not read from it yet
)

func newLimitListener(l net.Listener) *limitListener {
	closed := make(chan struct{})
	return &limitListener{
		Listener: l,
		closed:   closed,
		close:    sync.OnceValue(func() error { close(closed); return l.Close() }),
		left:     make(chan struct{}, 1),
	}
}

func (l *limitListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &limitedConn{Conn: conn, of: l, phase: fresh}
	for {
		wait := l.admit(c, time.Now())
		if wait <= 0 {
			return c, nil
		}
		select {
		case <-time.After(wait):
		case <-l.left:
		case <-l.closed:
			conn.Close()
			return nil, net.ErrClosed
		}
	}
}

// admit adds c to the connections, in the place of another if there is no room. It
// returns how long to wait if no other may be evicted yet.
func (l *limitListener) admit(c *limitedConn, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = len(l.conns) >= maxConns
	if l.waiting {
		worst := slices.MinFunc(l.conns, func(a, b *limitedConn) int {
			return cmp.Or(cmp.Compare(a.phase, b.phase), a.since.Compare(b.since))
		})
		switch wait := minTime - now.Sub(worst.since); {
		case worst.phase == fresh:
			return minTime
		case worst.phase == asking && wait > 0:
			return wait
		}
		l.evict(worst)
	}
	c.since = now
	l.conns = append(l.conns, c)
	return 0
}

// track notes the phase of a connection.
func (l *limitListener) track(conn net.Conn, state http.ConnState) {
	c := conn.(*limitedConn)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case state == http.StateIdle:
		c.phase, c.since = idle, time.Now()
		if l.waiting {
			l.evict(c)
		}
	case state == http.StateActive && c.phase == idle:
		c.phase, c.since = asking, time.Now()
	}
}

// evict closes a connection for another to take its place.
func (l *limitListener) evict(c *limitedConn) {
	if tcp, ok := c.Conn.(*net.TCPConn); ok && c.phase != idle {
		tcp.SetLinger(0) // the kernel must not keep what the client does not read
	}
	c.Conn.Close()
	l.remove(c)
}

func (l *limitListener) remove(c *limitedConn) {
	i := slices.Index(l.conns, c)
	if i < 0 {
		return // it was evicted
	}
	l.conns = slices.Delete(l.conns, i, i+1)
	l.waiting = false
	select {
	case l.left <- struct{}{}:
	default:
	}
}

func (l *limitListener) Close() error { return l.close() }

// Read reads, and notes that the request has begun.
func (c *limitedConn) Read(b []byte) (int, error) {
	c.begin.Do(func() {
		c.of.mu.Lock()
		defer c.of.mu.Unlock()
		c.phase, c.since = asking, time.Now()
	})
	return c.Conn.Read(b)
}

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.of.remove(c)
	return err
}
