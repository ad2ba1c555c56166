package daemon_test

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
)

// Who reads the log may not read on: that delays no kill, and not the end.
func TestLogHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var hangs, fails atomic.Bool
	proceed := make(chan struct{})
	w.options.Log = slog.New(slog.NewJSONHandler(pipe(func(p []byte) (int, error) {
		if hangs.Load() {
			<-proceed
		}
		return w.log.Write(p)
	}), nil))
	w.scan = func(k kernel, q sock.Query, each func(*sock.Socket, sock.Instant)) error {
		if fails.CompareAndSwap(true, false) {
			return errors.New("no memory") // something to say
		}
		return k.Scan(q, each)
	}
	l := w.listen(nstest.V4, 5432)
	stop := w.watch(often + leaked)
	first := w.leak(l)
	w.dies(first, bound)
	hangs.Store(true)
	fails.Store(true)
	second := w.leak(l)
	w.until("kill while the log hangs", func() bool { return len(w.killed(second.cookie)) > 0 })
	t.Logf("stopped within %v", stop())
	close(proceed)
}

// pipe is where the log goes.
type pipe func(p []byte) (int, error)

func (p pipe) Write(b []byte) (int, error) { return p(b) }
