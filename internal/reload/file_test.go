package reload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNotPermitted: whoever may not read the file is told who that is, and what of the way to it to open.
func TestNotPermitted(t *testing.T) {
	for name, test := range map[string]struct{ closed, want string }{
		"the file":          {"/etc/conf.d/rules.yaml", "chmod 644 DIR/etc/conf.d/rules.yaml"},
		"its directory":     {"/etc/conf.d", "chmod 755 DIR/etc/conf.d"},
		"a directory above": {"/etc", "chmod 755 DIR/etc"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := dir + "/etc/conf.d/rules.yaml"
			if err := os.MkdirAll(dir+"/etc/conf.d", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("rules: []\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir+test.closed, 0); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Chmod(dir+test.closed, 0o755) })
			err := readUnprivileged(t, path).Err
			want := fmt.Sprintf("permission denied: sockdog runs as user %d, who may not read it: %s", os.Geteuid(), strings.ReplaceAll(test.want, "DIR", dir))
			if !errors.Is(err, fs.ErrPermission) || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
		})
	}
}

// readUnprivileged reads a file in a thread to which modes count, even root's.
func readUnprivileged(t *testing.T, path string) File {
	t.Helper()
	got, failed := make(chan File, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		failed <- unix.Capset(&header, &none[0])
		got <- read(path)
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	return <-got
}
