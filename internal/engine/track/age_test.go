package track

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const (
	start = sock.Instant(1000 * time.Second)
	jiffy = 10 * time.Millisecond
)

func TestAgeOf(t *testing.T) {
	const sent, got = start, start + 1000
	ago := func(d time.Duration) sock.Instant { return got.Add(-d) }
	memory := func(s *sock.Socket, change ...func(*sock.Memory)) *sock.Memory {
		m := &sock.Memory{
			Key: s.ID.Key(), ID: s.ID.Sum(), State: s.State, Entered: ago(29 * time.Second), Quiet: ago(28 * time.Second),
			Acked: s.Info.BytesAcked, Received: s.Info.BytesReceived, SegsIn: s.Info.SegsIn,
		}
		for _, c := range change {
			c(m)
		}
		return m
	}
	leaked := full(ssfilter.CloseWait)
	probing := full(ssfilter.CloseWait, func(s *sock.Socket) { s.Timer, s.Info.LastAckRecv = sock.TimerKeepalive, time.Second })
	closing := full(ssfilter.LastAck)
	seen := func(s sock.Socket) sock.Socket {
		s.Entered, s.Unmoved = ago(40*time.Second), true
		return s
	}
	accepted := func(m *sock.Memory) { m.Accepted = true }
	exactly := Age{InState: 40 * time.Second, Idle: 40 * time.Second, Silent: 40 * time.Second, Known: true, Exact: true}
	byKernel := Age{InState: 20*time.Second - jiffy, Idle: 20*time.Second - jiffy, Silent: 20*time.Second - jiffy, Known: true, Exact: true}
	bySecond := Age{InState: time.Second - jiffy, Idle: time.Second - jiffy, Silent: time.Second - jiffy, Known: true}
	observed := Age{InState: 29 * time.Second, Idle: 28 * time.Second, Silent: 28 * time.Second, Known: true}
	tests := []struct {
		name string
		s    sock.Socket
		m    *sock.Memory
		want Age
	}{
		{"by the kernel", leaked, nil, byKernel},
		{"keepalives", probing, nil, bySecond},
		{"a state that the kernel keeps no time of", closing, nil, Age{}},
		{"keepalives, and observed", probing, memory(&probing), observed},
		{"no kernel's time, and observed", closing, memory(&closing), observed},
		{"observed for less long", leaked, memory(&leaked, func(m *sock.Memory) { m.Entered, m.Quiet = ago(time.Second), ago(time.Second) }), byKernel},
		{"observed since before keepalives ended", leaked, memory(&leaked), observed},
		{"observed, and progress since", probing, memory(&probing, func(m *sock.Memory) { m.Acked-- }), Age{InState: 29 * time.Second, Idle: time.Second - jiffy, Silent: time.Second - jiffy, Known: true}},
		{"another connection was observed", probing, memory(&probing, func(m *sock.Memory) { m.Received++ }), bySecond},
		{"another tuple was observed", probing, memory(&probing, func(m *sock.Memory) { m.ID++ }), bySecond},
		{"another state was observed", closing, memory(&closing, func(m *sock.Memory) { m.State = ssfilter.FinWait1 }), Age{}},
		{"seen, with keepalives", seen(probing), nil, exactly},
		{"seen in a state that the kernel keeps no time of", seen(closing), nil, exactly},
		{"seen, and observed", seen(probing), memory(&probing, func(m *sock.Memory) { m.Entered = ago(40 * time.Second) }), exactly},
		{"seen, and another stay was observed", seen(probing), memory(&probing, func(m *sock.Memory) { m.Entered = ago(41 * time.Second) }), exactly},
		{"seen, and accepted since", seen(probing), memory(&probing, accepted), Age{InState: 29 * time.Second, Idle: 29 * time.Second, Silent: 29 * time.Second, Known: true}},
		{"observed in the future", closing, memory(&closing, func(m *sock.Memory) { m.Entered = got + 1 }), Age{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, AgeOf(&test.s, test.m, sent, got, jiffy)); diff != "" {
				t.Errorf("age (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSeenAgain(t *testing.T) {
	tests := []struct {
		name           string
		state          ssfilter.State
		change         func(*sock.Answer) // a second later, when all else has gone on
		same, progress bool
	}{
		{"nothing happened", ssfilter.CloseWait, func(*sock.Answer) {}, true, false},
		{"in use", ssfilter.Established, func(a *sock.Answer) { a.Socket.Info.BytesAcked++ }, true, true},
		{"another state", ssfilter.Established, func(a *sock.Answer) { a.Socket.State = ssfilter.CloseWait }, false, false},
		{"reconnected", ssfilter.CloseWait, func(a *sock.Answer) { a.Socket.Info.SegsIn = 1 }, false, false},
		{"reconnected a moment ago", ssfilter.CloseWait, func(a *sock.Answer) { a.Socket.Info.LastDataRecv = 0 }, false, false},
		{"gone", ssfilter.CloseWait, func(a *sock.Answer) { *a = sock.Answer{Gone: true} }, false, false},
		{"no answer", ssfilter.CloseWait, func(a *sock.Answer) { *a = sock.Answer{Err: sock.ErrUnconfirmed} }, false, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := full(test.state)
			a := sock.Answer{Socket: s, Sent: start.Add(time.Second), Got: start.Add(time.Second)}
			a.Socket.Info.LastDataRecv += time.Second
			a.Socket.Info.LastAckRecv += time.Second
			test.change(&a)
			same, progress := SameConnection(&s, start, &a, jiffy)
			if same != test.same || progress != test.progress {
				t.Errorf("same %v, progress %v; want %v, %v", same, progress, test.same, test.progress)
			}
		})
	}
}

// TestAgeOfAccepted: what is on disk of an accept queue counts wherever ages are told.
func TestAgeOfAccepted(t *testing.T) {
	const got = start
	s := full(ssfilter.CloseWait)
	m := sock.Memory{
		Key: sock.Key{Cookie: 1}, ID: s.ID.Sum(), State: s.State, Entered: got.Add(-15 * time.Second), Quiet: got.Add(-15 * time.Second),
		Acked: s.Info.BytesAcked, Received: s.Info.BytesReceived, SegsIn: s.Info.SegsIn,
	}
	for _, test := range []struct {
		name   string
		change func(*sock.Memory, *sock.Socket)
		want   Age
	}{
		{"never in a queue", func(*sock.Memory, *sock.Socket) {}, Age{InState: 20 * time.Second, Idle: 20 * time.Second, Silent: 20 * time.Second, Known: true, Exact: true}},
		{"in one", func(m *sock.Memory, s *sock.Socket) { m.Backlog, s.Inode = true, 0 }, Age{InState: 20 * time.Second, Idle: 20 * time.Second, Silent: 20 * time.Second, Known: true, Exact: true}},
		{"accepted since", func(m *sock.Memory, _ *sock.Socket) { m.Backlog = true }, Age{Known: true}},
		{"closed and accepted since", func(m *sock.Memory, _ *sock.Socket) { m.Backlog, m.State = true, ssfilter.Established }, Age{Known: true}},
		{"accepted", func(m *sock.Memory, _ *sock.Socket) { m.Accepted = true }, Age{InState: 15 * time.Second, Idle: 15 * time.Second, Silent: 15 * time.Second, Known: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, s := m, s
			test.change(&m, &s)
			if age := AgeOf(&s, &m, got, got, 0); age != test.want {
				t.Errorf("%+v, want %+v", age, test.want)
			}
		})
	}
}
