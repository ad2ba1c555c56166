package journal

import (
	"fmt"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// smallDisk mounts a file system of size bytes and a few files where nobody else sees it, and
// returns a path to it that works on every thread.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	nstest.Need(t)
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
	if m.err != nil {
		t.Fatal(m.err)
	}
	t.Cleanup(func() { unix.Close(m.fd) })
	return fmt.Sprintf("/proc/self/fd/%d", m.fd)
}

// mountTmpfs returns a descriptor of a tmpfs that is mounted in no directory.
func mountTmpfs(size int) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return 0, fmt.Errorf("unshare the mount namespace: %w", err)
	}
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("open a tmpfs: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "size", strconv.Itoa(size)); err != nil {
		return 0, fmt.Errorf("set the size of a tmpfs: %w", err)
	}
	if err := unix.FsconfigSetString(fs, "nr_inodes", "64"); err != nil {
		return 0, fmt.Errorf("set the number of files of a tmpfs: %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return 0, fmt.Errorf("create a tmpfs: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("mount a tmpfs: %w", err)
	}
	return fd, nil
}
