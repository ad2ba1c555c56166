package holders

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// Finder finds holders again and again. It remembers where all descriptors led: to
// look that up, and to list those of a process, takes a fraction of what it takes to
// read each. It is safe for concurrent use.
type Finder struct {
	root  string
	mu    sync.Mutex
	known map[int]*descriptors // by PID
	at    atomic.Int64
}

// At is the process that Find reads; 0: it is not under way.
func (f *Finder) At() int { return int(f.at.Load()) }

// NewFinder returns a Finder on root, a mounted proc(5).
func NewFinder(root string) *Finder { return &Finder{root: root} }

// descriptors are those of a process, as they were read last.
type descriptors struct {
	self   sock.Holder // of one that has held something in one of the last walks
	idle   int         // walks in a row in which it held nothing that was wanted
	inodes []uint32    // of sockets, by descriptor; 0: it is none, or was not read
}

const (
	// mostIdle is after how many of those a process is no holder any more.
	mostIdle = 10
	// highestFD bounds the descriptors that are remembered of a process, and
	// mostRemembered those of all: what is not remembered is read again.
	highestFD      = 1 << 20
	mostRemembered = 1 << 20
)

// set notes the inode of a descriptor.
func (d *descriptors) set(fd int, inode uint32) {
	if inode == 0 || fd >= highestFD {
		return
	}
	if fd >= len(d.inodes) {
		d.inodes = append(d.inodes, make([]uint32, fd+1-len(d.inodes))...)
	}
	d.inodes[fd] = inode
}

// inode is that of a descriptor, as it was.
func (d *descriptors) inode(fd int) uint32 {
	if d == nil || fd >= len(d.inodes) {
		return 0
	}
	return d.inodes[fd]
}

// Find is the whole walk, as the function Find.
func (f *Finder) Find(wanted map[uint32]struct{}) (Found, error) {
	w := newWalk(wanted)
	w.known, w.remembers, w.at = f.recall(), make(map[int]*descriptors), &f.at
	defer f.at.Store(0)
	found, err := w.find(f.root)
	if err != nil {
		return Found{}, err
	}
	f.remember(w)
	return found, nil
}

// recall returns what is known, which nobody changes.
func (f *Finder) recall() map[int]*descriptors {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known
}

// remember takes over what a walk has read.
func (f *Finder) remember(w *walk) {
	delete(w.remembers, os.Getpid()) // it is read anew each time
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = w.remembers
}

// FindNew reads only what led to a wanted socket in the last call of Find or FindNew;
// of processes that have held something in one of the last also what is new; and of
// this process all. What it finds is true, and what it does not find may be anywhere
// else.
func (f *Finder) FindNew(wanted map[uint32]struct{}) (Found, error) {
	w := newWalk(wanted)
	w.onlyNew, w.known, w.remembers = true, f.recall(), make(map[int]*descriptors)
	dir, err := unix.Open(f.root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Found{}, fmt.Errorf("find new sockets: %w", &os.PathError{Op: "open", Path: f.root, Err: err})
	}
	defer unix.Close(dir)
	self, err := itself(dir)
	if err == nil {
		err = w.process(dir, self)
	}
	if err != nil {
		return Found{}, fmt.Errorf("find new sockets: this process: %w", err)
	}
	for pid, had := range w.known {
		if had.self.PID == 0 && !w.among(had.inodes) || w.process(dir, pid) != nil {
			w.remember(pid, had)
		}
	}
	f.remember(w)
	return Found{Holders: w.holders}, nil
}

// itself is the PID of this process under the /proc opened as dir, if it is there as
// the process that it takes itself for.
func itself(dir int) (int, error) {
	var link [32]byte
	n, err := unix.Readlinkat(dir, "self", link[:])
	if err != nil {
		return 0, err
	}
	self := os.Getpid()
	if string(link[:n]) != strconv.Itoa(self) {
		return 0, fmt.Errorf("PID %d is %s in this /proc", self, link[:n])
	}
	return self, unix.Faccessat(dir, "self/fd", unix.X_OK, 0)
}

// remember keeps the descriptors of a process for later walks, as far as there is
// room.
func (w *walk) remember(pid int, has *descriptors) {
	if w.remembered += len(has.inodes); w.remembered <= mostRemembered {
		w.remembers[pid] = has
	}
}

// among reports whether one of the inodes is wanted.
func (w *walk) among(inodes []uint32) bool {
	return slices.ContainsFunc(inodes, func(inode uint32) bool { _, ok := w.wanted[inode]; return ok })
}
