package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A Finder finds the network namespaces of this host: those that a process is in, by
// its first thread, and those that are mounted, in the mount namespace of this process
// or of the first one (process 1). A namespace that only sockets, open files or single
// threads refer to is not found.
//
// It is not for concurrent use, except for Names.
type Finder struct {
	procRoot string
	own      *Namespace
	mounts   []*mounts
	known    map[uint32]*Namespace // by inode, the own one left out
	seen     map[uint32]struct{}   // in the Find that is under way
	tried    map[uint32]struct{}   // in it, and not opened
	lister   lister
	threads  lister
	link     [64]byte

	mu    sync.Mutex
	names map[uint32][]string
}

// Found is what one Find saw. What appeared is the caller's, who closes it once it is
// gone, or when it likes: what was closed while it still exists appears anew.
type Found struct {
	Appeared []*Namespace
	Gone     []*Namespace // nobody is in them any more, and no mount keeps them: close them, and what was opened in them

	Processes int  // that were seen
	Refused   int  // of these, whose namespace may not be seen
	Unentered int  // namespaces that may not be entered
	Hidden    bool // those of other users are not even shown (hidepid of proc(5))
	failed    error
}

// LeftOut says what was not found, why, and how many there are of it; nil: nothing.
func (f *Found) LeftOut() error {
	var errs []error
	if f.Hidden {
		errs = append(errs, errors.New("processes of other users are hidden, and with them their network namespaces (hidepid of /proc, as by ProtectProc= of a systemd unit)"))
	}
	if f.Refused > 0 {
		errs = append(errs, fmt.Errorf("%d of %d processes do not let their network namespace be seen, which CAP_SYS_PTRACE would allow", f.Refused, f.Processes))
	}
	if f.Unentered > 0 {
		errs = append(errs, fmt.Errorf("network namespaces that cannot be entered: %d: %s", f.Unentered, whyNotPermitted()))
	}
	return errors.Join(append(errs, f.failed)...)
}

// Few reports whether nothing was left out but the namespaces of a few processes, which
// something protects even from root: most likely others are in the same.
func (f *Found) Few() bool {
	return !f.Hidden && f.Unentered == 0 && f.failed == nil && 10*f.Refused <= f.Processes
}

// NewFinder returns a Finder that has found nothing yet; own is never among what it
// finds.
func NewFinder(procRoot string, own *Namespace) (*Finder, error) {
	f := &Finder{
		procRoot: procRoot, own: own,
		known: map[uint32]*Namespace{}, seen: map[uint32]struct{}{}, tried: map[uint32]struct{}{}, names: map[uint32][]string{},
	}
	// The mount namespace of process 1 is the host's, for a pod that shares its processes.
	here, err := openMounts(procRoot + "/thread-self")
	if err != nil {
		return nil, fmt.Errorf("find network namespaces: %w", err)
	}
	here.root = ""
	f.mounts = append(f.mounts, here)
	if hasOtherMounts(procRoot) {
		if there, err := openMounts(procRoot + "/1"); err == nil {
			f.mounts = append(f.mounts, there)
		}
	}
	return f, nil
}

// hasOtherMounts reports whether process 1 is in another mount namespace than this
// thread, and lets it be seen.
func hasOtherMounts(procRoot string) bool {
	here, err := os.Readlink(procRoot + "/thread-self/ns/mnt")
	there, otherErr := os.Readlink(procRoot + "/1/ns/mnt")
	return err == nil && otherErr == nil && here != there
}

// Close closes what the Finder reads. The namespaces that it found are their callers'.
func (f *Finder) Close() error {
	var errs []error
	for _, m := range f.mounts {
		errs = append(errs, m.file.Close())
	}
	return errors.Join(errs...)
}

// Names are what `ip netns` calls the namespace, by where it was mounted when Find last
// read it. Its caller does not change them.
func (f *Finder) Names(inode uint32) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.names[inode]
}

// Find looks which namespaces have appeared and which are gone since it was last
// called. Processes and namespaces that end meanwhile are no error. After an error
// nothing is said to be gone, and what appeared stands all the same.
func (f *Finder) Find() (Found, error) {
	var found Found
	clear(f.seen)
	clear(f.tried)
	for inode, n := range f.known {
		if !n.isOpen() {
			delete(f.known, inode)
		}
	}
	// A list of processes that changes meanwhile may lack one: that forked and ended, and
	// whose child has a number that was passed already. So what is missing is looked for
	// a second time.
	for range 2 {
		if err := errors.Join(f.findMounted(&found), f.findByProcess(&found)); err != nil {
			return found, fmt.Errorf("find network namespaces: %w", err)
		}
		if !f.misses() {
			break
		}
	}
	found.Unentered = len(f.tried)
	for inode, n := range f.known {
		if !f.sees(inode) {
			found.Gone = append(found.Gone, n)
			delete(f.known, inode)
		}
	}
	return found, nil
}

func (f *Finder) sees(inode uint32) bool {
	_, ok := f.seen[inode]
	return ok
}

// misses reports whether a namespace that was known has not been seen.
func (f *Finder) misses() bool {
	for inode := range f.known {
		if !f.sees(inode) {
			return true
		}
	}
	return false
}

func (f *Finder) findMounted(found *Found) error {
	var errs []error
	names := map[uint32][]string{}
	for _, m := range f.mounts {
		if err := m.read(); err != nil {
			errs = append(errs, err)
			continue
		}
		for i := range m.at {
			at := &m.at[i]
			if name := at.name(); name != "" {
				names[at.inode] = append(names[at.inode], name)
			}
			if err := f.see(found, at.inode, unix.AT_FDCWD, m.root+at.path); err != nil {
				found.failed = fmt.Errorf("what is mounted at %s: %w", at.path, err)
			}
		}
	}
	f.mu.Lock()
	f.names = names
	f.mu.Unlock()
	return errors.Join(errs...)
}

func (f *Finder) findByProcess(found *Found) error {
	proc, err := unix.Open(f.procRoot, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: f.procRoot, Err: err}
	}
	defer unix.Close(proc)
	found.Processes, found.Refused = 0, 0
	// There is a process 1 in every PID namespace. Where it is hidden, so are others.
	found.Hidden = errors.Is(unix.Fstatat(proc, "1", new(unix.Stat_t), 0), unix.ENOENT)
	return f.lister.numbers(proc, func(pid string) {
		found.Processes++
		switch err := f.seeTask(found, proc, pid); {
		case errors.Is(err, unix.ENOENT):
			// Its first thread has ended, and others may go on without it.
			f.seeThreads(found, proc, pid)
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			found.Refused++
		case err != nil && !gone(err):
			found.failed = err
		}
	})
}

// seeThreads sees the namespace of the first thread of a process that is in one.
func (f *Finder) seeThreads(found *Found, proc int, pid string) {
	tasks, err := unix.Openat(proc, pid+"/task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(tasks)
	done := false
	_ = f.threads.numbers(tasks, func(tid string) { done = done || f.seeTask(found, tasks, tid) == nil })
}

// seeTask sees the namespace of a task. The error is that of reading its link: ENOENT
// and ESRCH of what has ended; or that of opening what is new.
func (f *Finder) seeTask(found *Found, dir int, id string) error {
	path := id + "/ns/net"
	n, err := unix.Readlinkat(dir, path, f.link[:])
	if err != nil {
		return err
	}
	if inode := inodeOf(f.link[:n]); inode != 0 {
		return f.see(found, inode, dir, path)
	}
	return nil
}

// see notes that something refers to a namespace, and opens it if it is new. After an
// error, something else that refers to it may lead there.
func (f *Finder) see(found *Found, inode uint32, dir int, path string) error {
	if _, ok := f.tried[inode]; ok || f.sees(inode) {
		return nil
	}
	if inode == f.own.Inode || f.known[inode] != nil {
		f.seen[inode] = struct{}{}
		return nil
	}
	n, err := open(dir, path)
	switch {
	case err == nil:
	case errors.Is(err, errNotPermitted):
		f.tried[inode] = struct{}{}
		return nil
	case gone(err):
		return nil
	default:
		return err
	}
	if n.Inode == f.own.Inode || f.known[n.Inode] != nil { // the process has gone elsewhere meanwhile
		n.Close()
		f.seen[n.Inode] = struct{}{}
		return nil
	}
	f.seen[n.Inode] = struct{}{}
	f.known[n.Inode] = n
	found.Appeared = append(found.Appeared, n)
	return nil
}

// gone reports whether an error says that what was there a moment ago is no more, or
// that something else is in its place.
func gone(err error) bool {
	return slices.ContainsFunc([]error{unix.ENOENT, unix.ESRCH, unix.ENOTDIR, errNotNamespace}, func(e error) bool { return errors.Is(err, e) })
}

// open opens a namespace and asks it for its cookie.
func open(dir int, path string) (*Namespace, error) {
	file, inode, err := openAt(dir, path)
	if err != nil {
		return nil, fmt.Errorf("open a network namespace: %w", err)
	}
	n := &Namespace{Inode: inode, file: file}
	err = n.Do(func() error {
		n.Cookie, err = Cookie()
		return err
	})
	if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		n.Close()
		return nil, err
	}
	return n, nil
}

// lister lists directories of /proc through one reused buffer.
type lister struct {
	buf   [32 << 10]byte
	names []string
}

// numbers calls each for every entry of an open directory whose name is a number.
func (l *lister) numbers(dir int, each func(name string)) error {
	for {
		n, err := unix.Getdents(dir, l.buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOENT): // the process has ended
			return nil
		case err != nil:
			return os.NewSyscallError("getdents", err)
		case n == 0:
			return nil
		}
		_, _, l.names = unix.ParseDirent(l.buf[:n], -1, l.names[:0])
		for _, name := range l.names {
			if strings.Trim(name, "0123456789") == "" {
				each(name)
			}
		}
	}
}
