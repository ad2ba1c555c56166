package selection

import (
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Owners are whose sockets a person means, by the keys that a match of a rule has for that.
// The zero Owners mean anybody's.
type Owners struct{ owned rules.Match }

// Add adds a value of one of rules.OwnerKeys.
func (o *Owners) Add(key, value string) error {
	o.owned.States = ^ssfilter.StateSet(0)
	return o.owned.AddOwner(key, value)
}

// Given reports whether not anybody's sockets are meant.
func (o *Owners) Given() bool {
	return o.AskHolders() || o.AskNetns() || len(o.owned.Cgroups)+len(o.owned.Users) > 0
}

// AskHolders reports whether it must be known who holds a socket.
func (o *Owners) AskHolders() bool { return o.owned.AsksHolders() }

// AskNetns reports whether it must be known in which network namespace a socket is.
func (o *Owners) AskNetns() bool { return len(o.owned.Netns) > 0 }

// Netns are the network namespaces that are meant; none: any.
func (o *Owners) Netns() []rules.Netns { return o.owned.Netns }

// Cmdlines are the patterns that the command lines of holders are to be compared with.
func (o *Owners) Cmdlines() []string { return o.owned.Cmdlines }

// Mean reports whether a socket of these holders is meant, as a match of a rule would. What
// nobody holds for certain is not: a person asked for what somebody does.
func (o *Owners) Mean(s *sock.Socket, by *subject.Holders) ssfilter.Tri {
	switch {
	case !o.Given():
		return ssfilter.True
	case s.Inode == 0 && (o.AskHolders() || len(o.owned.Users) > 0), o.AskHolders() && by != nil && by.Complete && len(by.Processes) == 0:
		return ssfilter.False
	}
	return match.Lasts(&o.owned, subject.Subject{Socket: s, Holders: by})
}
