package reload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/readfile"
)

// deadline is how long a test waits for what must come. It is short of slowPoll,
// so that what only the poll would find fails the test.
const deadline = 10 * time.Second

// watching runs a Watcher of path until the test ends, and then checks that
// nothing of it is left.
func watching(t *testing.T, path string) *Watcher {
	t.Helper()
	w := New(path, func(err error) { t.Errorf("unexpected warning: %v", err) })
	running(t, w)
	return w
}

func running(t *testing.T, w *Watcher) {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	fds := inotifyFDs(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		goleak.VerifyNone(t, leaks)
		if now := inotifyFDs(t); len(now) != len(fds) {
			t.Errorf("inotify descriptors: %d before Run, %d after it", len(fds), len(now))
		}
	})
}

// inotifyFDs returns the names under /proc/self/fdinfo of this process's inotify instances.
func inotifyFDs(t *testing.T) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, link := range links {
		if target, _ := os.Readlink(link); target == "anon_inode:inotify" {
			found = append(found, filepath.Join("/proc/self/fdinfo", filepath.Base(link)))
		}
	}
	return found
}

func receive(t *testing.T, w *Watcher) File {
	t.Helper()
	select {
	case file := <-w.Files():
		return file
	case <-time.After(deadline):
		t.Fatal("no reading was delivered")
		return File{}
	}
}

func want(t *testing.T, w *Watcher, data string) {
	t.Helper()
	file := receive(t, w)
	if file.Err != nil || string(file.Data) != data {
		t.Fatalf("delivered %q, %v; want %q", file.Data, file.Err, data)
	}
}

func wantError(t *testing.T, w *Watcher, text string) {
	t.Helper()
	file := receive(t, w)
	if file.Err == nil || !strings.Contains(file.Err.Error(), text) || file.Data != nil {
		t.Fatalf("delivered %q, %v; want an error with %q", file.Data, file.Err, text)
	}
}

// eventually receives until data is delivered: what a writer does in several
// steps may be read between any two.
func eventually(t *testing.T, w *Watcher, data string) {
	t.Helper()
	for {
		if file := receive(t, w); file.Err == nil && string(file.Data) == data {
			return
		}
	}
}

// quiet fails if anything is delivered while the events of before are settled.
func quiet(t *testing.T, w *Watcher) {
	t.Helper()
	select {
	case file := <-w.Files():
		t.Fatalf("delivered %q, %v, though nothing changed", file.Data, file.Err)
	case <-time.After(3 * settle):
	}
}

func write(t *testing.T, path, data string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(data), 0o644))
}

// replace writes a new file and renames it over path.
func replace(t *testing.T, path, data string) {
	t.Helper()
	write(t, path+".new", data)
	must(t, os.Rename(path+".new", path))
}

// relink points a symbolic link elsewhere in one step.
func relink(t *testing.T, target, link string) {
	t.Helper()
	must(t, os.Symlink(target, link+".new"))
	must(t, os.Rename(link+".new", link))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestChanges makes each kind of change several times over, because a watch that
// was not renewed still sees the first.
func TestChanges(t *testing.T) {
	tests := []struct {
		name   string
		path   string // below the test's directory
		setup  func(t *testing.T, dir, data string)
		change func(t *testing.T, dir string, n int, data string)
	}{
		{
			name:  "written in place",
			path:  "rules.yaml",
			setup: func(t *testing.T, dir, data string) { write(t, dir+"/rules.yaml", data) },
			change: func(t *testing.T, dir string, _ int, data string) {
				write(t, dir+"/rules.yaml", data)
			},
		},
		{
			name:  "renamed over",
			path:  "rules.yaml",
			setup: func(t *testing.T, dir, data string) { write(t, dir+"/rules.yaml", data) },
			change: func(t *testing.T, dir string, _ int, data string) {
				replace(t, dir+"/rules.yaml", data)
			},
		},
		{
			name:  "moved to a backup, written anew, backup removed", // as vim does
			path:  "rules.yaml",
			setup: func(t *testing.T, dir, data string) { write(t, dir+"/rules.yaml", data) },
			change: func(t *testing.T, dir string, _ int, data string) {
				must(t, os.Rename(dir+"/rules.yaml", dir+"/rules.yaml~"))
				write(t, dir+"/rules.yaml", data)
				must(t, os.Remove(dir+"/rules.yaml~"))
			},
		},
		{
			name:  "removed and made again",
			path:  "rules.yaml",
			setup: func(t *testing.T, dir, data string) { write(t, dir+"/rules.yaml", data) },
			change: func(t *testing.T, dir string, _ int, data string) {
				must(t, os.Remove(dir+"/rules.yaml"))
				write(t, dir+"/rules.yaml", data)
			},
		},
		{
			name: "ConfigMap", // as the kubelet's AtomicWriter does
			path: "rules.yaml",
			setup: func(t *testing.T, dir, data string) {
				must(t, os.Mkdir(dir+"/..0", 0o755))
				write(t, dir+"/..0/rules.yaml", data)
				must(t, os.Symlink("..0", dir+"/..data"))
				must(t, os.Symlink("..data/rules.yaml", dir+"/rules.yaml"))
			},
			change: func(t *testing.T, dir string, n int, data string) {
				must(t, os.Mkdir(fmt.Sprintf("%s/..%d", dir, n), 0o755))
				write(t, fmt.Sprintf("%s/..%d/rules.yaml", dir, n), data)
				relink(t, fmt.Sprintf("..%d", n), dir+"/..data")
				must(t, os.RemoveAll(fmt.Sprintf("%s/..%d", dir, n-1)))
			},
		},
		{
			name: "behind a link, written in place",
			path: "rules.yaml",
			setup: func(t *testing.T, dir, data string) {
				must(t, os.Mkdir(dir+"/real", 0o755))
				write(t, dir+"/real/rules.yaml", data)
				must(t, os.Symlink(dir+"/real/rules.yaml", dir+"/rules.yaml"))
			},
			change: func(t *testing.T, dir string, _ int, data string) {
				write(t, dir+"/real/rules.yaml", data)
			},
		},
		{
			name: "release directory relinked",
			path: "current/etc/rules.yaml",
			setup: func(t *testing.T, dir, data string) {
				must(t, os.MkdirAll(dir+"/release0/etc", 0o755))
				write(t, dir+"/release0/etc/rules.yaml", data)
				must(t, os.Symlink("release0", dir+"/current"))
			},
			change: func(t *testing.T, dir string, n int, data string) {
				must(t, os.MkdirAll(fmt.Sprintf("%s/release%d/etc", dir, n), 0o755))
				write(t, fmt.Sprintf("%s/release%d/etc/rules.yaml", dir, n), data)
				relink(t, fmt.Sprintf("release%d", n), dir+"/current")
			},
		},
		{
			name: "directory removed and made again",
			path: "etc/rules.yaml",
			setup: func(t *testing.T, dir, data string) {
				must(t, os.Mkdir(dir+"/etc", 0o755))
				write(t, dir+"/etc/rules.yaml", data)
			},
			change: func(t *testing.T, dir string, _ int, data string) {
				must(t, os.RemoveAll(dir+"/etc"))
				must(t, os.Mkdir(dir+"/etc", 0o755))
				write(t, dir+"/etc/rules.yaml", data)
			},
		},
		{
			name: "directory moved away and made again",
			path: "etc/rules.yaml",
			setup: func(t *testing.T, dir, data string) {
				must(t, os.Mkdir(dir+"/etc", 0o755))
				write(t, dir+"/etc/rules.yaml", data)
			},
			change: func(t *testing.T, dir string, n int, data string) {
				must(t, os.Rename(dir+"/etc", fmt.Sprintf("%s/etc.old%d", dir, n)))
				must(t, os.Mkdir(dir+"/etc", 0o755))
				write(t, dir+"/etc/rules.yaml", data)
			},
		},
		{
			name: "parent's parent removed and made again",
			path: "a/b/c/rules.yaml",
			setup: func(t *testing.T, dir, data string) {
				must(t, os.MkdirAll(dir+"/a/b/c", 0o755))
				write(t, dir+"/a/b/c/rules.yaml", data)
			},
			change: func(t *testing.T, dir string, _ int, data string) {
				must(t, os.RemoveAll(dir+"/a"))
				must(t, os.MkdirAll(dir+"/a/b/c", 0o755))
				write(t, dir+"/a/b/c/rules.yaml", data)
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			test.setup(t, dir, "0")
			w := watching(t, filepath.Join(dir, test.path))
			want(t, w, "0")
			for n := 1; n <= 3; n++ {
				data := fmt.Sprint(n)
				test.change(t, dir, n, data)
				eventually(t, w, data)
			}
		})
	}
}

func TestRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "rules.yaml", "0")
	w := watching(t, "rules.yaml")
	want(t, w, "0")
	replace(t, "rules.yaml", "1")
	want(t, w, "1")
}

func TestUnchangedBytesAreNotDelivered(t *testing.T) {
	path := t.TempDir() + "/rules.yaml"
	write(t, path, "0")
	w := watching(t, path)
	want(t, w, "0")
	replace(t, path, "0")
	quiet(t, w)
}

// TestErrors has the file replaced by what cannot be read, and the same file put
// back: it is delivered again, for the error stood in its place.
func TestErrors(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(t *testing.T, path string)
		want  string
	}{
		{"missing", func(*testing.T, string) {}, "no such file"},
		{"a directory", func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o755)) }, "it is a directory"},
		{"a FIFO", func(t *testing.T, path string) { must(t, syscall.Mkfifo(path, 0o644)) }, "not a regular file (p---------)"},
		{"a link to itself", func(t *testing.T, path string) { must(t, os.Symlink(path, path)) }, "too many levels of symbolic links"},
		{"a link to nothing", func(t *testing.T, path string) { must(t, os.Symlink("nothing", path)) }, "no such file"},
		{"too large", func(t *testing.T, path string) {
			must(t, os.WriteFile(path, bytes.Repeat([]byte("#"), readfile.Most+1), 0o644))
		}, "larger than 1048576 bytes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := t.TempDir() + "/rules.yaml"
			write(t, path, "good")
			w := watching(t, path)
			want(t, w, "good")

			must(t, os.Remove(path))
			test.spoil(t, path)
			for { // between the two, it was missing
				if file := receive(t, w); file.Err == nil {
					t.Fatalf("delivered %q; want an error with %q", file.Data, test.want)
				} else if strings.Contains(file.Err.Error(), test.want) {
					break
				}
			}
			write(t, filepath.Dir(path)+"/other", "") // an event, and no change of the error
			quiet(t, w)

			must(t, os.RemoveAll(path))
			replace(t, path, "good")
			eventually(t, w, "good")
		})
	}
}

func TestLargestFile(t *testing.T) {
	path := t.TempDir() + "/rules.yaml"
	data := strings.Repeat("#", readfile.Most)
	write(t, path, data)
	want(t, watching(t, path), data)
}

// TestUnreadable takes from the watching thread what lets root read everything.
func TestUnreadable(t *testing.T) {
	path := t.TempDir() + "/rules.yaml"
	write(t, path, "0")
	must(t, os.Chmod(path, 0))

	w := New(path, func(err error) { t.Errorf("unexpected warning: %v", err) })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its privileges
		none := make([]unix.CapUserData, 2)
		err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
		if err == nil {
			w.Run(ctx)
		}
		done <- err
	}()
	defer func() {
		cancel()
		must(t, <-done)
	}()
	wantError(t, w, "permission denied")
	must(t, os.Chmod(path, 0o644))
	want(t, w, "0")
}

func TestMissingAtTheStart(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/a/b/rules.yaml"
	w := watching(t, path)
	file := receive(t, w)
	if !errors.Is(file.Err, fs.ErrNotExist) {
		t.Fatalf("delivered %q, %v; want that it does not exist", file.Data, file.Err)
	}
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	write(t, path, "0")
	eventually(t, w, "0")
}

func TestHalfWrittenThenCompleted(t *testing.T) {
	path := t.TempDir() + "/rules.yaml"
	write(t, path, "old")
	w := watching(t, path)
	want(t, w, "old")

	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	_, err = f.WriteString("half ")
	must(t, err)
	want(t, w, "half ") // nothing tells a pause from the end
	_, err = f.WriteString("and half")
	must(t, err)
	want(t, w, "half and half")
}

// TestBusyDirectory shows that settling ends in a directory that never settles.
func TestBusyDirectory(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/rules.yaml", "0")
	w := watching(t, dir+"/rules.yaml")
	want(t, w, "0")

	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for tick := time.Tick(settle / 10); ; {
			select {
			case <-tick:
				os.WriteFile(dir+"/neighbour", nil, 0o644)
			case <-stop:
				return
			}
		}
	}()
	defer func() {
		close(stop)
		<-stopped
	}()
	replace(t, dir+"/rules.yaml", "1")
	want(t, w, "1")
}

func TestPoke(t *testing.T) {
	path := t.TempDir() + "/rules.yaml"
	write(t, path, "0")
	w := watching(t, path)
	want(t, w, "0")
	w.Poke()
	want(t, w, "0")
	quiet(t, w)
}

// TestNewestIsDelivered lets several readings pass before one is taken.
func TestNewestIsDelivered(t *testing.T) {
	path := t.TempDir() + "/rules.yaml"
	write(t, path, "0")
	w := watching(t, path)
	for n := 1; n <= 3; n++ {
		write(t, path, fmt.Sprint(n))
		w.Poke()
		for until := time.Now().Add(deadline); len(w.poke) > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(until) {
				t.Fatal("Run waits for a reading to be taken")
			}
		}
	}
	want(t, w, "3")
	quiet(t, w)
}

// TestWatchesDoNotPileUp counts the kernel's watches after many swaps.
func TestWatchesDoNotPileUp(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/0", 0o755))
	write(t, dir+"/0/rules.yaml", "0")
	must(t, os.Symlink("0", dir+"/current"))
	others := len(inotifyFDs(t))
	w := watching(t, dir+"/current/rules.yaml")
	want(t, w, "0")
	for n := 1; n <= 10; n++ {
		must(t, os.Mkdir(fmt.Sprintf("%s/%d", dir, n), 0o755))
		write(t, fmt.Sprintf("%s/%d/rules.yaml", dir, n), fmt.Sprint(n))
		relink(t, fmt.Sprint(n), dir+"/current")
		w.Poke()
		eventually(t, w, fmt.Sprint(n))
	}
	fds := inotifyFDs(t)
	if len(fds) != others+1 {
		t.Fatalf("inotify instances: %d; want one", len(fds)-others)
	}
	info, err := os.ReadFile(fds[len(fds)-1])
	must(t, err)
	if got := strings.Count(string(info), "inotify wd:"); got != 3 {
		t.Errorf("the kernel holds %d watches; want 3, on the link's directory, the file's and the file:\n%s", got, info)
	}
}
