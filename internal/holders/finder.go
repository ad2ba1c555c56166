// Package holders finds the processes that hold a socket, by its inode, in a
// /proc directory. It follows file descriptors only: a socket that is in flight
// in a message, registered with io_uring, or held by a thread with a descriptor
// table of its own (unshare(CLONE_FILES)) has no holder here.
package holders

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/podnames"
	"github.com/sockdog/sockdog/internal/sock"
)

// Found is what one walk found.
type Found struct {
	// Holders are the processes that hold a descriptor of each inode; one that
	// nobody was seen to hold is absent.
	Holders map[uint32][]sock.Holder

	Complete bool // as Access says
	Access   Access

	// Hung says whose command lines could not be read, as Finder.Hung does.
	Hung string

	// Settled are where holders belong that hold a socket alone among those that were seen,
	// and so alone, though not every process could be read: see settle. It is nil where
	// Complete.
	Settled map[*sock.Owner]bool
}

// Find walks the descriptors of every process under root, a mounted proc(5),
// once for all wanted inodes. A process that ends meanwhile is none; one that
// refuses costs only Complete.
func Find(root string, wanted map[uint32]struct{}) (Found, error) {
	return NewFinder(root, nil).Find(wanted)
}

// Finder finds holders again and again. It remembers where all descriptors led: to
// look that up, and to list those of a process, takes a fraction of what it takes to
// read each. It is safe for concurrent use.
type Finder struct {
	root   string
	pass   Pass // nil: it walks
	owners *owners
	skip   []int // processes that hang
	mu     sync.Mutex
	known  map[int]*descriptors // by PID
	at     atomic.Int64

	// Room is how many descriptors a walk may list; 0: any number. The kernel charges the
	// entries of /proc to the cgroup of who lists them, about a kilobyte each, and gives that
	// back so late that it may end the program first: see host.DescriptorRoom.
	Room int
}

// NewFinder returns a Finder on root, a mounted proc(5), which it walks where there is no
// pass, or that fails.
func NewFinder(root string, pass Pass) *Finder {
	return &Finder{root: root, pass: pass, owners: newOwners(podnames.Logs)}
}

// At is the process that Find reads; 0: it is not under way.
func (f *Finder) At() int { return int(f.at.Load()) }

const (
	// maxIdle is after how many walks a process that held nothing that was wanted is
	// no holder any more.
	maxIdle = 10
	// maxFD bounds the descriptors that are remembered of a process, and
	// maxRemembered those of all: what is not remembered is read again.
	maxFD         = 1 << 20
	maxRemembered = 1 << 20
)

// descriptors are those of a process, as they were read last.
type descriptors struct {
	self   sock.Holder   // of one that has held something in one of the last walks
	alone  []sock.Holder // that one, of all the sockets that it alone holds
	idle   int           // walks in a row in which it held nothing that was wanted
	inodes []uint32      // of sockets, by descriptor; 0: it is none, or was not read
}

// set notes the inode of a descriptor.
func (d *descriptors) set(fd int, inode uint32) {
	if inode == 0 || fd >= maxFD {
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

// Find finds the holders of all that is wanted.
func (f *Finder) Find(wanted map[uint32]struct{}) (Found, error) {
	if f.pass != nil {
		if found, err := f.findByPass(wanted); err == nil {
			return found, nil
		}
	}
	defer f.at.Store(0)
	return f.walk(wanted, false, func(w *walk) error {
		a := &w.found.Access
		a.AllShown, a.Contained, a.Privileged = showsKernelThreads(w.root), contained(w.root), privileged()
		a.Hidden = !a.AllShown && hides(w.root, f.root)
		err := new(lister).eachNumber(w.root, func(pid int, _ []byte) error {
			f.at.Store(int64(pid))
			a.Processes++
			if slices.Contains(f.skip, pid) {
				w.mayHold(nil, func() sock.Holder { return unread(pid) })
				return nil
			}
			err := w.process(pid)
			if crowded := errors.Is(err, errNoRoom); crowded || refused(err) {
				a.Crowded = a.Crowded || crowded
				w.refused(pid)
				err = nil
			}
			return err
		})
		if w.found.Complete = a.Complete(); !w.found.Complete {
			w.settle()
		}
		return err
	})
}

// FindNew reads only what led to a wanted socket in the last call of Find or FindNew;
// of processes that have held something in one of the last also what is new; and of
// this process all. What it finds is true, and what it does not find may be anywhere
// else.
func (f *Finder) FindNew(wanted map[uint32]struct{}) (Found, error) {
	if f.pass != nil { // which is no dearer where it finds all
		if found, err := f.findByPass(wanted); err == nil {
			return found, nil
		}
	}
	return f.walk(wanted, true, func(w *walk) error {
		self, err := itself(w.root)
		if err == nil {
			err = w.process(self)
		}
		if err != nil {
			return fmt.Errorf("this process: %w", err)
		}
		for pid, had := range w.known {
			if had.self.PID == 0 && !w.wantsAny(had.inodes) || w.process(pid) != nil {
				w.remember(pid, had)
			}
		}
		return nil
	})
}

// walk has what is wanted looked for, and remembers what was read.
func (f *Finder) walk(wanted map[uint32]struct{}, onlyNew bool, find func(*walk) error) (Found, error) {
	root, err := openDir(unix.AT_FDCWD, f.root)
	if err != nil {
		return Found{}, fmt.Errorf("find socket holders: %w", err)
	}
	defer unix.Close(root)
	room := f.Room
	if room == 0 {
		room = math.MaxInt
	}
	w := &walk{room: room, root: root, owners: f.owners, rooted: rooted(root), wanted: wanted, onlyNew: onlyNew, found: Found{Holders: make(map[uint32][]sock.Holder)}, remembered: make(map[int]*descriptors)}
	f.mu.Lock()
	w.known = f.known // which nobody changes
	f.mu.Unlock()
	if err := find(w); err != nil {
		return Found{}, fmt.Errorf("find socket holders in %s: %w", f.root, err)
	}
	delete(w.remembered, os.Getpid()) // it is read anew each time
	f.mu.Lock()
	f.known = w.remembered
	f.mu.Unlock()
	w.found.Hung = f.Hung()
	return w.found, nil
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

// walk is one walk's memory.
type walk struct {
	root    int // /proc
	room    int // for descriptors that may be listed still
	owners  *owners
	rooted  bool // paths of cgroups begin at the host's root
	wanted  map[uint32]struct{}
	onlyNew bool // what led to another socket before is not read again
	found   Found
	fds     lister
	link    [64]byte // room for "socket:[4294967295]"; other links may be cut

	ofThread bool // it is a thread's directory that is read, not its process's

	unread []*sock.Owner // where those belong that could not be read, each once

	known      map[int]*descriptors // as they were before
	remembered map[int]*descriptors // as they are
	inodes     int                  // in those
}

// remember keeps the descriptors of a process for later walks, as far as there is
// room.
func (w *walk) remember(pid int, has *descriptors) {
	if w.inodes += len(has.inodes); w.inodes <= maxRemembered {
		w.remembered[pid] = has
	}
}

func (w *walk) wants(inode uint32) bool {
	_, ok := w.wanted[inode]
	return ok
}

func (w *walk) wantsAny(inodes []uint32) bool { return slices.ContainsFunc(inodes, w.wants) }

// process adds pid to the holders of the wanted inodes that it holds.
func (w *walk) process(pid int) error {
	dir, err := openDir(w.root, strconv.Itoa(pid)+"/fd")
	if err != nil {
		return unlessGone(err)
	}
	defer unix.Close(dir)
	n, err := w.table(dir, pid)
	if err == nil && n == 0 && threads(dir) > 1 {
		return w.thread(dir, pid)
	}
	return err
}

// table adds pid to the holders of the wanted inodes in its table of descriptors, which is
// open as dir, and returns how many descriptors those are.
func (w *walk) table(dir, pid int) (n int, err error) {
	var has descriptors
	had := w.known[pid]
	if had != nil && had.self.PID != 0 {
		has.self, has.idle = w.holder(dir, pid), had.idle
		if has.self.Start != had.self.Start {
			had, has.self = nil, sock.Holder{} // its PID was given to another
		}
		if !w.onlyNew {
			has.idle++
		}
	}
	if !w.hasRoom(dir) {
		return 0, errNoRoom
	}
	err = w.fds.eachNumber(dir, func(fd int, name []byte) error {
		n++
		if w.room--; w.room < 0 {
			return errNoRoom
		}
		if was := had.inode(fd); w.onlyNew && was != 0 && !w.wants(was) {
			has.set(fd, was)
			return nil
		}
		return w.descriptor(dir, pid, fd, name, &has)
	})
	if err != nil {
		if err = unlessGone(err); err != nil {
			err = fmt.Errorf("process %d: %w", pid, err)
		}
		return n, err
	}
	if has.idle >= maxIdle {
		has.self, has.idle = sock.Holder{}, 0
	}
	w.remember(pid, &has)
	return n, nil
}

// errNoRoom says that a walk has listed as much as it may.
var errNoRoom = errors.New("the memory limit leaves no room for its descriptors")

// hasRoom reports whether a table of descriptors, which is open as dir, may be listed: one that is too
// large takes nothing from those that come after it. Before Linux 6.2 its size is 0. One whose size
// cannot be read is tried: its process has ended.
func (w *walk) hasRoom(dir int) bool {
	var st unix.Stat_t
	return unix.Fstat(dir, &st) != nil || st.Size <= int64(w.room)
}

// holder names the process whose directory of descriptors is open, and says where it belongs.
func (w *walk) holder(dir, pid int) sock.Holder {
	h := describe(dir, "..", pid)
	if w.ofThread { // what a process is known by, its first thread keeps
		first := describe(dir, "../../..", pid)
		h.Comm, h.Start = first.Comm, first.Start
	}
	h.Owner = w.owners.ofHolder(dir, "..", pid, w.rooted)
	return h
}

// descriptor reads where a descriptor of a process leads.
func (w *walk) descriptor(dir, pid, fd int, name []byte, has *descriptors) error {
	n, err := readlinkat(dir, name, w.link[:])
	if errors.Is(err, unix.ENOENT) {
		return nil // closed meanwhile
	}
	if err != nil {
		return err
	}
	inode, ok := socketInode(w.link[:n])
	if !ok {
		return nil
	}
	has.set(fd, inode)
	if !w.wants(inode) {
		return nil
	}
	if has.self.PID == 0 {
		has.self = w.holder(dir, pid)
	}
	has.idle = 0
	switch known := w.found.Holders[inode]; {
	case len(known) == 0:
		if len(has.alone) == 0 || has.alone[0] != has.self {
			has.alone = []sock.Holder{has.self}
		}
		w.found.Holders[inode] = has.alone[:1:1]
	case known[len(known)-1].PID != pid:
		w.found.Holders[inode] = append(known, has.self)
	}
	return nil
}
