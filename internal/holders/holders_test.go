package holders

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
)

// Lines of /proc/PID/stat: kthreadd's, and that of a process which would like
// to pass for it.
const (
	kthreadd = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 25 0 0\n"
	pretend  = "2 (x) S 0 0 0 0 -1 2129984 () S 1 2 2 0 -1 4194560 0 0 0 0 0 0 0 0 20 0\n"
)

// process is one to be put under a root directory that is not /proc.
type process struct {
	comm, exe, stat string
	fds             map[string]string
}

func fakeProc(t *testing.T, processes map[int]process) string {
	t.Helper()
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(filepath.Join(root, "uptime"), []byte("1.0 2.0\n"), 0o600))
	for pid, p := range processes {
		dir := filepath.Join(root, strconv.Itoa(pid))
		must(os.Mkdir(dir, 0o700))
		if p.comm == "" {
			continue // has ended since its name was read
		}
		must(os.Mkdir(filepath.Join(dir, "fd"), 0o700))
		must(os.WriteFile(filepath.Join(dir, "comm"), []byte(p.comm+"\n"), 0o600))
		must(os.WriteFile(filepath.Join(dir, "stat"), []byte(p.stat), 0o600))
		if p.exe != "" {
			must(os.Symlink(p.exe, filepath.Join(dir, "exe")))
		}
		for fd, target := range p.fds {
			must(os.Symlink(target, filepath.Join(dir, "fd", fd)))
		}
	}
	return root
}

func TestFind(t *testing.T) {
	tests := []struct {
		name      string
		processes map[int]process
		wanted    []uint32
		want      Found
	}{
		{
			name: "one holder with several descriptors of one socket",
			processes: map[int]process{
				2: {comm: "kthreadd", stat: kthreadd},
				10: {comm: "postgres", exe: "/usr/lib/postgres", fds: map[string]string{
					"0": "/dev/null", "1": "pipe:[100]", "5": "socket:[100]", "6": "socket:[100]", "7": "socket:[101]",
				}},
			},
			wanted: []uint32{100},
			want: Found{
				Holders:  map[uint32][]sock.Holder{100: {{PID: 10, Comm: "postgres", Exe: "postgres"}}},
				Complete: true,
			},
		},
		{
			name: "a socket shared by a parent and its child",
			processes: map[int]process{
				2:  {comm: "kthreadd", stat: kthreadd},
				10: {comm: "nginx", exe: "/usr/sbin/nginx", fds: map[string]string{"3": "socket:[4294967295]"}},
				11: {comm: "nginx: worker", exe: "/usr/sbin/nginx (deleted)", fds: map[string]string{"4": "socket:[4294967295]"}},
			},
			wanted: []uint32{4294967295, 8},
			want: Found{
				Holders: map[uint32][]sock.Holder{4294967295: {
					{PID: 10, Comm: "nginx", Exe: "nginx"},
					{PID: 11, Comm: "nginx: worker", Exe: "nginx"},
				}},
				Complete: true,
			},
		},
		{
			name: "an executable that cannot be read",
			processes: map[int]process{
				2:  {comm: "kthreadd", stat: kthreadd},
				10: {comm: "a\nb", fds: map[string]string{"3": "socket:[100]"}},
			},
			wanted: []uint32{100},
			want: Found{
				Holders:  map[uint32][]sock.Holder{100: {{PID: 10, Comm: "a\nb"}}},
				Complete: true,
			},
		},
		{
			name:      "a process that ends meanwhile",
			processes: map[int]process{2: {comm: "kthreadd", stat: kthreadd}, 10: {}},
			wanted:    []uint32{100},
			want:      Found{Holders: map[uint32][]sock.Holder{}, Complete: true},
		},
		{
			name: "another PID namespace",
			processes: map[int]process{
				2: {comm: "x) S 1 2 2 0 -1 2129984", stat: pretend},
			},
			wanted: []uint32{100},
			want:   Found{Holders: map[uint32][]sock.Holder{}},
		},
		{
			name:      "processes hidden",
			processes: map[int]process{10: {comm: "sockdog"}},
			wanted:    []uint32{100},
			want:      Found{Holders: map[uint32][]sock.Holder{}},
		},
		{
			name: "links that only look like sockets",
			processes: map[int]process{
				2: {comm: "kthreadd", stat: kthreadd},
				10: {comm: "x", fds: map[string]string{
					"1": "socket:[]", "2": "socket:[100", "3": "socket:[4294967396]", "4": "/socket:[100]", "5": "socket:[+100]",
				}},
			},
			wanted: []uint32{100},
			want:   Found{Holders: map[uint32][]sock.Holder{}, Complete: true},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			root := fakeProc(t, test.processes)
			got, err := Find(root, set(test.wanted))
			if err != nil {
				t.Fatal(err)
			}
			byPID := cmpopts.SortSlices(func(a, b sock.Holder) bool { return a.PID < b.PID })
			if diff := cmp.Diff(test.want, got, byPID, cmpopts.IgnoreFields(Found{}, "Access")); diff != "" {
				t.Errorf("found (-want +got):\n%s", diff)
			}
		})
	}
}

func set(inodes []uint32) map[uint32]struct{} {
	s := make(map[uint32]struct{})
	for _, inode := range inodes {
		s[inode] = struct{}{}
	}
	return s
}

// TestFindMany lists more than one buffer holds, of processes and descriptors.
func TestFindMany(t *testing.T) {
	const processes, fds = 40, 1500
	all := map[int]process{2: {comm: "kthreadd", stat: kthreadd}}
	var wanted []uint32
	for p := range processes {
		all[1000+p] = process{comm: "p", fds: map[string]string{"0": fmt.Sprintf("socket:[%d]", 1e6+p)}}
		wanted = append(wanted, uint32(1e6+p))
	}
	many := process{comm: "many", fds: make(map[string]string)}
	for fd := range fds {
		many.fds[strconv.Itoa(fd)] = fmt.Sprintf("socket:[%d]", 2e6+fd)
		wanted = append(wanted, uint32(2e6+fd))
	}
	all[999] = many
	got, err := Find(fakeProc(t, all), set(wanted))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Holders) != len(wanted) || !got.Complete {
		t.Errorf("found %d of %d sockets, complete %t", len(got.Holders), len(wanted), got.Complete)
	}
}

// TestFindRefused: a process that hides its descriptors costs completeness and
// nothing else.
func TestFindRefused(t *testing.T) {
	root := fakeProc(t, map[int]process{
		2:  {comm: "kthreadd", stat: kthreadd},
		10: {comm: "secret", fds: map[string]string{"3": "socket:[100]"}},
		11: {comm: "open", fds: map[string]string{"3": "socket:[100]"}},
	})
	hidden := filepath.Join(root, "10", "fd")
	if err := os.Chmod(hidden, 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(hidden, 0o700)
	nstest.WithoutCapabilities(t, func() {
		got, err := Find(root, set([]uint32{100}))
		if err != nil {
			t.Fatal(err)
		}
		want := Found{Holders: map[uint32][]sock.Holder{100: {{PID: 11, Comm: "open"}}}}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Found{}, "Access", "Settled")); diff != "" {
			t.Errorf("found (-want +got):\n%s", diff)
		}
	})
}

// What can be read is told apart from what cannot, and the first of these is named.
func TestAccess(t *testing.T) {
	root := fakeProc(t, map[int]process{
		2:  {comm: "kthreadd", stat: kthreadd},
		10: {comm: "secret", fds: map[string]string{"3": "socket:[100]"}},
		11: {comm: "open", fds: map[string]string{"3": "socket:[100]"}},
		12: {},
	})
	hidden := filepath.Join(root, "10", "fd")
	if err := os.Chmod(hidden, 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(hidden, 0o700)
	nstest.WithoutCapabilities(t, func() {
		found, err := Find(root, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := Access{AllShown: true, Processes: 4, Refused: 1, First: sock.Holder{PID: 10, Comm: "secret"}}
		if diff := cmp.Diff(want, found.Access); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if found.Complete {
			t.Error("taken for complete")
		}
	})
}

func TestFindNoRoot(t *testing.T) {
	_, err := Find(filepath.Join(t.TempDir(), "none"), set([]uint32{1}))
	if err == nil {
		t.Fatal("no error where there is no root directory")
	}
}
