package track

import (
	"slices"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// full is a socket with every field of tcp_info.
func full(state ssfilter.State, change ...func(*sock.Socket)) sock.Socket {
	s := sock.Socket{Conn: ssfilter.Conn{State: state}, ID: sock.ID{Cookie: 1}, Inode: 1, Info: sock.Info{
		Has: 1<<8 - 1, LastDataRecv: 30 * time.Second, LastAckRecv: 20 * time.Second, BytesAcked: 1, BytesReceived: 100, SegsIn: 5,
	}}
	for _, c := range change {
		c(&s)
	}
	return s
}

func TestKernelBounds(t *testing.T) {
	const unknown = -1
	timer := func(timer uint8) func(*sock.Socket) { return func(s *sock.Socket) { s.Timer = timer } }
	mini := func(expires time.Duration) func(*sock.Socket) {
		return func(s *sock.Socket) { s.Timer, s.Expires, s.Info = sock.TimerTimeWait, expires, sock.Info{} }
	}
	recent := func(s *sock.Socket) { s.Info.LastDataRecv = time.Second }
	tests := []struct {
		name       string
		s          sock.Socket
		age, quiet int // seconds
		lasting    bool
	}{
		{"close-wait", full(ssfilter.CloseWait), 20, 20, true},
		{"close-wait with keepalives", full(ssfilter.CloseWait, timer(sock.TimerKeepalive)), 20, 20, false},
		{"close-wait, sending", full(ssfilter.CloseWait, func(s *sock.Socket) { s.WQueue = 1 }), 20, 20, false},
		{"closing", full(ssfilter.Closing), 20, 20, true},
		{"established", full(ssfilter.Established), 30, 20, true},
		{"established, an old kernel's tcp_info", full(ssfilter.Established, func(s *sock.Socket) { s.Info.Has &^= sock.HasBytesReceived }), 20, 20, true},
		{"established, data on the fast path", full(ssfilter.Established, recent), 20, 1, true},
		{"fin-wait-2", full(ssfilter.FinWait2), 20, 20, false},
		{"fin-wait-2 minisocket", full(ssfilter.FinWait2, mini(time.Second)), unknown, unknown, false},
		{"time-wait", full(ssfilter.TimeWait, mini(40*time.Second)), 20, 20, true},
		{"time-wait that should be over", full(ssfilter.TimeWait, mini(0)), 60, 60, true},
		{"time-wait with a longer timer", full(ssfilter.TimeWait, mini(90*time.Second)), 0, 0, true},
		{"syn-sent", full(ssfilter.SynSent), unknown, unknown, false},
		{"syn-recv", full(ssfilter.SynRecv), unknown, unknown, false},
		{"fin-wait-1", full(ssfilter.FinWait1), unknown, unknown, false},
		{"last-ack", full(ssfilter.LastAck), unknown, unknown, false},
		{"an old kernel's tcp_info", full(ssfilter.CloseWait, func(s *sock.Socket) { s.Info.Has = 0 }), unknown, unknown, false},
		{"no last_data_recv", full(ssfilter.CloseWait, func(s *sock.Socket) { s.Info.Has &^= sock.HasLastDataRecv }), 20, unknown, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check := func(what string, got time.Duration, known bool, want int) {
				if known != (want != unknown) || known && got != time.Duration(want)*time.Second {
					t.Errorf("%s is %v, %v; want %d s", what, got, known, want)
				}
			}
			age, known := kernelAge(&test.s)
			check("age", age, known, test.age)
			quiet, known := kernelQuiet(&test.s)
			check("quiet", quiet, known, test.quiet)
			if got := Lasting(&test.s); got != test.lasting {
				t.Errorf("lasting is %v, want %v", got, test.lasting)
			}
		})
	}
}

func TestSince(t *testing.T) {
	const sent, got, jiffy = 1000, 1200, 10
	tests := []struct {
		name  string
		age   time.Duration
		known bool
		want  Bound
	}{
		{"known", 500, true, Bound{Safe: 710, Early: 500}},
		{"less than a jiffy", 5, true, Bound{Safe: 1200, Early: 995}},
		{"unknown", 500, false, Bound{Safe: 1200, Early: 1000}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if b := since(test.age, test.known, sent, got, jiffy); b != test.want {
				t.Errorf("got %+v, want %+v", b, test.want)
			}
		})
	}
}

func TestSameConnection(t *testing.T) {
	tests := []struct {
		name   string
		state  ssfilter.State
		change func(*sock.Socket) // ten seconds later, when all else has gone on
		want   bool
	}{
		{"nothing happened", ssfilter.CloseWait, func(*sock.Socket) {}, true},
		{"keepalive answered", ssfilter.CloseWait, func(s *sock.Socket) { s.Info.LastAckRecv = 0; s.Info.SegsIn++ }, true},
		{"segs_in wrapped", ssfilter.CloseWait, func(s *sock.Socket) { s.Info.SegsIn -= 1 << 31 }, true},
		{"another state", ssfilter.CloseWait, func(s *sock.Socket) { s.State = ssfilter.LastAck }, false},
		{"another tuple", ssfilter.CloseWait, func(s *sock.Socket) { s.ID.DPort[0] = 1 }, false},
		{"segs_in fell", ssfilter.CloseWait, func(s *sock.Socket) { s.Info.SegsIn-- }, false},
		{"bytes_acked fell", ssfilter.CloseWait, func(s *sock.Socket) { s.Info.BytesAcked-- }, false},
		{"bytes_received fell", ssfilter.CloseWait, func(s *sock.Socket) { s.Info.BytesReceived-- }, false},
		{"younger than its age in state", ssfilter.CloseWait, func(s *sock.Socket) { s.Info.LastDataRecv = 29 * time.Second }, false},
		{"younger by no more than a jiffy", ssfilter.CloseWait, func(s *sock.Socket) { s.Info.LastDataRecv = 30*time.Second - 10*time.Millisecond }, true},
		{"data received without a count of it", ssfilter.Established, func(s *sock.Socket) { s.Info.LastDataRecv = time.Second }, false},
		{"data received", ssfilter.Established, func(s *sock.Socket) { s.Info.LastDataRecv = time.Second; s.Info.BytesReceived++ }, true},
		{"syn-sent, retransmitted", ssfilter.SynSent, func(s *sock.Socket) { s.Retrans = 4; s.Info.LastDataRecv = 0 }, true},
		{"syn-sent, retransmitted less than by then", ssfilter.SynSent, func(s *sock.Socket) { s.Retrans = 2 }, false},
		{"syn-sent, a first SYN again", ssfilter.SynSent, func(s *sock.Socket) { s.Retrans = 0 }, false},
		{"an older kernel's tcp_info", ssfilter.CloseWait, func(s *sock.Socket) { s.Info = sock.Info{} }, true},
		{"entered before it was known", ssfilter.CloseWait, func(s *sock.Socket) { s.Entered = start.Add(-30 * time.Second) }, true},
		{"entered when it was known", ssfilter.CloseWait, func(s *sock.Socket) { s.Entered = start.Add(-20 * time.Second) }, true},
		{"entered since", ssfilter.CloseWait, func(s *sock.Socket) { s.Entered = start.Add(-20*time.Second + 1) }, false},
		{"entered before, by a clock that lags", ssfilter.CloseWait, func(s *sock.Socket) { s.Entered, s.Info.LastDataRecv = start.Add(-21*time.Second), 20*time.Second }, true},
		{"entered before, and segs_in fell", ssfilter.CloseWait, func(s *sock.Socket) { s.Entered = start.Add(-30 * time.Second); s.Info.SegsIn-- }, false},
		{"syn-sent since before, a first SYN again", ssfilter.SynSent, func(s *sock.Socket) { s.Entered, s.Retrans = start, 0 }, true},
		{"syn-sent since", ssfilter.SynSent, func(s *sock.Socket) { s.Entered = start + 1 }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := full(test.state, func(s *sock.Socket) { s.Retrans = 1 })
			c := Begin(&s, TimesOf(&s, start, start, 0), start)
			s.Info.LastDataRecv += 10 * time.Second
			s.Info.LastAckRecv += 10 * time.Second
			test.change(&s)
			if got := c.Same(&s, start.Add(10*time.Second)); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestTimesOf(t *testing.T) {
	const sent, got = start, start + 1000
	entered := got.Add(-25 * time.Second)
	exactly, byKernel := Bound{entered, entered}, since(20*time.Second, true, sent, got, jiffy)
	seen := func(s *sock.Socket) { s.Entered = entered }
	unmoved := func(s *sock.Socket) { s.Entered, s.Unmoved = entered, true }
	queued := func(s *sock.Socket) { s.WQueue = 1 }
	tests := []struct {
		name string
		s    sock.Socket
		want Times
	}{
		{"by the kernel", full(ssfilter.CloseWait), Times{byKernel, byKernel, byKernel, Never}},
		{"seen", full(ssfilter.CloseWait, seen), Times{exactly, byKernel, byKernel, Never}},
		{"seen, and unmoved", full(ssfilter.CloseWait, unmoved), Times{exactly, exactly, exactly, Never}},
		{"unmoved for longer", full(ssfilter.CloseWait, unmoved, func(s *sock.Socket) { s.Entered = got.Add(-time.Second) }),
			Times{Bound{got.Add(-time.Second), got.Add(-time.Second)}, byKernel, byKernel, Never}},
		{"seen, and sending", full(ssfilter.CloseWait, seen, queued), Times{exactly, byKernel, byKernel, got}},
		{"a state that the kernel keeps no time of", full(ssfilter.LastAck, queued), Times{Bound{got, sent}, Bound{got, sent}, Bound{got, sent}, got}},
		{"a FIN under way", full(ssfilter.LastAck, unmoved, queued), Times{exactly, exactly, exactly, entered}},
		{"a SYN under way", full(ssfilter.SynSent, unmoved, queued), Times{exactly, exactly, exactly, entered}},
		{"a connect that waits for data", full(ssfilter.SynSent, unmoved), Times{exactly, exactly, exactly, Never}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if times := TimesOf(&test.s, sent, got, jiffy); times != test.want {
				t.Errorf("got %+v, want %+v", times, test.want)
			}
		})
	}
}

// TestExactEntry: it is taken as it is, whatever was known before, and nothing that the
// kernel says later undoes it; but no time before an accept counts.
func TestExactEntry(t *testing.T) {
	entered := start.Add(-25 * time.Second)
	exact := full(ssfilter.CloseWait, func(s *sock.Socket) { s.Entered, s.Unmoved = entered, true })
	probing := full(ssfilter.CloseWait, func(s *sock.Socket) { s.Info.LastAckRecv = time.Second })
	update := func(c *Connection, s *sock.Socket, at sock.Instant) {
		t.Helper()
		if !c.Same(s, at) {
			t.Fatal("it is taken for another connection")
		}
		c.Update(s, TimesOf(s, at, at, jiffy), at)
	}
	c := Begin(&probing, TimesOf(&probing, start, start, jiffy), start)
	update(&c, &exact, start)
	exactly := Bound{entered, entered}
	if c.Entered != exactly || c.Quiet != exactly {
		t.Errorf("entered %v, quiet %v; want %v", c.Entered, c.Quiet, exactly)
	}
	update(&c, &probing, start)
	if c.Entered != exactly || c.Quiet != exactly {
		t.Errorf("without the source, entered %v, quiet %v; want %v", c.Entered, c.Quiet, exactly)
	}

	waiting := exact
	waiting.Inode = 0
	c = Begin(&waiting, TimesOf(&waiting, start, start, jiffy), start)
	update(&c, &exact, start+1)
	accepted := Bound{start + 1, start + 1}
	if c.Entered != accepted || c.Quiet != accepted {
		t.Errorf("accepted, entered %v, quiet %v; want %v", c.Entered, c.Quiet, accepted)
	}
	update(&c, &exact, start+2)
	if c.Entered != accepted || c.Quiet != accepted {
		t.Errorf("and later, entered %v, quiet %v; want %v", c.Entered, c.Quiet, accepted)
	}
	again := exact
	again.Entered = start + 3
	if c.Same(&again, start+4) {
		t.Error("a later stay in the state is taken for the one that was known")
	}
	c = c.Successor(&again, TimesOf(&again, start+4, start+4, jiffy), start+4)
	if want := (Bound{start + 3, start + 3}); c.Entered != want || c.Base() != start+3 {
		t.Errorf("again, entered %v, base %v; want %v", c.Entered, c.Base(), want)
	}
}

// TestSilence: a silence begins with the last byte that came, or with the connection or
// state; what the peer acknowledges does not break it, unless it has sent its FIN.
func TestSilence(t *testing.T) {
	const seconds = sock.Instant(time.Second)
	at := func(s sock.Socket, ack, data time.Duration) sock.Socket {
		s.Info.LastAckRecv, s.Info.LastDataRecv = ack, data
		return s
	}
	acked := func(s sock.Socket) sock.Socket { s.Info.BytesAcked++; return s }
	received := func(s sock.Socket) sock.Socket { s.Info.BytesReceived++; return s }
	mini := full(ssfilter.FinWait2, func(s *sock.Socket) { s.Timer, s.Info, s.Inode = sock.TimerTimeWait, sock.Info{}, 0 })
	waiting := full(ssfilter.Established, func(s *sock.Socket) { s.Inode = 0 })
	established, finWait, closeWait := full(ssfilter.Established), full(ssfilter.FinWait2), full(ssfilter.CloseWait)
	tests := []struct {
		name          string
		first, second sock.Socket // at 100 s and at 110 s
		want          sock.Instant
	}{
		{"only acknowledged", at(established, time.Second, 30*time.Second), acked(at(established, 0, 40*time.Second)), 70 * seconds},
		{"received", at(established, time.Second, 30*time.Second), received(at(established, 4*time.Second, 4*time.Second)), 106 * seconds},
		{"no better by a millisecond", at(established, time.Second, 30*time.Second), at(established, 0, 40*time.Second-5*time.Millisecond), 70 * seconds},
		{"half-closed", at(finWait, 20*time.Second, 30*time.Second), at(finWait, 30*time.Second, 40*time.Second), 80 * seconds},
		{"half-closed, and received", at(finWait, 20*time.Second, 30*time.Second), received(at(finWait, 4*time.Second, 4*time.Second)), 106 * seconds},
		{"a minisocket, which tells nothing", mini, mini, 100 * seconds},
		{"after its FIN, acknowledged", at(closeWait, 20*time.Second, 30*time.Second), acked(at(closeWait, 4*time.Second, 40*time.Second)), 106 * seconds},
		{"after its FIN", at(closeWait, 20*time.Second, 30*time.Second), at(closeWait, 30*time.Second, 40*time.Second), 80 * seconds},
		{"accepted", at(waiting, time.Second, 30*time.Second), at(established, 11*time.Second, 40*time.Second), 110 * seconds},
		{"garbage before the handshake", at(full(ssfilter.SynSent), time.Hour, time.Hour), at(full(ssfilter.SynSent), time.Hour, time.Hour), 100 * seconds},
		{"an old kernel's tcp_info", full(ssfilter.Established, func(s *sock.Socket) { s.Info.Has = 0 }), full(ssfilter.Established, func(s *sock.Socket) { s.Info.Has = 0 }), 110 * seconds},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := Begin(&test.first, TimesOf(&test.first, 100*seconds, 100*seconds, 0), 100*seconds)
			c.Update(&test.second, TimesOf(&test.second, 110*seconds, 110*seconds, 0), 110*seconds)
			if got := c.SilentBase(); got != test.want {
				t.Errorf("silent since %v, want %v", time.Duration(got), time.Duration(test.want))
			}
			if c.SilentBase() > c.Base() {
				t.Errorf("silent since %v, after the last progress at %v", time.Duration(c.SilentBase()), time.Duration(c.Base()))
			}
			p := c.Pack()
			if times := p.Times(); times.SilentBase() != c.SilentBase() {
				t.Errorf("packed, it is silent since %v", time.Duration(times.SilentBase()))
			}
		})
	}
}

// A connection that was shut down goes on in certain states; its counters do not fall, its peer
// was heard as long ago, and no minisocket tells any of that.
func TestIsShut(t *testing.T) {
	all := []ssfilter.State{
		ssfilter.Established, ssfilter.SynSent, ssfilter.SynRecv, ssfilter.FinWait1, ssfilter.FinWait2, ssfilter.TimeWait, ssfilter.CloseWait, ssfilter.LastAck, ssfilter.Closing,
	}
	becomes := map[ssfilter.State][]ssfilter.State{
		ssfilter.Established: {ssfilter.FinWait1, ssfilter.FinWait2, ssfilter.Closing},
		ssfilter.FinWait1:    {ssfilter.FinWait2, ssfilter.Closing},
		ssfilter.CloseWait:   {ssfilter.LastAck},
	}
	known := func(state ssfilter.State) Connection {
		s := full(state)
		return Begin(&s, TimesOf(&s, start, start, 0), start)
	}
	later := func(s *sock.Socket) { s.Info.LastDataRecv += 10 * time.Second }
	for _, from := range all {
		c := known(from)
		for _, to := range all {
			s := full(to, later)
			if got, want := c.IsShut(&s, start.Add(10*time.Second)), slices.Contains(becomes[from], to); got != want {
				t.Errorf("from %s to %s: %t, want %t", from, to, got, want)
			}
		}
	}
	for _, test := range []struct {
		name   string
		change func(*sock.Socket)
		want   bool
	}{
		{"other addresses", func(s *sock.Socket) { s.ID.DPort[0]++ }, false},
		{"less was acknowledged", func(s *sock.Socket) { s.Info.BytesAcked-- }, false},
		{"less was received", func(s *sock.Socket) { s.Info.BytesReceived-- }, false},
		{"fewer segments", func(s *sock.Socket) { s.Info.SegsIn-- }, false},
		{"no counters", func(s *sock.Socket) { s.Info.Has = 0 }, false},
		{"it began since, and all counters are the same", func(s *sock.Socket) { s.Info.LastDataRecv = 9 * time.Second }, false},
		{"data came since", func(s *sock.Socket) { s.Info.LastDataRecv = 9 * time.Second; s.Info.BytesReceived++ }, true},
		{"the FIN is acknowledged", func(s *sock.Socket) { s.Info.BytesAcked++; s.Info.SegsIn++; s.Info.LastAckRecv = 0 }, true},
	} {
		c, s := known(ssfilter.Established), full(ssfilter.FinWait2, later, test.change)
		if got := c.IsShut(&s, start.Add(10*time.Second)); got != test.want {
			t.Errorf("%s: %t, want %t", test.name, got, test.want)
		}
	}
	// After the peer's FIN, and for who has shut down both ways, no data comes.
	for _, test := range []struct {
		from, to ssfilter.State
		received uint64
		want     bool
	}{
		{ssfilter.CloseWait, ssfilter.LastAck, 1, false},
		{ssfilter.FinWait1, ssfilter.FinWait2, 1, false},
		{ssfilter.FinWait1, ssfilter.Closing, 1, true}, // its FIN
		{ssfilter.FinWait1, ssfilter.Closing, 2, false},
	} {
		c, s := known(test.from), full(test.to)
		s.Info.BytesReceived += test.received
		if got := c.IsShut(&s, start); got != test.want {
			t.Errorf("from %s to %s with %d received: %t, want %t", test.from, test.to, test.received, got, test.want)
		}
	}
}
