package holders

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
)

const (
	podUID      = "05b3ee07-a2bd-47e7-9599-7961201f20dd"
	containerID = "fa7f0ec4fbcbb70c69565a5b2d269926e04ec5601dff59235199d6e60198e95c"
	inPod       = "0::/kubepods/burstable/pod" + podUID + "/" + containerID + "\n"
)

func inService(name string) *sock.Owner {
	return &sock.Owner{Unit: sock.Fact{Text: name, Known: true}, ContainerID: sock.Fact{Known: true}, PodUID: sock.Fact{Known: true}}
}

// belongs puts processes into cgroups, and makes the fake /proc that of a host.
func belongs(t *testing.T, root string, cgroups map[string]string) {
	t.Helper()
	for pid, text := range cgroups {
		if err := os.WriteFile(filepath.Join(root, pid, "cgroup"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(root, "self")); err == nil {
		return
	}
	err := errors.Join(os.MkdirAll(filepath.Join(root, "1", "ns"), 0o700), os.Symlink("1", filepath.Join(root, "self")),
		os.Symlink("cgroup:[4026531835]", filepath.Join(root, "1", "ns", "cgroup")))
	if err != nil {
		t.Fatal(err)
	}
}

func TestOwners(t *testing.T) {
	fds := map[string]string{"3": "socket:[100]"}
	root := fakeProc(t, map[int]process{2: {comm: "kthreadd", stat: kthreadd}, 10: {comm: "a", fds: fds}, 11: {comm: "b", fds: fds}, 12: {comm: "c", fds: fds}, 13: {comm: "d", fds: fds}})
	belongs(t, root, map[string]string{"10": "0::/system.slice/a.service\n", "11": "0::/system.slice/a.service\n", "12": inPod})
	logs := t.TempDir()
	err := errors.Join(os.MkdirAll(filepath.Join(logs, "pods", "payments_api_"+podUID), 0o700), os.Mkdir(filepath.Join(logs, "containers"), 0o700),
		os.Symlink("/nowhere", filepath.Join(logs, "containers", "api_payments_java-"+containerID+".log")))
	if err != nil {
		t.Fatal(err)
	}
	inAPI := &sock.Owner{
		Unit:        sock.Fact{Known: true},
		ContainerID: sock.Fact{Text: containerID, Known: true}, Container: "java",
		PodUID: sock.Fact{Text: podUID, Known: true}, Pod: "payments/api",
	}
	f := NewFinder(root, nil)
	f.owners = newOwners(logs)
	find := func() map[int]*sock.Owner {
		t.Helper()
		found, err := f.Find(set([]uint32{100}))
		if err != nil {
			t.Fatal(err)
		}
		by := make(map[int]*sock.Owner)
		for _, h := range found.Holders[100] {
			by[h.PID] = h.Owner
		}
		return by
	}
	before := find()
	if diff := cmp.Diff(map[int]*sock.Owner{10: inService("a.service"), 11: inService("a.service"), 12: inAPI, 13: nil}, before); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if before[10] != before[11] {
		t.Error("two processes of one service do not share what is known of it")
	}

	belongs(t, root, map[string]string{"11": "0::/system.slice/b.service\n", "13": "0::/" + strings.Repeat("a", 4096) + "\n"})
	after := find()
	if diff := cmp.Diff(map[int]*sock.Owner{10: inService("a.service"), 11: inService("b.service"), 12: inAPI, 13: nil}, after); diff != "" {
		t.Errorf("after one has moved (-want +got):\n%s", diff)
	}
	if before[10] != after[10] || before[12] != after[12] {
		t.Error("what has not changed is another value")
	}
}

// A pod counts once, and has a name if the kubelet's logs tell it. A container in none has but its id.
func TestFindPods(t *testing.T) {
	const other = "11111111-a2bd-47e7-9599-7961201f20dd"
	root := fakeProc(t, map[int]process{2: {comm: "kthreadd", stat: kthreadd}, 10: {comm: "a"}, 11: {comm: "b"}, 12: {comm: "c"}, 13: {comm: "d"}, 14: {comm: "e"}, 15: {comm: "f"}})
	belongs(t, root, map[string]string{
		"14": "0::/docker/" + containerID + "\n", "15": "0::/docker/" + containerID + "\n",
		"10": "0::/system.slice/a.service\n", "11": inPod, "12": inPod, "13": "0::/kubepods/burstable/pod" + other + "/" + containerID + "\n",
	})
	logs := t.TempDir()
	for _, test := range []struct {
		log  string // that the kubelet has made by then
		want Pods
	}{
		{"", Pods{Unnamed: 2, Bare: 1}},
		{"payments_api_" + podUID, Pods{Named: 1, Unnamed: 1, Bare: 1}},
		{"payments_web_" + other, Pods{Named: 2, Bare: 1}},
	} {
		if err := os.MkdirAll(filepath.Join(logs, "pods", test.log), 0o700); err != nil {
			t.Fatal(err)
		}
		got, err := findPods(root, logs)
		if err != nil || got != test.want {
			t.Errorf("with %q: %+v, %v; want %+v", test.log, got, err, test.want)
		}
	}
	if _, err := findPods(filepath.Join(root, "none"), logs); err == nil {
		t.Error("no error without /proc")
	}
}

// To a reader in a cgroup namespace of its own, or whose own process is not there, what
// it does not find may be above.
func TestOwnersInNamespace(t *testing.T) {
	for name, hide := range map[string]func(root string) error{
		"another namespace": func(root string) error {
			link := filepath.Join(root, "1", "ns", "cgroup")
			return errors.Join(os.Remove(link), os.Symlink("cgroup:[4026532835]", link))
		},
		"another PID namespace": func(root string) error { return os.Remove(filepath.Join(root, "self")) },
	} {
		t.Run(name, func(t *testing.T) {
			root := fakeProc(t, map[int]process{2: {comm: "kthreadd", stat: kthreadd}, 10: {comm: "a", fds: map[string]string{"3": "socket:[100]"}}})
			belongs(t, root, map[string]string{"10": "0::/\n"})
			if err := hide(root); err != nil {
				t.Fatal(err)
			}
			found, err := Find(root, set([]uint32{100}))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&sock.Owner{}, found.Holders[100][0].Owner); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A pass names processes, and /proc says where they belong, unless they have ended.
func TestOwnersOfPass(t *testing.T) {
	const start = " (a) S 1 10 10 0 -1 0 0 0 0 0 5 5 0 0 20 0 1 0 77 0 0\n"
	root := fakeProc(t, map[int]process{10: {comm: "a", exe: "/bin/a", stat: "10" + start}, 11: {comm: "a", exe: "/bin/b", stat: "11" + start}})
	belongs(t, root, map[string]string{"10": "0::/system.slice/a.service\n", "11": "0::/system.slice/b.service\n"})
	holds := []sock.Holder{{PID: 10, Start: 77, Comm: "a"}, {PID: 11, Start: 76, Comm: "b"}, {PID: 12, Start: 70, Comm: "c"}}
	found, err := NewFinder(root, func(_ []uint32, each func(uint32, sock.Holder)) error {
		for _, h := range append(holds, holds...) {
			each(100, h)
		}
		return nil
	}).Find(set([]uint32{100}))
	if err != nil {
		t.Fatal(err)
	}
	want := []sock.Holder{{PID: 10, Start: 77, Comm: "a", Exe: "a", Owner: inService("a.service")}, holds[1], holds[2]}
	if diff := cmp.Diff(want, found.Holders[100]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Command lines are read where something asks, and compared with their arguments parted by
// spaces.
func TestCmdlines(t *testing.T) {
	fds := map[string]string{"3": "socket:[100]"}
	root := fakeProc(t, map[int]process{2: {comm: "kthreadd", stat: kthreadd}, 10: {comm: "a", fds: fds}, 11: {comm: "b", fds: fds}, 12: {comm: "c", fds: fds}, 13: {comm: "d", fds: fds}, 14: {comm: "e", fds: fds}})
	const service = "0::/system.slice/a.service\n"
	belongs(t, root, map[string]string{"10": service, "11": service, "12": service, "13": service, "14": service})
	long := strings.Repeat("x", maxCmdline-1)
	for pid, line := range map[string]string{"10": "java\x00-jar\x00/srv/shop.jar\x00", "11": long, "12": long + "xx", "13": ""} {
		if err := os.WriteFile(filepath.Join(root, pid, "cmdline"), []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := NewFinder(root, nil)
	find := func() map[int]sock.Owner {
		t.Helper()
		found, err := f.Find(set([]uint32{100}))
		if err != nil {
			t.Fatal(err)
		}
		by := make(map[int]sock.Owner)
		for _, h := range found.Holders[100] {
			by[h.PID] = *h.Owner
		}
		return by
	}
	for pid, o := range find() {
		if o.CmdlineAsked != "" {
			t.Errorf("the command line of process %d was read, and nobody had asked", pid)
		}
	}
	patterns := []string{`^java -jar .*/shop\.jar$`, "x$", "^$"}
	if err := f.AskCmdlines(patterns); err != nil {
		t.Fatal(err)
	}
	asked := sock.Patterns(patterns)
	want := map[int][2]string{10: {asked, sock.Patterns(patterns[:1])}, 11: {asked, sock.Patterns(patterns[1:2])}, 12: {}, 13: {asked, sock.Patterns(patterns[2:])}, 14: {}}
	for pid, o := range find() {
		if got := [2]string{o.CmdlineAsked, o.CmdlineMeets}; got != want[pid] {
			t.Errorf("process %d: %q, want %q", pid, got, want[pid])
		}
	}
	if err := f.AskCmdlines([]string{"("}); err == nil {
		t.Error("no error of what is no regular expression")
	}
}

// This process moves into the cgroup of a pod's container, and the real /proc says so at the
// next walk, and of its dead sockets.
func TestOwnersMove(t *testing.T) {
	home, err := nstest.OwnCgroup()
	if err != nil {
		t.Skip("needs cgroup2: ", err)
	}
	held := socket(t)
	defer unix.Close(held)
	inode := inodeOf(t, held)
	f := NewFinder("/proc", nil)
	find := func() *sock.Owner {
		t.Helper()
		found, err := f.Find(set([]uint32{inode}))
		if err != nil || len(found.Holders[inode]) != 1 || found.Holders[inode][0].Owner == nil {
			t.Fatalf("found %v, error %v", found.Holders[inode], err)
		}
		return found.Holders[inode][0].Owner
	}
	before := find()

	at := home
	for _, name := range []string{"kubepods", "pod" + podUID, containerID} {
		below, err := at.New(name)
		if err != nil {
			t.Skip("needs a cgroup of its own: ", err)
		}
		at = below
		t.Cleanup(func() {
			if err := below.Remove(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { home.Enter() }) // in vain where all went well
	if err := at.Enter(); err != nil {
		t.Skip("needs a cgroup of its own: ", err)
	}
	inside := find()
	dead, _ := FindDeadOf("/proc", []int{os.Getpid()}, nil)
	if err := home.Enter(); err != nil {
		t.Fatal(err)
	}
	if inside.PodUID.Text != podUID || inside.ContainerID.Text != containerID {
		t.Errorf("inside it belongs to %+v", inside)
	}
	if len(dead) != 1 || dead[0].Owner == nil || *dead[0].Owner != *inside {
		t.Errorf("dead sockets: %+v, want those of %+v", dead, inside)
	}
	if after := find(); after != before {
		t.Errorf("back at home it belongs to %+v, before to %+v", after, before)
	}
}
