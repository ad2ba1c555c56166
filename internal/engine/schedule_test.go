package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestScans counts the scans of a minute, on a table in which nothing matches.
func TestScans(t *testing.T) {
	of := func(bound time.Duration, states ...ssfilter.State) rules.Rule {
		return killing("of-"+states[0].String(), matching(rules.Match{States: ssfilter.Of(states...), InStateFor: bound}))
	}
	still := CountersRead{OK: true, Counters: sock.Counters{HasInSegs: true, InSegs: 7}}
	timeWaits := CountersRead{OK: true, Counters: sock.Counters{HasTimeWait: true, TimeWait: 1, HasInSegs: true}}
	tests := []struct {
		name  string
		rules []rules.Rule
		count CountersRead
		cost  time.Duration
		want  int
		notes int // that cpu_budget stretches
	}{
		{"every gap", []rules.Rule{of(64*time.Second, ssfilter.CloseWait)}, CountersRead{}, 0, 16, 0}, // at 0, 4, ... 60 s
		{"no segment arrives", []rules.Rule{of(16*time.Second, ssfilter.CloseWait)}, still, 0, 6, 0},
		{"entered by the program", []rules.Rule{of(64*time.Second, ssfilter.LastAck)}, still, 0, 16, 0},
		{"no timewait socket, but for the first scan", []rules.Rule{of(16*time.Second, ssfilter.TimeWait)}, CountersRead{OK: true, Counters: sock.Counters{HasTimeWait: true}}, 0, 1, 0},
		{"no timewait socket, and not only they are asked for", []rules.Rule{of(64*time.Second, ssfilter.TimeWait, ssfilter.CloseWait)}, CountersRead{OK: true, Counters: sock.Counters{HasTimeWait: true}}, 0, 16, 0},
		{"a timewait socket", []rules.Rule{of(64*time.Second, ssfilter.TimeWait)}, CountersRead{OK: true, Counters: sock.Counters{HasTimeWait: true, TimeWait: 1}}, 0, 16, 0},
		{"counters that cannot be read", []rules.Rule{of(64*time.Second, ssfilter.CloseWait)}, CountersRead{Counters: sock.Counters{InSegs: 7, HasInSegs: true}}, 0, 16, 0},
		{"expensive", []rules.Rule{of(16*time.Second, ssfilter.CloseWait)}, CountersRead{}, 100 * time.Millisecond, 7, 1},
		{"hardly stretched", []rules.Rule{of(64*time.Second, ssfilter.CloseWait)}, CountersRead{}, 60 * time.Millisecond, 11, 0},
		{"a mark that the program can set", []rules.Rule{killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 64 * time.Second, Where: where("fwmark = 5").Where}))}, still, 0, 16, 0},
		{"a device that the program can bind to", []rules.Rule{killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 64 * time.Second, Where: where("dport = 80 and dev != eth0").Where}))}, still, 0, 16, 0},
		{"no rule", nil, CountersRead{}, 0, 0, 0},
		{"a disabled rule", []rules.Rule{killing("r", disabled)}, CountersRead{}, 0, 0, 0},
		{"timewait sockets, and no segment", []rules.Rule{of(16*time.Second, ssfilter.TimeWait)}, timeWaits, 0, 6, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.count, b.cost = test.count, test.cost
			b.rule(set(test.rules...))
			b.until(time.Minute)
			if len(b.scans) != test.want {
				t.Errorf("%d scans, want %d", len(b.scans), test.want)
			}
			if got := b.noted(IntervalStretch); got != test.notes {
				t.Errorf("%d notes on cpu_budget, want %d: %v", got, test.notes, b.notes)
			}
		})
	}
}

// TestStretched shows that one expensive scan is no alarm: the machine was busy. Three in a
// row are, and one that is far too expensive is at once.
func TestStretched(t *testing.T) {
	const cheap, expensive, far = 10 * time.Millisecond, 100 * time.Millisecond, time.Second // 1 s, 10 s and 100 s of budget
	for name, test := range map[string]struct {
		costs []time.Duration // of the scans, one after the other
		said  []bool          // after each
		notes int
	}{
		"the first":                {[]time.Duration{expensive, cheap, cheap, cheap}, []bool{false, false, false, false}, 0},
		"now and then":             {[]time.Duration{cheap, expensive, expensive, cheap, expensive, expensive, cheap}, []bool{false, false, false, false, false, false, false}, 0},
		"three in a row":           {[]time.Duration{expensive, expensive, expensive, expensive, cheap}, []bool{false, false, true, true, false}, 1},
		"far too expensive":        {[]time.Duration{far, far}, []bool{true, true}, 1},
		"and a bit less expensive": {[]time.Duration{expensive, expensive, expensive, 70 * time.Millisecond}, []bool{false, false, true, true}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.cost = test.costs[0]
			b.rule(set(killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 64 * time.Second}))))
			for i, said := range test.said {
				if got := b.e.Overview(b.now); got.Stretched != said || int(got.Scans) != i+1 {
					t.Errorf("after scan %d: %v, want %v after scan %d", got.Scans, got.Stretched, said, i+1)
				}
				if i+1 < len(test.costs) {
					b.cost = test.costs[i+1]
					b.until(b.since(b.e.schedule.Wake()))
				}
			}
			if got := b.noted(IntervalStretch); got != test.notes {
				t.Errorf("%d notes, want %d: %v", got, test.notes, b.notes)
			}
		})
	}
}

// TestClassesShareScans shows that rules about few sockets scan by themselves,
// and go along where those about many scan anyway.
func TestClassesShareScans(t *testing.T) {
	b := newBench(t)
	b.rule(set(
		killing("few", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 64 * time.Second})),
		killing("many", matching(rules.Match{States: ssfilter.Of(ssfilter.Established), IdleFor: 176 * time.Second})),
	))
	b.until(24 * time.Second)
	few, both := ssfilter.Of(ssfilter.CloseWait), ssfilter.Of(ssfilter.CloseWait, ssfilter.Established)
	// few are due at 4, 8, 12 s and so on; many at 11 s, which takes them along.
	want := []ssfilter.StateSet{both, few, few, both, few, few, both}
	if diff := cmp.Diff(want, b.scans); diff != "" {
		t.Errorf("scans (-want +got):\n%s", diff)
	}
}

// TestSkippingEndsInTime shows that what a scan left to a later one is found,
// though no segment arrives any more.
func TestSkippingEndsInTime(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true, Counters: sock.Counters{HasInSegs: true}}
	b.add(1, 0)
	b.rule(set(killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 160 * time.Second}))))
	b.until(3 * time.Minute)
	b.want("2m40s r kill done 1")
	if n := len(b.scans); n > 4 {
		t.Errorf("%d scans, most of which could change nothing", n)
	}
}

// TestMemoryFollowsNeed shows that sockets which a later scan finds again are
// not kept in mind.
func TestMemoryFollowsNeed(t *testing.T) {
	b := newBench(t)
	for cookie := range uint64(100) {
		b.add(cookie+1, 0, func(s *sim.Socket) { s.State = ssfilter.Established })
	}
	b.rule(set(killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.Established), IdleFor: 64 * time.Second}))))
	if n := b.e.Watched(); n != 0 {
		t.Errorf("%d watched a minute ahead, want none", n)
	}
	b.until(60 * time.Second)
	if n := b.e.Watched(); n != 100 {
		t.Errorf("%d watched shortly before, want all", n)
	}
	for _, s := range b.sockets { // and now they are in use again
		s.Received, s.LastData, s.Progress = s.Received+1, b.now, b.now
	}
	b.until(80 * time.Second)
	if n := b.e.Watched(); n != 0 {
		t.Errorf("%d watched after progress, want none", n)
	}
	b.want()
}

func BenchmarkTake(b *testing.B) {
	p := set(killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), Where: port(5432), InStateFor: 5 * time.Minute})))
	l := &Scan{program: match.Compile(&p), of: 1 << match.Cheap, lookahead: benchStart.Add(time.Minute), precision: benchJiffy}
	other := (&sim.Socket{ID: sock.ID{DPort: [2]byte{0, 80}}, State: ssfilter.CloseWait, Queued: never}).Report(benchStart, benchJiffy)
	young := full(ssfilter.CloseWait)
	young.Conn = other.Conn
	young.Dst = endpoint(5432)
	for _, bench := range []struct {
		name string
		s    sock.Socket
	}{{"no-match", other}, {"beyond-lookahead", young}} {
		b.Run(bench.name, func(b *testing.B) {
			f := l.Begin(benchStart)
			b.ReportAllocs()
			for b.Loop() {
				bench.s.ID.Cookie++
				f.Take(&bench.s, benchStart)
			}
			if f.hits.Len() > 0 {
				b.Fatal("taken")
			}
		})
	}
}

func endpoint(port uint16) ssfilter.Endpoint {
	return (&sim.Socket{ID: sock.ID{DPort: [2]byte{byte(port >> 8), byte(port)}}, Queued: never}).Report(benchStart, benchJiffy).Dst
}

// BenchmarkAsked is the second word on a full batch of due sockets.
func BenchmarkAsked(b *testing.B) {
	s := set(killing("r", limited(1<<30, time.Nanosecond)))
	s.Settings.Limit = rules.Limit{N: 1 << 30, Per: time.Nanosecond}
	e := New(Config{Precision: benchJiffy, Self: 1})
	e.Step(benchStart, RulesChanged{Program: match.Compile(&s)})
	in := LookupDone{}
	for i := range askBatch {
		simulated := sim.Socket{ID: sock.ID{Cookie: uint64(i + 1), DPort: [2]byte{0, 80}}, State: ssfilter.CloseWait, Inode: 1, Queued: never, LastAck: 1, LastData: 1}
		r := simulated.Report(benchStart, benchJiffy)
		in.Answers = append(in.Answers, sock.Answer{ID: r.ID, Socket: r, Sent: benchStart, Got: benchStart})
		t := e.observe(&r, benchStart, benchStart, benchStart)
		t.holders = &subject.Holders{}
	}
	b.ReportAllocs()
	for b.Loop() {
		for t := range e.tracks.all() {
			t.phase, t.record = asked, 0
		}
		e.acts.underWay = 0
		if p := e.Step(benchStart, in); len(p.Act) != askBatch {
			b.Fatalf("%d acts, want %d", len(p.Act), askBatch)
		}
		for range askBatch {
			e.rules[0].history.real.Cancel()
		}
	}
}

// Where memory bounds how many sockets are watched, the oldest come first, and the
// others as room comes.
func TestOldestThatFit(t *testing.T) {
	b := newBench(t)
	b.e = New(Config{Precision: benchJiffy, Self: 1, MaxTracks: 4})
	b.cost = 10 * time.Microsecond
	const n = 10
	for cookie := uint64(1); cookie <= n; cookie++ {
		b.add(cookie, time.Minute-time.Duration(cookie)*time.Second) // the first is the oldest
	}
	b.add(n+1, 0, keepsAlive)
	b.rule(set(killing("r", limited(2, 5*time.Second))))
	// Two were killed, which made room for another scan.
	if got := b.e.Overview(b.now); got.Left != n+1-2-4 || got.Rules[0].Candidates != n+1-2 || got.Rules[0].Sockets != n-2 {
		t.Errorf("%d left for later, of %d candidates and %d full matches", got.Left, got.Rules[0].Candidates, got.Rules[0].Sockets)
	}
	most := 0
	for b.wake <= benchStart.Add(time.Minute) {
		b.now = b.wake
		b.step(nil)
		most = max(most, b.e.tracks.n)
	}
	var killed []string
	for _, e := range b.events {
		if strings.Contains(e, " done ") {
			killed = append(killed, e[strings.LastIndex(e, " ")+1:])
		}
	}
	if diff := cmp.Diff([]string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"}, killed); diff != "" {
		t.Errorf("killed in that order (-want +got):\n%s", diff)
	}
	if most > 4 {
		t.Errorf("%d sockets were watched at once, want 4 at most", most)
	}
	if said := b.noted(TooManySockets); said != 1 {
		t.Errorf("said %d times, want once: %q", said, b.notes)
	}
	if b.noted(AllSocketsFit) != 1 || b.e.Overview(b.now).Left != 0 {
		t.Errorf("it is not said that there is room again: %q", b.notes)
	}
}

// What is watched keeps its place: the ages that only observation knows go on, and
// nothing that a bounded scan leaves out is asked for as if it were gone.
func TestWatchedKeepTheirPlace(t *testing.T) {
	b := newBench(t)
	b.e = New(Config{Precision: benchJiffy, Self: 1, MaxTracks: 3})
	for cookie := uint64(1); cookie <= 3; cookie++ {
		b.add(cookie, 0, keepsAlive)
	}
	b.rule(set(killing("r")))
	b.until(5 * time.Second)
	for cookie := uint64(4); cookie <= 6; cookie++ {
		b.add(cookie, time.Hour, keepsAlive)
	}
	asked := b.asks
	b.until(9 * time.Second)
	if b.asks != asked {
		t.Errorf("%d sockets were asked for, before any was due", b.asks-asked)
	}
	b.until(time.Minute)
	b.want("10s r kill done 1", "10s r kill done 2", "10s r kill done 3", "10s r kill done 4", "10s r kill done 5", "10s r kill done 6")
}
