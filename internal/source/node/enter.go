package node

import "github.com/sockdog/sockdog/internal/source/sockdiag"

// In runs do on the calling thread, which is locked and has the capability to change settings
// from then on, inside of a namespace, by its inode; 0: the own one. It hands over the cookie
// of it, 0 where the kernel has none.
func (s *Source) In(inode uint32, do func(cookie uint64) error) error {
	n := s.own
	if inode != 0 {
		n = s.namespace(inode)
	}
	if n.Namespace == nil {
		return errLeft
	}
	_ = sockdiag.RaiseNetAdmin() // what is refused without it says so
	return n.Do(func() error { return do(n.Cookie) })
}
