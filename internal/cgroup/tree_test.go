package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// grow makes cgroups, or directories that stand for them, and returns the id of
// the last.
func grow(t testing.TB, root string, names ...string) (id uint64) {
	t.Helper()
	for _, name := range names {
		check(t, os.MkdirAll(root+name, 0o755))
		id = inode(t, root+name)
	}
	return id
}

func inode(t testing.TB, file string) uint64 {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Stat(file, &st))
	return st.Ino
}

// named is what a fresh batch says.
func named(t *Tree, id uint64) string {
	b := t.Batch()
	return b.Path(id)
}

func TestPath(t *testing.T) {
	root := t.TempDir()
	names := []string{"/", "/init.scope", "/system.slice", "/system.slice/a b.service", "/system.slice/c.service/deep/er"}
	for _, name := range names {
		grow(t, root, name)
	}
	check(t, os.WriteFile(root+"/system.slice/cgroup.procs", nil, 0o600))
	tree := treeAt(root)
	b := tree.Batch()
	for range 2 {
		for _, name := range names {
			if got := b.Path(inode(t, root+name)); got != name {
				t.Errorf("path %q, want %q", got, name)
			}
		}
	}
	if got := b.Path(inode(t, root+"/system.slice/cgroup.procs")); got != "" {
		t.Errorf("a file is called %q", got)
	}

	gone := inode(t, root+"/init.scope")
	check(t, os.Remove(root+"/init.scope"))
	later := grow(t, root, "/later")
	if got := named(tree, later); later != gone && got != "/later" {
		t.Errorf("a new cgroup is called %q", got)
	}
	if got := named(tree, gone); later != gone && got != "/init.scope" {
		t.Errorf("the cgroup that is gone is called %q", got)
	}
}

func TestID(t *testing.T) {
	root := t.TempDir()
	id := grow(t, root, "/a/b")
	check(t, os.WriteFile(root+"/a/cgroup.procs", nil, 0o600))
	check(t, os.Symlink("/", root+"/a/link"))
	tree := treeAt(root)
	tests := map[string]struct {
		id uint64
		ok bool
	}{
		"/a/b":            {id, true},
		"/a/b/":           {id, true},
		"a/b":             {id, true},
		"/":               {inode(t, root), true},
		"/../../..":       {inode(t, root), true}, // never above it
		"/a/c":            {},
		"/a/cgroup.procs": {},
		"/a/link":         {},
	}
	for name, want := range tests {
		if id, ok := tree.ID(name); id != want.id || ok != want.ok {
			t.Errorf("id of %s: %d, %v, want %d, %v", name, id, ok, want.id, want.ok)
		}
	}

	// Asked afresh: what is there now counts.
	check(t, os.Rename(root+"/a/b", root+"/a/c"))
	if _, ok := tree.ID("/a/b"); ok {
		t.Error("a cgroup that is gone has an id")
	}
	if got, ok := tree.ID("/a/c"); got != id || !ok {
		t.Errorf("id %d, %v, want %d", got, ok, id)
	}
}

func TestNowhere(t *testing.T) {
	for name, tree := range map[string]*Tree{"no tree": nil, "not mounted": treeAt(""), "unmounted": treeAt(t.TempDir() + "/none")} {
		t.Run(name, func(t *testing.T) {
			b := tree.Batch()
			for _, id := range []uint64{0, 1, 1, 2} {
				if got := b.Path(id); got != "" {
					t.Errorf("%d is called %q", id, got)
				}
			}
			if id, ok := tree.ID("/"); ok {
				t.Errorf("the root has the id %d", id)
			}
		})
	}
}

// What a walk did not find costs no other; what came after it, one in the next
// batch.
func TestWalks(t *testing.T) {
	const foreign = 1 << 60
	root := t.TempDir()
	tree := treeAt(root)
	b := tree.Batch()
	if got := b.Path(foreign); got != "" {
		t.Fatalf("a foreign cgroup is called %q", got)
	}
	id := grow(t, root, "/new")
	if got := b.Path(id); got != "" {
		t.Errorf("the batch walked twice, and found %q", got)
	}
	named(tree, foreign)
	if name, ok := (*tree.known.Load())[id]; ok {
		t.Errorf("the batch walked for a cgroup that was not found before, and found %q", name)
	}
	if got := named(tree, id); got != "/new" {
		t.Errorf("the new cgroup is called %q", got)
	}
}

// A walk that lacked a descriptor has not found out what there is not.
func TestWalkFails(t *testing.T) {
	root := t.TempDir()
	id := grow(t, root, "/a/b")
	tree := treeAt(root)

	var limit unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	none := unix.Rlimit{Cur: 0, Max: limit.Max}
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &none))
	got := named(tree, id)
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	if got != "" {
		t.Fatalf("without a descriptor it is called %q", got)
	}
	if got := named(tree, id); got != "/a/b" {
		t.Errorf("with descriptors again it is called %q", got)
	}
}

func TestBound(t *testing.T) {
	root := t.TempDir()
	id := grow(t, root, "/a")
	full := make(map[uint64]string)
	for i := range uint64(mostKnown) {
		full[1<<60|i] = "/gone"
	}
	tree := treeAt(root)
	tree.known.Store(&full)
	if got := named(tree, id); got != "/a" {
		t.Errorf("path %q, want /a", got)
	}
	if n := len(*tree.known.Load()); n > mostKnown {
		t.Errorf("%d cgroups are known, want %d at most", n, mostKnown)
	}
	for id := range full {
		if got := named(tree, id); got != "/gone" && got != "" {
			t.Fatalf("path %q of a cgroup that is gone", got)
		}
	}
	if n := len(*tree.known.Load()); n > mostKnown {
		t.Errorf("%d cgroups are known, want %d at most", n, mostKnown)
	}
}

func TestTogether(t *testing.T) {
	root := t.TempDir()
	tree := treeAt(root)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 20 {
				name := fmt.Sprintf("/%d/%d", i, j)
				if err := os.MkdirAll(root+name, 0o755); err != nil {
					t.Error(err)
					return
				}
				id, ok := tree.ID(name)
				if !ok {
					t.Errorf("%s has no id", name)
				}
				if got := named(tree, id); got != name {
					t.Errorf("path %q, want %q", got, name)
				}
			}
		})
	}
	all.Wait()
}

func TestMountPoint(t *testing.T) {
	const unified = "41 31 0:38 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
	tests := map[string]struct{ text, want string }{
		"unified": {"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + unified, "/sys/fs/cgroup"},
		"hybrid": {
			"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
				"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup/unified",
		},
		"optional fields":   {"41 31 0:38 / /sys/fs/cgroup rw shared:9 master:3 - cgroup2 none rw\n", "/sys/fs/cgroup"},
		"blanks":            {`41 31 0:38 / /a\040b\134c rw - cgroup2 cgroup2 rw` + "\n", `/a b\c`},
		"a part":            {"41 31 0:38 /docker/1 /cg rw - cgroup2 cgroup2 rw\n", "/cg"},
		"a part, and whole": {"40 31 0:38 /docker/1 /cg rw - cgroup2 cgroup2 rw\n" + unified, "/sys/fs/cgroup"},
		"whole, and a part": {unified + "42 31 0:38 /docker/1 /cg rw - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup"},
		"covered":           {"40 31 0:38 / /covered rw - cgroup2 cgroup2 rw\n" + unified, "/sys/fs/cgroup"},
		"covered, alone":    {"40 31 0:38 / /covered rw - cgroup2 cgroup2 rw\n", ""},
		"version 1 only":    {"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", ""},
		"named like it":     {"32 31 0:29 / /cgroup2 rw - tmpfs cgroup2 rw\n", ""},
		"cut":               {"41 31 - cgroup2 cgroup2 rw\n41 31 0:38 /", ""},
		"empty":             {"", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			seen := func(point string) bool { return point != "/covered" }
			if got := mountPoint(strings.NewReader(test.text), seen); got != test.want {
				t.Errorf("mounted at %q, want %q", got, test.want)
			}
		})
	}
	if isCgroup2(t.TempDir()) {
		t.Error("what is mounted over cgroup2 is taken for it")
	}
}

// The inode numbers of another filesystem are the ids of other cgroups.
func TestOtherFilesystem(t *testing.T) {
	tree := treeAt("/")
	const within = "/proc/1" // no link, as self is
	if id, ok := tree.ID(within); ok {
		t.Errorf("%s, which is mounted in the tree, is cgroup %d", within, id)
	}
	if _, _, ok := treeAt("/proc").directory("/" + fmt.Sprint(os.Getpid())); !ok {
		t.Error("there is no device that the tree is on")
	}
	tree.device++ // as if something were mounted over all of it
	if got := named(tree, inode(t, "/")); got != "" {
		t.Errorf("a directory on another device is called %q", got)
	}
}

// The hierarchy of this machine.
func TestKernel(t *testing.T) {
	tree := New()
	if tree.root == "" {
		t.Skip("needs cgroup2 mounted")
	}
	want := make(map[uint64]string)
	err := filepath.WalkDir(tree.root, func(file string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			want[inode(t, file)] = filepath.Join("/", strings.TrimPrefix(file, tree.root))
		}
		return nil // it may be gone by now
	})
	check(t, err)
	got := make(map[uint64]string)
	for id, name := range want {
		got[id] = named(tree, id)
		if now, ok := tree.ID(name); ok && now != id {
			t.Errorf("id of %s: %d, want %d", name, now, id)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("cgroups (-want +got):\n%s", diff)
	}
}

func BenchmarkPath(b *testing.B) {
	root := b.TempDir()
	tree := treeAt(root)
	ids := make([]uint64, 100)
	for i := range ids {
		ids[i] = grow(b, root, fmt.Sprintf("/%d", i))
	}
	batch := tree.Batch()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if batch.Path(ids[i%len(ids)]) == "" {
			b.Fatal("no name")
		}
	}
}
