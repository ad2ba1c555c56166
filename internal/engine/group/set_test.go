package group

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const start = sock.Instant(1000 * time.Hour)

// flood makes timewait sockets towards so many peers.
func flood(n, peers int) []sock.Socket {
	sockets := make([]sock.Socket, n)
	src := netip.MustParseAddr("10.1.2.3")
	for i := range sockets {
		s, peer := &sockets[i], i%peers
		s.State, s.ID.Cookie, s.Timer, s.Expires = ssfilter.TimeWait, uint64(i+1), sock.TimerTimeWait, 30*time.Second
		s.Src = netip.AddrPortFrom(src, uint16(32768+i/peers))
		s.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(peer >> 16), byte(peer >> 8), byte(peer)}), 443)
	}
	return sockets
}

// TestEvict: to make room, the groups go that have been empty for the longest:
// quiet ones first, then those that fire without a socket. It keeps the loop, and
// with it every kill, for a moment only.
func TestEvict(t *testing.T) {
	for name, fires := range map[string]bool{"quiet": false, "firing": true} {
		t.Run(name, func(t *testing.T) {
			rg := NewSet(&match.Rule{})
			for i := range MaxGroups {
				g := newGroup()
				g.busy = start.Add(time.Duration(i*7919%MaxGroups) * time.Millisecond)
				if fires {
					g.Holding, g.Firing = start, start
				}
				rg.groups[Key(strconv.Itoa(i))] = g
				rg.phases[g.Phase()]++
			}
			began := time.Now()
			rg.evict(start.Add(time.Hour))
			t.Logf("it took %v", time.Since(began))
			if want := MaxGroups * 9 / 10; len(rg.groups) != want || fires && rg.Firing() != want {
				t.Errorf("%d groups left, of which %d fire, want %d", len(rg.groups), rg.Firing(), want)
			}
			for _, g := range rg.groups {
				if g.busy < start.Add(MaxGroups/10*time.Millisecond) {
					t.Fatalf("one was kept that has been empty since %v", g.busy.Sub(start))
				}
			}
		})
	}
}

// TestPhases holds the phases to what they mean, over random samples: a group
// fires when its condition has been shown to hold, by every good sample, from the
// end of one to the beginning of another that is as much later as the rule says.
func TestPhases(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	fired := 0
	for range 20_000 {
		r := rules.Rule{GroupBy: []rules.GroupKey{rules.ByDst}, When: []rules.Condition{rules.Condition{Metric: rules.Count, Op: rules.Greater, Number: 5}}, For: time.Duration(rng.IntN(20)) * time.Second}
		if rng.IntN(2) == 0 {
			r.Until = []rules.Condition{{Metric: rules.Count, Op: rules.Less, Number: float64(1 + rng.IntN(5))}}
		}
		g := newGroup()
		now := start
		held := sock.Never // the end of the first sample of those in a row that showed it
		var story strings.Builder
		for range 20 {
			sent := now.Add(time.Duration(rng.Int64N(int64(5 * time.Second))))
			got := sent.Add(time.Duration(rng.Int64N(int64(time.Second))))
			now = got
			if rng.IntN(5) == 0 {
				continue // a scan that failed
			}
			n := rng.IntN(12)
			if rng.IntN(3) > 0 {
				n = 6 + rng.IntN(3)
			}
			was := g.Phase()
			g.sample(&r, Measured{Count: n}, sent, got)
			fmt.Fprintf(&story, "%v..%v: %d: %s\n", sent.Sub(start), got.Sub(start), n, g.Phase())
			want := Quiet
			switch {
			case was == Firing && len(r.Until) > 0 && n > 0 && !r.Until[0].Holds(float64(n)):
				want = Firing
			case was == Firing && (len(r.Until) > 0 || n <= 5):
				held = sock.Never
			case was == Firing:
				want = Firing
			case n <= 5:
				held = sock.Never
			default:
				if held == sock.Never {
					held = got
				}
				want = Pending
				if r.For == 0 || sent.Sub(held) >= r.For {
					want = Firing
					fired++
				}
			}
			if g.Phase() != want {
				t.Fatalf("for %v until %v: %s, want %s:\n%s", r.For, r.Until, g.Phase(), want, story.String())
			}
		}
	}
	if fired < 1000 {
		t.Errorf("%d groups fired: too few to show anything", fired)
	}
}

// TestBacklogWithoutLimit: the accept queue of listen(fd, 0) is full with one
// connection.
func TestBacklogWithoutLimit(t *testing.T) {
	rule := &match.Rule{}
	for _, test := range []struct {
		queued, limit uint32
		want          float32
	}{{0, 0, 0}, {1, 0, 100}, {64, 128, 50}} {
		counted := NewSet(rule).Tally()
		listener := sock.Socket{RQueue: test.queued, WQueue: test.limit}
		listener.State = ssfilter.Listening
		counted.Add(subject.Of(&listener), start)
		counted.groups.all(func(_ uint32, _ []byte, c *tally) {
			if c.backlog != test.want {
				t.Errorf("%d of %d queued is %v%%, want %v%%", test.queued, test.limit, c.backlog, test.want)
			}
		})
	}
}

// TestOmittedSocketsAreOmitted: a socket of a group that there is no room for is
// counted nowhere, though its rule asks for its port as well.
func TestOmittedSocketsAreOmitted(t *testing.T) {
	rule := &match.Compile(&rules.Set{Rules: []rules.Rule{{
		Match: []rules.Match{{States: ssfilter.AllStates}}, GroupBy: []rules.GroupKey{rules.ByDst, rules.ByDport},
		When: []rules.Condition{{Metric: rules.PortUsage, Op: rules.Greater, Number: 1}},
	}}}).Rules[0]
	tally := NewSet(rule).Tally()
	tally.groups.most = 1
	sockets := flood(2, 2)
	sockets[1].Dst = netip.AddrPortFrom(sockets[1].Dst.Addr(), 444)
	for i := range sockets {
		tally.UsePort(uint32(i+1), false, subject.Of(&sockets[i]))
		tally.Add(subject.Of(&sockets[i]), start)
	}
	if tally.groups.n != 1 || tally.omitted != 2 {
		t.Errorf("%d groups, %d left out, want 1 and both countings of the other socket", tally.groups.n, tally.omitted)
	}
}

var tenPorts = ssfilter.PortRange{First: 10000, Last: 10009}

// TestPortUseWithoutRoom: what there is no room for counts nowhere, and that is said
// of the rules that it would count for.
func TestPortUseWithoutRoom(t *testing.T) {
	u := NewPorts(map[uint32]sock.Ports{0: {Ephemeral: tenPorts, Free: []ssfilter.PortRange{tenPorts}}}, 0)
	u.paths.most = 1
	sockets := flood(2, 2)
	for i := range sockets {
		sockets[i].Src = netip.AddrPortFrom(sockets[i].Src.Addr(), 10000)
	}
	if path, omitted := u.Use(&sockets[0]); path == 0 || omitted {
		t.Error("the first path is left out")
	}
	if path, omitted := u.Use(&sockets[1]); path != 0 || !omitted {
		t.Error("there is room for a second path")
	}
	u.Finish()
	if n := u.on(1); n != 10 {
		t.Errorf("%v%% of the ports are used up, want 10%%", n)
	}
}

// TestGrowthIsEven: what grows at an even pace is measured so, whenever it is
// sampled.
func TestGrowthIsEven(t *testing.T) {
	const pace = 42 // a minute
	for _, every := range []time.Duration{time.Second, 7 * time.Second, 30 * time.Second, 41 * time.Second} {
		g := &growth{at: start}
		seen := uint32(0)
		for at := time.Duration(0); at < 20*time.Minute; at += every {
			all := uint32(pace * at.Minutes())
			got := g.add(all-seen, start.Add(at))
			seen = all
			if at > 6*time.Minute && (got < pace-0.5 || got > pace+0.5) {
				t.Errorf("each %v: after %v it grows by %.1f a minute, want %d", every, at, got, pace)
			}
		}
		if got := g.add(0, start.Add(time.Hour)); got != 0 {
			t.Errorf("each %v: %.1f a minute long after", every, got)
		}
	}
}
