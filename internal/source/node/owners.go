package node

import (
	"log/slog"

	"github.com/sockdog/sockdog/internal/sock"
)

// HasOwners reports whether Owners works here.
func (s *Source) HasOwners() bool {
	return s.follower.programs != nil && s.follower.programs.WhyNoOwners() == nil
}

// Owners calls each for every process of the host that has a descriptor of a socket with one
// of the inodes, by one pass of an eBPF program over all descriptors. What is said of its
// failure is said once.
func (s *Source) Owners(inodes []uint32, each func(inode uint32, h sock.Holder)) error {
	owners, err := s.follower.programs.Owners(inodes)
	if failed := err != nil; s.ownerless.Swap(failed) != failed && failed {
		s.say(slog.LevelWarn, "events do not tell who holds sockets; /proc is walked", slog.String("error", err.Error()))
	}
	for i := range owners {
		each(owners[i].Inode, owners[i].Holder)
	}
	return err
}
