package pause

import "time"

// SetWall has the wall clock be as far ahead as that.
func (s *Store) SetWall(ahead time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wall = func() time.Time { return time.Now().Add(ahead).Round(0) }
}
