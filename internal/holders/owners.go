package holders

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sockdog/sockdog/internal/owner"
	"github.com/sockdog/sockdog/internal/podnames"
	"github.com/sockdog/sockdog/internal/sock"
)

// owners reads where processes belong. Those that belong to the same have one value in
// common, from walk to walk.
type owners struct {
	names    *podnames.Names
	cmdlines atomic.Pointer[cmdlines]
	lines    lineReader

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
	at, known := o.place(dir, path, rooted)
	if !known {
		return nil
	}
	return o.shared(at)
}

// ofHolder is of for a process that holds something, whose command line may matter.
func (o *owners) ofHolder(dir int, path string, pid int, rooted bool) *sock.Owner {
	at, known := o.place(dir, path, rooted)
	if !known {
		return nil
	}
	if asked := o.cmdlines.Load(); asked != nil {
		if line, known := o.lines.read(dir, path, pid); known {
			at.CmdlineAsked, at.CmdlineMeets = asked.asked, asked.meets(line)
		}
	}
	return o.shared(at)
}

// place reads where a process belongs.
func (o *owners) place(dir int, path string, rooted bool) (at sock.Owner, known bool) {
	var buf [4096]byte
	file, err := readFileAt(dir, path+"/cgroup", buf[:])
	if err != nil || len(file) == len(buf) { // a path may be as long as that, and its end tells most
		return at, false
	}
	at = owner.Parse(string(file), rooted)
	if at.PodUID.Text != "" || at.ContainerID.Text != "" {
		at.Pod, at.Container = o.names.Of(at.PodUID.Text, at.ContainerID.Text)
	}
	return at, true
}

// shared is the one value that all have in common who belong there.
func (o *owners) shared(at sock.Owner) *sock.Owner {
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

// FindAsking is Find of a new Finder, with the command lines of holders compared with the
// patterns. A pass that fails is tried once more where a walk leaves it open who holds some:
// it may have thought it needless.
func FindAsking(root string, pass Pass, wanted map[uint32]struct{}, patterns []string) (Found, error) {
	f := NewFinder(root, pass)
	if err := f.AskCmdlines(patterns); err != nil {
		return Found{}, err
	}
	found, err := f.Find(wanted)
	if err == nil && pass != nil && !found.settlesAll(wanted) {
		if exact, err := f.findByPass(wanted); err == nil {
			return exact, nil
		}
	}
	return found, err
}

// settlesAll reports whether it is known of each socket who holds it.
func (f *Found) settlesAll(wanted map[uint32]struct{}) bool {
	if f.Complete {
		return true
	}
	unsettled := func(h sock.Holder) bool { return !f.Settled[h.Owner] }
	for inode := range wanted {
		if held := f.Holders[inode]; len(held) == 0 || slices.ContainsFunc(held, unsettled) {
			return false
		}
	}
	return true
}
