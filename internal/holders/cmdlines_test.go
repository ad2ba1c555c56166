package holders

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// A process whose command line the kernel does not tell holds up no walk: nothing is known of that
// line, it is waited for once, and it counts again once the kernel has answered.
func TestCmdlineThatHangs(t *testing.T) {
	fds := map[string]string{"3": "socket:[100]"}
	processes := map[int]process{2: {comm: "kthreadd", stat: kthreadd}}
	belonging := make(map[string]string)
	for pid := 10; pid < 13; pid++ {
		processes[pid], belonging[strconv.Itoa(pid)] = process{comm: "a", stat: statOf(pid, "S", 0, 1), fds: fds}, "0::/system.slice/a.service\n"
	}
	root := fakeProc(t, processes)
	belongs(t, root, belonging)
	line := func(pid int) string { return filepath.Join(root, strconv.Itoa(pid), "cmdline") }
	if err := errors.Join(os.WriteFile(line(10), []byte("java\x00"), 0o600), unix.Mkfifo(line(11), 0o600), os.WriteFile(line(12), []byte("java\x00"), 0o600)); err != nil {
		t.Fatal(err)
	}
	// Whoever has it open for writing keeps who reads it waiting, as the kernel does.
	writer := must(unix.Open(line(11), unix.O_RDWR|unix.O_CLOEXEC, 0))(t)
	f := NewFinder(root, nil)
	if err := f.AskCmdlines([]string{"java"}); err != nil {
		t.Fatal(err)
	}
	find := func(hung string, known ...int) {
		t.Helper()
		found := must(f.Find(set([]uint32{100})))(t)
		if found.Hung != hung || len(found.Holders[100]) != 3 {
			t.Errorf("%d holders, %q, want %q", len(found.Holders[100]), found.Hung, hung)
		}
		got := make(map[int]bool)
		for _, h := range found.Holders[100] {
			if meets, _ := h.Owner.Cmdline("java"); meets {
				got[h.PID] = true
			} else if h.Owner.CmdlineAsked != "" {
				t.Errorf("process %d does not meet it for certain", h.PID)
			}
		}
		if len(got) != len(known) {
			t.Errorf("known of %v, want %v", got, known)
		}
	}
	const hangs = "process 11 hangs when its command line is read, as on a stuck mount: whether it is meant cannot be known"
	find(hangs, 10, 12)
	began := time.Now()
	find(hangs, 10, 12)
	if took := time.Since(began); took >= lineTimeout {
		t.Errorf("it was waited for again: %v", took)
	}
	pass := func(_ []uint32, each func(uint32, sock.Holder)) error {
		for pid := 10; pid < 13; pid++ {
			each(100, sock.Holder{PID: pid, Start: 77, Comm: "a"})
		}
		return nil
	}
	f.pass = pass
	find(hangs, 10, 12)
	f.pass = nil

	if _, err := unix.Write(writer, []byte("java\x00")); err != nil {
		t.Fatal(err)
	}
	unix.Close(writer)
	for deadline := time.Now().Add(time.Minute); f.Hung() != ""; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it has answered, and is still said to hang")
		}
	}
	if err := errors.Join(os.Remove(line(11)), os.WriteFile(line(11), []byte("java\x00"), 0o600)); err != nil {
		t.Fatal(err)
	}
	find("", 10, 11, 12)
}
