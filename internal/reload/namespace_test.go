package reload

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const insideEnv = "SOCKDOG_RELOAD_INSIDE"

// inside runs the calling test again in user and mount namespaces of its own,
// and reports whether this is that second run.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	switch {
	case cmd.ProcessState == nil && os.Getenv("CI") != "true":
		t.Skip("needs a user namespace of its own: ", err)
	case err != nil:
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// TestMountedFile writes to a file that is mounted over another, at its origin,
// as with docker run -v FILE:FILE.
func TestMountedFile(t *testing.T) {
	if !inside(t) {
		return
	}
	origin, path := t.TempDir()+"/origin.yaml", t.TempDir()+"/rules.yaml"
	write(t, origin, "0")
	write(t, path, "")
	must(t, unix.Mount(origin, path, "", unix.MS_BIND, ""))
	defer unix.Unmount(path, unix.MNT_DETACH)
	w := watching(t, path)
	want(t, w, "0")
	write(t, origin, "1")
	eventually(t, w, "1")
}

// TestWatchRefused lets the kernel refuse inotify instances and watches, both
// limited in each user namespace (inotify(7), namespaces(7)).
func TestWatchRefused(t *testing.T) {
	if !inside(t) {
		return
	}
	for _, test := range []struct{ limit, want string }{
		{"max_inotify_instances", "fs.inotify.max_user_instances"},
		{"max_inotify_watches", "fs.inotify.max_user_watches"},
	} {
		t.Run(test.limit, func(t *testing.T) {
			limit := "/proc/sys/user/" + test.limit
			before, err := os.ReadFile(limit)
			must(t, err)
			write(t, limit, "0")
			defer write(t, limit, string(before))

			path := t.TempDir() + "/rules.yaml"
			write(t, path, "0")
			var warnings []string
			w := New(path, func(err error) { warnings = append(warnings, err.Error()) })
			t.Run("polls", func(t *testing.T) {
				running(t, w)
				want(t, w, "0")
				for _, data := range []string{"1", "2"} {
					replace(t, path, data)
					want(t, w, data)
				}
			})
			if len(warnings) != 1 || !strings.Contains(warnings[0], test.want) {
				t.Errorf("warnings: %q; want one that names %s", warnings, test.want)
			}
		})
	}
}

// TestWatchRecovers has watches refused at first and allowed later, when polling
// must end.
func TestWatchRecovers(t *testing.T) {
	if !inside(t) {
		return
	}
	limit := "/proc/sys/user/max_inotify_watches"
	before, err := os.ReadFile(limit)
	must(t, err)
	path := t.TempDir() + "/rules.yaml"
	write(t, path, "0")
	var w watch
	defer w.close()

	write(t, limit, "0")
	if err := w.arm(path); err == nil {
		t.Fatal("armed, though the kernel allows no watch")
	}
	write(t, limit, string(before))
	must(t, w.arm(path))
	write(t, path, "1")
	<-w.changed
}
