// Package holders finds the processes that hold a socket, by its inode, in a
// /proc directory. It follows file descriptors only: a socket that is in flight
// in a message, registered with io_uring, or held by a thread with a descriptor
// table of its own (unshare(CLONE_FILES)) has no holder here.
package holders

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// Found is what one walk found.
type Found struct {
	// Holders are the processes that hold a descriptor of each inode; one that
	// nobody was seen to hold is absent.
	Holders map[uint32][]sock.Holder

	// Complete says that every process of the host was there and let its
	// descriptors be read: an inode without a holder is then held by the kernel
	// itself, or on its way between processes.
	Complete bool
}

// Find walks the descriptors of every process under root, a mounted proc(5),
// once for all wanted inodes. A process that ends meanwhile is none; one that
// refuses costs only Complete.
func Find(root string, wanted map[uint32]struct{}) (Found, error) { return newWalk(wanted).find(root) }

func (w *walk) find(root string) (Found, error) {
	dir, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Found{}, fmt.Errorf("find socket holders: %w", &os.PathError{Op: "open", Path: root, Err: err})
	}
	defer unix.Close(dir)
	pids := newDirents()
	pids.reset(dir)
	complete := showsKernelThreads(dir)
	for {
		name, err := pids.next()
		if err != nil {
			return Found{}, fmt.Errorf("find socket holders: list %s: %w", root, err)
		}
		if name == nil {
			return Found{Holders: w.holders, Complete: complete}, nil
		}
		pid, err := strconv.Atoi(string(name[:len(name)-1]))
		if err != nil {
			continue // not a process
		}
		w.at.Store(int64(pid))
		switch err := w.process(dir, pid); {
		case refused(err):
			complete = false
		case err != nil:
			return Found{}, fmt.Errorf("find socket holders: %s/%d/fd: %w", root, pid, err)
		}
	}
}

// Access is whose descriptors can be read.
type Access struct {
	AllShown   bool        // every process of the host is shown
	Contained  bool        // this is a PID namespace of its own: those outside of it can never be shown
	Privileged bool        // the calling thread has the capabilities that reading takes
	Processes  int         // that are shown
	Refused    int         // of these, how many do not let their descriptors be read
	First      sock.Holder // the first of those
}

// Complete reports whether a walk can be complete.
func (a *Access) Complete() bool { return a.AllShown && a.Refused == 0 }

// Examine finds out whose descriptors can be read under root. It looks at one of
// each process, and so costs a fraction of a walk.
func Examine(root string) (Access, error) {
	dir, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Access{}, fmt.Errorf("examine processes: %w", &os.PathError{Op: "open", Path: root, Err: err})
	}
	defer unix.Close(dir)
	a := Access{AllShown: showsKernelThreads(dir), Contained: contained(dir), Privileged: privileged()}
	pids, fds := newDirents(), newDirents()
	pids.reset(dir)
	for {
		name, err := pids.next()
		if err != nil {
			return a, fmt.Errorf("examine processes: list %s: %w", root, err)
		}
		if name == nil {
			return a, nil
		}
		pid, err := strconv.Atoi(string(name[:len(name)-1]))
		if err != nil {
			continue // not a process
		}
		a.Processes++
		if unlessGone(readOne(dir, name, fds)) == nil {
			continue
		}
		if a.Refused++; a.Refused == 1 {
			a.First = describe(dir, string(name[:len(name)-1]), pid)
		}
	}
}

// contained reports whether the /proc opened as dir is of another PID namespace than
// the host's, whose number is the same on every host (PROC_PID_INIT_INO).
func contained(dir int) bool {
	var link [64]byte
	n, err := unix.Readlinkat(dir, "self/ns/pid", link[:])
	return err == nil && string(link[:n]) != "pid:[4026531836]"
}

// privileged reports whether the calling thread may read any descriptor of its user
// namespace.
func privileged() bool {
	const both = 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_SYS_PTRACE
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&both == both
}

// Readable reports whether a walk could be complete.
func Readable(root string) bool {
	a, err := Examine(root)
	return err == nil && a.Complete()
}

// readOne reads where one descriptor of a process leads to. That its directory
// can be listed says nothing: to read the links takes the right to trace it.
func readOne(root int, pid []byte, fds *dirents) error {
	dir, err := unix.Openat(root, string(pid[:len(pid)-1])+"/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	fds.reset(dir)
	for {
		name, err := fds.next()
		if name == nil || err != nil {
			return err
		}
		if name[0] != '.' {
			var link [64]byte
			_, err := readlinkat(dir, name, link[:])
			return err
		}
	}
}

// walk is one walk's memory.
type walk struct {
	wanted  map[uint32]struct{}
	holders map[uint32][]sock.Holder
	fds     *dirents
	link    [64]byte // room for "socket:[4294967295]"; other links may be cut

	at         *atomic.Int64        // the process that is read
	known      map[int]*descriptors // as they were before
	remembers  map[int]*descriptors // as they are; nil: nobody wants to know
	remembered int                  // descriptors in it
	onlyNew    bool                 // what led to another socket before is not read again
}

func newWalk(wanted map[uint32]struct{}) *walk {
	return &walk{wanted: wanted, holders: make(map[uint32][]sock.Holder), fds: newDirents(), at: new(atomic.Int64)}
}

// process adds pid to the holders of the wanted inodes that it holds.
func (w *walk) process(root, pid int) error {
	dir, err := unix.Openat(root, strconv.Itoa(pid)+"/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return unlessGone(err)
	}
	defer unix.Close(dir)
	var has descriptors
	had := w.known[pid]
	if had != nil && had.self.PID != 0 {
		has.self, has.idle = describe(dir, "..", pid), had.idle
		if has.self.Start != had.self.Start {
			had, has.self = nil, sock.Holder{} // its PID was given to another
		}
		if !w.onlyNew {
			has.idle++
		}
	}
	w.fds.reset(dir)
	for {
		name, err := w.fds.next()
		if err != nil {
			return unlessGone(err)
		}
		if name == nil {
			break
		}
		if name[0] == '.' {
			continue
		}
		fd, err := strconv.Atoi(string(name[:len(name)-1]))
		if err != nil {
			return err
		}
		if was := had.inode(fd); w.onlyNew && was != 0 {
			if _, ok := w.wanted[was]; !ok {
				has.set(fd, was)
				continue
			}
		}
		if err := w.descriptor(dir, pid, fd, name, &has); err != nil {
			return unlessGone(err)
		}
	}
	if has.idle >= mostIdle {
		has.self, has.idle = sock.Holder{}, 0
	}
	if w.remembers != nil {
		w.remember(pid, &has)
	}
	return nil
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
	if w.remembers != nil {
		has.set(fd, inode)
	}
	if _, ok := w.wanted[inode]; !ok {
		return nil
	}
	if has.self.PID == 0 {
		has.self = describe(dir, "..", pid)
	}
	has.idle = 0
	if known := w.holders[inode]; len(known) == 0 || known[len(known)-1].PID != pid {
		w.holders[inode] = append(known, has.self)
	}
	return nil
}

// describe names the process whose directory is at path. Where that starts at the
// process's open fd directory, a PID given away meanwhile does not lend its new
// process's name.
func describe(dir int, path string, pid int) sock.Holder {
	o := sock.Holder{PID: pid}
	var buf [4096]byte
	if n, err := readFileAt(dir, path+"/comm", buf[:]); err == nil {
		o.Comm = strings.TrimSuffix(string(buf[:n]), "\n")
	}
	if n, err := unix.Readlinkat(dir, path+"/exe", buf[:]); err == nil {
		o.Exe = strings.TrimSuffix(filepath.Base(string(buf[:n])), " (deleted)")
	}
	if n, err := readFileAt(dir, path+"/stat", buf[:]); err == nil {
		o.Start, _ = parseStat(buf[:n]).number(22) // 0: it cannot be told from a later one of its PID
	}
	return o
}

// showsKernelThreads reports whether the /proc opened as dir shows kthreadd,
// which is PID 2 of the initial PID namespace and of no other. Under hidepid it
// is shown only to those who are shown every process: they belong to the
// exempted group, or have CAP_SYS_PTRACE (has_pid_permissions).
func showsKernelThreads(dir int) bool {
	const pfKthread = 0x00200000 // PF_KTHREAD, include/linux/sched.h
	var buf [1024]byte
	n, err := readFileAt(dir, "2/stat", buf[:])
	if err != nil {
		return false
	}
	flags, err := parseStat(buf[:n]).number(9)
	return err == nil && flags&pfKthread != 0
}

// socketInode reads the inode from a link to a socket, "socket:[12345]".
func socketInode(link []byte) (uint32, bool) {
	digits, ok := bytes.CutPrefix(link, socketPrefix)
	if !ok {
		return 0, false
	}
	digits, ok = bytes.CutSuffix(digits, socketSuffix)
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(string(digits), 10, 32)
	return uint32(inode), err == nil
}

var socketPrefix, socketSuffix = []byte("socket:["), []byte("]")

// unlessGone drops the errors that say that the process has ended.
func unlessGone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func refused(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}
