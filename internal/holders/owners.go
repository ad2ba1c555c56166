package holders

import (
	"sync"

	"github.com/sockdog/sockdog/internal/owner"
	"github.com/sockdog/sockdog/internal/podnames"
	"github.com/sockdog/sockdog/internal/sock"
)

// owners reads where processes belong. Those that belong to the same have one value in
// common, from walk to walk.
type owners struct {
	names *podnames.Names

	mu    sync.Mutex
	known map[sock.Owner]*sock.Owner
}

// maxOwners bounds what is known: beyond that it is made anew.
const maxOwners = 1 << 12

func newOwners(logs string) *owners {
	return &owners{names: podnames.New(logs), known: make(map[sock.Owner]*sock.Owner)}
}

// of reads where the process belongs whose directory is at path; nil: that cannot be read.
// rooted is as for owner.Parse.
func (o *owners) of(dir int, path string, rooted bool) *sock.Owner {
	var buf [4096]byte
	file, err := readFileAt(dir, path+"/cgroup", buf[:])
	if err != nil || len(file) == len(buf) { // a path may be as long as that, and its end tells most
		return nil
	}
	at := owner.Parse(string(file), rooted)
	if at.PodUID.Text != "" || at.ContainerID.Text != "" {
		at.Pod, at.Container = o.names.Of(at.PodUID.Text, at.ContainerID.Text)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	known := o.known[at]
	if known == nil {
		if len(o.known) == maxOwners {
			clear(o.known)
		}
		known = &at
		o.known[at] = known
	}
	return known
}
