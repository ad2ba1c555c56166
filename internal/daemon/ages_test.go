package daemon_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/web"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// What the daemon has observed of a socket that answers keepalives, of whose age
// the kernel says next to nothing, it tells who asks; of one of which the kernel
// says it all, it has nothing to tell.
func TestAgesTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ages := web.NewAges("v1", sock.Origin{}, w.options.Now)
	w.options.Ages = ages
	told := func() []sock.Memory {
		answer := httptest.NewRecorder()
		ages.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, web.AgesPath, nil))
		if answer.Code != http.StatusOK {
			return nil
		}
		_, memories, err := web.ReadAges(answer.Body.Bytes())
		check(w, err)
		return memories
	}
	l := w.listen(nstest.V4, 5432)
	w.leak(l)
	p := w.pair(l)
	check(w, p.Client.Keepalive()) // a probe a second
	s := w.hangUp(p.Client, func() error { return p.Server.Close() })
	w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 10m}, then: kill}]\n")
	seen := w.options.Now() // the first scan is over
	w.reach(seen.Add(2500 * time.Millisecond))
	var all []sock.Memory
	w.until("answer about ages", func() bool { all = told(); return len(all) > 0 })
	if len(all) != 1 || all[0].Cookie != s.cookie {
		t.Fatalf("told of %+v, want of the socket with cookie %d alone", all, s.cookie)
	}
	m := &all[0]
	if m.Entered < s.since || m.Entered > seen || m.Quiet < s.since || m.Quiet > seen {
		t.Errorf("stuck since %d, seen by %d: told that it was stuck since %d, quiet since %d", s.since, seen, m.Entered, m.Quiet)
	}
	w.lives(s, unix.BPF_TCP_CLOSE_WAIT)
}

// What the source knows of a socket that no rule means is told, too.
func TestAgesOfTheSourceTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ages := web.NewAges("v1", sock.Origin{Netns: "1"}, w.options.Now)
	w.options.Ages = ages
	entered := w.options.Now()
	w.options.Stuck = func(each func(*sock.Socket, sock.Instant)) {
		s := sock.Socket{ID: sock.ID{Netns: 2, Cookie: 3}, Entered: entered}
		s.State = ssfilter.LastAck
		each(&s, w.options.Now())
	}
	w.watch(often + leaked)
	answer := httptest.NewRecorder()
	w.until("answer about ages", func() bool {
		answer = httptest.NewRecorder()
		ages.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, web.AgesPath, nil))
		return answer.Code == http.StatusOK
	})
	_, told, err := web.ReadAges(answer.Body.Bytes())
	if err != nil || len(told) != 1 || told[0].Key != (sock.Key{Netns: 2, Cookie: 3}) || told[0].Entered != entered || !told[0].Exact {
		t.Errorf("told %+v, %v", told, err)
	}
}

// A link-local address is logged with its zone: without it, it is another host on
// every link.
func TestZonesLogged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const local = "fe80::d06"
	device := must(nstest.NewDevice("dog0"))(w)
	check(w, nstest.AddAddress(device, netip.MustParsePrefix(local+"/64")))
	s := w.leak(w.listen(netip.MustParseAddr(local).WithZone(fmt.Sprint(device.Attrs().Index)), 5432))
	w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: log}]\n")
	w.result(s.cookie, journal.Done)
	const src, dst = `"src":"[fe80::d06%dog0]:5432"`, `"dst":"[fe80::d06%dog0]:`
	if text := w.log.String(); !strings.Contains(text, src) || !strings.Contains(text, dst) {
		t.Errorf("the log has not %s and %s:\n%s", src, dst, text)
	}
}
