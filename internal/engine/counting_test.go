package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// byPID groups by the process that holds sockets.
func byPID(r *rules.Rule) { r.GroupBy = []rules.GroupKey{rules.ByPID} }

// heldBy has the sockets up to a cookie be held by one process, and those beyond by
// another.
func (b *bench) heldBy(upTo uint32) {
	b.holders = func(inode uint32) []sock.Holder {
		if inode <= upTo {
			return []sock.Holder{{PID: 7, Start: 70, Comm: "leaky"}}
		}
		return []sock.Holder{{PID: 8, Start: 80, Comm: "healthy"}}
	}
}

// left is the sockets that are there, by cookie.
func (b *bench) left() (cookies []uint64) {
	for cookie := range b.sockets {
		cookies = append(cookies, cookie)
	}
	slices.Sort(cookies)
	return cookies
}

// A rule that groups by process finds the one of several that leaks, alerts of it, kills
// its sockets, and leaves those of others alone.
func TestGroupedByProcess(t *testing.T) {
	for _, cost := range []time.Duration{0, time.Second} {
		b := newBench(t)
		b.walkCost = cost
		b.heldBy(5)
		b.many(1, 8, time.Minute)
		b.rule(eachSecond(above(4, kills, byPID)))
		b.until(9 * time.Second)
		if n := len(b.sockets); n != 8 {
			t.Errorf("%d sockets are left before the group has been one for long enough", n)
		}
		b.until(30 * time.Second)
		if got := b.left(); !slices.Equal(got, []uint64{6, 7, 8}) {
			t.Errorf("a walk takes %v: left are %v, want those of the healthy one: %v", cost, got, b.events)
		}
		if !slices.ContainsFunc(b.events, func(e string) bool { return strings.Contains(e, "r firing pid=7 count 5") }) {
			t.Errorf("events %v", b.events)
		}
		if b.walks > 12 {
			t.Errorf("%d walks of %v in 30 s", b.walks, cost)
		}
	}
}

// What scans cannot count, because no walk has told who holds the sockets, neither makes a
// group nor ends one, and is said once.
func TestUncounted(t *testing.T) {
	t.Run("walks are refused a process", func(t *testing.T) {
		b := newBench(t)
		b.partial = true
		b.heldBy(5)
		b.many(1, 8, time.Minute)
		b.rule(eachSecond(above(4, kills, byPID)))
		b.until(5 * time.Minute)
		if len(b.sockets) != 8 || len(b.events) > 0 {
			t.Errorf("%d sockets are left: %v", len(b.sockets), b.events)
		}
		if b.noted(HoldersUnseen, "rule=r") != 1 || b.walks > 7 {
			t.Errorf("notes %v, %d walks", b.notes, b.walks)
		}
	})
	t.Run("a process refuses for a while", func(t *testing.T) {
		b := newBench(t)
		b.heldBy(5)
		b.many(1, 8, time.Minute)
		b.rule(eachSecond(above(4, byPID)))
		b.until(20 * time.Second)
		b.partial = true
		b.until(4 * time.Minute)
		b.partial = false
		b.until(8 * time.Minute)
		if len(b.alarms) != 1 || b.noted(HoldersUnseen) != 1 || b.noted(HoldersSeen) != 1 {
			t.Errorf("%d alerts fire; notes %v", len(b.alarms), b.notes)
		}
		for _, e := range b.events {
			if strings.Contains(e, "quiet") {
				t.Errorf("ended: %s", e)
			}
		}
	})
	t.Run("a walk does not end", func(t *testing.T) {
		b := newBench(t)
		b.slow = true
		b.heldBy(5)
		b.many(1, 8, time.Minute)
		b.rule(eachSecond(above(4, byPID)))
		b.until(5 * time.Minute)
		if len(b.alarms) > 0 || b.noted(HoldersUnseen) != 1 {
			t.Errorf("alerts %v; notes %v", b.alarms, b.notes)
		}
	})
}

// A server whose connections never live from one scan to the next but one is counted by
// process all the same.
func TestCountedWhileTheyCome(t *testing.T) {
	b := newBench(t)
	b.walkCost = 500 * time.Millisecond
	b.heldBy(1 << 20)
	next := uint64(1)
	var turn func()
	turn = func() {
		clear(b.sockets)
		b.many(next, 6, time.Minute)
		next += 6
		b.later(900*time.Millisecond, turn)
	}
	turn()
	rule := above(4, byPID)
	b.rule(eachSecond(rule))
	b.until(2 * time.Minute)
	if len(b.alarms) != 1 {
		t.Errorf("%d alerts fire: %v, %d walks", len(b.alarms), b.events, b.walks)
	}
}

// A socket that is passed on counts for who holds it then, within what is documented, and
// is not killed for who held it before.
func TestPassedOn(t *testing.T) {
	b := newBench(t)
	b.heldBy(5)
	b.many(1, 8, 0)
	b.rule(eachSecond(above(4, byPID, kills, func(r *rules.Rule) { r.For = 30 * time.Second })))
	b.until(20 * time.Second)
	b.heldBy(3) // two of them are the healthy one's from now on
	b.until(10 * time.Minute)
	if got := b.left(); !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("left are %v, want those of the first: %v", b.left(), b.events)
	}
}

// Nothing is asked of /proc for rules that do not ask who holds sockets.
func TestNoHoldersAsked(t *testing.T) {
	b := newBench(t)
	b.many(1, 8, time.Minute)
	b.rule(eachSecond(above(100)))
	b.until(time.Minute)
	if b.walks+b.reads > 0 || b.e.holders.cache.sockets != nil {
		t.Errorf("%d walks, %d readings", b.walks, b.reads)
	}
}

// What a walk has found is found again by socket, and shared between those that the same
// processes hold.
func TestHolderCache(t *testing.T) {
	alone, both := []sock.Holder{{PID: 7, Start: 1}}, []sock.Holder{{PID: 7, Start: 1}, {PID: 8, Start: 2}}
	in := HoldersFound{Complete: true, Holders: map[uint32][]sock.Holder{1: alone[:1:1], 2: alone[:1:1], 3: both, 4: slices.Clone(both), 5: slices.Clone(alone)}}
	list := func(inodes ...uint32) (l []askedSocket) {
		for _, n := range inodes {
			l = append(l, askedSocket{uint64(100 + n), n})
		}
		return l
	}
	x := newHolderCache(&in, [][]askedSocket{list(1, 2, 3, 6), list(3, 4, 5)}, benchStart)
	if len(x.holders) != 3 {
		t.Errorf("%d different holders, want 3", len(x.holders))
	}
	for inode, want := range map[uint32]int{1: 1, 2: 1, 3: 2, 4: 2, 5: 1, 6: 0} {
		h := x.of(uint64(100+inode), inode)
		if h == nil || len(h.Processes) != want || !h.Complete || h.Kernel != (want == 0) || h.At != benchStart {
			t.Errorf("socket %d: %+v, want %d holders", inode, h, want)
		}
	}
	if x.of(101, 2) != nil || x.of(107, 7) != nil {
		t.Error("found what nobody looked for")
	}
	if h := x.of(107, 0); h == nil || !h.Complete || len(h.Processes) > 0 {
		t.Errorf("no descriptor: %+v", h)
	}
}

// BenchmarkGroupByPID counts 100,000 sockets by process: scan-ms is a scan that knows who
// holds them, first-ms and walk-ms how long the loop is taken by what the first and a later
// walk find, heap-B what is kept beyond the walk.
func BenchmarkGroupByPID(b *testing.B) {
	const many, processes = 100_000, 100
	sockets := make([]sock.Socket, many)
	in := HoldersFound{Complete: true, Holders: make(map[uint32][]sock.Holder, many)}
	for p := range processes {
		alone := []sock.Holder{{PID: 10 + p, Start: uint64(p), Comm: "worker", Exe: "worker"}}
		for i := p; i < many; i += processes {
			sockets[i] = leaked(i, time.Hour)
			in.Holders[sockets[i].Inode] = alone[:1:1]
		}
	}
	s := set(above(2*many, byPID))
	var scan, first, again time.Duration
	var kept uint64
	for b.Loop() {
		e := New(Config{Precision: benchJiffy})
		now := benchStart
		before := heapInUse()
		p := e.Step(now, RulesChanged{Program: match.Compile(&s)})
		for i := range 6 {
			for !p.Count {
				now = max(p.Wake, now.Add(time.Minute))
				p = e.Step(now, nil)
			}
			p = e.Step(now, CountersRead{})
			began := time.Now()
			f := p.Scan.Begin(now)
			for j := range sockets {
				f.Take(&sockets[j], now)
			}
			if i > 3 {
				scan += time.Since(began)
			}
			p = e.Step(now, ScanDone{Result: f, Sent: now})
			if p.Resolve == nil {
				continue
			}
			began = time.Now()
			p = e.Step(now, in)
			if i == 0 {
				first += time.Since(began)
			} else {
				again = max(again, time.Since(began))
			}
		}
		kept = uint64(max(0, heapInUse()-before))
		if n := e.Overview(now).Rules[0].Sockets; n != many {
			b.Fatalf("%d counted", n)
		}
	}
	b.ReportMetric(scan.Seconds()*1000/float64(2*b.N), "scan-ms")
	b.ReportMetric(first.Seconds()*1000/float64(b.N), "first-ms")
	b.ReportMetric(again.Seconds()*1000, "walk-ms")
	b.ReportMetric(float64(kept), "heap-B")
}

// TestFDUsage: a group uses as many of its descriptors as the worst of those who hold its
// sockets, and a rule waits where that is not known of any of them.
func TestFDUsage(t *testing.T) {
	leaky, healthy := spin.Process{PID: 7, Start: 70}, spin.Process{PID: 8, Start: 80}
	full := above(0, func(r *rules.Rule) {
		r.When, r.For = []rules.Condition{{Metric: rules.FDUsage, Op: rules.Greater, Number: 80}}, 0
	})
	for _, by := range []rules.GroupKey{rules.ByDport, rules.ByPID} {
		t.Run(string(by), func(t *testing.T) {
			r := full
			r.GroupBy = []rules.GroupKey{by}
			b := newBench(t)
			b.heldBy(5)
			b.many(1, 8, time.Minute)
			b.fds = map[spin.Process]float64{leaky: 79, healthy: 3}
			b.rule(eachSecond(r))
			b.until(10 * time.Second)
			if len(b.events) > 0 {
				t.Errorf("before the limit is near: %v", b.events)
			}
			b.fds[leaky] = 81.5
			b.until(3 * time.Minute)
			group, count := "dport=80", 8
			if by == rules.ByPID {
				group, count = "pid=7", 5
			}
			if !slices.ContainsFunc(b.events, func(e string) bool { return strings.HasSuffix(e, fmt.Sprintf("r firing %s count %d", group, count)) }) {
				t.Errorf("events %v", b.events)
			}
			if a := b.alarms["r alert 0 "+group]; a.FDUsage != 81.5 {
				t.Errorf("alert %+v, want 81.5 %%", a)
			}
			b.fds, b.events = nil, nil
			b.until(6 * time.Minute)
			if n := b.noted(HoldersUnseen); n != 1 || len(b.events) > 0 {
				t.Errorf("said %d times that it is not known, want once; events %v", n, b.events)
			}
		})
	}
}
