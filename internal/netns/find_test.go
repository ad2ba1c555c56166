package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// newFinder is one that has found already what is there, for want of which a test
// would mistake others' namespaces for its own.
func newFinder(t testing.TB) *Finder {
	t.Helper()
	own := must(Self())(t)
	f := must(NewFinder("/proc", own))(t)
	t.Cleanup(func() { f.Close(); own.Close() })
	find(t, f)
	return f
}

// find finds, and closes at the end of the test what appeared.
func find(t testing.TB, f *Finder) Found {
	t.Helper()
	found := must(f.Find())(t)
	t.Cleanup(func() {
		for _, n := range found.Appeared {
			n.Close()
		}
	})
	return found
}

// made are the namespaces that tests made: where there are no user namespaces, those of
// other programs are seen, too.
var made = map[uint32]bool{}

func inodes(namespaces []*Namespace) (inodes []uint32) {
	for _, n := range namespaces {
		if made[n.Inode] {
			inodes = append(inodes, n.Inode)
		}
	}
	slices.Sort(inodes)
	return inodes
}

func few(inodes []uint32) string {
	return fmt.Sprintf("%d: %d", len(inodes), inodes[:min(len(inodes), 5)])
}

// the is the namespace with that inode.
func the(found Found, inode uint32) *Namespace {
	i := slices.IndexFunc(found.Appeared, func(n *Namespace) bool { return n.Inode == inode })
	return found.Appeared[i]
}

// expect finds, and wants these and no others.
func expect(t testing.TB, f *Finder, what string, appeared, gone []uint32) Found {
	t.Helper()
	found := find(t, f)
	slices.Sort(appeared)
	slices.Sort(gone)
	if got := inodes(found.Appeared); !slices.Equal(got, appeared) {
		t.Errorf("%s: appeared %s, want %s", what, few(got), few(appeared))
	}
	if got := inodes(found.Gone); !slices.Equal(got, gone) {
		t.Errorf("%s: gone %s, want %s", what, few(got), few(gone))
	}
	for _, n := range found.Gone {
		check(t, n.Close())
	}
	return found
}

// TestFindProcesses: a namespace appears with the first process in it, and is gone with
// the last, although the Finder's caller has it open.
func TestFindProcesses(t *testing.T) {
	nstest.Isolate(t)
	f := newFinder(t)
	expect(t, f, "nothing happened", nil, nil)
	one, endOne := process(t, "sleep", newNetns)
	two, endTwo := process(t, "sleep", newNetns)
	found := expect(t, f, "two processes", []uint32{one, two}, nil)
	for _, n := range found.Appeared {
		check(t, n.Do(func() error {
			if Inode() != n.Inode || must(Cookie())(t) != n.Cookie {
				t.Errorf("in %d, want %d", Inode(), n.Inode)
			}
			return nil
		}))
	}
	expect(t, f, "both known", nil, nil)
	endOne()
	expect(t, f, "one has ended", nil, []uint32{one})
	endTwo()
	expect(t, f, "the other, too", nil, []uint32{two})
	expect(t, f, "both told", nil, nil)
}

// TestFindClosed: what its caller gave up appears anew while it exists.
func TestFindClosed(t *testing.T) {
	nstest.Isolate(t)
	f := newFinder(t)
	inode, end := process(t, "sleep", newNetns)
	found := expect(t, f, "a process", []uint32{inode}, nil)
	check(t, the(found, inode).Close())
	expect(t, f, "closed, and still there", []uint32{inode}, nil)
	end()
	expect(t, f, "ended", nil, []uint32{inode})
}

// TestFindThread: the first thread of a process may end before the others.
func TestFindThread(t *testing.T) {
	nstest.Isolate(t)
	f := newFinder(t)
	inode, end := process(t, "leader", newNetns)
	expect(t, f, "it has ended", []uint32{inode}, nil)
	end()
	expect(t, f, "ended", nil, []uint32{inode})
}

// TestFindZombie: a process that has ended, and that nobody has waited for, keeps no
// namespace.
func TestFindZombie(t *testing.T) {
	nstest.Isolate(t)
	f := newFinder(t)
	cmd := helperCommand("sleep", newNetns)
	stdin, stdout := must(cmd.StdinPipe())(t), must(cmd.StdoutPipe())(t)
	check(t, cmd.Start())
	defer cmd.Wait()
	var inode uint32
	if _, err := fmt.Fscan(stdout, &inode); err != nil {
		t.Fatal(err)
	}
	made[inode] = true
	expect(t, f, "a process", []uint32{inode}, nil)
	check(t, stdin.Close())
	check(t, unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil))
	expect(t, f, "a zombie", nil, []uint32{inode})
}

// privateMounts gives the test's thread mounts of its own, with an empty /run.
func privateMounts(t testing.TB) {
	t.Helper()
	check(t, unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS))
	check(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	check(t, unix.Mount("none", "/run", "tmpfs", 0, ""))
}

// mountFresh mounts a new namespace, which nothing else refers to, and returns its
// inode.
func mountFresh(t testing.TB, path string) uint32 {
	t.Helper()
	n := fresh(t)
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, nil, 0o600))
	check(t, n.control(func(fd int) {
		check(t, unix.Mount(fmt.Sprintf("/proc/thread-self/fd/%d", fd), path, "", unix.MS_BIND, ""))
	}))
	check(t, n.Close())
	return n.Inode
}

// TestFindMounts: a mount keeps a namespace, and gives it the name that `ip netns` has.
func TestFindMounts(t *testing.T) {
	nstest.Isolate(t)
	privateMounts(t)
	f := newFinder(t)
	blue := mountFresh(t, "/run/netns/blue and green")
	docker := mountFresh(t, "/run/docker/netns/1-abc")
	expect(t, f, "two mounts", []uint32{blue, docker}, nil)
	if got := f.Names(blue); !slices.Equal(got, []string{"blue and green"}) {
		t.Errorf("name %q", got)
	}
	if got := f.Names(docker); len(got) > 0 {
		t.Errorf("`ip netns` would show %q", got)
	}
	expect(t, f, "nothing happened", nil, nil)
	check(t, unix.Unmount("/run/netns/blue and green", unix.MNT_DETACH))
	expect(t, f, "one unmounted", nil, []uint32{blue})
	if got := f.Names(blue); len(got) > 0 {
		t.Errorf("name %q of what is gone", got)
	}
	check(t, unix.Unmount("/run/docker/netns/1-abc", unix.MNT_DETACH))
	expect(t, f, "both unmounted", nil, []uint32{docker})
}

// TestFindHidden: what is mounted over a namespace is not taken for it, nor waited for.
func TestFindHidden(t *testing.T) {
	nstest.Isolate(t)
	privateMounts(t)
	f := newFinder(t)
	mountFresh(t, "/run/netns/pipe")
	mountFresh(t, "/run/netns/other")
	hidden := mountFresh(t, "/run/hidden")
	check(t, unix.Mkfifo("/run/fifo", 0o600))
	check(t, unix.Mount("/run/fifo", "/run/netns/pipe", "", unix.MS_BIND, ""))
	check(t, unix.Mount("/run/hidden", "/run/netns/other", "", unix.MS_BIND, ""))
	found := expect(t, f, "two are hidden", []uint32{hidden}, nil)
	if found.Unentered != 0 || found.failed != nil {
		t.Errorf("%d may not be entered, %v", found.Unentered, found.failed)
	}
}

// TestFindMany: 500 namespaces at once; and none is kept open by the Finder.
func TestFindMany(t *testing.T) {
	nstest.Isolate(t)
	privateMounts(t)
	f := newFinder(t)
	before, goroutines := descriptors(t), goleak.IgnoreCurrent()
	const many = 500
	var all []uint32
	for i := range many {
		all = append(all, mountFresh(t, fmt.Sprintf("/run/netns/%d", i)))
	}
	found := expect(t, f, "many", slices.Clone(all), nil)
	for i := range many {
		check(t, unix.Unmount(fmt.Sprintf("/run/netns/%d", i), unix.MNT_DETACH))
	}
	if found.failed != nil {
		t.Error(found.failed)
	}
	others := expect(t, f, "all unmounted", nil, slices.Clone(all))
	for _, n := range slices.Concat(found.Appeared, others.Appeared) {
		n.Close() // ours are closed
	}
	if got := descriptors(t); got > before {
		t.Errorf("%d descriptors, want %d", got, before)
	}
	if err := goleak.Find(goroutines); err != nil {
		t.Error(err)
	}
}
