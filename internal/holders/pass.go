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
	known := executables{of: make(map[sock.Holder]string)}
	var err error
	if known.root, err = openDir(unix.AT_FDCWD, f.root); err == nil {
		defer unix.Close(known.root)
	}
	err = f.pass(inodes, func(inode uint32, h sock.Holder) {
		h.Exe = known.get(h)
		held := found.Holders[inode]
		if !slices.Contains(held, h) { // it may have several descriptors
			found.Holders[inode] = append(held, h)
		}
	})
	return found, err
}

// executables are the names of executables that one pass came upon.
type executables struct {
	root int // /proc, which may not be there
	of   map[sock.Holder]string
}

// get returns the base name of a process's executable; "": it cannot be read, or the
// process has ended.
func (e *executables) get(h sock.Holder) string {
	exe, known := e.of[h]
	if !known {
		if now := describe(e.root, strconv.Itoa(h.PID), h.PID); now.Start == h.Start {
			exe = now.Exe
		}
		e.of[h] = exe
	}
	return exe
}
