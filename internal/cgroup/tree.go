// Package cgroup names cgroups: it knows the path of a cgroup by its id in the
// cgroup2 hierarchy, and the id by the path. What is in them, and the
// hierarchies of version 1, are not its business.
package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// mostKnown bounds what a Tree remembers: as many cgroups as there can be under
// the memory controller (MEM_CGROUP_ID_MAX).
const mostKnown = 1 << 16

// A Tree is the cgroup2 hierarchy as it is mounted here. The id of a cgroup is
// the inode number of its directory; no other cgroup gets it, and no cgroup is
// renamed, so that an id once named keeps its name, also when the cgroup is gone.
// Cgroups outside of this process's cgroup namespace have no name.
//
// A Tree may be used by several goroutines. A nil Tree names nothing.
type Tree struct {
	root   string // the mount point; "": cgroup2 is not mounted
	device uint64 // that the hierarchy is: what is mounted in it, or over it, is another

	walking sync.Mutex
	known   atomic.Pointer[map[uint64]string] // "": has no name; replaced, never changed
}

// New finds the hierarchy. Where there is none, or /proc does not tell, no cgroup
// has a name.
func New() *Tree {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return treeAt("")
	}
	defer mounts.Close()
	return treeAt(mountPoint(mounts, isCgroup2))
}

func treeAt(root string) *Tree {
	t := &Tree{root: root}
	var st unix.Stat_t
	if unix.Stat(root+"/", &st) == nil {
		t.device = st.Dev
	}
	t.known.Store(&map[uint64]string{})
	return t
}

// ID is the id of the cgroup that has that path now: one that was removed and
// made again has another. The path is counted from the root of the hierarchy,
// which is "/".
func (t *Tree) ID(name string) (id uint64, ok bool) {
	if t == nil || t.root == "" {
		return 0, false
	}
	id, _, ok = t.directory(path.Join("/", name))
	return id, ok
}

// directory reads the id of a cgroup, and whether there is none below it.
func (t *Tree) directory(name string) (id uint64, leaf, ok bool) {
	var st unix.Stat_t
	if err := unix.Lstat(t.root+name, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Dev != t.device {
		return 0, false, false
	}
	// kernfs counts a directory's links as ever: itself, its entry, and one for
	// each directory in it. Filesystems that do not count say 1.
	return st.Ino, st.Nlink == 2, true
}

// learn returns what is known after a walk that began when id was in use.
func (t *Tree) learn(id uint64) map[uint64]string {
	t.walking.Lock()
	defer t.walking.Unlock()
	before := *t.known.Load()
	if _, ok := before[id]; ok { // somebody else walked meanwhile
		return before
	}
	known, whole := t.walk()
	for id, name := range before {
		if len(known) >= mostKnown {
			break
		}
		if known[id] == "" {
			known[id] = name
		}
	}
	// A socket's cgroup is older than the socket: where the walk did not find it,
	// it is gone or out of sight, and no later walk will find it either.
	if _, ok := known[id]; !ok && whole && len(known) < mostKnown {
		known[id] = ""
	}
	t.known.Store(&known)
	return known
}

// walk names all cgroups that there are; one that disappears under it, or whose
// directory may not be read, hides what is below it. It is not whole where it
// lacked the means to read one, such as a descriptor.
func (t *Tree) walk() (found map[uint64]string, whole bool) {
	found, whole = make(map[uint64]string), true
	filepath.WalkDir(t.root+"/", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case len(found) >= mostKnown:
			return fs.SkipAll
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		case errors.Is(err, unix.ENODEV): // kernfs: removed while it was open
		case err != nil:
			whole = false
		case entry.IsDir():
			name := path.Join("/", strings.TrimPrefix(file, t.root))
			id, leaf, ok := t.directory(name)
			if ok {
				found[id] = name
			}
			if leaf || !ok {
				return fs.SkipDir
			}
		}
		return nil
	})
	return found, whole
}

// A Batch names the cgroups of the sockets in one answer of the kernel, and walks
// the hierarchy once at most: the cgroups that are made meanwhile have their
// names in the next. It is used by one goroutine.
type Batch struct {
	tree   *Tree // nil: nothing has a name, or the walk is done
	known  map[uint64]string
	last   uint64 // sockets of one cgroup come in rows
	answer string // for last
}

// Batch begins a batch.
func (t *Tree) Batch() Batch {
	if t == nil || t.root == "" {
		return Batch{}
	}
	return Batch{tree: t, known: *t.known.Load()}
}

// Path is the path of the cgroup with that id, or "" if it has none.
func (b *Batch) Path(id uint64) string {
	if id == b.last {
		return b.answer
	}
	name, ok := b.known[id]
	if !ok && b.tree != nil {
		b.known = b.tree.learn(id)
		b.tree = nil
		name = b.known[id]
	}
	b.last, b.answer = id, name
	return name
}
