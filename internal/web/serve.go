package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// mostConns bounds what readers can cost in descriptors and memory: the watch
// shares both. Who comes beyond that takes the place of a connection that rests
// between two requests, or else of one that has asked for nothing for silentFor
// after it was made, lest those who keep theirs keep out a liveness probe; where
// there is none, they wait, all but one in the kernel's accept queue.
const (
	mostConns = 64
	silentFor = 100 * time.Millisecond
)

// Serve answers on l until ctx is done, and then breaks off: nothing that is read
// here is worth waiting for. It closes l.
func Serve(ctx context.Context, l net.Listener, handler http.Handler, log *slog.Logger) error {
	seats := newLimited(l, mostConns)
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 2 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		// Longer than Prometheus waits between scrapes: the side that closes first
		// is left with the TIME_WAIT socket.
		IdleTimeout:                  2 * time.Minute,
		MaxHeaderBytes:               8 << 10,
		DisableGeneralOptionsHandler: true,
		ConnState:                    seats.note,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(seats); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", l.Addr(), err)
	}
	return nil
}

// limited is a listener with so many connections open at once at most.
type limited struct {
	net.Listener
	seats  chan struct{}
	closed chan struct{}
	close  func() error

	mu     sync.Mutex
	idle   []net.Conn    // those at rest, the longest first
	silent []newcomer    // those that have not asked for anything, the oldest first
	rested chan struct{} // one more is
}

// newcomer is a connection whose first request has not come.
type newcomer struct {
	net.Conn
	since time.Time
}

func newLimited(l net.Listener, most int) *limited {
	closed := make(chan struct{})
	return &limited{
		Listener: l,
		seats:    make(chan struct{}, most),
		closed:   closed,
		close:    sync.OnceValue(func() error { close(closed); return l.Close() }),
		rested:   make(chan struct{}, 1),
	}
}

func (l *limited) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	for {
		var later <-chan time.Time
		if len(l.seats) == cap(l.seats) {
			later = l.dismiss(time.Now())
		}
		select {
		case l.seats <- struct{}{}:
			return &seated{conn, sync.OnceFunc(func() { <-l.seats })}, nil
		case <-l.rested:
		case <-later:
		case <-l.closed:
			conn.Close()
			return nil, net.ErrClosed
		}
	}
}

// note keeps in mind which connections are at rest, and which have yet to ask.
func (l *limited) note(c net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = slices.DeleteFunc(l.idle, func(i net.Conn) bool { return i == c })
	l.silent = slices.DeleteFunc(l.silent, func(n newcomer) bool { return n.Conn == c })
	switch state {
	case http.StateNew:
		l.silent = append(l.silent, newcomer{c, time.Now()})
	case http.StateIdle:
		l.idle = append(l.idle, c)
		select {
		case l.rested <- struct{}{}:
		default:
		}
	}
}

// dismiss closes the connection that has been at rest for the longest, or else the
// one that has been silent for the longest. Where that is not for long enough, it
// returns what is ready once it is.
func (l *limited) dismiss(now time.Time) (later <-chan time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.idle) > 0:
		l.idle[0].Close() // the rest is up to note
		l.idle = l.idle[1:]
	case len(l.silent) == 0:
	case now.Sub(l.silent[0].since) >= silentFor:
		l.silent[0].Close()
		l.silent = l.silent[1:]
	default:
		return time.After(l.silent[0].since.Add(silentFor).Sub(now))
	}
	return nil
}

func (l *limited) Close() error { return l.close() }

// seated is a connection that gives its seat back when it is closed.
type seated struct {
	net.Conn
	leave func()
}

func (c *seated) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
