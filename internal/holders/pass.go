package holders

import (
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// Pass calls each for every process of the host that has a descriptor of a socket with one
// of the inodes, and names the process but for its executable. It takes no /proc.
type Pass func(inodes []uint32, each func(inode uint32, h sock.Holder)) error

// FindByPass finds the holders of what is wanted by one pass, and walks nothing.
func FindByPass(root string, pass Pass, wanted map[uint32]struct{}) (Found, error) {
	return NewFinder(root, pass).findByPass(wanted)
}

// findByPass finds the holders of what is wanted by a pass.
func (f *Finder) findByPass(wanted map[uint32]struct{}) (Found, error) {
	found := Found{Holders: make(map[uint32][]sock.Holder), Complete: true, Access: Access{AllShown: true, Privileged: true}}
	if len(wanted) == 0 {
		return found, nil
	}
	inodes := make([]uint32, 0, len(wanted))
	for inode := range wanted {
		inodes = append(inodes, inode)
	}
	known := described{owners: f.owners, of: make(map[sock.Holder]sock.Holder)}
	var err error
	if known.root, err = openDir(unix.AT_FDCWD, f.root); err == nil {
		defer unix.Close(known.root)
		known.rooted = rooted(known.root)
	}
	err = f.pass(inodes, func(inode uint32, h sock.Holder) {
		h = known.get(h)
		held := found.Holders[inode]
		if !slices.Contains(held, h) { // it may have several descriptors
			found.Holders[inode] = append(held, h)
		}
	})
	found.Hung = f.Hung()
	return found, err
}

// described are the processes that one pass came upon.
type described struct {
	root   int // /proc, which may not be there
	rooted bool
	owners *owners
	of     map[sock.Holder]sock.Holder // by what the pass says of them
}

// get adds to a process the base name of its executable, and where it belongs: nothing where
// that cannot be read, or the process has ended.
func (d *described) get(h sock.Holder) sock.Holder {
	all, known := d.of[h]
	if known {
		return all
	}
	all = h
	path := strconv.Itoa(h.PID)
	at := d.owners.ofHolder(d.root, path, h.PID, d.rooted)
	if now := describe(d.root, path, h.PID); now.Start == h.Start { // it is still the same
		all.Exe, all.Owner = now.Exe, at
	}
	d.of[h] = all
	return all
}
