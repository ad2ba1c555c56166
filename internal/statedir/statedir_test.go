package statedir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	file     = "seen"
	stranger = 4711 // a user that this process is not
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// needRoot skips what only root can set up: files of another user.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: no file can be made another user's")
	}
}

func openDir(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	must(t, err)
	t.Cleanup(d.Close)
	return d
}

// quickly fails where f waits for somebody, as opening a FIFO does.
func quickly(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it hangs")
	}
}

func refused(t *testing.T, err error, because string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), because) {
		t.Errorf("error %v, want one with %q", err, because)
	}
}

// TestPlanted: what somebody put under a name that sockdog uses is neither
// followed nor opened, written to, truncated or waited for.
func TestPlanted(t *testing.T) {
	for _, test := range []struct {
		name    string
		plant   func(t *testing.T, path, victim string)
		because string
	}{
		{"a link", func(t *testing.T, path, victim string) { must(t, os.Symlink(victim, path)) }, "symbolic link"},
		{"a link to a file beside it", func(t *testing.T, path, _ string) { must(t, os.Symlink(lockName, path)) }, "symbolic link"},
		{"a link to nothing", func(t *testing.T, path, victim string) { must(t, os.Symlink(victim+"2", path)) }, "symbolic link"},
		{"a second name", func(t *testing.T, path, victim string) { must(t, os.Link(victim, path)) }, "2 names"},
		{"a FIFO", func(t *testing.T, path, _ string) { must(t, unix.Mkfifo(path, 0o600)) }, "not a regular file"},
		{"a directory", func(t *testing.T, path, _ string) { must(t, os.Mkdir(path, 0o700)) }, "not a regular file"},
		{"a device", func(t *testing.T, path, _ string) {
			needRoot(t)
			must(t, unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		}, "not a regular file"},
		{"another user's file", func(t *testing.T, path, _ string) {
			needRoot(t)
			must(t, os.WriteFile(path, []byte("theirs"), 0o666))
			must(t, os.Chown(path, stranger, stranger))
		}, "belongs to user 4711"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			victim := filepath.Join(t.TempDir(), "victim")
			must(t, os.WriteFile(victim, []byte("precious"), 0o644))
			d := openDir(t, path)
			test.plant(t, filepath.Join(path, file), victim)
			quickly(t, func() {
				for _, flag := range []int{os.O_RDONLY, os.O_RDWR | os.O_CREATE, os.O_RDWR | os.O_CREATE | os.O_APPEND} {
					_, err := d.OpenFile(file, flag)
					refused(t, err, test.because)
				}
			})
			// The lock is a file as any other.
			d.Close()
			must(t, os.Remove(filepath.Join(path, lockName)))
			must(t, os.Rename(filepath.Join(path, file), filepath.Join(path, lockName)))
			quickly(t, func() {
				_, err := Open(path)
				refused(t, err, test.because)
			})
			text, err := os.ReadFile(victim)
			must(t, err)
			info, err := os.Stat(victim)
			must(t, err)
			if string(text) != "precious" || info.Mode().Perm() != 0o644 {
				t.Errorf("what it leads to holds %q now, mode %v", text, info.Mode())
			}
			if _, err := os.Lstat(victim + "2"); err == nil {
				t.Error("what it leads to was made")
			}
		})
	}
}

// TestCreate: what stands under the name goes, and not what it leads to.
func TestCreate(t *testing.T) {
	d := openDir(t, t.TempDir())
	victim := filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(victim, []byte("precious"), 0o644))
	for _, plant := range []func(path string) error{
		func(path string) error { return os.Symlink(victim, path) },
		func(path string) error { return os.Link(victim, path) },
		func(path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		must(t, plant(filepath.Join(d.Path(), file)))
		quickly(t, func() {
			f, err := d.create(file, 0)
			must(t, err)
			defer f.Close()
			_, err = f.WriteString("state")
			must(t, err)
			if there, err := d.Holds(file, f); !there || err != nil {
				t.Error("the new file is not under its name")
			}
		})
		must(t, d.Remove(file))
	}
	if text, _ := os.ReadFile(victim); string(text) != "precious" {
		t.Errorf("what a link led to holds %q", text)
	}
}

// TestModes: what earlier versions, or a careless umask, left open is closed.
func TestModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	defer unix.Umask(unix.Umask(0))
	d := openDir(t, path)
	must(t, os.WriteFile(filepath.Join(path, "old"), nil, 0o666))
	for _, name := range []string{"new", "old"} {
		f, err := d.OpenFile(name, os.O_RDWR|os.O_CREATE)
		must(t, err)
		must(t, f.Close())
	}
	for name, want := range map[string]fs.FileMode{".": 0o700, "..": 0o700, "new": 0o600, "old": 0o600, lockName: 0o600} {
		info, err := os.Stat(filepath.Join(path, name))
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode().Perm(), want)
		}
	}
}

// TestDirectory: no state in a directory that others may write to.
func TestDirectory(t *testing.T) {
	for _, test := range []struct {
		name  string
		mode  os.FileMode
		owner int
		write string // why it is not written to; empty: it is
		read  string
	}{
		{"ours", 0o700, 0, "", ""},
		{"readable", 0o755, 0, "", ""},
		{"writable to its group", 0o770, 0, "others may write", "others may write"},
		{"writable to all", 0o777, 0, "others may write", "others may write"},
		{"sticky", 0o777 | os.ModeSticky, 0, "", ""},
		{"another user's", 0o700, stranger, "belongs to user 4711", ""},
		{"another user's, sticky", 0o777 | os.ModeSticky, stranger, "belongs to user 4711", ""},
		{"another user's, writable to all", 0o777, stranger, "belongs to user 4711", "others may write"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := t.TempDir()
			must(t, os.Chmod(path, test.mode))
			if test.owner != 0 {
				needRoot(t)
				must(t, os.Chown(path, test.owner, test.owner))
			}
			for _, open := range []struct {
				open func(string) (*Dir, error)
				why  string
			}{{Open, test.write}, {OpenToRead, test.read}} {
				d, err := open.open(path)
				if err == nil {
					d.Close()
				}
				if open.why != "" {
					refused(t, err, open.why)
				} else if err != nil {
					t.Errorf("not opened: %v", err)
				}
			}
		})
	}
}

// TestWay: links on the way are followed where they are root's or ours.
func TestWay(t *testing.T) {
	base := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(base, "private", "state"), 0o700))
	must(t, os.Symlink("private/state", filepath.Join(base, "relative")))
	must(t, os.Symlink(filepath.Join(base, "relative"), filepath.Join(base, "absolute")))
	must(t, os.Symlink("loop", filepath.Join(base, "loop")))
	must(t, os.WriteFile(filepath.Join(base, "file"), nil, 0o600))
	inside, err := os.Open(filepath.Join(base, "private"))
	must(t, err)
	defer inside.Close()
	for _, path := range []string{
		base + "/absolute", base + "/relative/", base + "/./private/../relative", "/proc/self/fd/" + strconv.Itoa(int(inside.Fd())) + "/state",
	} {
		d, err := Open(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if _, err := os.Stat(filepath.Join(base, "private", "state", lockName)); err != nil {
			t.Errorf("%s leads elsewhere: %v", path, err)
		}
		d.Close()
	}
	t.Chdir(base)
	openDir(t, "relative").Close()
	for path, want := range map[string]error{base + "/loop/x": unix.ELOOP, base + "/file": unix.ENOTDIR, base + "/file/x": unix.ENOTDIR} {
		if _, err := Open(path); !errors.Is(err, want) {
			t.Errorf("open %q: %v, want %v", path, err, want)
		}
	}
	if _, err := OpenToRead(base + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open what is not there, to read: %v", err)
	}

	needRoot(t)
	must(t, os.Lchown(filepath.Join(base, "relative"), stranger, stranger))
	_, err = Open(base + "/absolute")
	refused(t, err, "relative is a symbolic link of user 4711")
}

// TestLock: one process writes, and others read beside it.
func TestLock(t *testing.T) {
	d := openDir(t, t.TempDir())
	if _, err := Open(d.Path()); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	reader, err := OpenToRead(d.Path())
	must(t, err)
	defer reader.Close()
	if _, err := reader.OpenFile(file, os.O_RDONLY); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read what is not there: %v", err)
	}
	f, err := d.OpenFile(file, os.O_RDWR|os.O_CREATE)
	must(t, err)
	must(t, f.Close())
	f, err = reader.OpenFile(file, os.O_RDONLY)
	must(t, err)
	must(t, f.Close())
	d.Close()
	openDir(t, d.Path())
}

// TestReadAsRoot: root reads what the daemon's own user keeps, and nothing that
// somebody else put there.
func TestReadAsRoot(t *testing.T) {
	needRoot(t)
	path := t.TempDir()
	must(t, os.Chown(path, stranger, stranger))
	for name, owner := range map[string]int{"theirs": stranger, "foreign": stranger + 1} {
		must(t, os.WriteFile(filepath.Join(path, name), nil, 0o644))
		must(t, os.Chown(filepath.Join(path, name), owner, owner))
	}
	d, err := OpenToRead(path)
	must(t, err)
	defer d.Close()
	f, err := d.OpenFile("theirs", os.O_RDONLY)
	must(t, err)
	must(t, f.Close())
	_, err = d.OpenFile("foreign", os.O_RDONLY)
	refused(t, err, "belongs to user 4712")
}

// TestCheck: a directory that is removed is noticed; one that is made again in its
// place is used.
func TestCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	d := openDir(t, path)
	must(t, d.Check())

	must(t, os.RemoveAll(path))
	if err := d.Check(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is gone, and Check says %v", err)
	}
	must(t, os.Mkdir(path, 0o777))
	must(t, os.Chmod(path, 0o777))
	refused(t, d.Check(), "others may write")
	must(t, os.Chmod(path, 0o700))
	must(t, d.Check())
	f, err := d.OpenFile(file, os.O_RDWR|os.O_CREATE)
	must(t, err)
	must(t, f.Close())
	if _, err := os.Stat(filepath.Join(path, file)); err != nil {
		t.Errorf("what is written goes elsewhere: %v", err)
	}
	if _, err := Open(path); !errors.Is(err, ErrInUse) {
		t.Errorf("the new directory is not locked: %v", err)
	}

	// Who removes all files removes the lock.
	must(t, os.Remove(filepath.Join(path, lockName)))
	must(t, d.Check())
	if _, err := Open(path); !errors.Is(err, ErrInUse) {
		t.Errorf("the directory is not locked any more: %v", err)
	}

	// What another sockdog took meanwhile stays its own.
	must(t, os.Rename(path, path+".old"))
	other := openDir(t, path)
	if err := d.Check(); !errors.Is(err, ErrInUse) {
		t.Errorf("another one has the directory, and Check says %v", err)
	}
	other.Close()
	must(t, d.Check())
}
