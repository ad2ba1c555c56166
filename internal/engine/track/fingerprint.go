package track

import (
	"hash/maphash"

	"github.com/sockdog/sockdog/internal/sock"
)

// Fingerprint returns a number of all that an answer says but its times, and never
// 0 or 1. Where it is the same as before, nothing has happened but that time has
// passed; one in four billion changes is missed.
func Fingerprint(seed maphash.Seed, s *sock.Socket) uint32 {
	still := *s
	still.Expires, still.Info.LastDataSent, still.Info.LastDataRecv, still.Info.LastAckRecv = 0, 0, 0, 0
	return max(2, uint32(maphash.Comparable(seed, still)))
}
