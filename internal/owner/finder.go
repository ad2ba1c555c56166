package owner

import (
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// Finder finds holders again and again. It remembers where the descriptors of the
// holders led: to list those of a process takes a fraction of what it takes to read
// each. It is safe for concurrent use.
type Finder struct {
	root    string
	mu      sync.Mutex
	holders map[int]*descriptors // by PID
}

// NewFinder returns a Finder on root, a mounted proc(5).
func NewFinder(root string) *Finder { return &Finder{root: root} }

// descriptors are those of a process, as they were read last.
type descriptors struct {
	self   sock.Owner
	idle   int      // walks in a row in which it held nothing that was wanted
	inodes []uint32 // of sockets, by descriptor; 0: it is none, or was not read
}

const (
	// mostIdle is after how many of those a process is forgotten.
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
	w.holders = make(map[int]*descriptors)
	f.mu.Lock()
	w.known = f.holders // which nobody changes
	f.mu.Unlock()
	found, err := w.find(f.root)
	if err != nil {
		return Found{}, err
	}
	delete(w.holders, os.Getpid()) // it is read anew each time
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holders = w.holders
	return found, nil
}

// FindNew reads only the descriptors that are new since the last call of Find or
// FindNew and those that led to a wanted socket then, of processes that have held
// something in one of the last, and of this process all: what it finds is true, and
// what it does not find may be anywhere else.
func (f *Finder) FindNew(wanted map[uint32]struct{}) (Found, error) {
	w := newWalk(wanted)
	w.onlyNew, w.holders = true, make(map[int]*descriptors)
	f.mu.Lock()
	w.known = f.holders
	f.mu.Unlock()
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
	delete(w.holders, self) // it is read anew each time
	for pid, had := range w.known {
		if pid == self {
			continue
		}
		if err := w.process(dir, pid); err != nil {
			w.remember(pid, had)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holders = w.holders
	return Found{Owners: w.owners}, nil
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
		w.holders[pid] = has
	}
}
