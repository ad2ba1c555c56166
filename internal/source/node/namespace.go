package node

import (
	"errors"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
)

// namespace is a network namespace that is watched, and the connections to its sockets. An
// open connection keeps it alive, so whoever works with one gives it back, and those that
// nobody works with are closed when the namespace is given up.
type namespace struct {
	*netns.Namespace
	open func(*netns.Namespace) (*sockdiag.Conn, error)

	followed, tried atomic.Uint64 // periods in which the table followed all connections, and was to
	flagging        atomic.Bool
	locked          atomic.Bool // a scan of it waits in the kernel
	appeared        sock.Instant

	names atomic.Pointer[string] // as in sock.Socket; nil: not known

	mu     sync.Mutex
	left   bool // it is watched no more
	conns  []*sockdiag.Conn
	counts *counters.Reader // nil: not open
}

// errLeft is the error where a namespace is watched no more.
var errLeft error = leftError{}

type leftError struct{}

func (leftError) Error() string        { return "the network namespace is gone" }
func (leftError) Is(target error) bool { return target == os.ErrNotExist }

// isLeft reports whether an error says that a namespace is watched no more: it may be given
// up while something in it is being opened.
func isLeft(err error) bool { return errors.Is(err, errLeft) || errors.Is(err, os.ErrClosed) }

// conn returns a connection that nobody else uses. It is for the calling thread only, whose
// capabilities it uses.
func (n *namespace) conn() (*sockdiag.Conn, error) {
	n.mu.Lock()
	if n.left {
		n.mu.Unlock()
		return nil, errLeft
	}
	if last := len(n.conns) - 1; last >= 0 {
		c := n.conns[last]
		n.conns = n.conns[:last]
		n.mu.Unlock()
		return c, nil
	}
	n.mu.Unlock()
	return n.open(n.Namespace)
}

// giveBack takes a connection back.
func (n *namespace) giveBack(c *sockdiag.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.left {
		c.Close()
		return
	}
	n.conns = append(n.conns, c)
}

// counters calls f with the counters of the namespace.
func (n *namespace) counters(f func(*counters.Reader) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.left {
		return errLeft
	}
	if n.counts == nil {
		r, err := counters.OpenIn(n.Namespace)
		if err != nil {
			return err
		}
		n.counts = r
	}
	return f(n.counts)
}

// leave gives the namespace up.
func (n *namespace) leave() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.left {
		return
	}
	n.left = true
	for _, c := range n.conns {
		c.Close()
	}
	if n.counts != nil {
		n.counts.Close()
	}
	n.Namespace.Close()
}

// name puts the names of the namespace to a socket of it.
func (n *namespace) name(k *sock.Socket) {
	if names := n.names.Load(); names != nil {
		k.NetnsNames = *names
	}
}

// label says in a line of the log which namespace it is about, as records do.
func (n *namespace) label() []slog.Attr {
	label := []slog.Attr{slog.String("netns", strconv.FormatUint(uint64(n.Inode), 10))}
	var k sock.Socket
	if n.name(&k); k.NetnsName() != "" {
		label = append(label, slog.String("netns_name", k.NetnsName()))
	}
	return label
}

// call takes over what the namespace is called now.
func (n *namespace) call(names []string) {
	all := "/"
	for _, name := range names {
		all += name + "/"
	}
	if was := n.names.Load(); was == nil || *was != all {
		n.names.Store(&all)
	}
}

// empty reports whether it is certain that the namespace has no full socket: then no
// connection in it is older than the table.
func (n *namespace) empty() (empty bool) {
	_ = n.counters(func(r *counters.Reader) error {
		inUse, known, err := r.InUse()
		empty = err == nil && known && inUse == 0
		return err
	})
	return empty
}
