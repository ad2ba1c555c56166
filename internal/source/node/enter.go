package node

import (
	"errors"
	"fmt"

	"github.com/sockdog/sockdog/internal/source/sockdiag"
)

// In runs do on the calling thread, which is locked and has the capability to change settings
// from then on, inside of a namespace, by its inode; 0: the own one. It hands over the cookie
// of it, 0 where the kernel has none. The error is os.ErrNotExist where the namespace is
// certainly gone.
func (s *Source) In(inode uint32, do func(cookie uint64) error) error {
	n := s.own
	if inode != 0 {
		n = s.namespace(inode)
	}
	if n.Namespace == nil {
		return s.missing()
	}
	_ = sockdiag.RaiseNetAdmin() // what is refused without it says so
	return n.Do(func() error { return do(n.Cookie) })
}

// missing says why a namespace is not among those that are watched.
func (s *Source) missing() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case !s.config.All:
		return errors.New("the network namespace is not watched: that takes namespaces: all")
	case s.leftOut != nil:
		return fmt.Errorf("the network namespace is not found, and not all can be seen: %w", s.leftOut)
	}
	return errLeft
}
