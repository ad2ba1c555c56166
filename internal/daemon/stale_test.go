package daemon_test

import (
	"sync/atomic"
	"testing"
	"time"

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

// However long the record of an intent takes, the act follows, by an answer that
// is newer than the record: what came alive meanwhile is not destroyed, and what
// did not is.
func TestSlowDisk(t *testing.T) {
	t.Parallel()
	for _, takes := range []time.Duration{100 * time.Millisecond, 400 * time.Millisecond, 1200 * time.Millisecond} {
		t.Run(takes.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			l := w.listen(nstest.V4, 5432)
			wakes, sleeps := w.pair(l), w.pair(l)
			cookies := []uint64{must(wakes.Client.Cookie())(t), must(sleeps.Client.Cookie())(t)}
			var woken atomic.Bool
			w.options.Journal = slow(func(records []journal.Record) {
				if records[0].Result != journal.Intent {
					return
				}
				time.Sleep(takes / 2)
				for _, r := range records {
					if r.Cookie == cookies[0] && woken.CompareAndSwap(false, true) {
						if err := wakes.Server.Send(1); err != nil {
							t.Error(err)
						}
					}
				}
				time.Sleep(takes / 2)
			})
			w.watch(often + "rules: [{name: idle, match: {state: established, dport: 5432, idle_for: 2s}, then: kill}]\n")
			w.result(cookies[1], journal.Done)
			w.until("outcome of the one that came alive", func() bool { return len(w.results(cookies[0])) > 0 })
			if got := w.results(cookies[0])[0]; got != "kill changed" {
				t.Errorf("the outcome of one that came alive is %q, want kill changed", got)
			}
			if at := w.killed(cookies[0]); len(at) > 0 && !woken.Load() {
				t.Errorf("it was killed at %v, before it came alive", at)
			}
			w.result(cookies[0], journal.Done) // once it has been idle again
			if failed := w.lines(func(l line) bool { return l.Result == string(journal.Failed) }); len(failed) > 0 {
				t.Errorf("a slow disk is told as a failure: %+v", failed[0])
			}
		})
	}
}

// slow is a journal that takes its time.
type slow func(records []journal.Record)

func (s slow) Append(records []journal.Record) error {
	if len(records) > 0 {
		s(records)
	}
	return nil
}

// NextSeq numbers nothing: nothing is kept.
func (slow) NextSeq() uint64 { return 1 }
