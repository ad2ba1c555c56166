package engine

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// byHolder has the rule kill through the process that holds the socket.
func byHolder(r *rules.Rule) { r.Then[0].Options = map[string]any{"via": rules.ViaHolder} }

// reaching is a bench on which descriptors can be duplicated. Its acts write down which way
// they go, and through whom.
func reaching(t *testing.T) (b *bench, ways *[]string) {
	b, ways = newBench(t), new([]string)
	b.step(CapabilitiesChanged{})
	b.destroy = func(a *Action) Outcome {
		way := fmt.Sprintf("%v %d by %s", b.since(b.now).Truncate(100*time.Millisecond), a.Socket.ID.Cookie, a.Via)
		for _, h := range a.Holders {
			way += fmt.Sprintf(" %d", h.PID)
		}
		*ways = append(*ways, way)
		delete(b.sockets, a.Socket.ID.Cookie)
		return Outcome{Act: *a}
	}
	return b, ways
}

// Only what goes through the holder has to know who that is.
func TestWays(t *testing.T) {
	noDestroy := match.Capabilities{rules.Destroy: fmt.Errorf("not built in: %w", errors.ErrUnsupported)}
	for _, test := range []struct {
		name         string
		capabilities match.Capabilities
		rule         rules.Rule
		ways         []string
		skipped      map[match.Reason]uint64
	}{
		{"any, where all is possible", nil, killing("r"), []string{"6s 1 by kernel 2", "10s 2 by kernel"}, nil},
		{"any, where the kernel does not destroy", noDestroy, killing("r"), []string{"6s 1 by holder 2"}, map[match.Reason]uint64{match.NoDescriptor: 1}},
		{"by way of the holder", nil, killing("r", byHolder), []string{"6s 1 by holder 2"}, map[match.Reason]uint64{match.NoDescriptor: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, ways := reaching(t)
			b.step(CapabilitiesChanged{test.capabilities})
			b.add(1, 4*time.Second)
			b.add(2, 4*time.Second, func(s *sim.Socket) { s.Inode, s.State = 0, ssfilter.LastAck }) // closed by its program
			test.rule.Match[0].States |= ssfilter.Of(ssfilter.LastAck)
			b.rule(set(test.rule))
			b.until(30 * time.Second)
			if diff := cmp.Diff(test.ways, *ways); diff != "" {
				t.Errorf("acts (-want +got):\n%s", diff)
			}
			got := b.e.Overview(b.now).Rules[0].HeldBack
			if diff := cmp.Diff(test.skipped, got); diff != "" && len(test.skipped)+len(got) > 0 {
				t.Errorf("skipped (-want +got):\n%s", diff)
			}
		})
	}
}

// A kernel that turns out not to destroy has sockets killed by the other way from then on.
func TestWayChanges(t *testing.T) {
	b, ways := reaching(t)
	byOther := b.destroy
	b.destroy = func(a *Action) Outcome {
		if a.Via == rules.ViaKernel {
			return Outcome{Act: *a, Err: fmt.Errorf("not built in: %w", errors.ErrUnsupported), Never: true}
		}
		return byOther(a)
	}
	b.add(1, time.Minute)
	b.add(2, time.Second)
	b.rule(set(killing("r"), killing("kernel alone", func(r *rules.Rule) {
		r.Then[0].Options = map[string]any{"via": rules.ViaKernel}
		r.Match[0].Where = port(81)
	})))
	b.until(30 * time.Second)
	b.want("0s r kill failed 1", "1s r kill done 1", "9s r kill done 2")
	if diff := cmp.Diff([]string{"1s 1 by holder 2", "9s 2 by holder 2"}, *ways); diff != "" {
		t.Errorf("acts (-want +got):\n%s", diff)
	}
	if off, changed := b.noted(ActionOff), b.noted(WayChanged); off != 0 || changed != 1 {
		t.Errorf("noted %v", b.notes)
	}
}

// What the kernel refuses of a process is tried on none of its sockets for a while, and not
// on those of others.
func TestHolderRefuses(t *testing.T) {
	b, ways := reaching(t)
	grants := false
	byHim := b.destroy
	b.destroy = func(a *Action) Outcome {
		if a.Holders[0].PID == 7 && !grants {
			return Outcome{Act: *a, Err: sock.ErrRefused, Refused: true}
		}
		return byHim(a)
	}
	b.holders = func(inode uint32) []sock.Holder {
		if inode < 10 {
			return []sock.Holder{{PID: 7, Start: 1, Comm: "dark"}}
		}
		return []sock.Holder{{PID: 8, Start: 1, Comm: "plain"}}
	}
	for cookie := range uint64(4) {
		b.add(cookie+1, 4*time.Second-time.Duration(cookie)*time.Second)
		b.add(cookie+11, 4*time.Second)
	}
	b.rule(set(killing("r", byHolder)))
	b.until(5 * time.Minute)
	b.want("6s r kill failed 1", "6s r kill done 11", "6s r kill done 12", "6s r kill done 13", "6s r kill done 14")
	if got := b.e.Overview(b.now).Rules[0].HeldBack[match.HolderRefuses]; got != 4 {
		t.Errorf("%d were left alone for that, want 4", got)
	}
	if b.asks > 50 { // once for each act and its confirmation, and once a minute
		t.Errorf("the kernel was asked %d times for sockets that nothing can be done to", b.asks)
	}
	grants = true
	b.until(12 * time.Minute)
	if len(*ways) != 8 {
		t.Errorf("once the kernel lets it: %v", *ways)
	}
}

// A socket that went to another process is reached through that.
func TestHolderChanges(t *testing.T) {
	b, ways := reaching(t)
	holder := 7
	byThis := b.destroy
	b.destroy = func(a *Action) Outcome {
		if a.Holders[0].PID == holder {
			return byThis(a)
		}
		return Outcome{Act: *a, Changed: match.HolderChanged, Last: b.answer(a.Socket.ID, b.now)}
	}
	b.holders = func(uint32) []sock.Holder { return []sock.Holder{{PID: holder, Start: 1}} }
	b.beforeLast = func(*sim.Socket) { holder = 8 } // it is passed on right before the act
	b.add(1, 4*time.Second)
	b.rule(set(killing("r", byHolder)))
	b.until(30 * time.Second)
	b.want("6s r kill changed 1", "7s r kill done 1")
	if diff := cmp.Diff([]string{"7s 1 by holder 8"}, *ways); diff != "" {
		t.Errorf("acts (-want +got):\n%s", diff)
	}
}

// Where not every process can be read, a socket without a known holder is left alone, and
// one whose holder is known is not.
func TestHoldersUnknownToReach(t *testing.T) {
	b, ways := reaching(t)
	b.partial = true
	b.holders = func(inode uint32) []sock.Holder {
		if inode == 1 {
			return []sock.Holder{{PID: 7, Start: 1}}
		}
		return nil
	}
	b.add(1, 4*time.Second)
	b.add(2, 4*time.Second)
	b.rule(set(killing("r", byHolder)))
	b.until(5 * time.Minute)
	if diff := cmp.Diff([]string{"6s 1 by holder 7"}, *ways); diff != "" {
		t.Errorf("acts (-want +got):\n%s", diff)
	}
	if got := b.e.Overview(b.now).Rules[0].HeldBack[match.HoldersUnknown]; got != 1 {
		t.Errorf("%d were left alone for that, want 1", got)
	}
}

// The way through the holder costs no walk where no rule goes it.
func TestNoWalkWithoutNeed(t *testing.T) {
	b, _ := reaching(t)
	b.add(1, time.Second, func(s *sim.Socket) { s.UID = 0 })
	b.rule(set(killing("r"), killing("other", byHolder, disabled)))
	if b.e.holdersDecide() {
		t.Error("holders are taken for what decides, and nothing asks for them")
	}
	b.rule(set(killing("r"), killing("other", byHolder)))
	if !b.e.holdersDecide() {
		t.Error("a rule goes through holders, and they do not count")
	}
}

// A shutdown is done once the socket has left its state: it need not be gone.
func TestShutdown(t *testing.T) {
	shuts := func(r *rules.Rule) { r.Then[0].Kind = rules.Shutdown }
	for _, test := range []struct {
		name string
		act  func(s *sim.Socket)
		want string
	}{
		{"the FIN waits for its answer", func(s *sim.Socket) { s.State, s.Entered = ssfilter.LastAck, s.Entered.Add(time.Second) }, "6s r shutdown done 1"},
		{"nothing has changed", func(*sim.Socket) {}, "6s r shutdown unconfirmed 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, _ := reaching(t)
			acts := 0
			b.destroy = func(a *Action) Outcome {
				acts++
				test.act(b.sockets[a.Socket.ID.Cookie])
				return Outcome{Act: *a}
			}
			b.add(1, 4*time.Second)
			b.rule(set(killing("r", shuts)))
			b.until(10 * time.Minute)
			b.want(test.want)
			if acts != 1 {
				t.Errorf("it was done %d times", acts)
			}
		})
	}
}

// keptAlive is a rule that turns keepalives on, whatever else is done.
func keptAlive(name string, change ...func(*rules.Rule)) rules.Rule {
	return killing(name, append([]func(*rules.Rule){func(r *rules.Rule) {
		r.Match[0].InStateFor, r.Then = 0, []rules.Action{{Kind: rules.Keepalive}}
	}}, change...)...)
}

// What takes nothing away is done once to each connection, also to one in use, and hinders
// nothing else.
func TestTouch(t *testing.T) {
	untouched := errors.New("some errno")
	for _, test := range []struct {
		name  string
		rules []rules.Rule
		add   func(b *bench)
		act   func(b *bench, a *Action) Outcome // nil: it is done
		want  []string
	}{
		{name: "once", rules: []rules.Rule{keptAlive("r")}, add: func(b *bench) { b.add(1, time.Minute) }, want: []string{"0s r keepalive done 1"}},
		{name: "later", rules: []rules.Rule{keptAlive("r", after(20*time.Second))}, add: func(b *bench) { b.add(1, 4*time.Second) }, want: []string{"16s r keepalive done 1"}},
		{name: "in use", rules: []rules.Rule{keptAlive("r")}, add: func(b *bench) { b.add(1, time.Minute, func(s *sim.Socket) { s.Queued = benchStart }) }, want: []string{"0s r keepalive done 1"}},
		{name: "protected", rules: []rules.Rule{keptAlive("r")}, add: func(b *bench) { b.add(1, time.Minute, toPort(22)) }},
		{name: "in an accept queue", rules: []rules.Rule{keptAlive("r")}, add: func(b *bench) { b.add(1, time.Minute, func(s *sim.Socket) { s.Inode = 0 }) }},
		{name: "a dry run", rules: []rules.Rule{keptAlive("r", dryRun)}, add: func(b *bench) { b.add(1, time.Minute) }, want: []string{"0s r keepalive would 1"}},
		{name: "and killed later", rules: []rules.Rule{keptAlive("a"), killing("b")}, add: func(b *bench) { b.add(1, 4*time.Second) },
			want: []string{"0s a keepalive done 1", "6s b kill done 1"}},
		{name: "and killed before its holder is known", rules: []rules.Rule{keptAlive("a"), killing("b")}, add: func(b *bench) { b.add(1, time.Minute) },
			want: []string{"0s b kill done 1"}},
		{name: "beside what a limit holds back", rules: []rules.Rule{killing("a", limited(1, 10*time.Second)), keptAlive("b")}, add: func(b *bench) { b.add(1, time.Minute); b.add(2, time.Minute-time.Second) },
			want: []string{"0s a kill held 2", "0s a kill done 1", "0s b keepalive done 2", "10s a kill done 2"}},
		{name: "it fails", rules: []rules.Rule{keptAlive("r")}, add: func(b *bench) { b.add(1, time.Minute) },
			act:  func(_ *bench, a *Action) Outcome { return Outcome{Act: *a, Err: untouched} },
			want: []string{"0s r keepalive failed 1"}},
		{name: "it is gone", rules: []rules.Rule{keptAlive("r")}, add: func(b *bench) { b.add(1, time.Minute) },
			act: func(b *bench, a *Action) Outcome {
				delete(b.sockets, a.Socket.ID.Cookie)
				return Outcome{Act: *a, Err: sock.ErrGone, Gone: true}
			},
			want: []string{"0s r keepalive gone 1"}},
		{name: "no such call", rules: []rules.Rule{keptAlive("r")}, add: func(b *bench) { b.add(1, time.Minute) },
			act:  func(_ *bench, a *Action) Outcome { return Outcome{Act: *a, Err: errors.ErrUnsupported, Never: true} },
			want: []string{"0s r keepalive failed 1", "1s r keepalive would 1"}},
		{name: "its holder changes", rules: []rules.Rule{keptAlive("r")}, add: func(b *bench) { b.add(1, time.Minute) },
			act: func(b *bench, a *Action) Outcome {
				if b.now.Sub(benchStart) < 500*time.Millisecond {
					return Outcome{Act: *a, Changed: match.HolderChanged, Last: b.answer(a.Socket.ID, b.now)}
				}
				return Outcome{Act: *a}
			},
			want: []string{"0s r keepalive changed 1", "1s r keepalive done 1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, _ := reaching(t)
			kills := b.destroy
			b.destroy = func(a *Action) Outcome {
				switch {
				case a.Kind == rules.Kill:
					return kills(a)
				case a.Via != rules.ViaHolder || a.Window != 0:
					t.Errorf("%s goes by %s, and counts for %v", a.Kind, a.Via, a.Window)
				case test.act != nil:
					return test.act(b, a)
				}
				return Outcome{Act: *a}
			}
			test.add(b)
			b.rule(set(test.rules...))
			b.until(2 * time.Minute)
			b.want(test.want...)
		})
	}
}
