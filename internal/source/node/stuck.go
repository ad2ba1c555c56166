package node

import (
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
)

// Stuck calls each for the sockets of which the table tells since when they have been in
// their states: as the kernel answered at the instant got, if it was asked since; else as
// they were when they entered their states, which got is then.
func (s *Source) Stuck(each func(k *sock.Socket, got sock.Instant)) {
	table := s.table()
	if table == nil {
		return
	}
	var k sock.Socket
	s.mu.RLock()
	defer s.mu.RUnlock()
	err := table.Read(func(e *events.Entry) {
		n := s.cookies[e.NetnsCookie]
		if n == nil || e.Entered == 0 {
			return
		}
		got, ok := s.cache.get(e.ID.Cookie, &k)
		if !ok || k.State != e.State || k.Entered != e.Entered {
			k, got = entering(e, n), e.Entered
		}
		each(&k, got)
	})
	if err != nil {
		s.fail(err)
	}
}

// entering returns a socket as far as it is known from when it entered its state.
func entering(e *events.Entry, n *namespace) sock.Socket {
	k := sock.Socket{ID: e.ID, Entered: e.Entered, Unmoved: true}
	k.ID.Netns, k.State = n.Inode, e.State
	k.Info.Has = sock.HasBytesAcked | sock.HasBytesReceived
	k.Info.BytesAcked, k.Info.BytesReceived = e.Acked, e.Received
	return k
}
