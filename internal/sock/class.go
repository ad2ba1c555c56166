package sock

import "github.com/sockdog/sockdog/rules/ssfilter"

// InUse reports whether the socket has something left to send or to see
// acknowledged.
func (s *Socket) InUse() bool {
	return s.WQueue > 0 || s.Info.Unacked > 0 || s.Info.NotSent > 0
}

// InBacklog reports whether the socket waits in an accept queue: it is a full
// socket, and no program has it yet.
func (s *Socket) InBacklog() bool {
	return s.Inode == 0 && (s.State == ssfilter.Established || s.State == ssfilter.CloseWait || s.State == ssfilter.SynRecv)
}

// Orphan reports whether the program has closed the socket and the kernel
// carries it on.
func (s *Socket) Orphan() bool {
	return s.Inode == 0 && !s.Minisocket() && !s.InBacklog()
}

// Live reports whether a healthy connection may be in the state of the socket:
// every state but CLOSE_WAIT, TIME_WAIT, and FIN_WAIT2 after the program has
// closed its descriptor.
func (s *Socket) Live() bool {
	switch s.State {
	case ssfilter.CloseWait, ssfilter.TimeWait:
		return false
	case ssfilter.FinWait2:
		return s.Inode != 0
	default:
		return true
	}
}

// ByProgram are the states that a program can bring a socket into by itself: into all
// others it comes by a segment that arrives.
const ByProgram = 1<<ssfilter.SynSent | 1<<ssfilter.FinWait1 | 1<<ssfilter.LastAck | 1<<ssfilter.Close | 1<<ssfilter.Listening | 1<<ssfilter.BoundInactive
