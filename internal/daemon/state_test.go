package daemon_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/seen"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/statedir"
)

// openState opens the journal and the first-seen store in a directory, as a start
// of the watchdog does. The function that it returns closes them.
func (w *world) openState(path string) (closeState func()) {
	w.Helper()
	dir := must(statedir.Open(path))(w)
	j, _, err := journal.Open(dir, time.Now())
	check(w, err)
	store, loaded, err := seen.Open(dir, w.origin(), w.options.Now())
	check(w, err)
	w.options.Journal, w.options.Store = j, store
	w.options.Restored = engine.Restored{Memories: loaded.Memories, Spent: loaded.Spent, Groups: loaded.Groups, Stops: loaded.Stops}
	closeState = func() {
		j.Close()
		store.Close()
		dir.Close()
	}
	w.Cleanup(closeState)
	return closeState
}

// origin is this boot and network namespace.
func (w *world) origin() sock.Origin {
	w.Helper()
	return must(must(host.New())(w).Origin())(w)
}

// records are what the journal in a directory holds.
func (w *world) records(dir string) []journal.Record {
	w.Helper()
	text := must(os.ReadFile(filepath.Join(dir, "sockdog.jsonl")))(w)
	var all []journal.Record
	for line := range strings.Lines(string(text)) {
		var r journal.Record
		check(w, json.Unmarshal([]byte(line), &r))
		all = append(all, r)
	}
	return all
}

// The kernel does not know the age of a socket with keepalives, and the
// watchdog's memory of it outlives a restart.
func TestRestart(t *testing.T) {
	t.Parallel()
	const text = often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 5s}, then: kill}]\n"
	w := newWorld(t)
	dir := t.TempDir()
	p := w.pair(w.listen(nstest.V4, 5432))
	check(t, p.Client.Keepalive())
	check(t, p.Server.Keepalive())
	closeState := w.openState(dir)
	stop := w.watch(text)
	s := w.hangUp(p.Server, p.Client.CloseWrite)
	w.reach(s.since.Add(3 * time.Second))
	stop()
	closeState()
	w.lives(s, unix.BPF_TCP_CLOSE_WAIT)

	restarted := w.options.Now()
	w.openState(dir)
	w.watch(text)
	w.dies(s, 5*time.Second)
	w.knownBefore(s, restarted)
}

// A watchdog that never lives for long still heals on time what keepalives keep
// young in the kernel's eyes, also where it is killed: then the next one finds
// what was on disk at that moment.
func TestShortLives(t *testing.T) {
	t.Parallel()
	const lives, life, long = 5, 1400 * time.Millisecond, 7 * time.Second
	w := newWorld(t)
	dir := t.TempDir()
	p := w.pair(w.listen(nstest.V4, 5432))
	check(t, p.Client.Keepalive())
	check(t, p.Server.Keepalive())
	s := w.hangUp(p.Server, p.Client.CloseWrite)
	for i := range lives {
		closeState := w.openState(dir)
		stop := w.watch("rules: [{name: leak, match: {state: close-wait, in_state_for: 7s}, then: kill}]\n")
		if i == lives-1 {
			break
		}
		w.reach(s.since.Add(time.Duration(i+1) * life))
		if i%2 == 0 {
			killed := t.TempDir()
			check(t, os.CopyFS(filepath.Join(killed, "state"), os.DirFS(dir)))
			dir = filepath.Join(killed, "state")
		}
		stop()
		closeState()
	}
	if late := w.dies(s, long); late > life {
		t.Errorf("killed %v late", late)
	}
}

// knownBefore checks that what happened then did not make the watchdog count the
// age of a socket with keepalives afresh. Three seconds at least must lie between
// the beginning and then.
func (w *world) knownBefore(s stuck, then sock.Instant) {
	w.Helper()
	// A probe is answered each second, and up to that the kernel knows the age.
	const probed = 3 * time.Second / 2
	claimed := time.Duration(w.result(s.cookie, journal.Done).Age * float64(time.Second))
	if since := w.killed(s.cookie)[0].Add(-claimed); since >= then.Add(-probed) {
		w.Errorf("its age is counted from %v before that on, and it was stuck %v before", then.Sub(since), then.Sub(s.since))
	}
}

// What an earlier run knew of a connection does not count for the next one under
// its cookie.
func TestReconnectedWhileDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	l := w.listen(nstest.V4, 5432)
	connect := func(s nstest.Socket) stuck {
		check(t, s.Connect(must(l.Local())(t)))
		server := must(l.Accept())(t)
		w.closeLater(server)
		check(t, server.Keepalive())
		return w.hangUp(s, server.CloseWrite)
	}
	s := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t)
	w.closeLater(s)
	check(t, s.Keepalive())
	check(t, s.Bind(netip.AddrPortFrom(nstest.V4, 5433)))
	closeState := w.openState(dir)
	stop := w.watch(often + leakedLong)
	first := connect(s)
	w.reach(first.since.Add(bound))
	stop()
	closeState()
	check(t, s.Disconnect())
	second := connect(s)
	w.openState(dir)
	w.watch(often + leakedLong)
	w.dies(second, 2*bound)
}

// The state directory is full, or read-only: that is said once, and the leak is
// healed all the same.
func TestStateDirectoryFails(t *testing.T) {
	t.Parallel()
	refuse := func(errno unix.Errno) func(w *world) {
		return func(w *world) { w.options.Journal, w.options.Store = refusing{errno}, refusing{errno} }
	}
	for name, spoil := range map[string]func(w *world){
		"read-only": refuse(unix.EROFS),
		"failing":   refuse(unix.EIO),
		"full": func(w *world) {
			dir := smallDisk(w, 16<<10)
			w.openState(dir)
			check(w, fill(filepath.Join(dir, "ballast")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			spoil(w)
			l := w.listen(nstest.V4, 5432)
			stop := w.watch(often + leaked)
			for range 3 {
				// Keepalives make it worth remembering.
				p := w.pair(l)
				check(t, p.Server.Keepalive())
				w.dies(w.hangUp(p.Server, p.Client.CloseWrite), bound)
			}
			stop()
			for _, what := range []string{"the journal cannot be written", "the first-seen store cannot be written"} {
				if n := w.count(what); n != 1 {
					t.Errorf("%d lines say %q, want 1:\n%s", n, what, w.log)
				}
			}
		})
	}
}

// A state directory that somebody removes is missed also where there is nothing to
// write to it. Once it is there again, what belongs in it is written anew.
func TestStateDirectoryRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	current := w.show()
	dir := filepath.Join(t.TempDir(), "state")
	w.openState(dir)
	p := w.pair(w.listen(nstest.V4, 5432))
	check(t, p.Server.Keepalive())
	s := w.hangUp(p.Server, p.Client.CloseWrite)
	w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1h}, then: kill}]\n")
	check(t, os.RemoveAll(dir))
	const gone = "the directory that was opened is gone"
	problems := func() (n int) {
		for _, p := range current().Problems {
			if strings.Contains(p.Text, gone) {
				n++
			}
		}
		return n
	}
	w.until("two problems on the page", func() bool { return problems() == 2 })
	for _, what := range []string{"the journal cannot be written", "the first-seen store cannot be written"} {
		if l := w.await(what, func(l line) bool { return strings.HasPrefix(l.Msg, what) }); !strings.Contains(l.Error, gone) {
			t.Errorf("the log says %+v, want that the directory is gone", l)
		}
	}
	check(t, os.Mkdir(dir, 0o700))
	w.until("no problem on the page", func() bool { return problems() == 0 })
	beside := must(statedir.OpenToRead(dir))(t)
	defer beside.Close()
	loaded := must(seen.Read(beside, w.origin(), w.options.Now()))(t)
	if len(loaded.Memories) != 1 || loaded.Memories[0].Cookie != s.cookie {
		t.Errorf("the directory made again remembers %+v, want the one socket", loaded.Memories)
	}
}

// Once there is room again, the journal goes on with whole lines, and that is
// said.
func TestStateDirectoryRecovers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := smallDisk(w, 16<<10)
	w.openState(dir)
	ballast := filepath.Join(dir, "ballast")
	check(t, fill(ballast))
	l := w.listen(nstest.V4, 5432)
	stop := w.watch(often + leaked)
	w.dies(w.leak(l), bound)
	check(t, os.Remove(ballast))
	last := w.leak(l)
	w.dies(last, bound)
	stop()
	for _, what := range []string{"the journal can be written again", "the first-seen store can be written again"} {
		if n := w.count(what); n != 1 {
			t.Errorf("%d lines say %q, want 1", n, what)
		}
	}
	var results []journal.Result
	for _, r := range w.records(dir) {
		if r.Cookie == last.cookie {
			results = append(results, r.Result)
		}
	}
	if want := []journal.Result{journal.Intent, journal.Done}; !slices.Equal(results, want) {
		t.Errorf("the journal has %q of the last kill, want %q", results, want)
	}
}

// refusing is a state directory that takes nothing.
type refusing struct{ errno unix.Errno }

func (r refusing) NextSeq() uint64                 { return 1 }
func (r refusing) Append([]journal.Record) error   { return r.errno }
func (r refusing) Put([]sock.Memory) error         { return r.errno }
func (r refusing) Forget([]sock.Key) error         { return r.errno }
func (r refusing) Spend([]sock.Spent) error        { return r.errno }
func (r refusing) Keep([]sock.Group) error         { return r.errno }
func (r refusing) KeepStops([]sock.RuleStop) error { return r.errno }

// smallDisk returns a directory on a file system of its own.
func smallDisk(w *world, size int) string {
	w.Helper()
	type mounted struct {
		fd  int
		err error
	}
	done := make(chan mounted)
	go func() {
		runtime.LockOSThread() // never unlocked: its mount namespace ends with the thread
		fd, err := mountTmpfs(size)
		done <- mounted{fd, err}
	}()
	m := <-done
	check(w, m.err)
	w.Cleanup(func() { unix.Close(m.fd) })
	return fmt.Sprintf("/proc/self/fd/%d", m.fd)
}

// mountTmpfs returns a descriptor of a tmpfs that is mounted in no directory.
func mountTmpfs(size int) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return 0, err
	}
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fs)
	err = errors.Join(unix.FsconfigSetString(fs, "size", fmt.Sprint(size)), unix.FsconfigCreate(fs))
	if err != nil {
		return 0, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
}

// fill writes a file until there is no room.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 4096)); errors.Is(err, unix.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
