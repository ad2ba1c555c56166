package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
)

// Of a rule that names no process it is shown who holds what it matches, as far as that was
// found for the log.
func TestHeldByOfDryRun(t *testing.T) {
	b := newBench(t)
	b.holders = func(inode uint32) []sock.Holder {
		return []sock.Holder{process(int(inode%3)+2, []string{"java", "java", "nginx"}[inode%3])}
	}
	b.many(1, 9, time.Minute)
	b.rule(eachSecond(killing("dry", dryRun)))
	b.until(20 * time.Second)
	want := []ProcessSockets{{"java", 6}, {"nginx", 3}}
	if diff := cmp.Diff(want, b.e.Overview(b.now).Rules[0].HeldBy); diff != "" {
		t.Errorf("held by (-want +got):\n%s", diff)
	}
}

// Where a rule asks who holds sockets, each of its sockets counts.
func TestHeldByOfProcessRule(t *testing.T) {
	b := newBench(t)
	b.holders = func(uint32) []sock.Holder { return []sock.Holder{process(2, "leaky")} }
	b.many(1, 9, time.Minute)
	b.rule(eachSecond(above(20, ofProcess("leaky"))))
	b.until(20 * time.Second)
	if diff := cmp.Diff([]ProcessSockets{{"leaky", 9}}, b.e.Overview(b.now).Rules[0].HeldBy); diff != "" {
		t.Errorf("held by (-want +got):\n%s", diff)
	}
}

// Ten are named, and no name appears twice, whatever processes call themselves.
func TestMostHolders(t *testing.T) {
	var c processCount
	hold := func(n int, complete bool, comm ...string) {
		h := &subject.Holders{Complete: complete}
		for i, name := range comm {
			h.Processes = append(h.Processes, process(i+2, name))
		}
		for range n {
			c.add(h)
		}
	}
	for i := range 12 {
		hold(100-i, true, fmt.Sprintf("p%02d", i), "its-child")
	}
	hold(3, true, "other")
	hold(4, true, "unknown")
	hold(90, true, "a/b")
	hold(9, true, "a:b")
	hold(2, true)
	hold(5, false)
	c.add(nil)
	var want []ProcessSockets
	for i, name := range []string{"p00", "a?b", "p01", "p02", "p03", "p04", "p05", "p06", "p07", "p08"} {
		want = append(want, ProcessSockets{name, []int{100, 99, 99, 98, 97, 96, 95, 94, 93, 92}[i]})
	}
	want = append(want, ProcessSockets{"other", 91 + 90 + 89 + 2 + 3}, ProcessSockets{"unknown", 10})
	sockets := 10
	for _, p := range want[:11] {
		sockets += p.Sockets
	}
	if diff := cmp.Diff(want, c.most(sockets)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]ProcessSockets{{"p00", 100}, {"a?b", 20}}, c.most(120)); diff != "" {
		t.Errorf("after a counter told of fewer (-want +got):\n%s", diff)
	}
}
