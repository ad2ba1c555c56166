package daemon_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/rules"
)

// What its program has closed dies once it is due where the kernel can end it, and is left alone where it
// cannot: minisockets before Linux 6.0, orphans before 6.11.
func TestClosed(t *testing.T) {
	t.Parallel()
	here := must(host.Probe())(t).Capabilities()
	for name, test := range map[string]struct {
		match  string
		takes  rules.Capability
		before func(w *world, p nstest.Pair) // the server closes its end
	}{
		"TIME_WAIT": {"{state: time-wait, sport: 5432, in_state_for: 2s}", match.DestroyTimeWait, func(w *world, p nstest.Pair) {
			check(w, p.Server.CloseWrite())
			check(w, p.Client.Await(unix.BPF_TCP_CLOSE_WAIT))
			check(w, p.Client.Close())
		}},
		"FIN_WAIT2": {"{state: fin-wait-2, sport: 5432, idle_for: 2s}", match.DestroyTimeWait, func(*world, nstest.Pair) {}},
		"an orphan in FIN_WAIT1": {"{state: fin-wait-1, sport: 5432, stalled_for: 2s}", match.DestroyOrphan, func(w *world, p nstest.Pair) {
			check(w, p.Client.Deafen())
		}},
	} {
		for where, missing := range map[string]error{"here": here[test.takes], "where the kernel cannot": errors.New("this kernel cannot")} {
			t.Run(name+" "+where, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				if missing != nil {
					w.options.Capabilities = match.Capabilities{test.takes: missing}
				}
				l := w.listen(nstest.V4, 5432)
				w.watch(often + "rules:\n  - {name: closed, match: " + test.match + ", then: kill}\n  - {name: leak, match: {state: close-wait, sport: 5432, in_state_for: 4s}, then: kill}\n")
				p := w.pair(l)
				s := stuck{Socket: -1, cookie: must(p.Server.Cookie())(t), since: w.options.Now()}
				test.before(w, p)
				check(t, p.Server.Close())
				w.dies(w.leak(l), 2*bound) // by then the other is due
				if missing != nil {
					w.lives(s, 0)
					return
				}
				t.Logf("killed %v after its time", w.dies(s, bound).Round(time.Millisecond))
			})
		}
	}
}
