package engine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// thenKills has a rule shut connections down, and kill what is left of them five seconds later.
func thenKills(r *rules.Rule) {
	r.Then = []rules.Action{{Kind: rules.Shutdown, Limit: r.Then[0].Limit}, {Kind: rules.Kill, After: 5 * time.Second, Limit: r.Then[0].Limit}}
}

func fromEstablished(r *rules.Rule) {
	r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.Established), IdleFor: 10 * time.Second}}
}

// shutting has acts done as the kernel does them: a shutdown sends a FIN, which nobody
// acknowledges yet.
func shutting(t *testing.T) *bench {
	b, _ := reaching(t)
	b.destroy = func(a *Action) Outcome {
		s := b.sockets[a.Socket.ID.Cookie]
		if a.Kind == rules.Kill {
			delete(b.sockets, s.ID.Cookie)
			return Outcome{Act: *a}
		}
		next := map[ssfilter.State]ssfilter.State{ssfilter.CloseWait: ssfilter.LastAck, ssfilter.Established: ssfilter.FinWait1}[s.State]
		s.State, s.Entered, s.Queued = next, b.now, b.now
		return Outcome{Act: *a}
	}
	return b
}

// shutsDown has acts done so in b.
func shutsDown(t *testing.T, b *bench) {
	shuts := shutting(t)
	shuts.sockets = b.sockets
	b.destroy = func(a *Action) Outcome {
		shuts.now = b.now
		return shuts.destroy(a)
	}
}

// acked has the peer acknowledge the FIN.
func acked(b *bench, s *sim.Socket) {
	s.State, s.Entered, s.Queued, s.Progress, s.LastAck = ssfilter.FinWait2, b.now, never, b.now, b.now
	s.Acked++
	s.Segs++
}

// livelier has a socket connected anew, from the same port to the same peer, and all that its
// counters said before surpassed, up to another state.
func livelier(state ssfilter.State) func(*bench, *sim.Socket) {
	return func(b *bench, s *sim.Socket) {
		s.State, s.Entered, s.Queued, s.Progress, s.LastAck, s.LastData = state, b.now, never, b.now, b.now, b.now
		s.Acked, s.Received, s.Segs = s.Acked+1000, s.Received+1000, s.Segs+100
	}
}

// A connection that a rule has shut down, and whose peer does not answer, is killed as long
// after that as the rule says: that connection, and no other.
func TestEscalationOfShutdown(t *testing.T) {
	open := func(s *sim.Socket) { s.State = ssfilter.Established }
	const shut, killed = "6s r shutdown done 1", "11s r kill done 1"
	for _, test := range []struct {
		name   string
		rule   rules.Rule
		socket func(*sim.Socket)
		later  func(b *bench, s *sim.Socket) // two seconds after the shutdown
		want   []string
	}{
		{name: "last-ack", rule: killing("r", thenKills), want: []string{shut, killed}},
		{name: "fin-wait-1", rule: killing("r", thenKills, fromEstablished), socket: open, want: []string{shut, killed}},
		{name: "the FIN is acknowledged, and no more", rule: killing("r", thenKills, fromEstablished), socket: open, later: acked, want: []string{shut, "13s r kill done 1"}},
		{name: "the peer answers", rule: killing("r", thenKills), later: func(b *bench, s *sim.Socket) { delete(b.sockets, 1) }, want: []string{shut}},
		{name: "time-wait", rule: killing("r", thenKills, fromEstablished), socket: open, want: []string{shut},
			later: func(b *bench, s *sim.Socket) { s.State, s.Mini, s.Inode, s.Queued = ssfilter.TimeWait, true, 0, never }},
		{name: "connected anew", rule: killing("r", thenKills, fromEstablished), socket: open, want: []string{shut, "18s r shutdown done 1", "23s r kill done 1"},
			later: func(b *bench, s *sim.Socket) {
				reconnect(s, b.now)
				s.State, s.Queued, s.Acked, s.Received = ssfilter.Established, never, 0, 0
			}},
		{name: "connected anew, and shut down by its program", rule: killing("r", thenKills, fromEstablished), socket: open, want: []string{shut},
			later: func(b *bench, s *sim.Socket) {
				s.State, s.Queued, s.Acked, s.Received, s.Segs = ssfilter.FinWait2, never, 0, 0, 2
			}},
		{name: "the same, before it was seen in that state", rule: killing("r", thenKills, fromEstablished), socket: open, want: []string{shut},
			later: func(b *bench, s *sim.Socket) { s.Acked, s.Received, s.Segs = 0, 0, 2 }},
		{name: "connected anew, and its program has shut that down after more than before", rule: killing("r", thenKills, fromEstablished), socket: open, want: []string{shut}, later: livelier(ssfilter.FinWait2)},
		{name: "the same, and it was seen in that state before", rule: killing("r", thenKills, fromEstablished), socket: open, want: []string{shut},
			later: func(b *bench, s *sim.Socket) {
				acked(b, s)
				b.later(4*time.Second, func() { livelier(ssfilter.FinWait2)(b, s) })
			}},
		{name: "the same from close-wait", rule: killing("r", thenKills), want: []string{shut}, later: livelier(ssfilter.LastAck)},
		{name: "protected since", rule: killing("r", thenKills), want: []string{shut},
			later: func(b *bench, _ *sim.Socket) {
				s := set(killing("r", thenKills))
				s.Protect = []rules.Match{{States: ssfilter.AllStates}}
				b.rule(s)
			}},
		{name: "excluded since", rule: killing("r", thenKills, exclude(rules.Match{States: ssfilter.AllStates, Where: where("fwmark = 1").Where})), socket: marked(0), want: []string{shut},
			later: func(_ *bench, s *sim.Socket) { s.Mark = 1 }},
		{name: "another process holds it since", rule: killing("r", thenKills, ofProcess("leaky"), func(r *rules.Rule) { r.Then[1].After = 2 * time.Minute }), want: []string{shut},
			later: func(b *bench, s *sim.Socket) {
				b.holders = func(uint32) []sock.Holder { return []sock.Holder{process(3, "other")} }
			}},
		{name: "what only scans tell", rule: killing("r", thenKills, matching(where("not autobound"))), socket: bindsPort, want: []string{shut, killed}},
		{name: "the same process holds it", rule: killing("r", thenKills, ofProcess("leaky")), want: []string{shut, killed}},
		{name: "the rule is loaded again", rule: killing("r", thenKills), later: func(b *bench, _ *sim.Socket) {
			b.rule(set(killing("q", matching(rules.Match{})), killing("r", thenKills)))
		}, want: []string{shut, killed}},
		{name: "the rule is changed", rule: killing("r", thenKills), later: func(b *bench, _ *sim.Socket) { b.rule(set(killing("r", thenKills, limited(9, time.Minute)))) }, want: []string{shut}},
		{name: "a restart", rule: killing("r", thenKills), later: func(b *bench, _ *sim.Socket) { b.restart(set(killing("r", thenKills))) }, want: []string{shut}},
		{name: "paused for a while", rule: killing("r", thenKills), later: func(b *bench, _ *sim.Socket) { b.step(Paused{Until: b.now.Add(20 * time.Second)}) },
			want: []string{shut, "11s r kill held 1", "28s resumed", "28s r kill done 1"}},
		{name: "the rule stops itself", rule: killing("r", thenKills), later: func(b *bench, _ *sim.Socket) { b.step(harm{}) }, want: []string{shut, "11s r kill held 1"}},
		{name: "the limit", rule: killing("r", thenKills, func(r *rules.Rule) {
			r.Then[0].Limit = rules.Limit{N: 1, Per: 30 * time.Second}
			r.Then[1].Limit = r.Then[0].Limit
		}), want: []string{shut, "11s r kill held 1", "36s r kill done 1"}},
		{name: "a dry run", rule: killing("r", thenKills, dryRun), want: []string{"6s r shutdown would 1"}},
		{name: "no sooner than the shutdown", rule: killing("r", thenKills, func(r *rules.Rule) { r.Then[0].After = 5 * time.Second }), want: []string{"11s r shutdown done 1"}},
		{name: "a group that ends by the shutdown", rule: killing("r", thenKills, func(r *rules.Rule) {
			r.When, r.GroupBy = []rules.Condition{{Metric: rules.Count, Op: rules.Greater, Number: 0}}, []rules.GroupKey{rules.ByDport}
		}), want: []string{"7s r firing dport=80 count 1", "7s r shutdown done 1", "8s r quiet dport=80 count 0", "12s r kill done 1"}},
		{name: "an alert beside it", rule: killing("r", thenKills, alsoAlerts), want: []string{"6s r alert 2 count 1", "6s r firing count 1", shut, "6s r alert 2 ended", "6s r quiet count 0", killed}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := shutting(t)
			b.holders = func(uint32) []sock.Holder { return []sock.Holder{process(2, "leaky")} }
			s := b.add(1, 4*time.Second)
			if test.socket != nil {
				test.socket(s)
			}
			b.rule(set(test.rule))
			if test.later != nil {
				b.later(8*time.Second, func() { test.later(b, s) })
			}
			b.until(3 * time.Minute)
			b.want(test.want...)
			if b.sockets[1] == nil && b.e.Watched() > 0 {
				t.Error("it is gone, and still watched")
			}
		})
	}
}

// The last answer before the kill decides, as before any other.
func TestEscalationIsRechecked(t *testing.T) {
	b := shutting(t)
	b.add(1, 4*time.Second, func(s *sim.Socket) { s.State = ssfilter.Established })
	b.rule(set(killing("r", thenKills, fromEstablished)))
	b.until(10 * time.Second)
	once := true
	b.beforeLast = func(s *sim.Socket) {
		if once {
			acked(b, s)
		}
		once = false
	}
	b.until(time.Minute)
	b.want("6s r shutdown done 1", "11s r kill changed 1", "16s r kill done 1")
}

// It does so where the connection is another by then, whose counters surpass what was known.
func TestEscalationIsRecheckedForAnother(t *testing.T) {
	b := shutting(t)
	b.add(1, 4*time.Second, func(s *sim.Socket) { s.State = ssfilter.Established })
	b.rule(set(killing("r", thenKills, fromEstablished)))
	b.until(8 * time.Second)
	acked(b, b.sockets[1])
	b.until(12 * time.Second)
	b.beforeLast = func(s *sim.Socket) {
		livelier(ssfilter.FinWait2)(b, s)
		s.Progress, s.LastAck, s.LastData = benchStart, benchStart, benchStart // which no program does, nor the kernel
		b.beforeLast = nil
	}
	b.until(time.Minute)
	b.want("6s r shutdown done 1", "13s r kill changed 1")
}

// Scans do not show what was shut down: it is asked for now and then, and not with each.
func TestEscalationAsksSeldom(t *testing.T) {
	b := shutting(t)
	for c := range uint64(10) {
		b.add(1+c, 4*time.Second)
	}
	b.rule(set(killing("r", thenKills, func(r *rules.Rule) { r.Then[1].After = 10 * time.Minute })))
	b.until(10 * time.Second)
	asks, scans := b.asks, len(b.scans)
	b.until(5 * time.Minute)
	if asks, scans = b.asks-asks, len(b.scans)-scans; asks > 10*5*4+10 || scans < 100 {
		t.Errorf("ten sockets were asked for %d times in five minutes, beside %d scans", asks, scans)
	}
	clear(b.sockets) // their peers answer
	b.until(5*time.Minute + 20*time.Second)
	if n := b.e.Watched(); n > 0 {
		t.Errorf("%d have gone, and are still watched", n)
	}
}

// Another rule may take what was shut down, and then it is a kill of that rule.
func TestEscalationOfAnotherRule(t *testing.T) {
	b := newPrograms(t, 0.1)
	b.step(CapabilitiesChanged{})
	shutsDown(t, b)
	b.add(1, 4*time.Second)
	b.rule(set(killing("r", thenKills, func(r *rules.Rule) { r.Then[1].After = 10 * time.Minute }),
		killing("q", matching(rules.Match{States: ssfilter.Of(ssfilter.LastAck), StalledFor: time.Minute}))))
	b.until(2 * time.Minute)
	b.want("6s r shutdown done 1", "1m6s q kill done 1")
	for _, r := range b.e.Overview(b.now).Rules {
		if d := r.Descriptors; d.Open != 1 {
			t.Errorf("%s: descriptors %+v, want that of one socket", r.Name, d)
		}
	}
}

// What a rule does to sockets keeps to the limits, and to the shares, of all its actions.
func TestActionsShareLimits(t *testing.T) {
	for _, test := range []struct {
		name           string
		shutdown, kill rules.Limit
		want           []string // by 45 seconds
	}{
		{"that of the shutdown", rules.Limit{N: 1, Per: 15 * time.Second}, rules.Limit{N: 100, Per: 15 * time.Second}, []string{"6s r shutdown 1", "21s r shutdown 2", "36s r shutdown 3"}},
		{"that of the kill", rules.Limit{N: 100, Per: 15 * time.Second}, rules.Limit{N: 1, Per: 15 * time.Second}, []string{"6s r shutdown 1", "21s r shutdown 2", "36s r shutdown 3"}},
		{"each in one way", rules.Limit{N: 2, Per: 10 * time.Second}, rules.Limit{N: 3, Per: 30 * time.Second}, []string{"6s r shutdown 1", "6s r shutdown 2", "36s r shutdown 3", "36s r shutdown 4"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := shutting(t)
			for c := range uint64(4) {
				b.add(1+c, 4*time.Second-time.Duration(c)*time.Millisecond)
			}
			b.rule(set(killing("r", thenKills, func(r *rules.Rule) { r.Then[0].Limit, r.Then[1].Limit = test.shutdown, test.kill })))
			b.until(45 * time.Second)
			var done []string
			for _, event := range b.events {
				if strings.Contains(event, " done ") {
					done = append(done, strings.Replace(event, " done", "", 1))
				}
			}
			if diff := cmp.Diff(test.want, done); diff != "" {
				t.Errorf("done (-want +got):\n%s", diff)
			}
		})
	}
	for _, most := range [][2]float64{{0.25, 0.5}, {0.25, 1}} {
		b := shutting(t)
		for c := range uint64(8) {
			b.add(1+c, 4*time.Second, func(s *sim.Socket) { s.State = ssfilter.Established })
		}
		b.rule(set(killing("r", thenKills, fromEstablished, func(r *rules.Rule) { r.Then[0].Most, r.Then[1].Most = most[0], most[1] })))
		b.until(time.Minute)
		if n := len(b.kills()); n != 2 {
			t.Errorf("with shares of %v, %d of eight were taken, want two", most, n)
		}
	}
}

// The kill takes nothing more of the share of live connections than the shutdown has, and its
// socket is no leak that has come back.
func TestEscalationIsNoSecondKill(t *testing.T) {
	b := newPrograms(t, 0.1)
	b.step(CapabilitiesChanged{})
	shutsDown(t, b)
	for c := range uint64(8) {
		b.add(1+c, 4*time.Second, func(s *sim.Socket) { s.State = ssfilter.Established })
	}
	b.rule(set(killing("r", thenKills, fromEstablished, func(r *rules.Rule) { r.Then[0].Most, r.Then[1].Most = 0.5, 0.5 })))
	b.until(time.Minute)
	kills := b.kills()
	slices.Sort(kills)
	if len(kills) != 4 || !strings.HasPrefix(kills[0], "11s ") || !strings.HasPrefix(kills[3], "11s ") {
		t.Errorf("killed %q, want the four that were shut down, after five seconds", kills)
	}
	if l := b.e.Overview(b.now).Rules[0]; len(l.Leakers) != 0 || l.Descriptors.Open+l.Descriptors.Closed+l.Descriptors.Unknown != 4 {
		t.Errorf("leaks that return %v, descriptors %+v, want those of four sockets", l.Leakers, l.Descriptors)
	}
}

// Why it is killed says that it was shut down, and since when.
func TestEscalationSaysWhy(t *testing.T) {
	b := shutting(t)
	b.add(1, 4*time.Second)
	var shutFor []time.Duration
	act := b.destroy
	b.destroy = func(a *Action) Outcome {
		shutFor = append(shutFor, a.ShutFor)
		return act(a)
	}
	b.rule(set(killing("r", thenKills)))
	b.until(time.Minute)
	if diff := cmp.Diff([]time.Duration{0, 5 * time.Second}, shutFor); diff != "" {
		t.Errorf("shut down for (-want +got):\n%s", diff)
	}
}
