package node

import "sync/atomic"

// Follows reports whether the table tells of all connections of a namespace.
func (s *Source) Follows(inode uint32) bool { return s.follows(s.namespace(inode)) }

// Hang has a namespace look as if the kernel waited there for the lock of a socket, while the
// table comes to follow its connections.
func (s *Source) Hang(inode uint32) { s.namespace(inode).flagging.Store(true) }

// FollowAnew has the table follow the connections of a namespace anew, as if a check had
// found one that it lacked.
func (s *Source) FollowAnew(inode uint32) { s.missed(s.namespace(inode), 1) }

// Check checks a namespace, as the maintenance does rarely.
func (s *Source) Check(inode uint32) (missed int, err error) {
	n := s.namespace(inode)
	missed, err = s.check(n)
	if missed > 0 && err == nil {
		s.missed(n, missed)
	}
	return missed, err
}

// Discover has namespaces looked for now: the table names one that is not known.
func (s *Source) Discover() {
	s.unknown.note([]uint64{discovered.Add(1)})
	s.kick()
}

var discovered atomic.Uint64
