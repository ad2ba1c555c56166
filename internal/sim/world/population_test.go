package world_test

import (
	"time"

	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sim/world"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// ports are those on the other side, of which rules may name some.
var ports = []int{22, 80, 443, 5432}

// population gives sockets of a kernel lives of their own.
type population struct{ *sim.Kernel }

// open makes a socket of somebody.
func (p population) open() *sim.Socket {
	s := p.Open(uint16(ports[p.Rand.IntN(len(ports))]))
	switch p.Rand.IntN(40) {
	case 0:
		s.MPTCP = true
	case 1:
		s.ByKernel = !p.Passes // where not every process can be read, that cannot be told
		s.UID = []uint32{0, 65534}[p.Rand.IntN(2)]
	case 2:
		s.BySelf, s.UID = true, world.SelfUID
	case 3:
		s.UID = 0
	}
	by := 2 + int(s.ID.Cookie%2)
	if s.BySelf {
		by = 1
	}
	s.Pass([]int{by}, p.Now)
	if p.Passes && !s.BySelf && !s.ByKernel && p.Rand.IntN(2) == 0 {
		p.pass(s, 1+p.Rand.IntN(3))
	}
	s.Bound, s.Mark = p.Rand.IntN(3) == 0, uint32(p.Rand.IntN(3))
	return s
}

// add adds one socket. Those that are there when the world begins have a past.
func (p population) add(past time.Duration) {
	s := p.open()
	if p.Rand.IntN(4) == 0 {
		s.Keepalive = time.Second + p.UpTo(15*time.Second)
		p.Probe(s)
	}
	if p.Rand.IntN(4) == 0 {
		s.Received = uint64(p.Rand.IntN(1000)) // and otherwise none
		s.Segs += uint32(p.Rand.IntN(10))
	}
	if p.Rand.IntN(8) == 0 {
		p.remark(s)
	}
	older := p.UpTo(past + 1)
	lives[p.Rand.IntN(len(lives))](p, s, older)
	if p.Rand.IntN(3) == 0 { // its program closes it
		p.After(s, p.UpTo(2*time.Minute), func() { p.Remove(s) })
	}
}

// lives are what becomes of new sockets, of which some are older than the world.
var lives = []func(p population, s *sim.Socket, older time.Duration){
	func(p population, s *sim.Socket, older time.Duration) { // leaks, and its keepalives are answered
		s.Keepalive = time.Second + p.UpTo(5*time.Second)
		p.Probe(s)
		p.leaks(s, older/8)
	},
	population.leaks, // and nothing happens
	func(p population, s *sim.Socket, older time.Duration) {
		p.leaks(s, older)
		p.send(s, p.Rand.IntN(6))
	},
	func(p population, s *sim.Socket, older time.Duration) {
		p.leaks(s, older)
		p.read(s)
	},
	population.leaks,
	func(p population, s *sim.Socket, older time.Duration) { // in an accept queue
		p.leaks(s, older)
		s.Inode, s.UID = 0, 0
		if p.Rand.IntN(2) == 0 {
			p.accept(s)
		}
	},
	population.used,
	population.used,
	func(p population, s *sim.Socket, _ time.Duration) { // closed by its peer while we watch
		p.receive(s, p.Rand.IntN(3))
		p.After(s, p.UpTo(time.Minute), func() { p.peerCloses(s) })
	},
	func(p population, s *sim.Socket, older time.Duration) {
		p.Enter(s, ssfilter.TimeWait)
		age(s, min(older, 50*time.Second))
		p.TimeWait(s, ssfilter.TimeWait, sock.TimeWaitLen)
	},
	func(p population, s *sim.Socket, older time.Duration) {
		p.Enter(s, ssfilter.FinWait2)
		age(s, older)
		p.receive(s, p.Rand.IntN(4))
		if p.Rand.IntN(2) == 0 {
			p.After(s, p.UpTo(time.Minute), func() { p.TimeWait(s, ssfilter.FinWait2, time.Second+p.UpTo(2*time.Minute)) })
		}
	},
	func(p population, s *sim.Socket, older time.Duration) { // a dead peer: something is queued for good
		age(s, older)
		p.After(s, p.UpTo(30*time.Second), func() {
			if s.Shut == 0 {
				s.Queued, s.Changed = p.Now, p.Now
			}
		})
	},
	func(p population, s *sim.Socket, older time.Duration) { // connects anew under the same cookie and from the same port
		p.leaks(s, older)
		p.reconnect(s)
	},
	population.untimed,
	func(p population, s *sim.Socket, older time.Duration) { // in an accept queue, and its peer is patient
		s.Inode, s.UID = 0, 0
		age(s, older)
		p.receive(s, p.Rand.IntN(3))
		p.accept(s)
	},
	func(p population, s *sim.Socket, older time.Duration) { // the same, until its peer closes
		s.Inode, s.UID = 0, 0
		age(s, older)
		p.receive(s, p.Rand.IntN(3))
		p.After(s, p.UpTo(time.Minute), func() { p.peerCloses(s) })
		p.accept(s)
	},
}

// peerCloses has the peer of an open connection close it.
func (p population) peerCloses(s *sim.Socket) {
	if s.Shut == 0 {
		p.Enter(s, ssfilter.CloseWait)
	}
}

func (p population) leaks(s *sim.Socket, older time.Duration) {
	p.Enter(s, ssfilter.CloseWait)
	age(s, older)
}

// used has s in use now and then.
func (p population) used(s *sim.Socket, older time.Duration) {
	age(s, older)
	p.send(s, p.Rand.IntN(8))
	p.receive(s, p.Rand.IntN(8))
}

// untimed has s in a state that the kernel keeps no time of.
func (p population) untimed(s *sim.Socket, _ time.Duration) {
	s.State = []ssfilter.State{ssfilter.SynSent, ssfilter.FinWait1, ssfilter.LastAck, ssfilter.Closing}[p.Rand.IntN(4)]
	s.Entered, s.Changed, s.Queued = p.Now, p.Now, p.Now
	if s.State != ssfilter.SynSent {
		s.Inode, s.UID, s.Keepalive = 0, 0, 0
	}
}

// age moves the past of a new socket, so that the world does not begin with it.
func age(s *sim.Socket, d time.Duration) {
	for _, t := range []*sock.Instant{&s.Entered, &s.Progress, &s.Changed, &s.LastAck, &s.LastData} {
		*t = t.Add(-d)
	}
}

// send has s send something now and then, for as long as it may.
func (p population) send(s *sim.Socket, times int) {
	if times == 0 {
		return
	}
	p.After(s, p.UpTo(20*time.Second), func() {
		if s.Mini || s.Queued != sim.Never || s.Shut != 0 {
			return
		}
		s.Queued, s.Changed = p.Now, p.Now
		rtt := p.UpTo(50 * time.Millisecond)
		if p.Rand.IntN(3) == 0 {
			rtt = p.UpTo(time.Minute) // the path is broken for a while; retransmissions follow
		}
		p.After(s, rtt, func() {
			if !s.Mini && s.Shut == 0 {
				s.Queued = sim.Never
				p.Advance(s, 1+uint64(p.Rand.IntN(100)), 0)
				p.send(s, times-1)
			}
		})
	})
}

// receive has the peer of s send something now and then.
func (p population) receive(s *sim.Socket, times int) {
	if times == 0 {
		return
	}
	p.After(s, p.UpTo(20*time.Second), func() {
		if s.State == ssfilter.Established || s.State == ssfilter.FinWait2 && !s.Mini && s.Shut == 0 {
			p.Advance(s, 0, 1+uint64(p.Rand.IntN(100)))
			p.receive(s, times-1)
		}
	})
}

// read has the program change the receive queue now and then.
func (p population) read(s *sim.Socket) {
	p.After(s, p.UpTo(30*time.Second), func() {
		s.RQueue, s.Changed = uint32(p.Rand.IntN(3)), p.Now
		p.read(s)
	})
}

// accept has a program take the socket from the accept queue, sooner or later.
func (p population) accept(s *sim.Socket) {
	p.After(s, p.UpTo(90*time.Second), func() {
		s.Inode, s.UID = 1000+uint32(s.ID.Cookie), 1000
		if s.BySelf {
			s.UID = world.SelfUID
		} else if s.ByKernel {
			s.UID = 0
		}
		s.Accepted, s.Changed = p.Now, p.Now
		p.read(s)
	})
}

// pass has the programs pass a socket on, hold it together, or close it, now and then.
func (p population) pass(s *sim.Socket, times int) {
	p.After(s, p.UpTo(time.Minute), func() {
		var by []int
		for pid := 2; pid <= 4; pid++ {
			if p.Rand.IntN(2) == 0 {
				by = append(by, pid)
			}
		}
		if len(by) == 0 {
			by = []int{2 + p.Rand.IntN(3)}
		}
		s.Pass(by, p.Now)
		if times > 1 {
			p.pass(s, times-1)
		}
	})
}

// remark has the program set the mark now and then.
func (p population) remark(s *sim.Socket) {
	p.After(s, p.UpTo(30*time.Second), func() {
		s.Mark, s.Changed = uint32(p.Rand.IntN(3)), p.Now
		p.remark(s)
	})
}

func (p population) reconnect(s *sim.Socket) {
	p.After(s, p.UpTo(90*time.Second), func() {
		s.Conn++
		s.Followed = p.Follows
		s.Bound = !s.Bound // some other way than before
		s.Told, s.Shut, s.RQueue, s.Queued = 0, 0, 0, sim.Never
		s.Segs = uint32(p.Rand.IntN(20))
		if p.Rand.IntN(3) == 0 { // and otherwise the peer says what it said before
			s.Acked, s.Received = 1, uint64(p.Rand.IntN(200))
		}
		s.LastData = p.Now
		s.Progress = p.Now
		p.Enter(s, ssfilter.Established)
		p.After(s, p.UpTo(3*time.Second), func() {
			p.peerCloses(s)
			p.reconnect(s)
		})
		if s.Keepalive > 0 {
			p.Probe(s)
		}
	})
}
