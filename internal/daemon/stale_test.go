package daemon_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/nstest"
)

// A disk may take its time over the record of an intent, and the socket may be
// used again meanwhile: then what was matched is not what would be killed.
func TestReconnectedWhileDiskHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.listen(nstest.V4, 5432)
	s, server, to := w.boundPair(l)
	began, proceed := make(chan struct{}, 100), make(chan struct{})
	w.options.Journal = hanging(func() {
		began <- struct{}{}
		<-proceed
	})
	w.watch(often + leaked)
	leak := w.hangUp(s, server.Close)
	<-began
	check(t, s.Disconnect())
	check(t, s.Connect(to))
	w.closeLater(must(l.Accept())(t))
	w.reach(w.options.Now().Add(bound))
	close(proceed)
	w.await("outcome", func(l line) bool { return l.Cookie == leak.cookie && l.Result != string(journal.Done) })
	if got := w.state(s); got != unix.BPF_TCP_ESTABLISHED {
		t.Errorf("the new connection is in TCP state %d, want established", got)
	}
}
