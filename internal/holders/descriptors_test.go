package holders

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
)

// What is read of this process follows what it opens, and its limit.
func TestReadDescriptors(t *testing.T) {
	read := func() Descriptors {
		t.Helper()
		d, err := ReadDescriptors("/proc", os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	before := read()
	const more = 50
	for range more {
		fd := socket(t)
		t.Cleanup(func() { unix.Close(fd) })
	}
	after := read()
	// The runtime and other tests may open and close some of their own meanwhile.
	if got := after.Used - before.Used; got < more-10 || got > more+10 {
		t.Errorf("%d descriptors more, want %d", got, more)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if after.Limit != limit.Cur {
		t.Errorf("a limit of %d, want %d", after.Limit, limit.Cur)
	}
	if _, err := ReadDescriptors("/proc", 1<<30); err == nil {
		t.Error("no error for a process that there is not")
	}
}

// What is read by the number of a process is that of its life, and not of a later one's.
func TestReadOfAnother(t *testing.T) {
	self := sock.Holder{PID: os.Getpid(), Start: must(ReadStart("/proc", os.Getpid()))(t)}
	another := self
	another.Start--
	for h, same := range map[sock.Holder]bool{self: true, {PID: self.PID}: true, another: false} {
		if d, err := ReadDescriptorsOf("/proc", h); (err == nil) != same || same != (d.Used > 0) {
			t.Errorf("started at %d: %+v, %v", h.Start, d, err)
		}
		if _, err := ReadAccepting("/proc", h); (err == nil) != same {
			t.Errorf("started at %d: %v", h.Start, err)
		}
	}
}

// Without privileges, descriptors of other users' processes can be counted since Linux 6.2,
// and not be read.
func TestReadDescriptorsOfOthers(t *testing.T) {
	nstest.WithoutCapabilities(t, func() {
		if _, err := ReadDescriptors("/proc", 1); err != nil && !refused(err) {
			t.Errorf("error %v", err)
		}
	})
}

// Where the directory tells no number, as before Linux 6.2, its entries are counted.
func TestReadDescriptorsByCounting(t *testing.T) {
	root := fakeProc(t, map[int]process{10: {comm: "x", fds: map[string]string{"0": "/dev/null", "7": "socket:[3]"}}})
	for _, test := range []struct {
		name, limits string
		want         Descriptors
		bad          bool
	}{
		{"a limit", "Limit  Soft Limit  Hard Limit  Units\nMax processes  5  6  processes\nMax open files            1024                 1048576              files\n", Descriptors{2, 1024}, false},
		{"none", "Max open files            unlimited            unlimited            files\n", Descriptors{2, 0}, false},
		{"cut short", "Max open files            1024", Descriptors{}, true},
		{"not a number", "Max open files            many  9  files\n", Descriptors{}, true},
		{"another file", "Max stack size  1 2 bytes\n", Descriptors{}, true},
	} {
		if err := os.WriteFile(filepath.Join(root, "10", "limits"), []byte(test.limits), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadDescriptors(root, 10)
		if diff := cmp.Diff(test.want, got); diff != "" || (err != nil) != test.bad {
			t.Errorf("%s: error %v (-want +got):\n%s", test.name, err, diff)
		}
	}
}
