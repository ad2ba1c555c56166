package daemon_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// TestListenDrops: a program that does not accept has its connections dropped, which a rule
// tells by the counters: no scan is made. In a network namespace of its own the limits of the
// host are not known, which is said once.
func TestListenDrops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	current := w.show()
	l := w.listen(nstest.V4, 8080)
	check(w, unix.Listen(int(l), 0)) // of which one connection fits
	w.watch(often + `
rules:
  - {name: drops, group_by: netns, when: listen_drops > 0/m}
  - {name: orphans, when: orphans > 80%}
`)
	w.await("the limits of the host", func(l line) bool { return strings.HasPrefix(l.Msg, "what a rule measures is not known here") })
	at := must(l.Local())(w)
	for range 3 {
		s := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(w)
		t.Cleanup(func() { s.Close() })
		check(w, s.BeginConnect(at))
	}
	w.await("dropped connections", func(l line) bool { return l.Msg == "group firing" })
	w.until("firing rule in what is published", func() bool { s := current(); return s.Rules[0].Firing == 1 })
	if r := current().Rules[0]; !r.Whole || len(r.Groups) != 1 || r.Groups[0].Labels["netns"] == "" || r.Groups[0].Conditions[0].Value < 1 {
		t.Errorf("published: %+v", r)
	}
	if done := current().Scans.OK; done > 0 {
		t.Errorf("%d scans were made", done)
	}
}
