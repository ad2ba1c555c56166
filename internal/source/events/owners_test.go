package events_test

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
)

// TestOwners: this process has a socket twice, another has inherited it and got it by message.
func TestOwners(t *testing.T) {
	p := load(t, 100)
	if err := p.WhyNoOwners(); err != nil {
		old(t, err)
		return
	}
	c := connect(t, nstest.V4)
	check(t, c.client.CloseWrite())
	check(t, c.server.Await(unix.BPF_TCP_CLOSE_WAIT))
	again := must(unix.FcntlInt(uintptr(c.server), unix.F_DUPFD_CLOEXEC, 0))(t)
	defer unix.Close(again)
	inherited := must(unix.FcntlInt(uintptr(c.server), unix.F_DUPFD_CLOEXEC, 0))(t)
	ends := must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))(t)
	check(t, unix.Sendmsg(ends[0], []byte{0}, unix.UnixRights(int(c.server)), nil, 0))
	files := []*os.File{os.NewFile(uintptr(ends[1]), "messages"), os.NewFile(uintptr(inherited), "inherited")}
	other := start(t, "hold", nil, files...)
	for _, file := range files {
		file.Close()
	}
	unix.Close(ends[0])

	want := []events.Owner{
		owner(t, c.server, os.Getpid()), owner(t, c.server, os.Getpid()),
		owner(t, c.server, other.Process.Pid), owner(t, c.server, other.Process.Pid),
	}
	order(want)
	inode := must(c.server.Inode())(t)
	got := must(p.Owners([]uint32{inode, 1 << 31, inode}))(t)
	order(got)
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
	alone := must(events.LoadOwners())(t)
	defer alone.Close()
	byAlone := must(alone.Owners([]uint32{inode}))(t)
	order(byAlone)
	if diff := gocmp.Diff(want, byAlone); diff != "" {
		t.Errorf("owners by what is loaded alone (-want +got):\n%s", diff)
	}
	// The question is forgotten with its answer.
	if got := must(p.Owners([]uint32{1 << 31}))(t); len(got) > 0 {
		t.Errorf("nobody was asked for, and there is %+v", got)
	}
}

// A socket in a message that nobody has received yet has no owner.
func TestOwnersInFlight(t *testing.T) {
	p := load(t, 100)
	if err := p.WhyNoOwners(); err != nil {
		old(t, err)
		return
	}
	c := connect(t, nstest.V4)
	passed := must(unix.FcntlInt(uintptr(c.server), unix.F_DUPFD_CLOEXEC, 0))(t)
	inode := must(c.server.Inode())(t)
	ends := must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))(t)
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	check(t, unix.Sendmsg(ends[0], []byte{0}, unix.UnixRights(passed), nil, 0))
	check(t, unix.Close(passed))
	check(t, unix.Dup3(ends[1], int(c.server), unix.O_CLOEXEC)) // in its place, which the test closes
	if got := must(p.Owners([]uint32{inode}))(t); len(got) > 0 {
		t.Errorf("on its way it is held by %+v", got)
	}
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(ends[1], make([]byte, 1), rights, unix.MSG_CMSG_CLOEXEC)
	check(t, err)
	messages := must(unix.ParseSocketControlMessage(rights[:n]))(t)
	received := must(unix.ParseUnixRights(&messages[0]))(t)
	defer unix.Close(received[0])
	if got := must(p.Owners([]uint32{inode}))(t); len(got) != 1 || got[0].PID != os.Getpid() {
		t.Errorf("once it is received it is held by %+v", got)
	}
}

// A question that the kernel does not take as a whole leaves the next all its room.
func TestOwnersAfterRefusal(t *testing.T) {
	p := load(t, 100)
	if err := p.WhyNoOwners(); err != nil {
		old(t, err)
		return
	}
	tooMany := make([]uint32, 1<<16+1)
	for i := range tooMany {
		tooMany[i] = 1<<31 + uint32(i)
	}
	if err := p.OwnersAtOnce(tooMany); err == nil {
		t.Fatal("there is room for all")
	}
	c := connect(t, nstest.V4)
	inode := must(c.server.Inode())(t)
	if got := must(p.Owners([]uint32{inode}))(t); len(got) != 1 || got[0].Inode != inode {
		t.Errorf("the socket is held by %+v", got)
	}
}

// TestManyOwners asks for more sockets than fit into one pass, and than a piece of an answer
// holds.
func TestManyOwners(t *testing.T) {
	p := load(t, 100)
	if err := p.WhyNoOwners(); err != nil {
		old(t, err)
		return
	}
	l := must(nstest.Listen(nstest.V6))(t)
	defer l.Close()
	inodes := make([]uint32, 70000) // which nobody has
	for i := range inodes {
		inodes[i] = 1<<31 + uint32(i)
	}
	var want []uint32
	for range 500 {
		c := connectTo(t, l)
		want = append(want, must(c.client.Inode())(t), must(c.server.Inode())(t))
	}
	var got []uint32
	for _, o := range must(p.Owners(slices.Concat(inodes, want)))(t) {
		got = append(got, o.Inode)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("inodes (-want +got):\n%s", diff)
	}
}

// old checks that an iterator is missing for the kernel's age, where anything else works.
func old(t testing.TB, err error) {
	t.Helper()
	if kernel(t, 6, 1) {
		t.Errorf("this kernel should be able to: %v", err)
	}
	t.Logf("this kernel cannot: %v", err)
}

// kernel reports whether this kernel is of that version at least.
func kernel(t testing.TB, major, minor int) bool {
	t.Helper()
	var name unix.Utsname
	check(t, unix.Uname(&name))
	var have [2]int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &have[0], &have[1]); err != nil {
		t.Fatal(err)
	}
	return slices.Compare(have[:], []int{major, minor}) >= 0
}

// owner is what /proc says of a process that has the socket.
func owner(t testing.TB, s nstest.Socket, pid int) events.Owner {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	comm := strings.TrimSuffix(string(must(os.ReadFile(filepath.Join(dir, "comm")))(t)), "\n")
	stat := string(must(os.ReadFile(filepath.Join(dir, "stat")))(t))
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:]) // from the third on
	start := must(strconv.ParseUint(fields[22-3], 10, 64))(t)
	return events.Owner{
		Holder: sock.Holder{PID: pid, Start: start, Comm: comm},
		Inode:  must(s.Inode())(t),
	}
}

func order(owners []events.Owner) {
	slices.SortFunc(owners, func(a, b events.Owner) int { return cmp.Compare(a.PID, b.PID) })
}
