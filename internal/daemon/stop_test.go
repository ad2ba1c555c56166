package daemon_test

import (
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
)

// Told to stop in the middle of a batch, the watchdog brings that to its end,
// records how, and kills nothing more.
func TestStopWithinBatch(t *testing.T) {
	t.Parallel()
	const n = 2500 // more than are told at once
	w := newWorld(t)
	dir := t.TempDir()
	w.openState(dir)
	began, proceed := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() {
		close(began)
		<-proceed
	})
	w.destroy = func(k kernel, id sock.ID) error {
		first()
		return k.Destroy(id)
	}
	l := w.listen(nstest.V4, 5432)
	leaks := make([]stuck, n)
	for i := range leaks {
		leaks[i] = w.leak(l)
	}
	w.reach(leaks[n-1].since.Add(bound)) // all are due at once
	stop := w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 2s}, then: {kill: {limit: 5000/1m}}}]\n")
	<-began
	stopped := make(chan time.Duration)
	go func() { stopped <- stop() }()
	w.await("the word that it stops", func(l line) bool { return l.Msg == "stopping" })
	close(proceed)
	took := <-stopped
	t.Logf("stopped within %v", took)

	// On a busy machine the action, the disk or the log may take longer than they are
	// given: then outcomes may be missing, and the word of that, too.
	gaveUp := took >= 700*time.Millisecond
	told := w.kills()
	if told == 0 || told == n {
		t.Errorf("%d of %d sockets were killed, want those that it was about to kill and no more", told, n)
	}
	for _, s := range leaks {
		switch killed := len(w.killed(s.cookie)) > 0; {
		case killed != (w.state(s.Socket) == unix.BPF_TCP_CLOSE):
			t.Errorf("socket in TCP state %d, told to be killed: %v", w.state(s.Socket), killed)
		case killed:
			if got := w.results(s.cookie); !slices.Equal(got, []string{"kill done"}) && !gaveUp {
				t.Errorf("a killed socket's results are %q", got)
			}
		}
	}
	t.Logf("%d of %d sockets were killed", told, n)
	intents, outcomes := make(map[uint64]bool), 0
	for _, r := range w.records(dir) {
		switch {
		case r.Result == journal.Intent:
			intents[r.Seq] = true
		case intents[r.Seq] && r.Result == journal.Done:
			outcomes++
		default:
			t.Errorf("a record that is neither an intent nor its outcome: %+v", r)
		}
	}
	if len(intents) < told || !gaveUp && (len(intents) != told || outcomes != told) {
		t.Errorf("%d intents and %d outcomes in the journal, want %d of each", len(intents), outcomes, told)
	}
}

// An act that hangs, in the kernel or on the disk, keeps the watchdog no longer
// than a second.
func TestStopWithActThatHangs(t *testing.T) {
	t.Parallel()
	for name, hang := range map[string]func(w *world, wait func()){
		"kernel": func(w *world, wait func()) {
			w.destroy = func(k kernel, id sock.ID) error {
				wait()
				return k.Destroy(id)
			}
		},
		"disk": func(w *world, wait func()) { w.options.Journal = hanging(wait) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			began, proceed := make(chan struct{}, 2), make(chan struct{})
			hang(w, func() {
				began <- struct{}{}
				<-proceed
			})
			w.leak(w.listen(nstest.V4, 5432))
			stop := w.watch(often + leaked)
			<-began
			t.Logf("stopped within %v", stop())
			close(proceed)
		})
	}
}

// hanging is a journal on a disk that does not answer for a while.
type hanging func()

func (h hanging) Append([]journal.Record) error {
	h()
	return nil
}

// Nothing is left behind: no goroutine, no descriptor.
func TestLeavesNothing(t *testing.T) {
	w := newWorld(t)
	w.openState(t.TempDir())
	l := w.listen(nstest.V4, 5432)
	goroutines, before := goleak.IgnoreCurrent(), descriptors(t)
	for range 3 {
		s := w.leak(l)
		stop := w.watch(often + leaked)
		w.dies(s, bound)
		stop()
		check(t, s.Close())
	}
	// A worker that was busy when the daemon ended closes what it has as it ends.
	if err := goleak.Find(goroutines); err != nil {
		t.Error(err)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open after three runs, %d before", after, before)
	}
}

// descriptors is how many descriptors this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	return len(must(os.ReadDir("/proc/self/fd"))(t))
}

// NextSeq numbers nothing: nothing is kept.
func (hanging) NextSeq() uint64 { return 1 }
