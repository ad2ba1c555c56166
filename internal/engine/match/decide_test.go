package match

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestKeepalive: whether a socket's keepalive timer is armed is known only while no other
// timer runs.
func TestKeepalive(t *testing.T) {
	timer := func(state ssfilter.State, timer uint8, change ...func(*sock.Socket)) sock.Socket {
		return full(state, append(change, func(s *sock.Socket) { s.Timer = timer })...)
	}
	const probe = 4 // of a closed window
	nobodys := func(s *sock.Socket) { s.Inode = 0 }
	for _, test := range []struct {
		name string
		s    sock.Socket
		want ssfilter.Tri
	}{
		{"armed", timer(ssfilter.Established, sock.TimerKeepalive), ssfilter.True},
		{"armed in an accept queue", timer(ssfilter.CloseWait, sock.TimerKeepalive, nobodys), ssfilter.True},
		{"no timer", timer(ssfilter.CloseWait, sock.TimerOff), ssfilter.False},
		{"listening", timer(ssfilter.Listening, sock.TimerOff), ssfilter.False},
		{"retransmitting", timer(ssfilter.Established, sock.TimerRetransmit), ssfilter.Unknown},
		{"probing a closed window", timer(ssfilter.Established, probe), ssfilter.Unknown},
		{"a request", timer(ssfilter.SynRecv, sock.TimerRetransmit, nobodys), ssfilter.Unknown},
		{"time-wait", timer(ssfilter.TimeWait, sock.TimerTimeWait, nobodys), ssfilter.False},
		{"a minisocket in fin-wait-2", timer(ssfilter.FinWait2, sock.TimerTimeWait, nobodys), ssfilter.False},
		{"an orphan in fin-wait-2", timer(ssfilter.FinWait2, sock.TimerKeepalive, nobodys), ssfilter.Unknown},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, wanted := range []bool{true, false} {
				want := test.want
				if !wanted {
					want = ssfilter.True + ssfilter.False - want
				}
				m := rules.Match{States: ssfilter.AllStates, Keepalive: &wanted}
				if got := AtPresent(&m, subject.Of(&test.s)); got != want {
					t.Errorf("keepalive: %v is %v, want %v", wanted, got, want)
				}
			}
			m := rules.Match{States: ssfilter.AllStates, Unread: &rules.Threshold{Op: rules.Greater, Number: 1}, Keepalive: new(bool)}
			if got := AtPresent(&m, subject.Of(&test.s)); got != ssfilter.False {
				t.Errorf("with a condition that does not hold: %v", got)
			}
		})
	}
}

// TestDecide: an action is due when a time bound is met, by what is certain, and
// nothing that is unknown is taken for certain. Before that it says the earliest
// instant at which it may be due, to ask again.
func TestDecide(t *testing.T) {
	const now = sock.Instant(1000 * time.Second)
	ago := func(d time.Duration) track.Bound {
		return track.Bound{Safe: now.Add(-d), Early: now.Add(-d - time.Second)}
	}
	quiet := track.Times{Entered: ago(time.Minute), Quiet: ago(time.Minute), Queued: sock.Never}
	young := track.Times{Entered: ago(5 * time.Second), Quiet: ago(5 * time.Second), Heard: ago(5 * time.Second), Queued: sock.Never}
	stalled := track.Times{Entered: ago(time.Minute), Quiet: ago(time.Minute), Queued: now.Add(-20 * time.Second)}
	lasting := rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 10 * time.Second}
	stalls := rules.Match{States: ssfilter.Of(ssfilter.CloseWait), StalledFor: 10 * time.Second}
	idle := rules.Match{States: ssfilter.Of(ssfilter.CloseWait), IdleFor: 10 * time.Second}
	silent := func(idle time.Duration) rules.Match {
		return rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 15 * time.Second, IdleFor: idle, SilentFor: 10 * time.Second}
	}
	acknowledged := track.Times{Entered: ago(time.Minute), Quiet: ago(time.Second), Heard: ago(20 * time.Second), Queued: sock.Never}
	ofUser := func(m rules.Match, uid uint32) rules.Match { m.Users = []uint32{uid}; return m }
	using := func(s *sock.Socket) { s.WQueue = 1 }
	nobodys := func(s *sock.Socket) { s.Inode = 0 }
	for _, test := range []struct {
		name    string
		match   rules.Match
		exclude []rules.Match
		times   track.Times
		change  func(*sock.Socket)
		after   time.Duration
		fired   sock.Instant
		want    Decision
		at      time.Duration // from now
	}{
		{name: "long enough", match: lasting, times: quiet, want: Due, at: -50 * time.Second},
		{name: "not long enough", match: lasting, times: young, want: NotDue, at: 4 * time.Second},
		{name: "as an escalation", match: lasting, times: quiet, after: time.Minute, want: NotDue, at: 9 * time.Second},
		{name: "only since its group fires", match: lasting, times: quiet, fired: now.Add(-time.Second), want: Due, at: -time.Second},
		{name: "in use", match: lasting, times: stalled, change: using, want: Blocked, at: time.Duration(sock.Never - now)},
		{name: "stalled", match: stalls, times: stalled, change: using, want: Due, at: -10 * time.Second},
		{name: "nothing to stall", match: stalls, times: quiet, want: NotDue, at: time.Duration(sock.Never - now)},
		{name: "not idle with something queued", match: idle, times: stalled, change: using, want: NotDue, at: time.Duration(sock.Never - now)},
		{name: "silent, though something was acknowledged", match: silent(0), times: acknowledged, want: Due, at: -5 * time.Second},
		{name: "silent and in use", match: silent(0), times: acknowledged, change: using, want: Blocked, at: time.Duration(sock.Never - now)},
		{name: "silent and idle", match: silent(5 * time.Second), times: acknowledged, want: NotDue, at: 13 * time.Second},
		{name: "not silent for long enough", match: silent(0), times: young, want: NotDue, at: 9 * time.Second},
		{name: "another user's", match: ofUser(lasting, 7), times: quiet, want: NotDue, at: time.Duration(sock.Never - now)},
		{name: "of a user that is unknown", match: ofUser(lasting, 7), times: quiet, change: nobodys, want: Blocked, at: time.Duration(sock.Never - now)},
		{name: "excluded", match: lasting, exclude: []rules.Match{ofUser(lasting, 0)}, times: quiet, want: Blocked, at: time.Duration(sock.Never - now)},
		{name: "perhaps excluded", match: lasting, exclude: []rules.Match{ofUser(lasting, 7)}, times: quiet, change: nobodys, want: Blocked, at: time.Duration(sock.Never - now)},
		{name: "another state", match: rules.Match{States: ssfilter.Of(ssfilter.LastAck)}, times: quiet, want: NotDue, at: time.Duration(sock.Never - now)},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := full(ssfilter.CloseWait)
			if test.change != nil {
				test.change(&s)
			}
			r := Rule{Rule: rules.Rule{Match: []rules.Match{test.match}, Exclude: test.exclude}}
			got, at := r.Decide(&rules.Action{Kind: rules.Kill, After: test.after}, &test.times, subject.Subject{Socket: &s}, test.fired, now, true)
			if got != test.want || at.Sub(now) != test.at {
				t.Errorf("decision %d at %v, want %d at %v", got, at.Sub(now), test.want, test.at)
			}
		})
	}
}
