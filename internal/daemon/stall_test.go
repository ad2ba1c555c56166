package daemon_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/status"
)

// A scan that does not end is told of after ten seconds, and what was known before
// is attended to meanwhile.
func TestScanDoesNotEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var hangs atomic.Bool
	proceed := make(chan struct{})
	w.scan = func(k kernel, q sock.Query, each func(*sock.Socket, sock.Instant)) error {
		if hangs.Load() {
			<-proceed
		}
		return k.Scan(q, each)
	}
	current := w.show()
	// problem is whether the scan is one now, and for how long it is shown to be stalled.
	problem := func() (is bool, stalled float64) {
		s := current()
		if s == nil {
			return false, 0
		}
		return slices.ContainsFunc(s.Problems, func(p status.Problem) bool { return p.Kind == "scan" }), s.Scans.StalledSeconds
	}
	l := w.listen(nstest.V4, 5432)
	s := w.leak(l)
	w.watch(often + leaked)
	hangs.Store(true)
	w.dies(s, bound)
	w.await("word that the scan does not end", func(l line) bool { return l.Level == "ERROR" && strings.HasPrefix(l.Msg, "scan does not end") })
	w.until("problem", func() bool {
		is, stalled := problem()
		return is && stalled >= 10
	})
	hangs.Store(false)
	close(proceed)
	w.await("word that it has ended", func(l line) bool { return strings.HasPrefix(l.Msg, "scan ended") })
	w.until("end of the problem", func() bool {
		is, stalled := problem()
		return !is && stalled == 0
	})
	w.dies(w.leak(l), bound)
}
