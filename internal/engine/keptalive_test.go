package engine

import (
	"errors"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// A rule that asks, shuts down and kills, one after the other, does all three.
func TestKillAfterKeepaliveAndShutdown(t *testing.T) {
	on := true
	b := shutting(t)
	shuts := b.destroy
	b.destroy = func(a *Action) Outcome {
		if a.Kind == rules.Keepalive {
			s := b.sockets[a.Socket.ID.Cookie]
			s.Keepalive, s.LastAck = time.Second, b.now
			return Outcome{Act: *a}
		}
		return shuts(a)
	}
	s := b.add(1, 4*time.Second, func(s *sim.Socket) { s.State = ssfilter.Established })
	b.world = append(b.world, worldEvent{benchStart.Add(12 * time.Second), func() { acked(b, s) }})
	b.rule(set(killing("r", thenKills, fromEstablished, func(r *rules.Rule) {
		r.Then = append([]rules.Action{{Kind: rules.Keepalive}}, r.Then...)
		r.Then[1].After, r.Then[2].After = 5*time.Second, 10*time.Second
		r.Exclude = []rules.Match{{States: ssfilter.AllStates, Keepalive: &on}}
	})))
	b.until(time.Minute)
	b.want("6s r keepalive done 1", "11s r shutdown done 1", "17s r kill done 1")
}

// asksThenKills has a rule turn keepalives on, and kill twenty seconds later.
func asksThenKills(r *rules.Rule) {
	r.Then = []rules.Action{{Kind: rules.Keepalive}, {Kind: rules.Kill, After: 20 * time.Second, Limit: r.Then[0].Limit}}
}

// idle is what has been established and idle for so long, with keepalives on or off.
func idle(d time.Duration, keepalive *bool) rules.Match {
	return rules.Match{States: ssfilter.Of(ssfilter.Established), IdleFor: d, Keepalive: keepalive}
}

// What a rule does later still comes where the rule itself has turned keepalives on, for
// those alone: what a program or another rule has turned on counts as ever.
func TestKillAfterKeepalive(t *testing.T) {
	on, off := true, false
	without := func(r *rules.Rule) { r.Match = []rules.Match{idle(10*time.Second, &off)} }
	const asked, killed = "6s r keepalive done 1", "26s r kill done 1"
	for _, test := range []struct {
		name  string
		rules []rules.Rule
		had   bool                          // keepalives before
		fails bool                          // to turn them on
		later func(b *bench, s *sim.Socket) // after 16 seconds
		want  []string
	}{
		{name: "of those without", rules: []rules.Rule{killing("r", asksThenKills, without)}, want: []string{asked, killed}},
		{name: "those with are excluded", want: []string{asked, killed}, rules: []rules.Rule{killing("r", asksThenKills, matching(idle(10*time.Second, nil)),
			func(r *rules.Rule) { r.Exclude = []rules.Match{{States: ssfilter.AllStates, Keepalive: &on}} })}},
		{name: "of those with, at their own time", had: true, want: []string{"40s r keepalive done 1", "1m0s r kill done 1"}, rules: []rules.Rule{killing("r", asksThenKills,
			func(r *rules.Rule) { r.Match = []rules.Match{idle(10*time.Second, &off), idle(40*time.Second, &on)} })}},
		{name: "it failed, and the program turns them on", rules: []rules.Rule{killing("r", asksThenKills, without)}, fails: true, want: []string{"6s r keepalive failed 1"},
			later: func(b *bench, s *sim.Socket) { s.Keepalive, s.LastAck = time.Second, b.now }},
		{name: "another rule is about those without", want: []string{asked}, rules: []rules.Rule{
			killing("r", matching(idle(10*time.Second, &off)), func(r *rules.Rule) { r.Then = []rules.Action{{Kind: rules.Keepalive}} }), killing("other", after(20*time.Second), without)}},
		{name: "it comes alive", rules: []rules.Rule{killing("r", asksThenKills, without)}, want: []string{asked, "46s r kill done 1"},
			later: func(b *bench, s *sim.Socket) {
				s.Progress, s.LastData, s.LastAck = b.now, b.now, b.now
				s.Received++
				s.Segs++
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, _ := reaching(t)
			kills := b.destroy
			b.destroy = func(a *Action) Outcome {
				switch s := b.sockets[a.Socket.ID.Cookie]; {
				case a.Kind == rules.Kill:
					return kills(a)
				case test.fails:
					return Outcome{Act: *a, Err: errors.New("some errno")}
				default:
					s.Keepalive, s.LastAck = time.Second, b.now
				}
				return Outcome{Act: *a}
			}
			s := b.add(1, 4*time.Second, func(s *sim.Socket) {
				s.State = ssfilter.Established
				if test.had {
					keepsAlive(s)
				}
			})
			if test.later != nil {
				b.world = append(b.world, worldEvent{benchStart.Add(16 * time.Second), func() { test.later(b, s) }})
			}
			b.rule(set(test.rules...))
			b.until(2 * time.Minute)
			b.want(test.want...)
		})
	}
}
